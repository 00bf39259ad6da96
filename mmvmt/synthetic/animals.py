"""Animals: functions that add one object each, which stands on ``y = 0`` around the origin and faces z."""

from __future__ import annotations

import math

from .primitives import BLOTCHES, NOISE, SOLID, STRIPES, Assembly, Draw, rotation


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
