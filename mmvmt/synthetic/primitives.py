"""Assemblies of primitives: what objects are built from, and the arrays that the renderer reads."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from .geometry import BOX, CAPSULE, DOME, FRUSTUM, PLANE, RING, SPHERE, WEDGE

TEXTURES = range(11)
SOLID, CHECKER, STRIPES, NOISE, BLOTCHES, BRICKS, TILES, PLANKS, DOTS, WINDOWS, WAVES = TEXTURES
"""Textures: how a material's two colours are mixed, see :mod:`mmvmt.synthetic.shading`."""

_IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)

Vector = Sequence[float]


class Draw:
    """Random choices of one scene, all from one generator.

    Args:
        seed: Entropy of the generator, an integer or several.
    """

    def __init__(self, seed: int | Sequence[int]) -> None:
        self.rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed)))
        self._random = self.rng.random

    def uniform(self, low: float, high: float) -> float:
        return low + (high - low) * self._random()

    def chance(self, probability: float) -> bool:
        return self._random() < probability

    def sign(self) -> int:
        return 1 if self._random() < 0.5 else -1

    def pick(self, options: Sequence):
        return options[int(self._random() * len(options))]

    def integer(self, low: int, high: int) -> int:
        """An integer from ``low`` to ``high``, both included."""
        return low + int(self._random() * (high - low + 1))

    def vary(self, color: Vector, amount: float = 0.06) -> tuple[float, float, float]:
        """A colour near the given one: lightness changes for all channels together, hue a little."""
        shift = self.uniform(-amount, amount)
        return tuple(min(1.0, max(0.0, c + shift + self.uniform(-amount, amount) / 2)) for c in color)

    def color(
        self, hue: tuple[float, float] = (0, 1), saturation=(0.4, 0.9), value=(0.4, 0.9)
    ) -> tuple[float, float, float]:
        """A colour by ranges of hue, saturation and value, each 0 to 1."""
        return colorsys.hsv_to_rgb(self.uniform(*hue) % 1, self.uniform(*saturation), self.uniform(*value))


def rotation(yaw: float = 0, pitch: float = 0, roll: float = 0) -> tuple[float, ...]:
    """Axes of a turned primitive, row by row: its images of x, y and z.

    Args:
        yaw: Degrees about y, turns z towards x.
        pitch: Degrees about x, turns z towards -y (a nod forward); applied before yaw.
        roll: Degrees about z, turns x towards y; applied first.
    """
    cy, sy = math.cos(math.radians(yaw)), math.sin(math.radians(yaw))
    cp, sp = math.cos(math.radians(pitch)), math.sin(math.radians(pitch))
    cr, sr = math.cos(math.radians(roll)), math.sin(math.radians(roll))
    x = (cy * cr + sy * sp * sr, cp * sr, -sy * cr + cy * sp * sr)
    y = (-cy * sr + sy * sp * cr, cp * cr, sy * sr + cy * sp * cr)
    z = (sy * cp, -sp, cy * cp)
    return (*x, *y, *z)


def _along(a: Vector, b: Vector) -> tuple[float, tuple[float, ...]]:
    """Length of the segment from a to b, and axes whose z points along it."""
    x, y, z = b[0] - a[0], b[1] - a[1], b[2] - a[2]
    length = math.sqrt(x * x + y * y + z * z)
    if length < 1e-9:
        return 0.0, _IDENTITY
    x, y, z = x / length, y / length, z / length
    if abs(y) < 0.9:
        norm = math.hypot(x, z)
        u = (z / norm, 0.0, -x / norm)
    else:
        norm = math.hypot(y, z)
        u = (0.0, -z / norm, y / norm)
    v = (y * u[2] - z * u[1], z * u[0] - x * u[2], x * u[1] - y * u[0])
    return length, (*u, *v, x, y, z)


@dataclass
class Primitives:
    """Primitives as arrays, P of them.

    Args:
        kind: ``(P,)``, see :mod:`mmvmt.synthetic.geometry`.
        center: ``(P, 3)`` metres.
        axes: ``(P, 3, 3)``, unit axes as rows.
        scale: ``(P, 3)`` metres.
        shape: ``(P, 2)`` shape parameters of the kind.
        material: ``(P,)`` rows of :class:`Materials`.
        part: ``(P,)`` body part: 0 none, else 1 + index into ``PART_NAMES``.
        entity: ``(P,)`` index of the object it belongs to.
    """

    kind: np.ndarray
    center: np.ndarray
    axes: np.ndarray
    scale: np.ndarray
    shape: np.ndarray
    material: np.ndarray
    part: np.ndarray
    entity: np.ndarray

    def __len__(self) -> int:
        return len(self.kind)

    def select(self, index: np.ndarray) -> Primitives:
        """The primitives at ``index``."""
        return Primitives(*(getattr(self, field.name)[index] for field in fields(self)))

    def table(self) -> np.ndarray:
        """``(14, P)`` float32, a row per number: the inverse map row by row (9), the centre (3), the shape (2)."""
        inverse = (self.axes / self.scale[:, :, None]).reshape(-1, 9)
        return np.ascontiguousarray(np.concatenate([inverse, self.center, self.shape], 1).T, np.float32)

    def moved(self, turn: np.ndarray, shift: np.ndarray, factor: np.ndarray | float = 1.0) -> Primitives:
        """The primitives scaled, turned and moved: ``turn @ (factor * p) + shift``.

        Args:
            turn: ``(3, 3)`` or ``(P, 3, 3)``.
            shift: ``(3,)`` or ``(P, 3)``.
            factor: A number or ``(P, 1)``.
        """
        turned = np.swapaxes(turn, -1, -2)
        return Primitives(
            self.kind,
            ((self.center * factor)[:, None, :] @ turned)[:, 0] + shift,
            self.axes @ turned,
            self.scale * factor,
            self.shape,
            self.material,
            self.part,
            self.entity,
        )


