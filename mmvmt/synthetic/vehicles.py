"""Vehicles: functions that add one object each, which stands on ``y = 0`` around the origin and faces z."""

from __future__ import annotations

import math

from .materials import CHROME, GLASS, RUBBER, add_wheel, wood_material
from .primitives import SOLID, STRIPES, Assembly, Draw, rotation


def aeroplane(a: Assembly, draw: Draw) -> None:
    white = draw.pick(((0.93, 0.94, 0.95), (0.93, 0.94, 0.95), (0.72, 0.76, 0.80), (0.88, 0.83, 0.70)))
    accent = draw.color(saturation=(0.7, 1), value=(0.5, 0.95))
    hull = a.material(white, specular=0.4)
    trim = a.material(accent, specular=0.3)
    dark = a.material(GLASS, specular=0.8)
    lift, radius, length = 0.42, draw.uniform(0.15, 0.2), draw.uniform(0.95, 1.2)
    a.capsule((0, lift, -length * 0.55), (0, lift, length), radius, hull)
    a.frustum((0, lift, -length * 0.5), (0, lift + radius * 0.5, -length - 0.35), radius, radius * 0.35, hull)
    band = a.material(accent, white, STRIPES, 0.13, axis=2, specular=0.3)
    a.box((0, lift + 0.04, 0.1), (radius * 1.015, 0.035, length * 0.85), band)
    a.wedge((0, lift + radius * 0.62, length + radius * 0.45), (radius * 0.6, 0.05, 0.09), (0.6, 0.5), dark)
    span, sweep = draw.uniform(0.95, 1.2), draw.uniform(8, 24)
    wing = a.material(draw.vary(white, 0.05), specular=0.3)
    for side in (1, -1):
        axes = rotation(yaw=side * sweep, roll=-90 * side)
        reach = span / 2
        center = (
            side * reach * math.cos(math.radians(sweep)),
            lift - 0.05,
            0.1 - reach * math.sin(math.radians(sweep)),
        )
        a.wedge(center, (0.025, span / 2, 0.27), (0.6, 0.45), wing, axes)
        x, z = side * 0.5, 0.2 - 0.5 * math.tan(math.radians(sweep))
        a.capsule((x, lift - 0.15, z - 0.05), (x, lift - 0.15, z + 0.2), 0.075, trim)
        tail = rotation(yaw=side * 20, roll=-90 * side)
        a.wedge((side * 0.24, lift + 0.06, -length - 0.2), (0.018, 0.24, 0.15), (0.6, 0.5), wing, tail)
    a.wedge((0, lift + 0.33, -length - 0.2), (0.022, 0.25, 0.2), (0.6, 0.55), trim, rotation(pitch=-22))
    for x, z in ((0, length * 0.8), (0.2, 0), (-0.2, 0)):
        a.capsule((x, 0.07, z), (x, lift - radius * 0.5, z), 0.02, a.material(CHROME))
        a.frustum((x - 0.03, 0.07, z), (x + 0.03, 0.07, z), 0.07, 0.07, a.material(RUBBER))


def bicycle(a: Assembly, draw: Draw) -> None:
    frame = a.material(draw.color(saturation=(0.7, 1), value=(0.5, 0.95)), specular=0.5)
    rubber, metal = a.material(RUBBER), a.material(CHROME, specular=0.5)
    radius, base = draw.uniform(0.31, 0.36), draw.uniform(0.5, 0.56)
    for z in (base, -base):
        a.ring((0, radius, z), (1, 0, 0), radius, 0.84, 0.05, rubber)
        a.frustum((-0.04, radius, z), (0.04, radius, z), 0.045, 0.045, metal)
        turn = draw.uniform(0, math.pi)
        for spoke in range(4):
            y, dz = math.sin(turn + spoke * math.pi / 4), math.cos(turn + spoke * math.pi / 4)
            reach = radius * 0.86
            a.capsule((0, radius - y * reach, z - dz * reach), (0, radius + y * reach, z + dz * reach), 0.007, metal)
    crank, seat, head = (0, 0.30, -0.04), (0, 0.78, -0.22), (0, 0.80, base - 0.17)
    for start, end in (
        (crank, seat),
        (crank, head),
        ((0, 0.68, -0.18), (0, 0.74, base - 0.15)),
        (crank, (0, radius, -base)),
        ((0, 0.68, -0.18), (0, radius, -base)),
        ((0, 0.92, base - 0.2), (0, radius, base)),
    ):
        a.capsule(start, end, 0.024, frame)
    a.sphere((0, 0.81, -0.24), (0.07, 0.035, 0.13), rubber)
    a.capsule((-0.24, 0.94, base - 0.2), (0.24, 0.94, base - 0.2), 0.02, metal)
    for x in (-0.24, 0.24):
        a.capsule((x, 0.94, base - 0.2), (x, 0.93, base - 0.3), 0.026, rubber)
    a.frustum((-0.03, *crank[1:]), (0.03, *crank[1:]), 0.09, 0.09, metal)
    for x in (-0.09, 0.09):
        y = crank[1] + math.copysign(0.13, x)
        a.capsule((x * 0.6, *crank[1:]), (x * 0.6, y, crank[2]), 0.014, metal)
        a.box((x * 1.2, y, crank[2]), (0.045, 0.012, 0.03), rubber)


