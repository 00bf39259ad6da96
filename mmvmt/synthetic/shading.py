"""Colour of hit points: textures, lights, a shadow map, and what a sensor adds."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from . import raster
from .geometry import PLANE
from .primitives import (
    BLOTCHES,
    BRICKS,
    CHECKER,
    DOTS,
    NOISE,
    PLANKS,
    SOLID,
    STRIPES,
    TEXTURES,
    WAVES,
    WINDOWS,
    Materials,
    Primitives,
)
from .raster import Hits, View

_NOISE_SIZE = 256
_NOISE_FEATURE = 16
_SHADOW_SIZE = 144


@dataclass
class Lights:
    """Lights of a scene; directions are unit vectors towards the light in world coordinates, colours linear RGB.

    Args:
        key: ``(3,)`` direction of the light that casts shadows.
        key_color: ``(3,)``.
        fill: ``(3,)`` direction of a weak light without shadows.
        fill_color: ``(3,)``.
        above: ``(3,)`` ambient light on surfaces that look up.
        below: ``(3,)`` ambient light on surfaces that look down.
        haze: ``(3,)`` colour of the far distance.
        haze_distance: Metres in which haze covers 63 percent; infinite for none.
    """

    key: np.ndarray
    key_color: np.ndarray
    fill: np.ndarray
    fill_color: np.ndarray
    above: np.ndarray
    below: np.ndarray
    haze: np.ndarray
    haze_distance: float


@lru_cache(maxsize=1)
def noise_table() -> np.ndarray:
    """A square of smooth noise that repeats seamlessly, values 0 to 1, flat; features are 16 entries wide."""
    rng = np.random.Generator(np.random.PCG64(20231214))
    total = np.zeros((_NOISE_SIZE, _NOISE_SIZE))
    frequency = np.fft.fftfreq(_NOISE_SIZE) * _NOISE_SIZE
    radius = np.hypot(*np.meshgrid(frequency, frequency))
    white = np.fft.fft2(rng.standard_normal((_NOISE_SIZE, _NOISE_SIZE)))
    for octave, weight in enumerate((1.0, 0.5, 0.3, 0.2)):
        middle = _NOISE_SIZE / _NOISE_FEATURE * 2**octave
        layer = np.fft.ifft2(white * np.exp(-(((radius - middle * 0.6) / (middle * 0.35)) ** 2))).real
        total += weight * layer / layer.std()
    ranks = total.ravel().argsort().argsort()
    return (ranks / ranks.size).astype(np.float32)


def sample_noise(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Smooth noise at points of a plane, uniform in 0 to 1, with features about 1 wide."""
    x, y = x * np.float32(_NOISE_FEATURE), y * np.float32(_NOISE_FEATURE)
    column, row = np.floor(x), np.floor(y)
    fx, fy = x - column, y - row
    column, row = column.astype(np.int64), row.astype(np.int64)
    left, right = column & (_NOISE_SIZE - 1), (column + 1) & (_NOISE_SIZE - 1)
    top, bottom = (row & (_NOISE_SIZE - 1)) * _NOISE_SIZE, ((row + 1) & (_NOISE_SIZE - 1)) * _NOISE_SIZE
    table = noise_table()
    above = table[top + left] * (1 - fx) + table[top + right] * fx
    below = table[bottom + left] * (1 - fx) + table[bottom + right] * fx
    return above * (1 - fy) + below * fy


