"""Jointed people made of capsules: a pose is a set of joint angles, clothes and skin are drawn at random."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .classes import PART_NAMES
from .primitives import DOTS, NOISE, SOLID, STRIPES, Assembly, Draw, rotation

POSES = ('standing', 'walking', 'running', 'waving', 'arms up', 'hands on hips', 'pointing', 'sitting')

_SKINS = (
    (0.98, 0.83, 0.73),
    (0.94, 0.76, 0.62),
    (0.86, 0.66, 0.50),
    (0.72, 0.51, 0.36),
    (0.54, 0.36, 0.25),
    (0.38, 0.25, 0.18),
)
_HAIRS = (
    (0.08, 0.07, 0.07),
    (0.20, 0.13, 0.09),
    (0.38, 0.23, 0.12),
    (0.62, 0.38, 0.18),
    (0.86, 0.70, 0.38),
    (0.60, 0.58, 0.56),
    (0.62, 0.22, 0.10),
)
_PART = {name: index + 1 for index, name in enumerate(PART_NAMES)}


@dataclass
class Pose:
    """Joint angles in degrees, each as a pair (left, right).

    Args:
        hip: Upper leg forward.
        knee: Lower leg bent back against the upper one.
        spread: Legs outward.
        shoulder: Upper arm, (forward, outward).
        elbow: Lower arm, (forward, outward), both against hanging down.
        lean: Upper body forward.
    """

    hip: tuple[float, float] = (0, 0)
    knee: tuple[float, float] = (0, 0)
    spread: tuple[float, float] = (4, 4)
    shoulder: tuple[tuple[float, float], tuple[float, float]] = ((0, 10), (0, 10))
    elbow: tuple[tuple[float, float], tuple[float, float]] = ((10, 5), (10, 5))
    lean: float = 0


def draw_pose(name: str, draw: Draw) -> Pose:
    """A pose of the named kind with joint angles varied at random, left and right swapped half of the time."""
    u = draw.uniform
    pose = Pose(
        hip=(u(-4, 6), u(-4, 6)),
        knee=(u(0, 8), u(0, 8)),
        spread=(u(2, 9), u(2, 9)),
        shoulder=((u(-8, 12), u(6, 18)), (u(-8, 12), u(6, 18))),
        elbow=((u(5, 30), u(2, 12)), (u(5, 30), u(2, 12))),
        lean=u(-3, 6),
    )
    if name in ('walking', 'running'):
        swing = u(20, 32) if name == 'walking' else u(38, 55)
        bend = u(5, 15) if name == 'walking' else u(20, 35)
        pose.hip = (swing, -swing * 0.7)
        pose.knee = (bend, bend + (u(10, 25) if name == 'walking' else u(45, 70)))
        pose.shoulder = ((-swing, u(5, 12)), (swing, u(5, 12)))
        fold = u(10, 25) if name == 'walking' else u(70, 95)
        pose.elbow = ((fold - swing, u(2, 8)), (fold + swing, u(2, 8)))
        pose.lean = u(0, 5) if name == 'walking' else u(6, 14)
    elif name == 'waving':
        pose.shoulder = (pose.shoulder[0], (u(0, 20), u(80, 115)))
        pose.elbow = (pose.elbow[0], (u(0, 15), u(150, 195)))
    elif name == 'arms up':
        pose.shoulder = ((u(-5, 20), u(125, 165)), (u(-5, 20), u(125, 165)))
        pose.elbow = ((u(-5, 20), u(155, 185)), (u(-5, 20), u(155, 185)))
    elif name == 'hands on hips':
        pose.shoulder = ((u(-15, 0), u(45, 58)), (u(-15, 0), u(45, 58)))
        pose.elbow = ((u(15, 30), u(-50, -35)), (u(15, 30), u(-50, -35)))
        pose.spread = (u(6, 14), u(6, 14))
    elif name == 'pointing':
        forward, outward = (u(70, 100), u(0, 15)) if draw.chance(0.5) else (u(0, 20), u(75, 95))
        pose.shoulder = (pose.shoulder[0], (forward, outward))
        pose.elbow = (pose.elbow[0], (forward + u(-5, 10), outward))
    elif name == 'sitting':
        bend = u(80, 92)
        pose.hip = (bend + u(-4, 4), bend + u(-4, 4))
        pose.knee = (bend + u(-15, 8), bend + u(-15, 8))
        pose.spread = (u(4, 14), u(4, 14))
        pose.shoulder = ((u(15, 35), u(4, 12)), (u(15, 35), u(4, 12)))
        pose.elbow = ((u(55, 85), u(-15, 5)), (u(55, 85), u(-15, 5)))
        pose.lean = u(-5, 8)
    elif name != 'standing':
        raise ValueError(f'unknown pose {name!r}; known poses are {", ".join(POSES)}')
    if draw.chance(0.5):
        for joint in ('hip', 'knee', 'spread', 'shoulder', 'elbow'):
            setattr(pose, joint, getattr(pose, joint)[::-1])
    return pose


def _hanging(side: int, forward: float, outward: float) -> tuple[float, float, float]:
    """Direction of a limb that hangs down, after turning it forward and outward by degrees."""
    f, o = math.radians(forward), math.radians(outward)
    return side * math.sin(o), -math.cos(f) * math.cos(o), math.sin(f) * math.cos(o)


def _step(point: tuple, direction: tuple, length: float) -> tuple[float, float, float]:
    return tuple(p + length * d for p, d in zip(point, direction))


def person(a: Assembly, draw: Draw, pose: str | None = None, seat: float = 0.0) -> str:
    """Add a person who stands on the ground, or sits, and faces z.

    Args:
        a: Assembly to add to; the primitives carry body parts.
        draw: Random choices.
        pose: One of ``POSES``; None: any but ``'sitting'``, which needs ``seat``.
        seat: Height of the seat in metres, for ``'sitting'``.

    Returns:
        The pose.
    """
    pose = pose or draw.pick(POSES[:-1])
    angles = draw_pose(pose, draw)
    skin = a.material(draw.vary(draw.pick(_SKINS), 0.04), specular=0.08)
    hair = a.material(draw.vary(draw.pick(_HAIRS), 0.04), specular=0.12)
    texture = draw.pick((SOLID, SOLID, STRIPES, STRIPES, DOTS, NOISE))
    color = draw.color(saturation=(0.3, 0.95), value=(0.3, 0.98))
    second = draw.color(saturation=(0.0, 0.7), value=(0.4, 1.0))
    period = draw.uniform(0.1, 0.2)
    shirt = a.material(color, second, texture, period, axis=draw.pick((1, 1, 0)), specular=0.02)
    # On limbs stripes go around: along the z axis of the capsule.
    sleeve = a.material(color, second, texture, period, axis=2, specular=0.02)
    trousers = a.material(
        draw.pick(((0.16, 0.22, 0.38), (0.12, 0.12, 0.14), (0.45, 0.38, 0.28), draw.color(value=(0.2, 0.8)))),
        specular=0.02,
    )
    shoes = a.material(draw.pick(((0.08, 0.07, 0.07), (0.85, 0.85, 0.85), draw.color())), specular=0.2)
    lower_arm = sleeve if draw.chance(0.45) else skin
    lower_leg = trousers if draw.chance(0.65) else skin

    stout = draw.uniform(0.9, 1.18)
    thigh, shin = draw.uniform(0.40, 0.45), draw.uniform(0.40, 0.44)
    hip = (0.0, 0.0, 0.0)
    lean = math.radians(angles.lean)
    spine = (0.0, math.cos(lean), math.sin(lean))

    lowest = 0.0
    legs = []
    for index, side in enumerate((1, -1)):
        upper = _hanging(side, angles.hip[index], angles.spread[index])
        lower = _hanging(side, angles.hip[index] - angles.knee[index], angles.spread[index] * 0.4)
        top = (side * 0.095 * stout, 0.0, 0.0)
        knee = _step(top, upper, thigh)
        ankle = _step(knee, lower, shin)
        toe_angle = math.radians(angles.hip[index] - angles.knee[index])
        toe = _step(ankle, (side * 0.12, math.sin(toe_angle), math.cos(toe_angle)), 0.15)
        legs.append((side, top, knee, ankle, toe))
        lowest = min(lowest, ankle[1] - 0.055, toe[1] - 0.045)
    # A sitting person's hips rest on the seat, anyone else's lower foot on the ground.
    rise = seat + 0.10 if pose == 'sitting' else -lowest

    def at(point: tuple) -> tuple[float, float, float]:
        return point[0], point[1] + rise, point[2]

    for side, top, knee, ankle, toe in legs:
        which = 'l' if side > 0 else 'r'
        a.part = _PART[f'{which}uleg']
        a.capsule(at(top), at(knee), 0.085 * stout, trousers)
        a.part = _PART[f'{which}lleg']
        a.capsule(at(knee), at(ankle), 0.062 * stout, lower_leg)
        a.part = _PART[f'{which}foot']
        a.capsule(at(ankle), at(toe), 0.05, shoes)

    chest = _step(hip, spine, 0.30)
    neck = _step(hip, spine, 0.52)
    shoulders = _step(hip, spine, 0.46)
    tilt = rotation(pitch=angles.lean)
    a.part = _PART['torso']
    a.sphere(at(_step(hip, spine, 0.03)), (0.165 * stout, 0.12, 0.125 * stout), trousers, tilt)
    a.sphere(at(chest), (0.185 * stout, 0.27, 0.125 * stout), shirt, tilt)
    a.capsule(at((0.13, shoulders[1], shoulders[2])), at((-0.13, shoulders[1], shoulders[2])), 0.078 * stout, shirt)
    a.part = _PART['neck']
    head = _step(hip, spine, 0.70)
    a.capsule(at(neck), at(head), 0.052, skin)

    for index, side in enumerate((1, -1)):
        which = 'l' if side > 0 else 'r'
        top = (side * 0.19 * stout, shoulders[1], shoulders[2])
        elbow = _step(top, _hanging(side, *angles.shoulder[index]), 0.27)
        wrist = _step(elbow, _hanging(side, *angles.elbow[index]), 0.24)
        a.part = _PART[f'{which}uarm']
        a.capsule(at(top), at(elbow), 0.055 * stout, sleeve)
        a.part = _PART[f'{which}larm']
        a.capsule(at(elbow), at(wrist), 0.044 * stout, lower_arm)
        a.part = _PART[f'{which}hand']
        a.sphere(at(_step(wrist, _hanging(side, *angles.elbow[index]), 0.05)), 0.056, skin)

    nod = rotation(yaw=draw.uniform(-25, 25), pitch=draw.uniform(-8, 14))
    right, up, front = nod[:3], nod[3:6], nod[6:]

    def on_head(x: float, y: float, z: float) -> tuple[float, float, float]:
        return at(tuple(head[i] + x * right[i] + y * up[i] + z * front[i] for i in range(3)))

    a.part = _PART['head']
    a.sphere(at(head), (0.105, 0.135, 0.115), skin, nod)
    a.part = _PART['hair']
    tipped = rotation(pitch=-32)
    cap = _turned(tipped, nod)
    a.dome(on_head(0, 0.02, -0.012), (0.117, 0.135, 0.125), 0.12, hair, cap)
    if draw.chance(0.4):
        a.sphere(on_head(0, -0.06, -0.075), (0.105, draw.uniform(0.10, 0.2), 0.06), hair, nod)
    dark = a.material((0.08, 0.06, 0.05), specular=0.4)
    for name, x in (('leye', 0.04), ('reye', -0.04)):
        a.part = _PART[name]
        a.sphere(on_head(x, 0.018, 0.098), 0.017, dark)
    a.part = _PART['nose']
    a.sphere(on_head(0, -0.015, 0.113), 0.02, skin)
    a.part = _PART['mouth']
    a.sphere(on_head(0, -0.062, 0.095), (0.035, 0.011, 0.014), a.material((0.66, 0.28, 0.26)), nod)
    for name, x in (('lear', 0.105), ('rear', -0.105)):
        a.part = _PART[name]
        a.sphere(on_head(x, 0, 0), (0.018, 0.034, 0.024), skin, nod)
    a.part = 0
    return pose


def _turned(inner: tuple, outer: tuple) -> tuple[float, ...]:
    """Axes that are turned by ``inner`` first and then by ``outer``."""
    rows = []
    for i in (0, 3, 6):
        x, y, z = inner[i : i + 3]
        rows.extend(x * outer[j] + y * outer[3 + j] + z * outer[6 + j] for j in range(3))
    return tuple(rows)
