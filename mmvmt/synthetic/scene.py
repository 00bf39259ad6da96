"""Scenes: a setting, objects placed in it, a camera and lights."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from .classes import CONTEXT_IDS, PERSON, VOC_IDS, context_id
from .objects import CLUTTER, FOOTPRINTS, OBJECTS, SOFA_SEAT, TABLE_HEIGHT
from .people import person
from .primitives import (
    BLOTCHES,
    BRICKS,
    CHECKER,
    DOTS,
    NOISE,
    PLANKS,
    SOLID,
    STRIPES,
    TILES,
    WAVES,
    Assembly,
    Draw,
    Materials,
    Primitives,
    rotation,
)
from .shading import Lights

SETTINGS = ('room', 'street', 'field', 'shore')

_OBJECTS_OF = {
    'room': ('bottle', 'cat', 'chair', 'diningtable', 'dog', 'person', 'pottedplant', 'sofa', 'tvmonitor', 'bird'),
    'street': ('bicycle', 'bus', 'car', 'motorbike', 'person', 'dog', 'cat', 'train', 'pottedplant', 'bird', 'bottle'),
    'field': ('aeroplane', 'bird', 'cow', 'dog', 'horse', 'person', 'sheep', 'train', 'bicycle', 'motorbike'),
    'shore': ('boat', 'boat', 'bird', 'aeroplane'),
}
_CLUTTER_OF = {
    'room': ('ball', 'crate', 'books', 'lamp', 'cabinet'),
    'street': ('crate', 'barrel', 'ball', 'tree', 'house'),
    'field': ('tree', 'crate', 'barrel', 'ball'),
    'shore': ('barrel',),
}
_ALONG_THE_VIEW = ('bus', 'car', 'train', 'aeroplane', 'boat', 'bicycle', 'motorbike')


@dataclass
class Entity:
    """An object or a surface of a scene.

    Args:
        class_id: VOC class, 0 for background.
        context_id: One of the 459 context classes.
    """

    class_id: int
    context_id: int


@dataclass
class Scene:
    """Everything that an image is rendered from, in world coordinates: y is up, the camera looks towards -z.

    Args:
        prims: Solids first, planes last.
        planes: Index of the first plane.
        shadow_casters: Indices of the solids that cast shadows.
        entities: Objects and surfaces, by the entity index of the primitives.
        materials: Materials by the index of the primitives.
        lights: Lights.
        camera: ``(3, 3)`` rotation from world to camera coordinates.
        position: ``(3,)`` of the camera.
        field_of_view: Degrees across the longer side of the image.
        sky: ``(2, 3)`` linear RGB at horizon and zenith.
        clouds: Strength of clouds, 0 to 1.
    """

    prims: Primitives
    planes: int
    shadow_casters: np.ndarray
    entities: list[Entity]
    materials: Materials
    lights: Lights
    camera: np.ndarray
    position: np.ndarray
    field_of_view: float
    sky: np.ndarray
    clouds: float


@dataclass
class _Placed:
    x: float
    z: float
    radius: float


class _Builder:
    """Collects objects with their places, and turns them into a scene."""

    def __init__(self, draw: Draw) -> None:
        self.draw = draw
        self.assembly = Assembly()
        self.entities: list[Entity] = []
        self.turns: list[tuple[float, ...]] = []
        self.shifts: list[tuple[float, float, float]] = []
        self.factors: list[float] = []
        self.casts: list[bool] = []
        self.places: list[_Placed] = []

    def add(
        self,
        class_id: int,
        context: int,
        at: tuple[float, float, float] = (0, 0, 0),
        yaw: float = 0,
        factor: float = 1,
        pitch: float = 0,
        roll: float = 0,
        casts: bool = True,
    ) -> None:
        """Announce the next object; what is built after this belongs to it."""
        self.assembly.begin()
        self.entities.append(Entity(class_id, context))
        self.turns.append(rotation(yaw, pitch, roll))
        self.shifts.append(at)
        self.factors.append(factor)
        self.casts.append(casts)

    def add_object(self, name: str, at: tuple[float, float, float], yaw: float, factor: float = 1, **turn) -> None:
        """Build an object of a VOC class."""
        self.add(VOC_IDS[name], context_id(name), at, yaw, factor, **turn)
        OBJECTS[name](self.assembly, self.draw)

    def is_free(self, x: float, z: float, radius: float) -> bool:
        return all(math.hypot(x - p.x, z - p.z) > 0.85 * (radius + p.radius) for p in self.places)

    def finish(self, planes_of: list[tuple[int, tuple, tuple, int]]) -> tuple[Primitives, int, np.ndarray]:
        """World-space primitives, the index of the first plane and the shadow casters.

        Args:
            planes_of: Context class, centre, axes and material of each plane.
        """
        solids = len(self.assembly)
        for context, center, axes, material in planes_of:
            self.add(0, context, casts=False)
            self.assembly.plane(center, axes, material)
        prims = self.assembly.primitives()
        turns = np.array(self.turns).reshape(-1, 3, 3).swapaxes(1, 2)[prims.entity]
        factors = np.array(self.factors)[prims.entity, None]
        prims = prims.moved(turns, np.array(self.shifts)[prims.entity], factors)
        casts = np.flatnonzero(np.array(self.casts)[prims.entity[:solids]])
        return prims, solids, casts


def _sky(draw: Draw) -> tuple[np.ndarray, float]:
    zenith = draw.pick(((0.30, 0.52, 0.85), (0.30, 0.52, 0.85), (0.45, 0.55, 0.68), (0.42, 0.42, 0.68)))
    horizon = draw.pick(((0.78, 0.87, 0.95), (0.86, 0.88, 0.88), (0.97, 0.84, 0.68)))
    return np.square([draw.vary(horizon, 0.04), draw.vary(zenith, 0.05)]), draw.uniform(0, 0.9)


def _lights(draw: Draw, setting: str, sky: np.ndarray) -> Lights:
    elevation, azimuth = math.radians(draw.uniform(32, 72)), math.radians(draw.uniform(-115, 115))

    def direction(elevation: float, azimuth: float) -> np.ndarray:
        # Azimuth 0 is behind the camera.
        return np.array(
            [math.cos(elevation) * math.sin(azimuth), math.sin(elevation), math.cos(elevation) * math.cos(azimuth)]
        )

    if setting == 'room':
        tone = np.array(draw.pick(((1.0, 0.93, 0.82), (1.0, 0.97, 0.92), (0.93, 0.97, 1.0))))
        ambient = draw.uniform(0.3, 0.5)
        # Light from in front of the walls, so that they are lit.
        azimuth = math.radians(draw.uniform(-75, 75))
        key = draw.uniform(0.55, 0.85)
        above, below = tone * ambient, tone * ambient * 0.55
        haze_distance = math.inf
    else:
        tone = np.array(draw.pick(((1.0, 0.95, 0.86), (1.0, 0.90, 0.74), (0.98, 0.98, 1.0))))
        ambient = draw.uniform(0.32, 0.5)
        key = draw.uniform(0.6, 1.0)
        above = ambient * (0.5 + 0.5 * sky[1] / sky[1].max())
        below = above * np.array([0.55, 0.52, 0.46])
        haze_distance = draw.uniform(45, 160)
    return Lights(
        key=direction(elevation, azimuth),
        key_color=tone * key,
        fill=direction(math.radians(25), azimuth + math.radians(draw.uniform(100, 200))),
        fill_color=tone * draw.uniform(0.04, 0.16),
        above=above,
        below=below,
        haze=sky[0],
        haze_distance=haze_distance,
    )


_FLAT = rotation()
_FACING_CAMERA = rotation(pitch=90)


def _room(builder: _Builder, depth: float, side: float) -> list[tuple]:
    """Floor and two walls, with what hangs on them; returns the planes."""
    a, draw = builder.assembly, builder.draw
    floor = draw.pick(
        (
            ((0.62, 0.43, 0.26), (0.36, 0.22, 0.12), PLANKS, draw.uniform(0.16, 0.28)),
            ((0.80, 0.66, 0.47), (0.52, 0.38, 0.24), PLANKS, draw.uniform(0.16, 0.28)),
            ((0.82, 0.80, 0.76), (0.45, 0.43, 0.42), TILES, draw.uniform(0.45, 0.7)),
            ((0.85, 0.83, 0.80), (0.30, 0.30, 0.32), CHECKER, draw.uniform(0.35, 0.6)),
            (draw.color(saturation=(0.2, 0.6), value=(0.4, 0.75)), (0.3, 0.28, 0.26), NOISE, 0.25),
        )
    )
    floor = a.material(draw.vary(floor[0]), draw.vary(floor[1]), floor[2], floor[3], specular=0.06)
    paint = draw.color(saturation=(0.04, 0.4), value=(0.62, 0.95))
    shade = tuple(c * draw.uniform(0.8, 0.95) for c in paint)
    paper = draw.pick((SOLID, SOLID, NOISE, STRIPES, DOTS, BRICKS))
    period = draw.uniform(0.25, 0.5)
    back = a.material(paint, shade, paper, period, axis=0, specular=0.0)
    left = a.material(draw.vary(paint, 0.03), shade, paper, period, axis=0, specular=0.0)
    wall, turn = CONTEXT_IDS['wall'], 90 if side < 0 else -90
    board = a.material(draw.vary((0.93, 0.92, 0.90)), specular=0.1)
    # Skirting boards belong to the walls.
    builder.add(0, wall, (0, 0, -depth), casts=False)
    a.box((0, 0.06, 0.012), (9, 0.06, 0.012), board)
    builder.add(0, wall, (side, 0, 0), yaw=turn, casts=False)
    a.box((0, 0.06, 0.012), (9, 0.06, 0.012), board)
    taken: list[float] = []
    for _ in range(draw.integer(0, 4)):
        x, y = draw.uniform(-2.6, 2.6), draw.uniform(1.35, 2.0)
        if abs(x - side) < 0.6 or any(abs(x - other) < 1.15 for other in taken):
            continue
        taken.append(x)
        kind = draw.pick(('picture', 'picture', 'window', 'door'))
        builder.add(0, CONTEXT_IDS[kind], (x, 0, -depth), casts=False)
        frame = a.material(draw.vary(draw.pick(((0.93, 0.92, 0.90), (0.35, 0.22, 0.13), (0.1, 0.1, 0.1)))))
        if kind == 'picture':
            half = (draw.uniform(0.22, 0.5), draw.uniform(0.2, 0.36))
            art = a.material(draw.color(), draw.color(), draw.pick((NOISE, BLOTCHES, STRIPES, WAVES)), 0.4)
            a.box((0, y, 0.02), (*half, 0.02), frame)
            a.box((0, y, 0.04), (half[0] * 0.88, half[1] * 0.86, 0.004), art)
        elif kind == 'window':
            half = (draw.uniform(0.4, 0.6), 0.55)
            pane = a.material(draw.vary((0.75, 0.87, 0.97)), specular=0.6)
            a.box((0, y, 0.02), (*half, 0.03), frame)
            for dx in (-0.5, 0.5):
                for dy in (-0.5, 0.5):
                    a.box((dx * half[0], y + dy * half[1], 0.05), (half[0] * 0.43, half[1] * 0.43, 0.003), pane)
        else:
            a.box((0, 1.05, 0.02), (0.48, 1.05, 0.02), frame)
            a.box((0, 1.03, 0.04), (0.4, 0.98, 0.01), a.material(draw.vary((0.62, 0.45, 0.3))))
            a.sphere((0.31, 1.0, 0.09), 0.04, a.material((0.75, 0.65, 0.35), specular=0.8))
    if draw.chance(0.35):
        builder.add(0, CONTEXT_IDS['rug'], (draw.uniform(-0.8, 0.8), 0, -draw.uniform(2.2, depth - 1)), casts=False)
        rug = a.material(draw.color(), draw.color(), draw.pick((STRIPES, CHECKER, NOISE, DOTS)), 0.35, axis=0)
        a.box((0, 0.008, 0), (draw.uniform(0.8, 1.3), 0.008, draw.uniform(0.5, 0.9)), rug)
    return [
        (CONTEXT_IDS['floor'], (0, 0, 0), _FLAT, floor),
        (wall, (0, 0, -depth), _FACING_CAMERA, back),
        (wall, (side, 0, 0), _turn_upright(turn), left),
    ]


def _turn_upright(yaw: float) -> tuple[float, ...]:
    """Axes of a wall that faces ``yaw`` degrees from z: its normal is their y, its x runs along the wall."""
    c, s = math.cos(math.radians(yaw)), math.sin(math.radians(yaw))
    return (c, 0, -s, s, 0, c, 0, -1, 0)


def _outdoors(builder: _Builder, setting: str) -> list[tuple]:
    """Ground and far scenery; returns the planes."""
    a, draw = builder.assembly, builder.draw
    if setting == 'shore':
        kind, look = 'water', ((0.12, 0.32, 0.45), (0.30, 0.52, 0.62), WAVES, 1.1, 0.5)
    elif setting == 'street':
        kind, look = draw.pick(
            (
                ('floor', ((0.62, 0.61, 0.60), (0.42, 0.41, 0.40), TILES, draw.uniform(0.6, 1.0), 0.02)),
                ('floor', ((0.66, 0.52, 0.45), (0.50, 0.45, 0.40), BRICKS, draw.uniform(0.5, 0.7), 0.02)),
                ('floor', ((0.40, 0.40, 0.42), (0.50, 0.50, 0.51), NOISE, 0.15, 0.02)),
            )
        )
    else:
        kind, look = draw.pick(
            (
                ('grass', ((0.30, 0.48, 0.16), (0.46, 0.58, 0.24), NOISE, 0.3, 0.0)),
                ('grass', ((0.36, 0.52, 0.20), (0.50, 0.50, 0.24), NOISE, 0.6, 0.0)),
                ('floor', ((0.60, 0.52, 0.42), (0.48, 0.41, 0.33), TILES, 0.8, 0.02)),
                ('floor', ((0.72, 0.66, 0.56), (0.60, 0.55, 0.46), BRICKS, 0.7, 0.02)),
                ('sand', ((0.82, 0.72, 0.52), (0.70, 0.60, 0.42), NOISE, 0.5, 0.0)),
            )
        )
    first, second, texture, period, specular = look
    ground = a.material(draw.vary(first, 0.04), draw.vary(second, 0.04), texture, period, specular=specular)
    # A row of far things: they give the horizon a shape and cast no shadows that could be seen.
    for _ in range(draw.integer(2, 6)):
        far = draw.uniform(11, 26)
        at = (draw.uniform(-0.75, 0.75) * far, 0, -far)
        yaw = draw.uniform(-40, 40)
        if setting == 'street' and draw.chance(0.65):
            builder.add(0, CONTEXT_IDS['building'], at, yaw, draw.uniform(1.2, 2), casts=False)
            CLUTTER['house'][1](a, draw)
        elif setting == 'shore':
            builder.add(0, CONTEXT_IDS['mountain'], (at[0], 0, -far * 1.4), yaw, casts=False)
            hill = a.material((0.30, 0.42, 0.28), (0.42, 0.46, 0.34), NOISE, 2.0, specular=0.0)
            a.sphere((0, -0.5, 0), (draw.uniform(4, 9), draw.uniform(1.5, 3.5), 3), hill)
        else:
            builder.add(0, CONTEXT_IDS['tree'], at, yaw, draw.uniform(1.4, 2.6), casts=False)
            CLUTTER['tree'][1](a, draw)
    if setting == 'street' and draw.chance(0.45):
        builder.add(0, CONTEXT_IDS['wall'], (0, 0, -draw.uniform(7.5, 10)), draw.uniform(-12, 12), casts=False)
        brick = a.material(draw.vary((0.62, 0.36, 0.27)), (0.75, 0.72, 0.66), BRICKS, 0.5, specular=0.0)
        a.box((0, 0.6, 0), (14, draw.uniform(0.6, 1.4), 0.12), brick)
    if setting == 'field' and draw.chance(0.4):
        builder.add(0, CONTEXT_IDS['fence'], (0, 0, -draw.uniform(7, 10)), draw.uniform(-15, 15), casts=False)
        wood = a.material(draw.vary((0.52, 0.38, 0.24)))
        for y in (0.35, 0.7):
            a.box((0, y, 0), (12, 0.05, 0.03), wood)
        for post in range(-6, 7):
            a.box((post * 1.6, 0.45, 0), (0.06, 0.45, 0.05), wood)
    return [(CONTEXT_IDS[kind], (0, 0, 0), _FLAT, ground)]


def _radius(name: str) -> float:
    width, length, _ = FOOTPRINTS[name]
    return 0.5 * (width + length) if name not in ('bus', 'train') else 0.8 * length


def _yaw(draw: Draw, name: str) -> float:
    if name in _ALONG_THE_VIEW:
        # Mostly three-quarter views, seldom quite from the front.
        return draw.sign() * draw.uniform(25, 80) + draw.pick((0, 0, 180))
    if name in ('tvmonitor', 'sofa'):
        return draw.uniform(-40, 40)
    if name == 'person':
        return draw.uniform(-60, 60) if draw.chance(0.75) else draw.uniform(0, 360)
    return draw.sign() * draw.uniform(10, 90) if draw.chance(0.75) else draw.uniform(0, 360)


class _Composer:
    """Places the objects of one scene."""

    def __init__(self, draw: Draw, setting: str, aspect: float) -> None:
        self.draw = draw
        self.setting = setting
        self.builder = _Builder(draw)
        self.field_of_view = draw.uniform(44, 62)
        # Half width of the view at distance 1.
        self.half_width = math.tan(math.radians(self.field_of_view / 2)) * min(1.0, aspect)

    def place(self, name: str, near: float, far: float, spread: float) -> tuple[float, float] | None:
        """A free place on the ground within the view, or None after some tries."""
        radius = _radius(name) if name in FOOTPRINTS else CLUTTER[name][2]
        for _ in range(12):
            distance = self.draw.uniform(near, far)
            x = self.draw.uniform(-spread, spread) * self.half_width * distance
            if self.builder.is_free(x, -distance, radius):
                self.builder.places.append(_Placed(x, -distance, radius))
                return x, -distance
        return None

    def add(self, name: str, x: float, z: float, yaw: float | None = None) -> None:
        """Add an object of a VOC class, with what may come with it."""
        draw, builder = self.draw, self.builder
        yaw = _yaw(draw, name) if yaw is None else yaw
        factor = draw.uniform(0.88, 1.14)
        if name == 'aeroplane' and (self.setting == 'shore' or draw.chance(0.45)):
            turn = dict(pitch=draw.uniform(-20, 12), roll=draw.uniform(-25, 25))
            builder.add_object(name, (x, draw.uniform(0.9, 1.8), z), yaw, factor, **turn)
        elif name == 'boat':
            builder.add_object(name, (x, -0.08, z), yaw, factor, roll=draw.uniform(-5, 5))
        elif name == 'bird' and self.setting == 'shore':
            # It swims.
            builder.add_object(name, (x, -0.24 * factor, z), yaw, factor)
        elif name == 'person' and self.setting in ('room', 'street') and draw.chance(0.25):
            self._sitting(x, z, draw.uniform(-70, 70))
        else:
            builder.add_object(name, (x, 0, z), yaw, factor)
        if name == 'diningtable' and draw.chance(0.65):
            for _ in range(draw.integer(1, 2)):
                item = draw.pick(('bottle', 'bottle', 'pottedplant', 'tvmonitor', 'cat'))
                dx, dz = draw.uniform(-0.4, 0.4), draw.uniform(-0.12, 0.12)
                top = (x + dx, TABLE_HEIGHT * factor, z + dz)
                builder.add_object(item, top, draw.uniform(-30, 30), draw.uniform(0.5, 0.75))

    def _sitting(self, x: float, z: float, yaw: float) -> None:
        """A person on a chair or a sofa."""
        draw, builder = self.draw, self.builder
        name, seat = ('sofa', SOFA_SEAT) if self.setting == 'room' and draw.chance(0.4) else ('chair', 0.49)
        builder.add_object(name, (x, 0, z), yaw)
        forward = 0.12 if name == 'sofa' else 0.02
        side = draw.uniform(-0.35, 0.35) if name == 'sofa' else 0.0
        s, c = math.sin(math.radians(yaw)), math.cos(math.radians(yaw))
        builder.add(PERSON, context_id('person'), (x + forward * s + side * c, 0, z + forward * c - side * s), yaw)
        person(builder.assembly, draw, 'sitting', seat)

    def clutter(self, near: float, far: float) -> None:
        """Add a thing without a VOC class."""
        draw = self.draw
        name = draw.pick(_CLUTTER_OF[self.setting])
        if name in ('tree', 'house'):
            near, far = max(near, 7.0), max(far, 11.0)
        spot = self.place(name, near, far, 1.0)
        if spot is None:
            return
        context, build, _ = CLUTTER[name]
        height = -0.3 if self.setting == 'shore' else 0.0
        self.builder.add(
            0, CONTEXT_IDS[context], (spot[0], height, spot[1]), draw.uniform(-50, 50), draw.uniform(0.85, 1.2)
        )
        build(self.builder.assembly, draw)

    def finish(self, planes: list[tuple], position: tuple, target: tuple, roll: float) -> Scene:
        """The scene, seen from ``position`` with ``target`` in the middle of the image."""
        draw = self.draw
        sky, clouds = _sky(draw)
        lights = _lights(draw, self.setting, sky)
        prims, solids, casters = self.builder.finish(planes)
        return Scene(
            prims=prims,
            planes=solids,
            shadow_casters=casters,
            entities=self.builder.entities,
            materials=self.builder.assembly.materials(),
            lights=lights,
            camera=_look_at(np.array(position), np.array(target), roll),
            position=np.array(position),
            field_of_view=self.field_of_view,
            sky=sky,
            clouds=clouds,
        )


def _look_at(position: np.ndarray, target: np.ndarray, roll: float) -> np.ndarray:
    """Rotation from world to camera coordinates: x right, y up, z towards the viewer."""
    back = position - target
    back = back / np.linalg.norm(back)
    right = np.cross((0, 1, 0), back)
    right /= np.linalg.norm(right)
    up = np.cross(back, right)
    c, s = math.cos(math.radians(roll)), math.sin(math.radians(roll))
    return np.stack([c * right + s * up, c * up - s * right, back])


def _setting_of(draw: Draw, name: str) -> str:
    return draw.pick([setting for setting in SETTINGS if name in _OBJECTS_OF[setting]])


def compose(draw: Draw, aspect: float = 1.0) -> Scene:
    """A scene with one object in the foreground, others around it, and clutter.

    The foreground's class is drawn evenly, but for people, who are in about half of all scenes.

    Args:
        draw: Random choices.
        aspect: Width of the image by its height.
    """
    main = 'person' if draw.chance(0.25) else draw.pick([name for name in OBJECTS if name != 'person'])
    setting = _setting_of(draw, main)
    composer = _Composer(draw, setting, aspect)
    size = max(FOOTPRINTS[main])
    distance = max(size * draw.uniform(1.25, 2.1), draw.uniform(1.0, 1.5) + 0.5 * size)
    x = draw.uniform(-0.4, 0.4) * composer.half_width * distance
    composer.builder.places.append(_Placed(x, -distance, _radius(main)))
    composer.add(main, x, -distance)

    near, far = max(1.5, distance - 1.0), distance + 2.6
    with_person = setting != 'shore' and draw.chance(0.38)
    names = ['person'] * with_person
    names += [draw.pick(_OBJECTS_OF[setting]) for _ in range(draw.integer(0, 3))]
    for name in names:
        # Not so near that little of it is seen.
        least = (1.5 if name == 'person' else 1.1) * max(FOOTPRINTS[name])
        nearest = max(near, least)
        spot = composer.place(name, nearest, nearest + 1.6 if name == 'person' else max(far, nearest + 1), 0.8)
        if spot is not None:
            composer.add(name, *spot)
    for _ in range(draw.integer(0, 3)):
        composer.clutter(near, far)

    deepest = max(place.radius - place.z for place in composer.builder.places)
    if setting == 'room':
        # Walls stand clear of everything that was placed.
        side = draw.sign()
        clear = max(max(place.radius + side * place.x for place in composer.builder.places), 0)
        wall = side * max(clear + 0.2, draw.uniform(1.8, 3.0))
        planes = _room(composer.builder, deepest + draw.uniform(0.2, 1.2), wall)
    else:
        planes = _outdoors(composer.builder, setting)
    height = draw.uniform(0.35, 0.75) + 0.3 * distance * draw.uniform(0.5, 1.2)
    flies = composer.builder.shifts[0][1]
    middle = flies + FOOTPRINTS[main][2] * draw.uniform(0.35, 0.6)
    target = (x * draw.uniform(0.0, 0.9), max(middle, 0.3), -distance)
    return composer.finish(planes, (0, height, 0), target, draw.uniform(-4, 4))


def compose_object(draw: Draw, name: str, aspect: float = 1.0) -> Scene:
    """A scene with one object that nearly fills the image.

    Args:
        draw: Random choices.
        name: VOC class of the object.
        aspect: Width of the image by its height.
    """
    composer = _Composer(draw, _setting_of(draw, name), aspect)
    width, length, high = FOOTPRINTS[name]
    reach = 0.5 * math.sqrt((1.3 * width) ** 2 + (1.3 * length) ** 2 + high**2)
    distance = reach / composer.half_width * draw.uniform(1.02, 1.45) + 0.35 * length
    composer.builder.places.append(_Placed(0, -distance, _radius(name)))
    factor = draw.uniform(0.9, 1.1)
    flies = name == 'aeroplane' and (composer.setting == 'shore' or draw.chance(0.4))
    lift = draw.uniform(0.5, 1.2) if flies else 0
    tilt = dict(pitch=draw.uniform(-18, 10), roll=draw.uniform(-20, 20)) if flies else {}
    if name in ('bird', 'boat') and composer.setting == 'shore':
        lift = -0.2 if name == 'bird' else -0.08
    composer.builder.add_object(name, (0, lift, -distance), _yaw(draw, name), factor, **tilt)
    for _ in range(draw.integer(0, 2)):
        composer.clutter(distance + 0.5, distance + 3)
    if composer.setting == 'room':
        deepest = max(place.radius - place.z for place in composer.builder.places)
        planes = _room(composer.builder, deepest + draw.uniform(0.1, 1.2), draw.sign() * (reach + draw.uniform(0.8, 2)))
    else:
        planes = _outdoors(composer.builder, composer.setting)
    middle = lift + high * 0.48
    height = middle + distance * math.sin(math.radians(draw.uniform(3, 30)))
    offset = 0.18 * composer.half_width * distance
    target = (draw.uniform(-offset, offset), middle + draw.uniform(-offset, offset) * 0.6, -distance)
    return composer.finish(planes, (0, max(height, 0.25), 0), target, draw.uniform(-5, 5))