def boat(a: Assembly, draw: Draw) -> None:
    paint = draw.pick(((0.94, 0.94, 0.92), draw.color(saturation=(0.6, 1), value=(0.35, 0.9))))
    hull = a.material(paint, draw.color(), STRIPES, 0.3, axis=1, specular=0.3)
    plain = a.material(paint, specular=0.3)
    deck, white = wood_material(a, draw), a.material((0.95, 0.95, 0.93), specular=0.1)
    length = draw.uniform(1.15, 1.4)
    a.dome((0, 0.37, 0), (0.46, 0.42, length), 0, hull, rotation(roll=180))
    a.sphere((0, 0.37, 0), (0.44, 0.03, length * 0.97), deck)
    if draw.chance(0.6):
        mast = 1.9
        a.capsule((0, 0.3, 0.15), (0, mast, 0.15), 0.025, deck)
        sail = a.material(
            draw.pick(((0.96, 0.95, 0.90), draw.color(value=(0.7, 1)))), draw.color(), draw.pick((SOLID, STRIPES)), 0.6
        )
        a.wedge((0, 1.12, -0.38), (0.012, 0.66, 0.46), (1, 0.02), sail)
        a.wedge((0, 1.0, 0.58), (0.012, 0.58, 0.36), (1, 0.02), white)
        a.capsule((0, 0.45, 0.12), (0, 0.45, -0.85), 0.02, deck)
    else:
        cabin = a.material((0.95, 0.95, 0.93), specular=0.2)
        a.wedge((0, 0.55, -0.2), (0.3, 0.2, 0.4), (0.9, 0.8), cabin)
        a.wedge((0, 0.6, -0.2), (0.3, 0.07, 0.405), (0.96, 0.92), a.material(GLASS, specular=0.8))
        a.box((0, 0.77, -0.22), (0.31, 0.018, 0.38), plain)
        a.frustum((0, 0.75, -0.35), (0, 1.05, -0.38), 0.09, 0.08, a.material(draw.color()))
        a.capsule((0, 0.38, length * 0.85), (0, 0.85, length * 0.85), 0.012, white)


def bus(a: Assembly, draw: Draw) -> None:
    paint = draw.pick(((0.80, 0.12, 0.12), (0.95, 0.75, 0.12), (0.15, 0.35, 0.70), (0.20, 0.55, 0.30), (0.9, 0.9, 0.9)))
    paint = draw.vary(paint)
    body = a.material(paint, specular=0.3)
    low = a.material(draw.vary(draw.pick((paint, (0.9, 0.9, 0.9), (0.25, 0.25, 0.28)))), specular=0.3)
    glass = a.material(GLASS, paint, STRIPES, draw.uniform(0.42, 0.55), axis=2, specular=0.5)
    clear = a.material(GLASS, specular=0.9)
    length, deck = draw.uniform(1.25, 1.55), draw.chance(0.25)
    top = 1.55 if deck else 1.15
    a.box((0, (top + 0.42) / 2, 0), (0.46, (top - 0.42) / 2, length), body)
    a.box((0, 0.32, 0), (0.462, 0.16, length), low)
    for y in (0.86, 1.3) if deck else (0.84,):
        a.box((0, y, -0.05), (0.468, 0.15, length * 0.93), glass)
        a.box((0, y, length), (0.42, 0.2 if y < 1 else 0.15, 0.012), clear)
        a.box((0, y, -length), (0.36, 0.13, 0.012), clear)
    for z in (length * 0.62, -length * 0.58):
        for x in (0.42, -0.42):
            add_wheel(a, draw, x, 0.19, z, 0.19, 0.13)
    lamp = a.material((1.0, 0.95, 0.75), specular=0.6)
    red = a.material((0.85, 0.1, 0.08))
    for x in (0.33, -0.33):
        a.sphere((x, 0.36, length), (0.06, 0.05, 0.03), lamp)
        a.box((x, 0.42, -length), (0.05, 0.07, 0.012), red)
    a.box((0, 0.2, length), (0.44, 0.05, 0.03), a.material((0.2, 0.2, 0.2)))


