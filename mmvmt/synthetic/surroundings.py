"""What stands around the objects of a scene: sky, lights, rooms and landscapes."""

from __future__ import annotations

import math

import numpy as np

from .builder import Builder
from .classes import CONTEXT_IDS
from .clutter import CLUTTER
from .primitives import BLOTCHES, BRICKS, CHECKER, DOTS, NOISE, PLANKS, SOLID, STRIPES, TILES, WAVES, Draw, rotation
from .shading import Lights


def sky_of(draw: Draw) -> tuple[np.ndarray, float]:
    zenith = draw.pick(((0.30, 0.52, 0.85), (0.30, 0.52, 0.85), (0.45, 0.55, 0.68), (0.42, 0.42, 0.68)))
    horizon = draw.pick(((0.78, 0.87, 0.95), (0.86, 0.88, 0.88), (0.97, 0.84, 0.68)))
    return np.square([draw.vary(horizon, 0.04), draw.vary(zenith, 0.05)]), draw.uniform(0, 0.9)


def lights_of(draw: Draw, setting: str, sky: np.ndarray) -> Lights:
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


def room(builder: Builder, depth: float, side: float) -> list[tuple]:
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


def outdoors(builder: Builder, setting: str) -> list[tuple]:
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
