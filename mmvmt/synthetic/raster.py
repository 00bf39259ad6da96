"""Casting many rays at many primitives: each primitive meets only the rays of its own pixels.

One image plane serves both the camera and the light. Pixel ``(row, column)`` has a point ``(u, v)`` on the plane; a
perspective view sends the ray ``t (u, v, -1)`` through it, an orthographic one ``(u, v, -t)``. So ``t`` is the depth
along the view axis in either.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from . import geometry
from .geometry import PLANE
from .primitives import Primitives

_NEAR = 0.05
_CORNERS = np.array([(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], np.float64)


@dataclass
class View:
    """An image plane.

    Args:
        height: Rows.
        width: Columns.
        focal: Pixels per unit of ``u`` and ``v``.
        center: ``(u, v)`` at the middle of the image.
        perspective: Rays from one point; otherwise parallel ones.
    """

    height: int
    width: int
    focal: float
    center: tuple[float, float] = (0.0, 0.0)
    perspective: bool = True

    def plane_points(self, pixel: np.ndarray, shift: tuple[float, float] = (0.0, 0.0)) -> tuple[np.ndarray, np.ndarray]:
        """``(u, v)`` of pixels by flat index, ``shift`` pixels right and down of their middles, float32."""
        row, column = np.divmod(pixel, self.width)
        return self._plane_points(row, column, shift)

    def grid(self) -> tuple[np.ndarray, np.ndarray]:
        """``(u, v)`` of all pixels in the order of their flat index, float32."""
        u, v = self._plane_points(np.arange(self.height), np.arange(self.width), (0.0, 0.0))
        return np.tile(u, self.height), np.repeat(v, self.width)

    def _plane_points(self, row: np.ndarray, column: np.ndarray, shift: tuple[float, float]):
        inverse = np.float32(1 / self.focal)
        u = (column.astype(np.float32) + np.float32(shift[0] + 0.5 - self.width / 2)) * inverse
        v = (row.astype(np.float32) + np.float32(shift[1] + 0.5 - self.height / 2)) * -inverse
        return u + np.float32(self.center[0]), v + np.float32(self.center[1])


@dataclass
class Hits:
    """What N rays hit first.

    Args:
        t: ``(N,)`` float32 depth along the view axis, infinite where a ray hits nothing.
        primitive: ``(N,)`` index of the primitive, -1 for none.
    """

    t: np.ndarray
    primitive: np.ndarray


def pixel_boxes(solids: Primitives, view: View) -> np.ndarray:
    """Pixels that each primitive can cover: ``(P, 4)`` first row, end row, first column, end column; all 0 for none.

    Args:
        solids: In the view's coordinates, no planes among them.
        view: The image plane.
    """
    half = geometry.half_extents(solids.kind, solids.axes, solids.scale, solids.shape)
    reach = np.abs(solids.scale)
    reach[:, 2] += np.where(solids.kind == geometry.CAPSULE, solids.shape[:, 0] * reach[:, 2], 0)
    bounds = []
    # Two boxes contain a primitive: one along the view's axes, one along its own. Their projections both bound it.
    for corners in (
        solids.center[:, None] + _CORNERS * half[:, None],
        solids.center[:, None] + (_CORNERS * reach[:, None]) @ solids.axes,
    ):
        depth = -corners[..., 2]
        scale = 1 / np.maximum(depth, 1e-3)[..., None] if view.perspective else 1.0
        plane = corners[..., :2] * scale - view.center
        bounds.append((plane.min(1), plane.max(1), depth))
    low = np.maximum(bounds[0][0], bounds[1][0]) * view.focal
    high = np.minimum(bounds[0][1], bounds[1][1]) * view.focal
    box = np.stack([view.height / 2 - high[:, 1], view.height / 2 - low[:, 1] + 1, low[:, 0], high[:, 0] + 1], 1)
    box[:, 2:] += view.width / 2
    limits = np.array([view.height, view.height, view.width, view.width])
    # A half pixel of margin covers the shifted rays of anti-aliasing.
    box = np.clip(np.floor(box + [-0.5, 0.5, -0.5, 0.5]), 0, limits).astype(np.intp)
    if view.perspective:
        depth = bounds[0][2]
        box[depth.min(1) < _NEAR] = (0, view.height, 0, view.width)
        box[depth.max(1) < _NEAR] = 0
    return box


def cast(
    solids: Primitives,
    boxes: np.ndarray,
    view: View,
    u: np.ndarray,
    v: np.ndarray,
    background: Hits | None = None,
    rays: np.ndarray | None = None,
    copies: int = 1,
) -> Hits:
    """First hits of rays that go through pixels.

    Args:
        solids: Primitives in the view's coordinates. Planes are cast at every ray.
        boxes: ``(P, 4)`` from :func:`pixel_boxes`.
        view: The image plane.
        u, v: ``(N,)`` float32 points of the rays on the image plane.
        background: Hits that are already known, to be improved on.
        rays: ``(H * W,)`` index of each pixel's ray, -1 for pixels without one; None: pixels are rays.
        copies: Rays per pixel; the k-th ray of a pixel follows its first one by ``k * N / copies``.

    Returns:
        Hits of the N rays.
    """
    if background is None:
        hits = Hits(np.full(len(u), np.inf, np.float32), np.full(len(u), -1, np.intp))
    else:
        hits = Hits(background.t.copy(), background.primitive.copy())
    table = solids.table()
    for kind in range(PLANE):
        members = np.flatnonzero(solids.kind == kind)
        if not len(members):
            continue
        member, ray = _pairs(boxes[members], view.width)
        if rays is not None:
            ray = rays[ray]
            keep = np.flatnonzero(ray >= 0)
            member, ray = member[keep], ray[keep]
        if copies > 1:
            member = np.tile(member, copies)
            ray = (ray + np.arange(copies)[:, None] * (len(u) // copies)).ravel()
        if not len(ray):
            continue
        index = members[member]
        t = _enter(kind, table[:, members], member, u[ray], v[ray], view.perspective)
        found = np.flatnonzero((t > _NEAR) & (t < hits.t[ray]))
        t, ray, index = t[found], ray[found], index[found]
        np.minimum.at(hits.t, ray, t)
        first = np.flatnonzero(hits.t[ray] == t)
        hits.primitive[ray[first]] = index[first]
    return hits


def cast_planes(planes: Primitives, first: int, u: np.ndarray, v: np.ndarray) -> Hits:
    """First hits of rays of a perspective view with endless planes.

    Args:
        planes: Planes in the view's coordinates.
        first: Index that the first of them has among all primitives.
        u, v: ``(N,)`` float32 points of the rays on the image plane.
    """
    hits = Hits(np.full(len(u), np.inf, np.float32), np.full(len(u), -1, np.intp))
    for index, (axes, center) in enumerate(zip(planes.axes, planes.center)):
        n = axes[1].astype(np.float32)
        facing = u * n[0] + v * n[1] - n[2]
        t = np.float32(axes[1] @ center) / np.where(np.abs(facing) < 1e-6, np.float32(1e-6), facing)
        nearer = (t > _NEAR) & (t < hits.t) & (t < 500)
        hits.t[nearer] = t[nearer]
        hits.primitive[nearer] = first + index
    return hits


def normals(prims: Primitives, hits: Hits, points: np.ndarray) -> np.ndarray:
    """Unit surface normals at hit points, the zero vector where there is none.

    Args:
        prims: All primitives in the view's coordinates.
        hits: Hits of N rays.
        points: ``(3, N)`` float32 points of the hits in the same coordinates.

    Returns:
        ``(3, N)`` float32.
    """
    result = np.zeros_like(points)
    table = prims.table()
    kinds = np.append(prims.kind, -1)[hits.primitive]
    for kind in range(PLANE + 1):
        rays = np.flatnonzero(kinds == kind)
        if not len(rays):
            continue
        index = hits.primitive[rays]
        if kind == PLANE:
            result[:, rays] = table[3:6].take(index, 1)
            continue
        row = table.take(index, 1)
        x, y, z = points.take(rays, 1) - row[9:12]
        local = np.stack([row[3 * axis] * x + row[3 * axis + 1] * y + row[3 * axis + 2] * z for axis in range(3)])
        local = geometry.normal(kind, local, row[12:14])
        n = local[0] * row[0:3] + local[1] * row[3:6] + local[2] * row[6:9]
        n /= np.sqrt(n[0] * n[0] + n[1] * n[1] + n[2] * n[2])
        result[:, rays] = n
    return result


def _pairs(boxes: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """All pairs of a box and a pixel in it: index of the box, flat index of the pixel."""
    rows, columns = boxes[:, 1] - boxes[:, 0], boxes[:, 3] - boxes[:, 2]
    # Runs of one row each first, then their pixels: no division per pixel.
    run_box = np.repeat(np.arange(len(boxes)), np.where(columns > 0, rows, 0))
    first_run = np.cumsum(np.where(columns > 0, rows, 0)) - np.where(columns > 0, rows, 0)
    row = np.arange(len(run_box)) - first_run[run_box] + boxes[run_box, 0]
    length = columns[run_box]
    start = row * width + boxes[run_box, 2]
    pixel = np.arange(length.sum()) + np.repeat(start - (np.cumsum(length) - length), length)
    return np.repeat(run_box, length), pixel


def _enter(
    kind: int, table: np.ndarray, member: np.ndarray, u: np.ndarray, v: np.ndarray, perspective: bool
) -> np.ndarray:
    """Depth at which rays enter primitives of one kind; the rays start in the plane of each primitive's centre."""
    row = table.take(member, 1)
    depth = -row[11]
    if perspective:
        x, y = u * depth - row[9], v * depth - row[10]
        d = np.stack([row[3 * axis] * u + row[3 * axis + 1] * v - row[3 * axis + 2] for axis in range(3)])
    else:
        x, y = u - row[9], v - row[10]
        d = -row[2:9:3]
    o = np.stack([row[3 * axis] * x + row[3 * axis + 1] * y for axis in range(3)])
    return geometry.enter(kind, o, d, row[12:14]) + depth
