"""Scenes: a setting, objects placed in it, a camera and lights."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from .builder import Builder, Entity, Placed
from .classes import CONTEXT_IDS, PERSON, context_id
from .clutter import CLUTTER
from .furniture import SOFA_SEAT, TABLE_HEIGHT
from .objects import FOOTPRINTS, OBJECTS
from .people import person
from .primitives import Draw, Materials, Primitives
from .shading import Lights
from .surroundings import lights_of, outdoors, room, sky_of

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
        setting: One of :data:`SETTINGS`.
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
    setting: str


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
        self.builder = Builder(draw)
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
                self.builder.places.append(Placed(x, -distance, radius))
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
        builder.entities[-1].pose = person(builder.assembly, draw, 'sitting', seat)

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
        sky, clouds = sky_of(draw)
        lights = lights_of(draw, self.setting, sky)
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
            setting=self.setting,
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
    distance = max(size * draw.uniform(1.05, 1.75), draw.uniform(1.0, 1.5) + 0.5 * size)
    x = draw.uniform(-0.4, 0.4) * composer.half_width * distance
    composer.builder.places.append(Placed(x, -distance, _radius(main)))
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
        planes = room(composer.builder, deepest + draw.uniform(0.2, 1.2), wall)
    else:
        planes = outdoors(composer.builder, setting)
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
    composer.builder.places.append(Placed(0, -distance, _radius(name)))
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
        planes = room(composer.builder, deepest + draw.uniform(0.1, 1.2), draw.sign() * (reach + draw.uniform(0.8, 2)))
    else:
        planes = outdoors(composer.builder, composer.setting)
    middle = lift + high * 0.48
    height = middle + distance * math.sin(math.radians(draw.uniform(3, 30)))
    offset = 0.18 * composer.half_width * distance
    target = (draw.uniform(-offset, offset), middle + draw.uniform(-offset, offset) * 0.6, -distance)
    return composer.finish(planes, (0, max(height, 0.25), 0), target, draw.uniform(-5, 5))
