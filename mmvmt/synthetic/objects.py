"""Objects of the VOC classes, and clutter, as composites of primitives.

Every function adds one object that stands on ``y = 0`` around the origin and faces z. Sizes are those of toys: a bus is
longer than a cat, but not by as much as it is in life, so that both can share a picture.
"""

from __future__ import annotations

import math
from collections.abc import Callable

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
    WINDOWS,
    Assembly,
    Draw,
    rotation,
)

_RUBBER = (0.10, 0.10, 0.11)
_CHROME = (0.72, 0.73, 0.75)
_GLASS = (0.22, 0.30, 0.38)
_WOODS = ((0.55, 0.36, 0.20), (0.40, 0.25, 0.14), (0.72, 0.54, 0.34), (0.30, 0.18, 0.11))


def _wood(a: Assembly, draw: Draw) -> int:
    color = draw.vary(draw.pick(_WOODS))
    return a.material(color, tuple(0.6 * c for c in color), WAVES, draw.uniform(0.15, 0.3), specular=0.08)


def _wheel(a: Assembly, draw: Draw, x: float, y: float, z: float, radius: float, width: float) -> None:
    rubber, metal = a.material(_RUBBER), a.material(draw.vary(_CHROME, 0.1), specular=0.5)
    a.frustum((x - width / 2, y, z), (x + width / 2, y, z), radius, radius, rubber)
    a.frustum((x - width * 0.54, y, z), (x + width * 0.54, y, z), radius * 0.55, radius * 0.55, metal)


# Vehicles


def aeroplane(a: Assembly, draw: Draw) -> None:
    white = draw.pick(((0.93, 0.94, 0.95), (0.93, 0.94, 0.95), (0.72, 0.76, 0.80), (0.88, 0.83, 0.70)))
    accent = draw.color(saturation=(0.7, 1), value=(0.5, 0.95))
    hull = a.material(white, specular=0.4)
    trim = a.material(accent, specular=0.3)
    dark = a.material(_GLASS, specular=0.8)
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
        a.capsule((x, 0.07, z), (x, lift - radius * 0.5, z), 0.02, a.material(_CHROME))
        a.frustum((x - 0.03, 0.07, z), (x + 0.03, 0.07, z), 0.07, 0.07, a.material(_RUBBER))


def bicycle(a: Assembly, draw: Draw) -> None:
    frame = a.material(draw.color(saturation=(0.7, 1), value=(0.5, 0.95)), specular=0.5)
    rubber, metal = a.material(_RUBBER), a.material(_CHROME, specular=0.5)
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
    deck, white = _wood(a, draw), a.material((0.95, 0.95, 0.93), specular=0.1)
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
        a.wedge((0, 0.6, -0.2), (0.3, 0.07, 0.405), (0.96, 0.92), a.material(_GLASS, specular=0.8))
        a.box((0, 0.77, -0.22), (0.31, 0.018, 0.38), plain)
        a.frustum((0, 0.75, -0.35), (0, 1.05, -0.38), 0.09, 0.08, a.material(draw.color()))
        a.capsule((0, 0.38, length * 0.85), (0, 0.85, length * 0.85), 0.012, white)


def bus(a: Assembly, draw: Draw) -> None:
    paint = draw.pick(((0.80, 0.12, 0.12), (0.95, 0.75, 0.12), (0.15, 0.35, 0.70), (0.20, 0.55, 0.30), (0.9, 0.9, 0.9)))
    paint = draw.vary(paint)
    body = a.material(paint, specular=0.3)
    low = a.material(draw.vary(draw.pick((paint, (0.9, 0.9, 0.9), (0.25, 0.25, 0.28)))), specular=0.3)
    glass = a.material(_GLASS, paint, STRIPES, draw.uniform(0.42, 0.55), axis=2, specular=0.5)
    clear = a.material(_GLASS, specular=0.9)
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
            _wheel(a, draw, x, 0.19, z, 0.19, 0.13)
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
    glass = a.material(_GLASS, specular=0.9)
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
            _wheel(a, draw, x, 0.195, z, 0.195, 0.15)
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
    rubber, metal, dark = a.material(_RUBBER), a.material(_CHROME, specular=0.9), a.material((0.2, 0.2, 0.22))
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
    dark, metal = a.material((0.12, 0.12, 0.13), specular=0.3), a.material(_CHROME, specular=0.4)
    glass = a.material(_GLASS, paint, STRIPES, 0.38, axis=2, specular=0.4)
    clear = a.material(_GLASS, specular=0.8)

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


