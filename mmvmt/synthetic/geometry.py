"""Solids in canonical coordinates: where a ray enters them, and their surface normals.

A primitive is a canonical solid, scaled along its own three axes, turned and moved. A ray goes through the inverse map,
which keeps its parameter ``t``, so that all intersections below are with solids of unit size:

=========  =================================================================================================
SPHERE     ``x^2 + y^2 + z^2 <= 1``
DOME       the sphere where ``y >= shape[0]``
BOX        ``|x|, |y|, |z| <= 1``
WEDGE      ``|y| <= 1``, ``|x|`` and ``|z|`` up to 1 at the bottom and ``shape[0]``, ``shape[1]`` at the top, linear
FRUSTUM    ``|z| <= 1``, radius 1 at ``z = -1`` and ``shape[0]`` at ``z = 1`` (cylinder: 1, cone: 0)
RING       ``|z| <= 1``, distance from the axis between ``shape[0]`` and 1
CAPSULE    all points within 1 of the segment from ``-shape[0]`` to ``shape[0]`` on the z axis
PLANE      ``y <= 0``
=========  =================================================================================================
"""

from __future__ import annotations

import numpy as np

SPHERE, DOME, BOX, WEDGE, FRUSTUM, RING, CAPSULE, PLANE = range(8)

_TINY = np.float32(1e-8)
_MISS = np.float32(np.inf)


def _nonzero(x: np.ndarray) -> np.ndarray:
    """Replace what would divide to infinity; the sign of a tiny number does not matter here."""
    return np.where(np.abs(x) < _TINY, _TINY, x)


def _enter_sphere(o: np.ndarray, d: np.ndarray, shape: np.ndarray) -> np.ndarray:
    a = d[0] * d[0] + d[1] * d[1] + d[2] * d[2]
    b = o[0] * d[0] + o[1] * d[1] + o[2] * d[2]
    c = o[0] * o[0] + o[1] * o[1] + o[2] * o[2] - 1
    h = b * b - a * c
    t = (-b - np.sqrt(np.maximum(h, 0))) / a
    t[h < 0] = _MISS
    return t


def _enter_dome(o: np.ndarray, d: np.ndarray, shape: np.ndarray) -> np.ndarray:
    a = d[0] * d[0] + d[1] * d[1] + d[2] * d[2]
    b = o[0] * d[0] + o[1] * d[1] + o[2] * d[2]
    c = o[0] * o[0] + o[1] * o[1] + o[2] * o[2] - 1
    h = b * b - a * c
    root = np.sqrt(np.maximum(h, 0))
    t = (-b - root) / a
    leave = (-b + root) / a
    # Where the sphere is entered below the cut, the cut itself is the way in, provided it is reached inside the sphere.
    below = o[1] + t * d[1] < shape[0]
    cut = (shape[0] - o[1]) / _nonzero(d[1])
    t = np.where(below, cut, t)
    t[(h < 0) | (below & ((d[1] <= 0) | (cut > leave)))] = _MISS
    return t


def _enter_box(o: np.ndarray, d: np.ndarray, shape: np.ndarray) -> np.ndarray:
    enter, leave = None, None
    for axis in range(3):
        inverse = 1 / _nonzero(d[axis])
        middle = -o[axis] * inverse
        half = np.abs(inverse)
        enter = middle - half if enter is None else np.maximum(enter, middle - half)
        leave = middle + half if leave is None else np.minimum(leave, middle + half)
    enter[enter > leave] = _MISS
    return enter


def _enter_wedge(o: np.ndarray, d: np.ndarray, shape: np.ndarray) -> np.ndarray:
    inverse = 1 / _nonzero(d[1])
    half = np.abs(inverse)
    middle = -o[1] * inverse
    enter, leave = middle - half, middle + half
    for axis, top in ((0, shape[0]), (2, shape[1])):
        slope = (top - 1) / 2
        width = 1 + slope + slope * o[1]
        growth = slope * d[1]
        for sign in (1, -1):
            # One face: value + t * rate <= 0 inside.
            value = sign * o[axis] - width
            rate = _nonzero(sign * d[axis] - growth)
            t = -value / rate
            enter = np.where(rate < 0, np.maximum(enter, t), enter)
            leave = np.where(rate < 0, leave, np.minimum(leave, t))
    enter[enter > leave] = _MISS
    return enter


