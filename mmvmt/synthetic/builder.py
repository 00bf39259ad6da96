"""Collects the objects of a scene with their places, and turns them into primitives in world coordinates."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from .classes import VOC_IDS, context_id
from .objects import OBJECTS
from .primitives import Assembly, Draw, Primitives, rotation


@dataclass
class Entity:
    """An object or a surface of a scene.

    Args:
        class_id: VOC class, 0 for background.
        context_id: One of the 459 context classes.
        yaw: Degrees that an object is turned about the vertical.
        pose: Of a person, one of :data:`mmvmt.synthetic.people.POSES`.
    """

    class_id: int
    context_id: int
    yaw: float = 0.0
    pose: str | None = None


@dataclass
class Placed:
    x: float
    z: float
    radius: float


class Builder:
    """Collects objects with their places, and turns them into a scene."""

    def __init__(self, draw: Draw) -> None:
        self.draw = draw
        self.assembly = Assembly()
        self.entities: list[Entity] = []
        self.turns: list[tuple[float, ...]] = []
        self.shifts: list[tuple[float, float, float]] = []
        self.factors: list[float] = []
        self.casts: list[bool] = []
        self.places: list[Placed] = []

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
        self.entities.append(Entity(class_id, context, yaw))
        self.turns.append(rotation(yaw, pitch, roll))
        self.shifts.append(at)
        self.factors.append(factor)
        self.casts.append(casts)

    def add_object(self, name: str, at: tuple[float, float, float], yaw: float, factor: float = 1, **turn) -> None:
        """Build an object of a VOC class."""
        self.add(VOC_IDS[name], context_id(name), at, yaw, factor, **turn)
        self.entities[-1].pose = OBJECTS[name](self.assembly, self.draw)

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
