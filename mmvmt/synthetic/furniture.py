"""Furniture and what stands on it: functions that add an object that stands on ``y = 0`` and faces z."""

from __future__ import annotations

import math

from .materials import CHROME, wood_material
from .primitives import BLOTCHES, CHECKER, DOTS, NOISE, SOLID, STRIPES, Assembly, Draw, rotation


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
    frame = wood_material(a, draw) if draw.chance(0.6) else a.material(draw.color(saturation=(0.5, 1)), specular=0.25)
    legs = frame if draw.chance(0.6) else a.material(CHROME, specular=0.6)
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
    wood = wood_material(a, draw)
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
            a.frustum((x, 0.075, 0.09), (x, 0.075, 0.115), 0.022, 0.022, a.material(CHROME))
        a.box((0, 0.015, -0.05), (0.3, 0.015, 0.15), case)