def _enter_frustum(o: np.ndarray, d: np.ndarray, shape: np.ndarray) -> np.ndarray:
    slope = (shape[0] - 1) / 2
    middle = (shape[0] + 1) / 2
    radius = middle + slope * o[2]
    growth = slope * d[2]
    a = d[0] * d[0] + d[1] * d[1] - growth * growth
    b = o[0] * d[0] + o[1] * d[1] - growth * radius
    c = o[0] * o[0] + o[1] * o[1] - radius * radius
    h = b * b - a * c
    side = (-b - np.sqrt(np.maximum(h, 0))) / _nonzero(a)
    side[(h < 0) | (np.abs(o[2] + side * d[2]) > 1)] = _MISS
    cap_z = -np.sign(d[2])
    cap = (cap_z - o[2]) / _nonzero(d[2])
    x, y, cap_radius = o[0] + cap * d[0], o[1] + cap * d[1], middle + slope * cap_z
    cap[x * x + y * y > cap_radius * cap_radius] = _MISS
    return np.minimum(side, cap)


def _enter_ring(o: np.ndarray, d: np.ndarray, shape: np.ndarray) -> np.ndarray:
    a = _nonzero(d[0] * d[0] + d[1] * d[1])
    b = o[0] * d[0] + o[1] * d[1]
    c = o[0] * o[0] + o[1] * o[1]
    h = b * b - a * (c - 1)
    outer = (-b - np.sqrt(np.maximum(h, 0))) / a
    outer[(h < 0) | (np.abs(o[2] + outer * d[2]) > 1)] = _MISS
    hole = shape[0] * shape[0]
    h = b * b - a * (c - hole)
    inner = (-b + np.sqrt(np.maximum(h, 0))) / a
    inner[(h < 0) | (np.abs(o[2] + inner * d[2]) > 1)] = _MISS
    cap = (-np.sign(d[2]) - o[2]) / _nonzero(d[2])
    x, y = o[0] + cap * d[0], o[1] + cap * d[1]
    distance = x * x + y * y
    cap[(distance > 1) | (distance < hole)] = _MISS
    return np.minimum(np.minimum(outer, cap), inner)


def _enter_capsule(o: np.ndarray, d: np.ndarray, shape: np.ndarray) -> np.ndarray:
    length = shape[0]
    a = d[0] * d[0] + d[1] * d[1]
    b = o[0] * d[0] + o[1] * d[1]
    c = o[0] * o[0] + o[1] * o[1] - 1
    h = b * b - a * c
    t = (-b - np.sqrt(np.maximum(h, 0))) / np.maximum(a, _TINY)
    z = o[2] + t * d[2]
    t[h < 0] = _MISS
    # Beyond an end of the segment the half sphere there takes over.
    ends = np.flatnonzero((np.abs(z) > length) & (h >= 0))
    oz, dz = o[2][ends] - np.sign(z[ends]) * length[ends], d[2][ends]
    a, b, c = a[ends] + dz * dz, b[ends] + oz * dz, c[ends] + oz * oz
    h = b * b - a * c
    t[ends] = np.where(h < 0, _MISS, (-b - np.sqrt(np.maximum(h, 0))) / a)
    return t


_ENTER = {
    SPHERE: _enter_sphere,
    DOME: _enter_dome,
    BOX: _enter_box,
    WEDGE: _enter_wedge,
    FRUSTUM: _enter_frustum,
    RING: _enter_ring,
    CAPSULE: _enter_capsule,
}