def car(a: Assembly, draw: Draw) -> None:
    paint = draw.pick(
        (draw.color(saturation=(0.65, 1), value=(0.4, 0.9)), (0.75, 0.76, 0.78), (0.15, 0.16, 0.18), (0.93, 0.93, 0.92))
    )
    body = a.material(paint, specular=0.6)
    glass = a.material(GLASS, specular=0.9)
    dark = a.material((0.14, 0.14, 0.15))
    length = draw.uniform(0.95, 1.15)
    style = draw.pick(('saloon', 'saloon', 'hatchback', 'van'))
    a.wedge((0, 0.34, 0), (0.45, 0.16, length), (0.97, 0.98), body)
    middle, half, slope = {
        'saloon': (-0.1, 0.58, 0.58),
        'hatchback': (-0.28, 0.66, 0.68),
        'van': (-0.12, length * 0.86, 0.84),
    }[style]
    height = 0.23 if style == 'van' else 0.155
    a.wedge((0, 0.49 + height, middle), (0.425, height, half), (0.8, slope), glass)
    roof = 0.49 + 2 * height
    a.box((0, roof, middle), (0.425 * 0.81, 0.02, half * slope * 1.02), body)
    # Pillars: a slightly larger slice of the cabin.
    a.wedge((0, 0.49 + height, middle - 0.06), (0.432, height, 0.05), (0.805, 0.9), body)
    for z in (length * 0.62, -length * 0.6):
        for x in (0.4, -0.4):
            add_wheel(a, draw, x, 0.195, z, 0.195, 0.15)
    lamp = a.material((1.0, 0.96, 0.8), specular=0.8)
    red = a.material((0.85, 0.08, 0.06), specular=0.4)
    for x in (0.33, -0.33):
        a.sphere((x, 0.39, length - 0.01), (0.085, 0.055, 0.04), lamp)
        a.box((x, 0.4, 0.01 - length), (0.09, 0.04, 0.015), red)
    for z in (length, -length):
        a.box((0, 0.23, z), (0.43, 0.045, 0.045), dark)
    a.box((0, 0.36, length), (0.17, 0.035, 0.012), dark)


def motorbike(a: Assembly, draw: Draw) -> None:
    paint = a.material(draw.color(saturation=(0.75, 1), value=(0.35, 0.9)), specular=0.8)
    rubber, metal, dark = a.material(RUBBER), a.material(CHROME, specular=0.9), a.material((0.2, 0.2, 0.22))
    for z in (0.6, -0.58):
        a.ring((0, 0.29, z), (1, 0, 0), 0.29, 0.6, 0.15, rubber)
        a.frustum((-0.05, 0.29, z), (0.05, 0.29, z), 0.18, 0.18, metal)
        a.box((0, 0.6 if z < 0 else 0.58, z * 0.98), (0.07, 0.02, 0.2), paint)
    a.box((0, 0.36, 0.02), (0.13, 0.15, 0.22), dark)
    for y in (0.3, 0.38, 0.46):
        a.box((0, y, 0.02), (0.155, 0.018, 0.2), metal)
    a.sphere((0, 0.64, 0.14), (0.16, 0.14, 0.28), paint)
    a.sphere((0, 0.62, -0.3), (0.14, 0.075, 0.32), a.material((0.09, 0.08, 0.08), specular=0.15))
    a.wedge((0, 0.66, -0.62), (0.1, 0.06, 0.12), (0.7, 0.6), paint)
    for x in (0.08, -0.08):
        a.capsule((x, 0.29, 0.62), (x * 1.1, 0.86, 0.38), 0.028, metal)
        a.capsule((x, 0.29, -0.58), (x, 0.56, -0.3), 0.025, metal)
    a.capsule((-0.32, 0.93, 0.28), (0.32, 0.93, 0.28), 0.022, metal)
    for x in (-0.32, 0.32):
        a.capsule((x, 0.93, 0.28), (x * 1.05, 0.91, 0.18), 0.03, rubber)
    a.sphere((0, 0.78, 0.46), (0.1, 0.1, 0.09), a.material((1.0, 0.95, 0.8), specular=0.9))
    side = draw.sign() * 0.16
    a.capsule((side, 0.22, 0.1), (side, 0.26, -0.72), 0.045, metal)