# Animals


def _quadruped(
    a: Assembly,
    coat: int,
    legs: int,
    *,
    body: tuple[float, float, float],
    leg: tuple[float, float],
    neck: tuple[float, float, float, float],
    head: tuple[float, float, float],
    snout: tuple[float, float],
    gait: float,
    face: int | None = None,
    muzzle: int | None = None,
    nod: float = 0,
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """A four-legged body.

    Args:
        a: Assembly.
        coat: Material of body, neck and head.
        legs: Material of the legs.
        body: Half width, half height, half length.
        leg: Length and radius.
        neck: Rise and forward reach, radii at body and head.
        head: Half width, half height, half length.
        snout: Radius and length.
        gait: How far feet are apart from standing, metres.
        face: Material of the head, if not the coat.
        muzzle: Material of the snout, if not the face.
        nod: Degrees that the head looks down.

    Returns:
        The centre of the head and the point where the tail starts.
    """
    width, height, length = body
    top = leg[0] + height * 0.85
    reach = max(length - width, 0.01)
    a.sphere((0, top, 0), (width, height, length), coat)
    a.sphere((0, top + height * 0.05, reach * 0.8), (width * 0.96, height * 0.98, width * 1.15), coat)
    a.sphere((0, top + height * 0.03, -reach * 0.8), (width * 0.98, height * 0.96, width * 1.1), coat)
    for x in (1, -1):
        for z in (1, -1):
            foot = x * z * gait
            hip = (x * width * 0.62, top - height * 0.3, z * reach * 0.85)
            a.frustum(hip, (x * width * 0.62, 0.0, z * reach * 0.85 + foot), leg[1] * 1.5, leg[1] * 0.8, legs)
    start = (0, top + height * 0.25, reach * 0.95)
    center = (0, top + neck[0], reach + neck[1])
    a.frustum(start, center, neck[2], neck[3], coat)
    face = coat if face is None else face
    axes = rotation(pitch=nod)
    a.sphere(center, head, face, axes)
    drop = math.radians(nod)
    tip = (0, center[1] - math.sin(drop) * snout[1] - head[1] * 0.25, center[2] + math.cos(drop) * snout[1])
    a.capsule((0, center[1] - head[1] * 0.2, center[2]), tip, snout[0], face if muzzle is None else muzzle)
    dark = a.material((0.05, 0.04, 0.04), specular=0.6)
    a.sphere((0, tip[1] + snout[0] * 0.35, tip[2] + snout[0] * 0.8), snout[0] * 0.42, dark)
    for x in (1, -1):
        a.sphere((x * head[0] * 0.62, center[1] + head[1] * 0.35, center[2] + head[2] * 0.72), head[0] * 0.17, dark)
    return center, (0, top + height * 0.45, -length * 0.95)


def cat(a: Assembly, draw: Draw) -> None:
    color = draw.vary(draw.pick(((0.85, 0.52, 0.22), (0.45, 0.44, 0.44), (0.13, 0.12, 0.13), (0.90, 0.86, 0.80))), 0.05)
    texture = draw.pick((STRIPES, STRIPES, SOLID, BLOTCHES))
    coat = a.material(color, tuple(0.55 * c for c in color), texture, 0.13, axis=2, specular=0.02)
    center, tail = _quadruped(
        a,
        coat,
        coat,
        body=(0.13, 0.14, 0.29),
        leg=(0.19, 0.035),
        neck=(0.13, 0.05, 0.1, 0.09),
        head=(0.135, 0.12, 0.115),
        snout=(0.05, 0.085),
        gait=draw.uniform(-0.06, 0.06),
        muzzle=a.material(draw.vary((0.92, 0.86, 0.80))),
        nod=draw.uniform(-5, 15),
    )
    pink = a.material((0.88, 0.62, 0.58))
    for x in (0.085, -0.085):
        base = (x, center[1] + 0.07, center[2])
        point = (x * 1.25, center[1] + 0.21, center[2])
        a.frustum(base, point, 0.058, 0.002, coat)
        a.frustum((x, base[1], base[2] + 0.022), (x * 1.2, point[1] - 0.03, point[2] + 0.012), 0.035, 0.002, pink)
    bend = draw.uniform(-0.2, 0.2)
    middle = (bend * 0.5, tail[1] + 0.2, tail[2] - 0.13)
    a.capsule(tail, middle, 0.03, coat)
    a.capsule(middle, (bend, tail[1] + 0.38, tail[2] - 0.04), 0.026, coat)


def dog(a: Assembly, draw: Draw) -> None:
    color = draw.pick(
        ((0.48, 0.30, 0.16), (0.80, 0.62, 0.38), (0.16, 0.13, 0.12), (0.92, 0.89, 0.84), (0.62, 0.45, 0.28))
    )
    color = draw.vary(color)
    patch = draw.pick(((0.12, 0.10, 0.09), (0.95, 0.93, 0.9), tuple(0.6 * c for c in color)))
    coat = a.material(color, patch, draw.pick((SOLID, BLOTCHES, NOISE)), 0.35, specular=0.03)
    center, tail = _quadruped(
        a,
        coat,
        coat,
        body=(0.15, 0.17, 0.36),
        leg=(0.32, 0.042),
        neck=(0.24, 0.12, 0.13, 0.09),
        head=(0.12, 0.12, 0.14),
        snout=(0.062, 0.21),
        gait=draw.uniform(-0.1, 0.1),
        nod=draw.uniform(0, 20),
    )
    ear = a.material(patch if draw.chance(0.5) else tuple(0.65 * c for c in color))
    for x in (1, -1):
        a.sphere((x * 0.125, center[1] - 0.01, center[2] - 0.02), (0.03, 0.125, 0.065), ear, rotation(roll=x * 14))
    a.capsule(tail, (draw.uniform(-0.1, 0.1), tail[1] + 0.18, tail[2] - 0.22), 0.03, coat)
    if draw.chance(0.5):
        collar = a.material(draw.color(saturation=(0.8, 1), value=(0.6, 0.9)))
        a.sphere((0, center[1] - 0.13, center[2] - 0.075), (0.118, 0.035, 0.118), collar, rotation(pitch=30))


def horse(a: Assembly, draw: Draw) -> None:
    color = draw.vary(draw.pick(((0.45, 0.24, 0.12), (0.30, 0.17, 0.10), (0.62, 0.36, 0.18), (0.86, 0.84, 0.80))), 0.05)
    coat = a.material(color, tuple(0.8 * c for c in color), NOISE, 0.6, specular=0.12)
    legs = a.material(tuple(0.75 * c for c in color))
    center, tail = _quadruped(
        a,
        coat,
        legs,
        body=(0.24, 0.27, 0.58),
        leg=(0.78, 0.055),
        neck=(0.62, 0.26, 0.22, 0.11),
        head=(0.105, 0.125, 0.2),
        snout=(0.082, 0.28),
        gait=draw.uniform(-0.2, 0.2),
        nod=draw.uniform(25, 50),
    )
    mane = a.material(draw.pick(((0.08, 0.06, 0.05), tuple(0.4 * c for c in color), (0.88, 0.78, 0.55))))
    for part in range(5):
        f = part / 4
        y, z = center[1] + 0.1 - f * 0.5, center[2] - 0.12 - f * 0.22
        a.sphere((0, y, z), (0.05, 0.13, 0.09), mane)
    for x in (0.06, -0.06):
        a.frustum(
            (x, center[1] + 0.08, center[2] - 0.05), (x * 1.2, center[1] + 0.24, center[2] - 0.05), 0.04, 0.004, coat
        )
    a.capsule(tail, (0, tail[1] - 0.12, tail[2] - 0.15), 0.05, mane)
    a.capsule((0, tail[1] - 0.12, tail[2] - 0.15), (0, tail[1] - 0.62, tail[2] - 0.18), 0.06, mane)


def cow(a: Assembly, draw: Draw) -> None:
    color, patch = draw.pick(
        (
            ((0.93, 0.92, 0.90), (0.08, 0.07, 0.07)),
            ((0.93, 0.92, 0.90), (0.45, 0.24, 0.13)),
            ((0.62, 0.38, 0.2), (0.9, 0.87, 0.82)),
        )
    )
    coat = a.material(draw.vary(color, 0.03), patch, BLOTCHES, draw.uniform(0.45, 0.7), specular=0.04)
    center, tail = _quadruped(
        a,
        coat,
        a.material(color),
        body=(0.31, 0.31, 0.64),
        leg=(0.45, 0.07),
        neck=(0.14, 0.22, 0.24, 0.16),
        head=(0.145, 0.16, 0.2),
        snout=(0.11, 0.24),
        gait=draw.uniform(-0.1, 0.1),
        muzzle=a.material((0.88, 0.66, 0.60)),
        nod=draw.uniform(10, 35),
    )
    horn = a.material((0.88, 0.84, 0.72), specular=0.2)
    for x in (1, -1):
        a.frustum(
            (x * 0.1, center[1] + 0.11, center[2] - 0.06),
            (x * 0.26, center[1] + 0.26, center[2] - 0.02),
            0.035,
            0.005,
            horn,
        )
        a.sphere(
            (x * 0.2, center[1] + 0.04, center[2] - 0.08),
            (0.09, 0.045, 0.03),
            a.material(patch),
            rotation(roll=-15 * x),
        )
    a.capsule(tail, (0.03, tail[1] - 0.5, tail[2] - 0.08), 0.02, coat)
    a.sphere((0.03, tail[1] - 0.55, tail[2] - 0.08), (0.045, 0.09, 0.045), a.material(patch))
    a.sphere((0, 0.42, -0.28), (0.13, 0.09, 0.13), a.material((0.93, 0.72, 0.68)))


def sheep(a: Assembly, draw: Draw) -> None:
    white = draw.vary((0.90, 0.87, 0.79), 0.07)
    wool = a.material(white, tuple(0.78 * c for c in white), NOISE, 0.09, specular=0.0)
    dark = a.material(draw.vary(draw.pick(((0.14, 0.12, 0.11), (0.14, 0.12, 0.11), (0.72, 0.60, 0.50))), 0.04))
    center, _ = _quadruped(
        a,
        wool,
        dark,
        body=(0.26, 0.26, 0.42),
        leg=(0.29, 0.038),
        neck=(0.14, 0.10, 0.18, 0.1),
        head=(0.095, 0.115, 0.14),
        snout=(0.065, 0.14),
        gait=draw.uniform(-0.06, 0.06),
        face=dark,
        nod=draw.uniform(15, 45),
    )
    for _ in range(12):
        turn, z = draw.uniform(-2.2, 2.2), draw.uniform(-0.36, 0.34)
        bulge = 0.22 * math.sqrt(max(0.1, 1 - (z / 0.45) ** 2))
        a.sphere((math.sin(turn) * bulge, 0.51 + math.cos(turn) * bulge, z), draw.uniform(0.09, 0.13), wool)
    a.sphere((0, center[1] + 0.09, center[2] - 0.05), (0.1, 0.07, 0.09), wool)
    for x in (1, -1):
        a.sphere((x * 0.125, center[1] + 0.03, center[2] - 0.03), (0.065, 0.028, 0.03), dark, rotation(roll=-20 * x))
    a.sphere((0, 0.55, -0.44), 0.07, wool)


def bird(a: Assembly, draw: Draw) -> None:
    color = draw.pick((draw.color(saturation=(0.6, 1), value=(0.45, 0.95)), (0.15, 0.15, 0.18), (0.88, 0.88, 0.88)))
    coat = a.material(color, tuple(0.75 * c for c in color), NOISE, 0.12, specular=0.1)
    belly = a.material(draw.vary(draw.pick(((0.93, 0.90, 0.82), (0.92, 0.55, 0.25), (0.95, 0.85, 0.4)))))
    wing = a.material(tuple(0.65 * c for c in color), color, STRIPES, 0.1, axis=2)
    beak = a.material((0.95, 0.65, 0.12), specular=0.2)
    dark = a.material((0.04, 0.04, 0.04), specular=0.8)
    flying = draw.chance(0.3)
    lift = 0.42 if flying else 0.36
    pitch = draw.uniform(0, 12) if flying else draw.uniform(-40, -20)
    axes = rotation(pitch=pitch)
    a.sphere((0, lift, 0), (0.15, 0.155, 0.25), coat, axes)
    a.sphere((0, lift - 0.035, 0.04), (0.125, 0.135, 0.2), belly, axes)
    up = math.sin(math.radians(-pitch))
    head = (0, lift + 0.1 + 0.16 * up, 0.21)
    a.sphere(head, 0.112, coat)
    a.frustum((0, head[1] - 0.01, head[2] + 0.085), (0, head[1] - 0.03, head[2] + 0.24), 0.042, 0.003, beak)
    for x in (1, -1):
        a.sphere((x * 0.075, head[1] + 0.035, head[2] + 0.075), 0.02, dark)
        if flying:
            side = rotation(yaw=-10 * x, roll=x * draw.uniform(15, 35))
            a.sphere((x * 0.33, lift + 0.14, 0.0), (0.3, 0.02, 0.13), wing, side)
        else:
            a.sphere((x * 0.14, lift + 0.015, -0.04), (0.035, 0.1, 0.2), wing, rotation(yaw=4 * x, pitch=pitch - 5))
            a.capsule((x * 0.06, 0.02, 0.02), (x * 0.06, lift - 0.08, 0.0), 0.014, beak)
            a.capsule((x * 0.06, 0.015, 0.0), (x * 0.08, 0.015, 0.1), 0.016, beak)
    tail = rotation(pitch=pitch + 12)
    a.wedge((0, lift - 0.28 * up, -0.32), (0.09, 0.018, 0.17), (0.8, 0.9), wing, tail)


# Things


def bottle(a: Assembly, draw: Draw) -> None:
    color = draw.pick(
        ((0.10, 0.35, 0.16), (0.35, 0.18, 0.07), (0.60, 0.78, 0.85), (0.12, 0.28, 0.55), (0.75, 0.12, 0.12))
    )
    glass = a.material(draw.vary(color, 0.04), specular=1.0)
    label = a.material(
        draw.vary((0.92, 0.89, 0.80), 0.08), draw.color(), draw.pick((SOLID, STRIPES, CHECKER)), 0.12, axis=2
    )
    cap = a.material(draw.color(saturation=(0.3, 1)), specular=0.5)
    radius, body, neck = draw.uniform(0.1, 0.14), draw.uniform(0.3, 0.42), draw.uniform(0.1, 0.2)
    shoulder, mouth = draw.uniform(0.06, 0.12), draw.uniform(0.038, 0.05)
    a.frustum((0, 0, 0), (0, body, 0), radius, radius, glass)
    a.frustum((0, body, 0), (0, body + shoulder, 0), radius, mouth, glass)
    top = body + shoulder + neck
    a.frustum((0, body + shoulder, 0), (0, top, 0), mouth, mouth * 0.9, glass)
    a.frustum((0, top - 0.015, 0), (0, top + 0.04, 0), mouth * 1.25, mouth * 1.25, cap)
    low = body * draw.uniform(0.2, 0.3)
    a.frustum((0, low, 0), (0, low + body * 0.5, 0), radius * 1.02, radius * 1.02, label)


def chair(a: Assembly, draw: Draw) -> None:
    frame = _wood(a, draw) if draw.chance(0.6) else a.material(draw.color(saturation=(0.5, 1)), specular=0.25)
    legs = frame if draw.chance(0.6) else a.material(_CHROME, specular=0.6)
    pad = a.material(draw.color(saturation=(0.4, 0.9)), draw.color(), draw.pick((SOLID, SOLID, CHECKER, STRIPES)), 0.12)
    seat, back = 0.46, draw.uniform(0.42, 0.56)
    for x in (0.2, -0.2):
        for z in (0.2, -0.2):
            a.capsule((x * 1.08, 0.02, z * 1.08), (x, seat, z), 0.024, legs)
    a.box((0, seat, 0), (0.245, 0.026, 0.245), frame)
    if draw.chance(0.5):
        a.box((0, seat + 0.035, 0), (0.215, 0.025, 0.215), pad)
    style = draw.integer(0, 2)
    if style == 0:
        a.box((0, seat + back * 0.62, -0.235), (0.23, back * 0.36, 0.022), frame, rotation(pitch=-5))
    for x in (0.215, -0.215):
        a.capsule((x, seat, -0.22), (x, seat + back, -0.255), 0.024, frame)
    if style == 1:
        for f in (0.4, 0.68, 0.96):
            a.box((0, seat + back * f, -0.222 - 0.033 * f), (0.22, 0.04, 0.014), frame)
    elif style == 2:
        a.box((0, seat + back * 0.97, -0.255), (0.23, 0.045, 0.02), frame)
        for x in (-0.12, -0.04, 0.04, 0.12):
            a.capsule((x, seat, -0.22), (x, seat + back * 0.95, -0.253), 0.013, frame)


TABLE_HEIGHT = 0.72


def diningtable(a: Assembly, draw: Draw) -> None:
    wood = _wood(a, draw)
    color = draw.vary(draw.pick(((0.95, 0.94, 0.90), draw.color(saturation=(0.3, 0.8), value=(0.5, 0.95)))))
    cloth = a.material(color, draw.color(), draw.pick((SOLID, CHECKER, CHECKER, DOTS)), draw.uniform(0.12, 0.2))
    high, covered = TABLE_HEIGHT - 0.03, draw.chance(0.45)
    if draw.chance(0.35):
        radius = draw.uniform(0.55, 0.7)
        a.frustum((0, high - 0.03, 0), (0, high + 0.03, 0), radius, radius, cloth if covered else wood)
        a.frustum((0, 0.04, 0), (0, high, 0), 0.06, 0.05, wood)
        a.frustum((0, 0, 0), (0, 0.05, 0), 0.32, 0.28, wood)
        if covered:
            a.frustum((0, high - 0.24, 0), (0, high - 0.02, 0), radius * 1.04, radius, cloth)
        width, depth = radius * 0.65, radius * 0.65
    else:
        width, depth = draw.uniform(0.65, 0.85), draw.uniform(0.42, 0.52)
        a.box((0, high, 0), (width, 0.03, depth), wood)
        if covered:
            a.box((0, high - 0.06, 0), (width * 1.01, 0.092, depth * 1.01), cloth)
        for x in (width - 0.07, 0.07 - width):
            for z in (depth - 0.07, 0.07 - depth):
                a.frustum((x, 0, z), (x, high, z), 0.035, 0.045, wood)
    plate = a.material((0.95, 0.95, 0.96), specular=0.4)
    for _ in range(draw.integer(0, 3)):
        x, z = draw.uniform(-0.75, 0.75) * width, draw.uniform(-0.65, 0.65) * depth
        a.frustum((x, high + 0.03, z), (x, high + 0.05, z), 0.09, 0.13, plate)
        if draw.chance(0.5):
            fruit = a.material(draw.pick(((0.85, 0.15, 0.1), (0.95, 0.6, 0.1), (0.5, 0.75, 0.2))), specular=0.3)
            a.sphere((x, high + 0.1, z), 0.06, fruit)


def pottedplant(a: Assembly, draw: Draw) -> None:
    clay = draw.vary(draw.pick(((0.72, 0.38, 0.24), (0.72, 0.38, 0.24), (0.90, 0.89, 0.86), (0.25, 0.42, 0.60))))
    pot = a.material(clay, draw.color(), draw.pick((SOLID, SOLID, STRIPES)), 0.15, axis=2, specular=0.15)
    green = draw.color((0.24, 0.37), (0.5, 0.9), (0.3, 0.62))
    leaf = a.material(green, tuple(0.7 * c for c in green), NOISE, 0.1, specular=0.1)
    fresh = a.material(draw.vary(green, 0.1), specular=0.15)
    wide, high = draw.uniform(0.17, 0.23), draw.uniform(0.26, 0.36)
    a.frustum((0, 0, 0), (0, high, 0), wide * 0.68, wide, pot)
    a.frustum((0, high - 0.05, 0), (0, high + 0.015, 0), wide * 1.1, wide * 1.12, pot)
    a.frustum((0, high, 0), (0, high + 0.02, 0), wide * 0.95, wide * 0.95, a.material((0.22, 0.15, 0.10)))
    style = draw.pick(('leaves', 'leaves', 'bush', 'cactus'))
    flower = a.material(draw.pick(((0.92, 0.2, 0.35), (0.95, 0.8, 0.2), (0.85, 0.45, 0.85), (0.97, 0.95, 0.95))))
    if style == 'leaves':
        count = draw.integer(9, 14)
        for index in range(count):
            yaw, lift = index * 137.5, draw.uniform(15, 75)
            size = draw.uniform(0.2, 0.3)
            f, g = math.radians(yaw), math.radians(lift)
            x, y, z = math.sin(f) * math.cos(g), math.sin(g), math.cos(f) * math.cos(g)
            stem = high + draw.uniform(0.02, 0.16)
            reach = size * 0.9
            axes = rotation(yaw=yaw, pitch=-lift)
            a.sphere((x * reach, stem + y * reach, z * reach), (0.07, 0.015, size), draw.pick((leaf, fresh)), axes)
    elif style == 'bush':
        a.capsule((0, high, 0), (0, high + 0.25, 0), 0.03, a.material((0.36, 0.24, 0.14)))
        for _ in range(9):
            x, y, z = draw.uniform(-0.17, 0.17), draw.uniform(0.2, 0.5), draw.uniform(-0.17, 0.17)
            a.sphere((x, high + y, z), draw.uniform(0.1, 0.16), draw.pick((leaf, fresh)))
        for _ in range(draw.integer(0, 6)):
            f, y = draw.uniform(0, 6.28), draw.uniform(0.25, 0.5)
            a.sphere((math.sin(f) * 0.26, high + y, math.cos(f) * 0.26), 0.04, flower)
    else:
        body = a.material(green, tuple(0.6 * c for c in green), STRIPES, 0.06, axis=0)
        top = high + draw.uniform(0.3, 0.5)
        a.capsule((0, high, 0), (0, top, 0), 0.1, body)
        for side in (1, -1):
            y = high + draw.uniform(0.12, 0.28)
            a.capsule((side * 0.08, y, 0), (side * 0.2, y + 0.03, 0), 0.055, body)
            a.capsule((side * 0.2, y + 0.03, 0), (side * 0.21, y + 0.18, 0), 0.055, body)
        if draw.chance(0.6):
            a.sphere((0, top + 0.1, 0), 0.05, flower)


SOFA_SEAT = 0.40


def sofa(a: Assembly, draw: Draw) -> None:
    color = draw.color(saturation=(0.25, 0.85), value=(0.3, 0.8))
    texture = draw.pick((SOLID, SOLID, NOISE, CHECKER, STRIPES))
    cloth = a.material(color, tuple(0.7 * c for c in color), texture, draw.uniform(0.12, 0.3), axis=0, specular=0.02)
    light = a.material(draw.vary(color, 0.04), specular=0.02)
    half = draw.uniform(0.68, 0.88)
    a.box((0, 0.2, 0.02), (half, 0.12, 0.38), cloth)
    a.wedge((0, 0.52, -0.32), (half, 0.32, 0.12), (0.98, 0.6), cloth)
    for x in (half, -half):
        a.box((x, 0.3, 0.02), (0.1, 0.24, 0.4), cloth)
        a.frustum((x, 0.53, -0.4), (x, 0.53, 0.43), 0.115, 0.115, cloth)
    seats = draw.integer(2, 3)
    for index in range(seats):
        width = (half - 0.1) / seats
        x = (2 * index - seats + 1) * width
        a.box((x, 0.355, 0.07), (width * 0.97, 0.05, 0.33), light)
        a.box((x, 0.58, -0.2), (width * 0.95, 0.2, 0.06), light, rotation(pitch=-14))
    for x in (half - 0.05, 0.05 - half):
        for z in (0.32, -0.32):
            a.frustum((x, 0, z), (x, 0.1, z), 0.03, 0.04, a.material((0.25, 0.16, 0.1)))
    if draw.chance(0.5):
        pillow = a.material(draw.color(), draw.color(), draw.pick((SOLID, DOTS, STRIPES)), 0.1)
        turn = rotation(pitch=-25, roll=draw.uniform(-15, 15))
        a.sphere((draw.sign() * half * 0.6, 0.56, 0.0), (0.18, 0.16, 0.08), pillow, turn)


def tvmonitor(a: Assembly, draw: Draw) -> None:
    case = a.material(draw.pick(((0.06, 0.06, 0.07), (0.06, 0.06, 0.07), (0.75, 0.76, 0.78))), specular=0.4)
    on = draw.chance(0.45)
    dark = draw.vary((0.10, 0.13, 0.18), 0.03)
    screen = a.material(
        draw.color(value=(0.5, 0.9)) if on else dark,
        draw.color(value=(0.2, 0.8)) if on else tuple(0.5 * c for c in dark),
        draw.pick((NOISE, BLOTCHES, STRIPES)) if on else SOLID,
        draw.uniform(0.3, 0.5),
        specular=0.8,
    )
    if draw.chance(0.75):
        width, height = draw.uniform(0.5, 0.62), draw.uniform(0.3, 0.36)
        middle = height + 0.16
        a.box((0, middle, 0), (width, height, 0.03), case)
        a.box((0, middle, 0.031), (width - 0.035, height - 0.035, 0.003), screen)
        a.frustum((0, 0.02, -0.02), (0, 0.2, -0.02), 0.05, 0.04, case)
        a.box((0, 0.014, 0), (0.24, 0.014, 0.13), case)
    else:
        a.box((0, 0.36, 0), (0.42, 0.33, 0.1), case)
        a.wedge((0, 0.37, -0.26), (0.36, 0.18, 0.28), (0.6, 0.55), case, rotation(pitch=-90))
        a.box((0, 0.38, 0.1), (0.35, 0.26, 0.006), screen)
        for x in (0.15, 0.25):
            a.frustum((x, 0.075, 0.09), (x, 0.075, 0.115), 0.022, 0.022, a.material(_CHROME))
        a.box((0, 0.015, -0.05), (0.3, 0.015, 0.15), case)


OBJECTS: dict[str, Callable[[Assembly, Draw], None]] = {
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
"""The function that builds an object of each VOC class."""

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


# Clutter: objects without a VOC class


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
    metal = a.material(draw.pick((_CHROME, (0.1, 0.1, 0.1), (0.7, 0.55, 0.25))), specular=0.6)
    shade = a.material(draw.vary((0.98, 0.92, 0.75), 0.04), specular=0.0)
    high = draw.uniform(1.2, 1.6)
    a.frustum((0, 0, 0), (0, 0.03, 0), 0.18, 0.16, metal)
    a.capsule((0, 0.03, 0), (0, high, 0), 0.018, metal)
    a.frustum((0, high - 0.12, 0), (0, high + 0.2, 0), 0.24, 0.14, shade)


def cabinet(a: Assembly, draw: Draw) -> None:
    wood = _wood(a, draw) if draw.chance(0.7) else a.material(draw.vary((0.85, 0.84, 0.8)))
    front = a.material(draw.vary(draw.pick(_WOODS)))
    width, high = draw.uniform(0.35, 0.6), draw.uniform(0.4, 1.0)
    a.box((0, high, 0), (width, high, 0.22), wood)
    knob = a.material(_CHROME, specular=0.6)
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