def enter(kind: int, o: np.ndarray, d: np.ndarray, shape: np.ndarray) -> np.ndarray:
    """Parameter ``t`` at which the rays ``o + t d`` enter a canonical solid, infinite where they miss it.

    The origins must lie outside the solid's extension in the direction ``-d``: ``t`` may be negative, since origins are
    moved close to the solid for precision.

    Args:
        kind: Solid, any but ``PLANE``.
        o: Origins ``(3, N)`` float32.
        d: Directions ``(3, N)`` float32, of any length.
        shape: Shape parameters ``(2, N)`` float32.

    Returns:
        ``(N,)`` float32.
    """
    return _ENTER[kind](o, d, shape)


def normal(kind: int, q: np.ndarray, shape: np.ndarray) -> np.ndarray:
    """Outward surface normals of a canonical solid, of any length.

    Where a solid has several faces, the one nearest to the point counts.

    Args:
        kind: Solid.
        q: Points on its surface, ``(3, N)`` float32.
        shape: Shape parameters ``(2, N)`` float32.

    Returns:
        ``(3, N)`` float32.
    """
    if kind == SPHERE:
        return q.copy()
    n = np.zeros_like(q)
    if kind == PLANE:
        n[1] = 1
    elif kind == DOME:
        n[:] = q
        cut = np.abs(q[1] - shape[0]) < np.abs(1 - np.sqrt((q * q).sum(0)))
        n[:, cut] = np.float32([[0], [-1], [0]])
    elif kind == BOX:
        axis, point = np.abs(q).argmax(0), np.arange(q.shape[1])
        n[axis, point] = np.sign(q[axis, point])
    elif kind == WEDGE:
        slope = (shape - 1) / 2
        width = 1 + slope * (q[1] + 1)
        face = np.stack([np.abs(q[0]) - width[0], np.abs(q[2]) - width[1], np.abs(q[1]) - 1]).argmax(0)
        n[0] = np.where(face == 0, np.sign(q[0]), 0)
        n[2] = np.where(face == 1, np.sign(q[2]), 0)
        n[1] = np.where(face == 2, np.sign(q[1]), -np.where(face == 0, slope[0], slope[1]))
    elif kind == CAPSULE:
        n[:] = q
        n[2] -= np.clip(q[2], -shape[0], shape[0])
    else:
        slope = (shape[0] - 1) / 2 if kind == FRUSTUM else np.float32(0)
        radius = (shape[0] + 1) / 2 + slope * q[2] if kind == FRUSTUM else np.float32(1)
        distance = np.sqrt(q[0] * q[0] + q[1] * q[1])
        to_side = np.abs(distance - radius)
        n[0], n[1] = q[0], q[1]
        n[2] = -slope * radius
        if kind == RING:
            to_hole = np.abs(distance - shape[0])
            n[:2, to_hole < to_side] *= -1
            to_side = np.minimum(to_side, to_hole)
        cap = np.abs(1 - np.abs(q[2])) < to_side
        n[:2, cap] = 0
        n[2, cap] = np.sign(q[2, cap])
    return n


def half_extents(kind: np.ndarray, axes: np.ndarray, scale: np.ndarray, shape: np.ndarray) -> np.ndarray:
    """Half sizes of the axis-aligned box around each primitive.

    Args:
        kind: ``(P,)``.
        axes: Unit axes of the primitives as rows, ``(P, 3, 3)``.
        scale: ``(P, 3)``.
        shape: ``(P, 2)``.

    Returns:
        ``(P, 3)``.
    """
    spanned = np.abs(axes * scale[:, :, None])
    boxes = spanned.sum(1)
    round_ = np.sqrt((spanned * spanned).sum(1))
    discs = np.sqrt((spanned[:, :2] ** 2).sum(1)) + spanned[:, 2]
    capsules = round_ + spanned[:, 2] * shape[:, :1]
    kind = kind[:, None]
    return np.where(
        (kind == SPHERE) | (kind == DOME),
        round_,
        np.where((kind == FRUSTUM) | (kind == RING), discs, np.where(kind == CAPSULE, capsules, boxes)),
    )