def train(a: Assembly, draw: Draw) -> None:
    steam = draw.chance(0.4)
    paint = draw.pick(
        ((0.10, 0.32, 0.22), (0.62, 0.12, 0.12), (0.15, 0.22, 0.45), (0.72, 0.74, 0.77), (0.90, 0.60, 0.10))
    )
    paint = draw.vary(paint)
    stripe = draw.color(saturation=(0.6, 1), value=(0.7, 1))
    body, trim = a.material(paint, specular=0.3), a.material(stripe, specular=0.2)
    dark, metal = a.material((0.12, 0.12, 0.13), specular=0.3), a.material(CHROME, specular=0.4)
    glass = a.material(GLASS, paint, STRIPES, 0.38, axis=2, specular=0.4)
    clear = a.material(GLASS, specular=0.8)

    def carriage(z: float, half: float) -> None:
        a.box((0, 0.66, z), (0.4, 0.42, half), body)
        a.box((0, 1.1, z), (0.34, 0.05, half * 0.98), metal)
        a.box((0, 0.8, z), (0.408, 0.13, half * 0.92), glass)
        a.box((0, 0.5, z), (0.408, 0.04, half), trim)
        a.box((0, 0.2, z), (0.34, 0.06, half * 0.96), dark)
        for wheel in (-0.7, -0.45, 0.45, 0.7):
            for x in (0.3, -0.3):
                a.frustum((x - 0.03, 0.12, z + half * wheel), (x + 0.03, 0.12, z + half * wheel), 0.12, 0.12, dark)

    if steam:
        a.frustum((0, 0.62, 0.35), (0, 0.62, 1.55), 0.31, 0.31, dark)
        a.frustum((0, 0.62, 1.55), (0, 0.62, 1.62), 0.27, 0.22, body)
        a.box((0, 0.28, 0.9), (0.36, 0.06, 0.85), a.material((0.72, 0.1, 0.08)))
        a.box((0, 0.72, 0.12), (0.42, 0.46, 0.28), body)
        a.box((0, 0.92, 0.12), (0.43, 0.12, 0.16), clear)
        a.box((0, 1.2, 0.12), (0.46, 0.03, 0.34), dark)
        a.frustum((0, 0.9, 1.3), (0, 1.3, 1.3), 0.09, 0.13, dark)
        a.sphere((0, 0.93, 0.85), (0.12, 0.12, 0.14), a.material((0.85, 0.65, 0.2), specular=0.8))
        a.sphere((0, 0.85, 1.6), 0.08, a.material((1.0, 0.93, 0.7)))
        a.wedge((0, 0.16, 1.72), (0.36, 0.13, 0.12), (1, 0.3), dark)
        for z in (0.2, 0.65, 1.1, 1.45):
            for x in (0.34, -0.34):
                radius = 0.2 if z < 1.2 else 0.13
                a.frustum((x - 0.03, radius, z), (x + 0.03, radius, z), radius, radius, a.material((0.7, 0.1, 0.08)))
        carriage(-1.05, 0.78)
    else:
        carriage(-0.95, 0.85)
        carriage(0.75, 0.72)
        # A nose that slopes back towards the roof.
        a.wedge((0, 0.6, 1.55), (0.39, 0.46, 0.3), (0.85, 0.35), body)
        a.wedge((0, 0.83, 1.55), (0.34, 0.13, 0.265), (0.9, 0.68), clear)
        a.box((0, 0.5, 1.55), (0.385, 0.04, 0.29), trim)
        for x in (0.24, -0.24):
            a.sphere((x, 0.36, 1.82), (0.06, 0.05, 0.04), a.material((1.0, 0.95, 0.8)))
