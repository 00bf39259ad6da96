"""Pictures of scenes with exact ground truth."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mmvmt.structures import NormalsAxes

from . import raster
from .classes import CONTEXT_IDS, PART_LABELS, PART_NAMES, PERSON, VOC_CLASSES
from .people import POSES
from .primitives import TEXTURES, Draw
from .raster import Hits, View
from .scene import SETTINGS, Scene, compose, compose_object
from .shading import Shader, sample_noise

MIN_SIZE = 32
_CAMERA_AXES = NormalsAxes(x='right', y='up')
_MAX_DEPTH = 100.0
# Where the additional rays of pixels on outlines go, in pixels from the middle.
_SHIFTS = ((0.31, 0.13), (-0.13, 0.31), (-0.31, -0.13), (0.13, -0.31))
Attributes = dict[str, int | list[int]]
ATTRIBUTES = dict(
    subject=len(VOC_CLASSES) - 1,
    presence=len(VOC_CLASSES) - 1,
    count=5,
    setting=len(SETTINGS),
    view=8,
    light=8,
    color=11,
    texture=len(TEXTURES),
    pose=len(POSES),
)
"""What :func:`render_attributes` tells of a picture, and how many values each has: class of the most prominent object,
classes of all, their number (the last: four or more), the surroundings, direction that the subject faces and that light
comes from (eighths of a circle), the subject's colour and texture, a person's pose."""
_PART_CLASS = np.array([0, *PART_LABELS.values()], np.uint8)


@dataclass
class ObjectMask:
    """Visible pixels of one object.

    Args:
        class_id: VOC class.
        mask: ``(H, W)`` bool.
        parts: Visible pixels of a person's body parts by name, ``(H, W)`` bool each; empty for anything else.
    """

    class_id: int
    mask: np.ndarray
    parts: dict[str, np.ndarray]


@dataclass
class Sample:
    """A picture and its ground truth.

    Args:
        img: ``(H, W, 3)`` uint8 RGB.
        semseg: ``(H, W)`` uint8 VOC classes, 0 to 20.
        human_parts: ``(H, W)`` uint8, 0 background to 6 lower legs.
        saliency: ``(H, W)`` uint8, 1 on the most prominent object.
        normals: ``(H, W, 3)`` float32 unit vectors in the axes of PASCAL_MT (:class:`mmvmt.structures.NormalsAxes`: x
            to the left, y up, z to the viewer), the zero vector where there is no surface.
        depth: ``(H, W)`` float32 metres along the view axis, 0 where there is no surface.
        edge: ``(H, W)`` uint8, 1 on the outlines of objects and surfaces.
        label_map: ``(H, W)`` uint16, of the 459 context classes.
        objects: Visible objects of VOC classes.
    """

    img: np.ndarray
    semseg: np.ndarray
    human_parts: np.ndarray
    saliency: np.ndarray
    normals: np.ndarray
    depth: np.ndarray
    edge: np.ndarray
    label_map: np.ndarray
    objects: list[ObjectMask]

    @property
    def persons(self) -> list[tuple[np.ndarray, dict[str, np.ndarray]]]:
        """Mask and parts of each visible person."""
        return [(item.mask, item.parts) for item in self.objects if item.class_id == PERSON]


def check_size(size: int | Sequence[int]) -> tuple[int, int]:
    """Validate an image size and return it as (height, width).

    Args:
        size: Pixels of a square's side, or (height, width).

    Raises:
        ValueError: A side is shorter than 32 pixels, or ``size`` is neither one number nor two.
    """
    sides = (size, size) if isinstance(size, (int, np.integer)) else tuple(size)
    if len(sides) != 2:
        raise ValueError(f'size must be one number or (height, width), got {size!r}')
    if min(sides) < MIN_SIZE:
        raise ValueError(f'size {size!r} is too small: both sides need at least {MIN_SIZE} pixels')
    return int(sides[0]), int(sides[1])


def render_scene(seed: int | Sequence[int], size: int | Sequence[int] = 160) -> Sample:
    """Render a random scene.

    Args:
        seed: Non-negative integer, or several; the same seed gives the same sample.
        size: Pixels of a square's side, or (height, width), at least 32.

    Returns:
        Picture and ground truth.

    Raises:
        ValueError: ``size`` or ``seed`` is out of range.
    """
    height, width = check_size(size)
    draw = Draw(seed)
    return _Frame(compose(draw, width / height), draw, height, width).sample()


def render_attributes(seed: int | Sequence[int], size: int | Sequence[int] = 128) -> tuple[np.ndarray, Attributes]:
    """Render a picture and what can be said of it in words, for pretraining: no map, nothing of single pixels.

    Half of the pictures show a single object, half a scene of a few (as :func:`render_scene`).

    Args:
        seed: Non-negative integer, or several; the same seed gives the same picture.
        size: Pixels of a square's side, or (height, width), at least 32.

    Returns:
        ``(H, W, 3)`` uint8 RGB, and an index by each name of :data:`ATTRIBUTES`. The subject is the most prominent
        object; what it has no value of (its pose, unless it is a person; everything, in a picture without an object) is
        left out. ``presence`` is a list: the classes of all objects that cover 0.5 percent of the picture or more, less
        one.

    Raises:
        ValueError: ``size`` or ``seed`` is out of range.
    """
    height, width = check_size(size)
    draw = Draw(seed)
    single = draw.chance(0.5)
    name = draw.pick(VOC_CLASSES[1:])
    scene = compose_object(draw, name, width / height) if single else compose(draw, width / height)
    return _Frame(scene, draw, height, width).attributes()


class _Frame:
    """One image of a scene: first hits of all pixels, and what derives from them."""

    def __init__(self, scene: Scene, draw: Draw, height: int, width: int) -> None:
        self._scene, self._draw = scene, draw
        self._shape = (height, width)
        focal = 0.5 * max(height, width) / math.tan(math.radians(scene.field_of_view / 2))
        self._view = View(height, width, focal)
        self._prims = scene.prims.moved(scene.camera, -scene.camera @ scene.position)
        solids = slice(0, scene.planes)
        self._solids = self._prims.select(solids)
        self._planes = self._prims.select(slice(scene.planes, None))
        self._boxes = raster.pixel_boxes(self._solids, self._view)
        self._u, self._v = self._view.grid()
        self._hits = self._cast(self._u, self._v)
        self._points = _points(self._u, self._v, self._hits)
        self._normals = raster.normals(self._prims, self._hits, self._points)
        entity = np.append(self._prims.entity, len(scene.entities))
        self._entity = entity[self._hits.primitive].reshape(self._shape)

    def sample(self) -> Sample:
        scene, shape = self._scene, self._shape
        # The entry after the last stands for the sky.
        classes = np.array([*(e.class_id for e in scene.entities), 0], np.uint8)
        contexts = np.array([*(e.context_id for e in scene.entities), CONTEXT_IDS['sky']], np.uint16)
        part = np.append(self._prims.part, 0)[self._hits.primitive].reshape(shape)
        hit = np.isfinite(self._hits.t)
        depth = np.where(hit, self._hits.t, 0).reshape(shape)
        objects = []
        counts = np.bincount(self._entity.ravel(), minlength=len(classes))
        best, salient = 0.0, None
        for index in np.flatnonzero((classes > 0) & (counts > 0)):
            mask = self._entity == index
            parts = {}
            if classes[index] == PERSON:
                visible = np.flatnonzero(np.bincount(part[mask], minlength=len(PART_NAMES) + 1)[1:])
                parts = {PART_NAMES[p]: mask & (part == p + 1) for p in visible}
            objects.append(ObjectMask(int(classes[index]), mask, parts))
            prominence = counts[index] * self._centrality(mask)
            if prominence > best:
                best, salient = prominence, mask
        return Sample(
            img=self.image(),
            semseg=classes[self._entity],
            human_parts=_PART_CLASS[part],
            saliency=np.zeros(shape, np.uint8) if salient is None else salient.astype(np.uint8),
            normals=_CAMERA_AXES.convert(np.ascontiguousarray(self._normals.T), NormalsAxes()).reshape(*shape, 3),
            depth=depth,
            edge=_outlines(self._entity),
            label_map=contexts[self._entity],
            objects=objects,
        )

    def attributes(self) -> tuple[np.ndarray, Attributes]:
        """The picture, and the index of each attribute that it has."""
        scene, image = self._scene, self.image()
        counts = np.bincount(self._entity.ravel(), minlength=len(scene.entities) + 1)
        seen = [n for n, entity in enumerate(scene.entities) if entity.class_id and counts[n] >= 0.005 * counts.sum()]
        toward = scene.lights.key
        found: Attributes = dict(
            count=min(len(seen), ATTRIBUTES['count'] - 1),
            setting=SETTINGS.index(scene.setting),
            light=_sector(math.degrees(math.atan2(toward[0], toward[2]))),
        )
        if seen:
            masks = {n: self._entity == n for n in seen}
            subject = max(seen, key=lambda n: counts[n] * self._centrality(masks[n]))
            entity, mask = scene.entities[subject], masks[subject]
            materials = self._prims.material[self._hits.primitive[mask.ravel()]]
            found |= dict(
                subject=entity.class_id - 1,
                presence=sorted({scene.entities[n].class_id - 1 for n in seen}),
                view=_sector(entity.yaw),
                color=_color_name(image[mask].mean(0) / 255),
                texture=int(scene.materials.texture[np.bincount(materials).argmax()]),
            )
            if entity.pose is not None:
                found['pose'] = POSES.index(entity.pose)
        return image, found

    def image(self) -> np.ndarray:
        """The picture, ``(H, W, 3)`` uint8 RGB."""
        scene, draw = self._scene, self._draw
        shader = Shader(self._prims, scene.shadow_casters, scene.materials, scene.lights, scene.camera, self._view)
        # Pixels on outlines take the mean of several rays.
        edge = np.flatnonzero(_outlines(self._hits.primitive.reshape(self._shape), both_sides=True))
        rays = np.full(self._u.size, -1, np.intp)
        rays[edge] = np.arange(len(edge))
        du, dv = (np.concatenate(p) for p in zip(*(self._view.plane_points(edge, shift) for shift in _SHIFTS)))
        more = self._cast(du, dv, rays, len(_SHIFTS))
        u, v = np.concatenate([self._u, du]), np.concatenate([self._v, dv])
        normals = np.concatenate([self._normals, raster.normals(self._prims, more, _points(du, dv, more))], 1)
        hits = Hits(np.append(self._hits.t, more.t), np.append(self._hits.primitive, more.primitive))
        color = self._sky(u, v)
        solid = np.flatnonzero(np.isfinite(hits.t))
        hits = Hits(hits.t[solid], hits.primitive[solid])
        color[:, solid] = shader(hits, _points(u[solid], v[solid], hits), normals.take(solid, 1))
        # Bright spots are clipped before the mean, so that highlights have soft outlines too.
        np.clip(color, 0, 1, out=color)
        pixels = self._u.size
        main, extra = color[:, :pixels], color[:, pixels:].reshape(3, len(_SHIFTS), len(edge))
        main[:, edge] = (main[:, edge] + extra.sum(1)) / np.float32(1 + len(_SHIFTS))
        return _develop(main.reshape(3, *self._shape), draw)

    def _cast(self, u: np.ndarray, v: np.ndarray, rays: np.ndarray | None = None, copies: int = 1) -> Hits:
        background = raster.cast_planes(self._planes, self._scene.planes, u, v)
        hits = raster.cast(self._solids, self._boxes, self._view, u, v, background, rays, copies)
        far = hits.t > _MAX_DEPTH
        hits.t[far] = np.inf
        hits.primitive[far] = -1
        return hits

    def _centrality(self, mask: np.ndarray) -> float:
        """1 for a mask in the middle of the image, falling to about 0.2 in its corners."""
        rows, columns = np.nonzero(mask)
        height, width = self._shape
        x, y = (columns.mean() + 0.5) / width - 0.5, (rows.mean() + 0.5) / height - 0.5
        return math.exp(-3.2 * (x * x + y * y))

    def _sky(self, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        """Linear RGB of the sky in the direction of rays, ``(3, N)`` float32."""
        scene = self._scene
        color = np.empty((3, u.size), np.float32)
        if not (~np.isfinite(self._hits.t)).any():
            color[:] = 0
            return color
        right, up, back = scene.camera.astype(np.float32)
        x, y, z = (right[axis] * u + up[axis] * v - back[axis] for axis in range(3))
        steep = np.clip(y / np.sqrt(x * x + y * y + z * z), 0, 1)
        blend = np.clip(steep * np.float32(1.9), 0, 1) ** np.float32(0.7)
        # Clouds lie on a plane far above the camera.
        rise = np.maximum(steep, np.float32(0.03))
        cloud = sample_noise(x / rise * np.float32(0.35), z / rise * np.float32(0.35))
        cloud = np.clip((cloud - np.float32(1.05 - 0.6 * scene.clouds)) * 3, 0, 1) * np.clip(steep * 6, 0, 1)
        for channel in range(3):
            horizon, zenith = scene.sky[:, channel]
            clear = np.float32(horizon) + np.float32(zenith - horizon) * blend
            color[channel] = clear + (np.float32(0.92) - clear) * cloud * np.float32(0.85)
        return color


def _sector(degrees: float) -> int:
    """Which eighth of the circle a direction is in; the first is centred on 0."""
    return int((degrees + 22.5) % 360 // 45)


def _color_name(rgb: np.ndarray) -> int:
    """Index of a colour: 8 hues where it has one, then dark, middle and light grey."""
    hue, saturation, value = colorsys.rgb_to_hsv(*rgb)
    return int(hue * 8) % 8 if saturation > 0.2 else 8 + min(int(value * 3), 2)


def _points(u: np.ndarray, v: np.ndarray, hits: Hits) -> np.ndarray:
    """Hit points ``(3, N)`` float32 in camera coordinates; the origin where a ray hits nothing."""
    t = np.where(np.isfinite(hits.t), hits.t, 0)
    return np.stack([u * t, v * t, -t])


def _outlines(label: np.ndarray, both_sides: bool = False) -> np.ndarray:
    """1 where a pixel differs from its right or lower neighbour, and if wanted on that neighbour too; uint8."""
    edge = np.zeros(label.shape, np.uint8)
    across, down = label[:, 1:] != label[:, :-1], label[1:] != label[:-1]
    edge[:, :-1] |= across
    edge[:-1] |= down
    if both_sides:
        edge[:, 1:] |= across
        edge[1:] |= down
    return edge


def _develop(color: np.ndarray, draw: Draw) -> np.ndarray:
    """What a camera makes of linear light: exposure, tone, vignette, blur, sensor noise.

    Args:
        color: ``(3, H, W)`` float32 linear RGB, 0 to 1.
        draw: Random choices.

    Returns:
        ``(H, W, 3)`` uint8.
    """
    height, width = color.shape[1:]
    exposure = np.float32(draw.uniform(0.85, 1.25))
    tint = np.float32([draw.uniform(0.94, 1.06), 1, draw.uniform(0.94, 1.06)])
    y = (np.arange(height, dtype=np.float32) / height - 0.5)[:, None]
    x = (np.arange(width, dtype=np.float32) / width - 0.5)[None]
    vignette = 1 - np.float32(draw.uniform(0, 0.55)) * (x * x + y * y)
    image = np.sqrt(color * vignette * (exposure * tint)[:, None, None])
    if draw.chance(0.3):
        # A lens that is a little out of focus.
        amount = np.float32(draw.uniform(0.1, 0.3))
        image[:, :, 1:-1] += amount * (0.5 * (image[:, :, :-2] + image[:, :, 2:]) - image[:, :, 1:-1])
        image[:, 1:-1] += amount * (0.5 * (image[:, :-2] + image[:, 2:]) - image[:, 1:-1])
    contrast = np.float32(draw.uniform(0.92, 1.12))
    image = (image - 0.5) * contrast + 0.5
    sigma = np.float32(draw.uniform(0.5, 4.5) / 255)
    image += sigma * draw.rng.standard_normal(image.shape, np.float32)
    return np.ascontiguousarray((np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8).transpose(1, 2, 0))
