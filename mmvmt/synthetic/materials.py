"""What objects of several kinds are made of."""

from __future__ import annotations

from .primitives import WAVES, Assembly, Draw

RUBBER = (0.10, 0.10, 0.11)
CHROME = (0.72, 0.73, 0.75)
GLASS = (0.22, 0.30, 0.38)
WOODS = ((0.55, 0.36, 0.20), (0.40, 0.25, 0.14), (0.72, 0.54, 0.34), (0.30, 0.18, 0.11))


def wood_material(a: Assembly, draw: Draw) -> int:
    color = draw.vary(draw.pick(WOODS))
    return a.material(color, tuple(0.6 * c for c in color), WAVES, draw.uniform(0.15, 0.3), specular=0.08)


def add_wheel(a: Assembly, draw: Draw, x: float, y: float, z: float, radius: float, width: float) -> None:
    rubber, metal = a.material(RUBBER), a.material(draw.vary(CHROME, 0.1), specular=0.5)
    a.frustum((x - width / 2, y, z), (x + width / 2, y, z), radius, radius, rubber)
    a.frustum((x - width * 0.54, y, z), (x + width * 0.54, y, z), radius * 0.55, radius * 0.55, metal)