def _hash(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """A number from 0 to 1 for each pair of whole numbers."""
    index = a.astype(np.int64) * 7919 + b.astype(np.int64) * 104729
    return noise_table()[(index ^ (index >> 7)) & (_NOISE_SIZE * _NOISE_SIZE - 1)]


def _texture(kind: int, q: np.ndarray, axis: np.ndarray, flat: np.ndarray, fade: np.ndarray) -> np.ndarray:
    """How much of the second colour a texture shows at points, 0 to 1.

    Args:
        kind: Texture.
        q: ``(3, N)`` points in units of the texture's period.
        axis: ``(N,)`` axis that stripes follow.
        flat: ``(N,)`` bool, whether the pattern lies in the x-z plane (floors and walls) or stands upright around y.
        fade: ``(N,)`` 1 where the pattern is resolved by pixels, down to 0 where it would alias.
    """
    if kind == CHECKER:
        cells = np.floor(q + np.float32(0.371)).sum(0)
        return 0.5 + (np.mod(cells, 2) - 0.5) * fade
    if kind == STRIPES:
        along = q[axis, np.arange(q.shape[1])]
        return 0.5 + np.clip(4 * np.sin(along * np.float32(2 * np.pi)), -0.5, 0.5) * fade
    if kind == DOTS:
        cell = q - np.floor(q) - np.float32(0.5)
        cell[1][flat] = 0
        distance = np.sqrt((cell * cell).sum(0))
        return np.clip((np.float32(0.42) - distance) * 12, 0, 1) * fade
    u, v = np.where(flat, q[0], q[0] + q[2]), np.where(flat, q[2], q[1])
    if kind in (NOISE, BLOTCHES):
        skew = np.where(flat, 0, np.float32(0.4))
        noise = sample_noise(u + skew * v, v + skew * (q[2] - q[0]))
        if kind == BLOTCHES:
            noise = np.clip((noise - np.float32(0.55)) * 12 + np.float32(0.5), 0, 1)
        return 0.5 + (noise - 0.5) * fade
    if kind == WAVES:
        bend = sample_noise(u * np.float32(0.5), v * np.float32(0.5))
        return 0.5 + 0.5 * np.sin(v * np.float32(9) + bend * np.float32(14)) * fade
    if kind == PLANKS:
        row = np.floor(v)
        u = u / 6 + np.float32(0.61) * np.mod(row * 5, 8)
        tint = _hash(row, np.floor(u))
        grain = sample_noise(u * 2 + row, v * 4)
        seam = (v - row < 0.06) | (u - np.floor(u) < 0.01)
        return 0.4 + (np.where(seam, 1, 0.55 * tint + 0.35 * grain) - 0.4) * fade
    if kind == WINDOWS:
        fu, fv = u - np.floor(u), v - np.floor(v)
        glass = (np.abs(fu - 0.5) < 0.3) & (np.abs(fv - 0.5) < 0.28)
        return 0.3 + (glass * (0.75 + 0.25 * _hash(np.floor(u), np.floor(v))) - 0.3) * fade
    row = np.floor(v * 2 if kind == BRICKS else v)
    if kind == BRICKS:
        u, v = u + 0.5 * np.mod(row, 2), v * 2
    fu, fv = u - np.floor(u), v - row
    seam = (fu < 0.06) | (fv < (0.14 if kind == BRICKS else 0.06))
    return 0.2 + (np.where(seam, 1, 0.35 * _hash(row, np.floor(u))) - 0.2) * fade


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


class Shader:
    """Colours of hit points of one scene.

    Args:
        prims: All primitives in camera coordinates.
        shadow_casters: Indices of the primitives that cast shadows.
        materials: Their materials.
        lights: Lights, in world coordinates.
        camera: ``(3, 3)`` rotation from world to camera coordinates.
        view: The camera's image plane.
    """

    def __init__(
        self,
        prims: Primitives,
        shadow_casters: np.ndarray,
        materials: Materials,
        lights: Lights,
        camera: np.ndarray,
        view: View,
    ) -> None:
        self._prims = prims
        self._materials = materials
        self._lights = lights
        self._pixel = np.float32(1 / view.focal)
        self._key = (camera @ lights.key).astype(np.float32)
        self._fill = (camera @ lights.fill).astype(np.float32)
        self._up = camera[:, 1].astype(np.float32)
        self._frames = np.ascontiguousarray(np.concatenate([prims.axes.reshape(-1, 9), prims.center], 1).T, np.float32)
        self._flat = prims.kind == PLANE
        self._first = np.ascontiguousarray(materials.color.T)
        self._second = np.ascontiguousarray(materials.second.T)
        self._shadow_map(prims.select(shadow_casters))

    def __call__(self, hits: Hits, points: np.ndarray, normals: np.ndarray) -> np.ndarray:
        """Linear RGB of hits.

        Args:
            hits: Hits of N rays, all on a primitive.
            points: ``(3, N)`` float32 in camera coordinates.
            normals: ``(3, N)`` float32 unit normals.

        Returns:
            ``(3, N)`` float32.
        """
        lights = self._lights
        material = self._prims.material[hits.primitive]
        distance = np.sqrt(_dot(points, points))
        toward = points / -distance
        facing = _dot(normals, toward)
        albedo = self._albedo(hits.primitive, material, points, distance, facing)

        # Ambient light from above and below, by how far a surface looks up.
        up = 0.5 + 0.5 * _dot(self._up, normals)
        key = np.maximum(_dot(self._key, normals), 0)
        key *= self._lit(points, normals)
        fill = np.maximum(_dot(self._fill, normals), 0)
        light = np.empty_like(points)
        for channel in range(3):
            light[channel] = (
                np.float32(lights.below[channel])
                + np.float32(lights.above[channel] - lights.below[channel]) * up
                + np.float32(lights.key_color[channel]) * key
                + np.float32(lights.fill_color[channel]) * fill
            )
        color = albedo * light
        half = toward + self._key[:, None]
        shine = np.maximum(_dot(half, normals) / np.sqrt(_dot(half, half)), 0)
        for _ in range(5):
            shine *= shine
        shine *= self._materials.specular[material] * (key > 0)
        color += shine * lights.key_color.astype(np.float32)[:, None]
        if np.isfinite(lights.haze_distance):
            clear = np.exp(distance * np.float32(-1 / lights.haze_distance))
            haze = lights.haze.astype(np.float32)[:, None]
            color = haze + (color - haze) * clear
        return color

    def _albedo(
        self, primitive: np.ndarray, material: np.ndarray, points: np.ndarray, distance: np.ndarray, facing: np.ndarray
    ) -> np.ndarray:
        table = self._materials
        albedo = self._first.take(material, 1)
        textures = table.texture[material]
        for kind in range(SOLID + 1, len(TEXTURES)):
            rays = np.flatnonzero(textures == kind)
            if not len(rays):
                continue
            index, row = primitive[rays], material[rays]
            frame = self._frames.take(index, 1)
            x, y, z = points.take(rays, 1) - frame[9:12]
            per_metre = 1 / table.period[row]
            q = np.stack([frame[3 * axis] * x + frame[3 * axis + 1] * y + frame[3 * axis + 2] * z for axis in range(3)])
            q *= per_metre
            footprint = distance[rays] * self._pixel / np.maximum(facing[rays], np.float32(0.05)) * per_metre
            fade = np.clip(np.float32(1.6) - np.float32(2.2) * footprint, 0, 1)
            mix = _texture(kind, q, table.axis[row], self._flat[index], fade).astype(np.float32)
            first = albedo.take(rays, 1)
            albedo[:, rays] = first + (self._second.take(row, 1) - first) * mix
        return albedo

    def _shadow_map(self, casters: Primitives) -> None:
        """Depth of the shadow casters as the key light sees them."""
        z = self._key.astype(np.float64)
        x = np.cross((0.0, 1.0, 0.0) if abs(z[1]) < 0.9 else (1.0, 0.0, 0.0), z)
        x /= np.linalg.norm(x)
        self._light_axes = np.stack([x, np.cross(z, x), z])
        self._view = None
        if not len(casters):
            return
        casters = casters.moved(self._light_axes, np.zeros(3))
        reach = np.linalg.norm(casters.scale, axis=1) * np.maximum(1, casters.shape[:, 0])
        low = (casters.center - reach[:, None]).min(0)
        high = (casters.center + reach[:, None]).max(0)
        extent = max(high[0] - low[0], high[1] - low[1]) * 1.05
        middle = ((low[0] + high[0]) / 2, (low[1] + high[1]) / 2)
        self._view = View(_SHADOW_SIZE, _SHADOW_SIZE, _SHADOW_SIZE / extent, middle, perspective=False)
        casters.center[:, 2] -= high[2] + 1
        self._light_origin = high[2] + 1
        hits = raster.cast(casters, raster.pixel_boxes(casters, self._view), self._view, *self._view.grid())
        self._depth = np.pad(hits.t.reshape(_SHADOW_SIZE, _SHADOW_SIZE), 1, constant_values=np.inf)
        self._bias = np.float32(1.5 / self._view.focal)

    def _lit(self, points: np.ndarray, normals: np.ndarray) -> np.ndarray:
        """Share of the key light that reaches points, 0 to 1, smooth over one texel of the shadow map."""
        if self._view is None:
            return np.float32(1)
        # A step along the normal, in texels, keeps surfaces from shading themselves.
        moved = points + normals * self._bias
        x, y, z = (_dot(axis, moved) for axis in self._light_axes.astype(np.float32))
        focal, size = np.float32(self._view.focal), _SHADOW_SIZE
        column = np.clip((x - np.float32(self._view.center[0])) * focal + np.float32(size / 2 + 0.5), 0, size + 0.99)
        row = np.clip((np.float32(self._view.center[1]) - y) * focal + np.float32(size / 2 + 0.5), 0, size + 0.99)
        left, top = column.astype(np.intp), row.astype(np.intp)
        fx, fy = column - left, row - top
        depth = np.float32(self._light_origin) - z - self._bias
        table, corner = self._depth.ravel(), top * (size + 2) + left
        above = (table[corner] > depth) * (1 - fx) + (table[corner + 1] > depth) * fx
        below = (table[corner + size + 2] > depth) * (1 - fx) + (table[corner + size + 3] > depth) * fx
        return (above * (1 - fy) + below * fy).astype(np.float32)