@dataclass
class Materials:
    """Materials as arrays, K of them.

    Args:
        color: ``(K, 3)`` first colour, linear RGB.
        second: ``(K, 3)`` second colour, linear RGB.
        texture: ``(K,)`` how they are mixed.
        period: ``(K,)`` length of the texture's pattern in metres.
        axis: ``(K,)`` axis that stripes follow.
        specular: ``(K,)`` strength of highlights.
    """

    color: np.ndarray
    second: np.ndarray
    texture: np.ndarray
    period: np.ndarray
    axis: np.ndarray
    specular: np.ndarray


class Assembly:
    """Collects primitives in the coordinates of one object after another.

    An object stands on ``y = 0`` around the origin, y is up and it faces z. Lengths are metres, colours sRGB 0 to 1.
    """

    def __init__(self) -> None:
        self.entities = 0
        self.part = 0
        self._rows: list[tuple] = []
        self._centers: list[Vector] = []
        self._axes: list[tuple[float, ...]] = []
        self._scales: list[Vector] = []
        self._shapes: list[tuple[float, float]] = []
        self._materials: list[tuple] = []

    def __len__(self) -> int:
        return len(self._rows)

    def begin(self) -> int:
        """Start the next object; returns its index."""
        self.entities += 1
        self.part = 0
        return self.entities - 1

    def material(
        self,
        color: Vector,
        second: Vector | None = None,
        texture: int = SOLID,
        period: float = 0.2,
        axis: int = 1,
        specular: float = 0.05,
    ) -> int:
        """Add a material and return its index."""
        self._materials.append((*color, *(color if second is None else second), texture, period, axis, specular))
        return len(self._materials) - 1

    def sphere(self, center: Vector, radii: float | Vector, material: int, axes: tuple = _IDENTITY) -> None:
        """A ball or, with three radii, an ellipsoid."""
        scale = (radii, radii, radii) if isinstance(radii, (int, float)) else radii
        self._add(SPHERE, center, axes, scale, (0, 0), material)

    def dome(self, center: Vector, radii: float | Vector, cut: float, material: int, axes: tuple = _IDENTITY) -> None:
        """The part of an ellipsoid above ``cut`` (-1 bottom to 1 top) along its own y axis."""
        scale = (radii, radii, radii) if isinstance(radii, (int, float)) else radii
        self._add(DOME, center, axes, scale, (cut, 0), material)

    def box(self, center: Vector, half: Vector, material: int, axes: tuple = _IDENTITY) -> None:
        """A box by its half sizes."""
        self._add(BOX, center, axes, half, (0, 0), material)

    def wedge(
        self, center: Vector, half: Vector, top: tuple[float, float], material: int, axes: tuple = _IDENTITY
    ) -> None:
        """A box whose top is ``top`` times as wide along x and z as its bottom; upside down with a negative half[1]."""
        self._add(WEDGE, center, axes, half, top, material)

    def frustum(self, a: Vector, b: Vector, radius_a: float, radius_b: float, material: int) -> None:
        """A cylinder or cone from point to point, with a radius at each."""
        if radius_b > radius_a:
            a, b, radius_a, radius_b = b, a, radius_b, radius_a
        length, axes = _along(a, b)
        self._add(FRUSTUM, _middle(a, b), axes, (radius_a, radius_a, length / 2), (radius_b / radius_a, 0), material)

    def ring(self, center: Vector, axis: Vector, radius: float, hole: float, width: float, material: int) -> None:
        """A tyre: a cylinder of the given width about ``axis`` with a hole of ``hole`` times its radius."""
        _, axes = _along((0, 0, 0), axis)
        self._add(RING, center, axes, (radius, radius, width / 2), (hole, 0), material)

    def capsule(self, a: Vector, b: Vector, radius: float, material: int) -> None:
        """A cylinder with round ends, all points within ``radius`` of the segment."""
        length, axes = _along(a, b)
        self._add(CAPSULE, _middle(a, b), axes, (radius, radius, radius), (length / 2 / radius, 0), material)

    def plane(self, center: Vector, axes: tuple, material: int) -> None:
        """An endless plane through ``center`` whose normal is the y axis of ``axes``."""
        self._add(PLANE, center, axes, (1, 1, 1), (0, 0), material)

    def primitives(self) -> Primitives:
        """All primitives so far, float64."""
        rows = np.array(self._rows, np.intp)
        return Primitives(
            rows[:, 0],
            np.array(self._centers, np.float64),
            np.array(self._axes, np.float64).reshape(-1, 3, 3),
            np.array(self._scales, np.float64),
            np.array(self._shapes, np.float64),
            rows[:, 1],
            rows[:, 2],
            rows[:, 3],
        )

    def materials(self) -> Materials:
        """All materials so far, float32."""
        table = np.array(self._materials, np.float32)
        # Colours are given as they look on a screen; light adds up in linear space, where gamma 2 is near enough.
        color, second = np.square(table[:, :3]), np.square(table[:, 3:6])
        return Materials(
            color, second, table[:, 6].astype(np.intp), table[:, 7], table[:, 8].astype(np.intp), table[:, 9]
        )

    def _add(self, kind: int, center: Vector, axes: tuple, scale: Vector, shape: tuple, material: int) -> None:
        self._rows.append((kind, material, self.part, self.entities - 1))
        self._centers.append(center)
        self._axes.append(axes)
        self._scales.append(scale)
        self._shapes.append(shape)


def _middle(a: Vector, b: Vector) -> tuple[float, float, float]:
    return ((a[0] + b[0]) / 2, (a[1] + b[1]) / 2, (a[2] + b[2]) / 2)
