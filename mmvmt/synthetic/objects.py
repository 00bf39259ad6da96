"""Objects of the VOC classes: the function that builds each of them, and its size.

Sizes are those of toys: a bus is longer than a cat, but not by as much as it is in life, so that both can share a
picture.
"""

from __future__ import annotations

from collections.abc import Callable

from .animals import bird, cat, cow, dog, horse, sheep
from .furniture import bottle, chair, diningtable, pottedplant, sofa, tvmonitor
from .people import person
from .primitives import Assembly, Draw
from .vehicles import aeroplane, bicycle, boat, bus, car, motorbike, train

OBJECTS: dict[str, Callable[[Assembly, Draw], str | None]] = {
    'aeroplane': aeroplane,
    'bicycle': bicycle,
    'bird': bird,
    'boat': boat,
    'bottle': bottle,
    'bus': bus,
    'car': car,
    'cat': cat,
    'chair': chair,
    'cow': cow,
    'diningtable': diningtable,
    'dog': dog,
    'horse': horse,
    'motorbike': motorbike,
    'person': person,
    'pottedplant': pottedplant,
    'sheep': sheep,
    'sofa': sofa,
    'train': train,
    'tvmonitor': tvmonitor,
}
"""The function that builds an object of each VOC class; that of a person returns the pose."""

FOOTPRINTS: dict[str, tuple[float, float, float]] = {
    'aeroplane': (1.2, 1.4, 1.0),
    'bicycle': (0.3, 0.9, 1.0),
    'bird': (0.3, 0.45, 0.6),
    'boat': (0.45, 1.5, 1.5),
    'bottle': (0.15, 0.15, 0.7),
    'bus': (0.5, 1.5, 1.2),
    'car': (0.5, 1.15, 0.85),
    'cat': (0.2, 0.5, 0.7),
    'chair': (0.3, 0.3, 0.95),
    'cow': (0.35, 1.0, 1.1),
    'diningtable': (0.8, 0.6, 0.75),
    'dog': (0.2, 0.6, 0.9),
    'horse': (0.3, 1.05, 1.75),
    'motorbike': (0.3, 0.9, 0.95),
    'person': (0.35, 0.35, 1.75),
    'pottedplant': (0.35, 0.35, 0.9),
    'sheep': (0.3, 0.6, 0.85),
    'sofa': (1.0, 0.45, 0.85),
    'train': (0.5, 1.85, 1.2),
    'tvmonitor': (0.6, 0.3, 0.8),
}
"""Half width, half length and height that each object roughly takes, metres."""
