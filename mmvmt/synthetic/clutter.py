"""Clutter, which has no VOC class: functions that add an object that stands on ``y = 0`` around the origin."""

from __future__ import annotations

from collections.abc import Callable

from .materials import CHROME, WOODS, wood_material
from .primitives import BRICKS, CHECKER, DOTS, NOISE, PLANKS, SOLID, STRIPES, TILES, WINDOWS, Assembly, Draw, rotation


def ball(a: Assembly, draw: Draw) -> None:
    radius = draw.uniform(0.12, 0.25)
    look = a.material(draw.color(), draw.color(), draw.pick((SOLID, STRIPES, CHECKER, DOTS)), radius, specular=0.5)
    turn = rotation(draw.uniform(0, 360), draw.uniform(0, 90))
    a.sphere((0, radius, 0), radius, look, turn)


def crate(a: Assembly, draw: Draw) -> None:
    half = (draw.uniform(0.15, 0.35), draw.uniform(0.12, 0.35), draw.uniform(0.15, 0.3))
    color = draw.pick((draw.vary((0.66, 0.50, 0.33)), draw.color()))
    look = a.material(color, tuple(0.7 * c for c in color), draw.pick((SOLID, STRIPES, PLANKS, TILES)), 0.2)
    a.box((0, half[1], 0), half, look)


def barrel(a: Assembly, draw: Draw) -> None:
    color = draw.pick(((0.50, 0.32, 0.18), draw.color(value=(0.3, 0.8))))
    body = a.material(color, tuple(0.75 * c for c in color), STRIPES, 0.09, axis=0)
    band = a.material((0.35, 0.35, 0.37), specular=0.3)
    a.frustum((0, 0, 0), (0, 0.32, 0), 0.2, 0.25, body)
    a.frustum((0, 0.32, 0), (0, 0.64, 0), 0.25, 0.2, body)
    for y in (0.14, 0.5):
        a.frustum((0, y - 0.02, 0), (0, y + 0.02, 0), 0.238, 0.238, band)


def books(a: Assembly, draw: Draw) -> None:
    y = 0.0
    for _ in range(draw.integer(2, 5)):
        thick = draw.uniform(0.025, 0.05)
        half = (draw.uniform(0.12, 0.18), thick, draw.uniform(0.16, 0.22))
        a.box((0, y + thick, 0), half, a.material(draw.color()), rotation(yaw=draw.uniform(-25, 25)))
        y += 2 * thick


def lamp(a: Assembly, draw: Draw) -> None:
    metal = a.material(draw.pick((CHROME, (0.1, 0.1, 0.1), (0.7, 0.55, 0.25))), specular=0.6)
    shade = a.material(draw.vary((0.98, 0.92, 0.75), 0.04), specular=0.0)
    high = draw.uniform(1.2, 1.6)
    a.frustum((0, 0, 0), (0, 0.03, 0), 0.18, 0.16, metal)
    a.capsule((0, 0.03, 0), (0, high, 0), 0.018, metal)
    a.frustum((0, high - 0.12, 0), (0, high + 0.2, 0), 0.24, 0.14, shade)


def cabinet(a: Assembly, draw: Draw) -> None:
    wood = wood_material(a, draw) if draw.chance(0.7) else a.material(draw.vary((0.85, 0.84, 0.8)))
    front = a.material(draw.vary(draw.pick(WOODS)))
    width, high = draw.uniform(0.35, 0.6), draw.uniform(0.4, 1.0)
    a.box((0, high, 0), (width, high, 0.22), wood)
    knob = a.material(CHROME, specular=0.6)
    rows = 2 if high < 0.7 else 3
    for row in range(rows):
        y = high * 2 * (row + 0.5) / rows
        for x in (-width / 2, width / 2):
            a.box((x, y, 0.222), (width * 0.45, high / rows * 0.86, 0.008), front)
            a.sphere((x * 0.45, y, 0.24), 0.02, knob)


def tree(a: Assembly, draw: Draw) -> None:
    bark = a.material((0.33, 0.23, 0.15), (0.22, 0.15, 0.1), NOISE, 0.2, specular=0.0)
    green = draw.color((0.2, 0.36), (0.4, 0.8), (0.25, 0.55))
    leaves = a.material(green, tuple(0.6 * c for c in green), NOISE, 0.35, specular=0.0)
    if draw.chance(0.4):
        a.frustum((0, 0, 0), (0, 0.7, 0), 0.12, 0.1, bark)
        for index in range(3):
            y = 0.55 + 0.62 * index
            a.frustum((0, y, 0), (0, y + 1.0, 0), 0.8 - 0.2 * index, 0.02, leaves)
    else:
        high = draw.uniform(1.0, 1.5)
        a.frustum((0, 0, 0), (0, high, 0), 0.14, 0.09, bark)
        for _ in range(5):
            offset = [draw.uniform(-0.42, 0.42) for _ in range(3)]
            a.sphere((offset[0], high + 0.4 + offset[1], offset[2]), draw.uniform(0.42, 0.65), leaves)


def house(a: Assembly, draw: Draw) -> None:
    color = draw.vary(draw.pick(((0.72, 0.40, 0.30), (0.86, 0.80, 0.66), (0.78, 0.78, 0.76), (0.62, 0.66, 0.72))))
    wall = a.material(color, (0.25, 0.31, 0.38), WINDOWS, draw.uniform(0.7, 1.0))
    plain = a.material(color, tuple(0.8 * c for c in color), BRICKS, 0.35)
    half = (draw.uniform(0.9, 1.7), draw.uniform(1.0, 2.4), draw.uniform(0.8, 1.2))
    a.box((0, half[1], 0), half, wall if draw.chance(0.8) else plain)
    if draw.chance(0.6):
        roof = a.material(draw.pick(((0.45, 0.18, 0.13), (0.30, 0.28, 0.30), (0.40, 0.28, 0.2))))
        a.wedge((0, 2 * half[1] + 0.4, 0), (half[0] * 1.08, 0.4, half[2] * 1.1), (0.95, 0.05), roof)


CLUTTER: dict[str, tuple[str, Callable[[Assembly, Draw], None], float]] = {
    'ball': ('ball', ball, 0.25),
    'crate': ('box', crate, 0.4),
    'barrel': ('barrel', barrel, 0.27),
    'books': ('book', books, 0.25),
    'lamp': ('light', lamp, 0.25),
    'cabinet': ('cabinet', cabinet, 0.5),
    'tree': ('tree', tree, 0.7),
    'house': ('building', house, 1.8),
}
"""Context class, function and footprint radius in metres of every kind of clutter."""
