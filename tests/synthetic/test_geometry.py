import numpy as np
import pytest

from mmvmt.synthetic import geometry
from mmvmt.synthetic.geometry import BOX, CAPSULE, DOME, FRUSTUM, RING, SPHERE, WEDGE

SOLIDS = {
    'sphere': (SPHERE, (0, 0)),
    'dome': (DOME, (0.2, 0)),
    'low dome': (DOME, (-0.5, 0)),
    'box': (BOX, (0, 0)),
    'wedge': (WEDGE, (0.3, 0.8)),
    'ridge': (WEDGE, (1, 0.02)),
    'cylinder': (FRUSTUM, (1, 0)),
    'frustum': (FRUSTUM, (0.4, 0)),
    'cone': (FRUSTUM, (0, 0)),
    'ring': (RING, (0.6, 0)),
    'capsule': (CAPSULE, (1.5, 0)),
}


def contains(kind, shape, p):
    """Whether points ``(3, ...)`` lie in a solid, from the definitions alone."""
    x, y, z = p
    if kind == SPHERE:
        return x**2 + y**2 + z**2 <= 1
    if kind == DOME:
        return (x**2 + y**2 + z**2 <= 1) & (y >= shape[0])
    if kind == BOX:
        return np.abs(p).max(0) <= 1
    if kind == WEDGE:
        height = (y + 1) / 2
        widths = [1 + (top - 1) * height for top in shape]
        return (np.abs(y) <= 1) & (np.abs(x) <= widths[0]) & (np.abs(z) <= widths[1])
    if kind == FRUSTUM:
        return (np.abs(z) <= 1) & (np.hypot(x, y) <= 1 + (shape[0] - 1) * (z + 1) / 2)
    if kind == RING:
        return (np.abs(z) <= 1) & (np.hypot(x, y) <= 1) & (np.hypot(x, y) >= shape[0])
    return x**2 + y**2 + (z - np.clip(z, -shape[0], shape[0])) ** 2 <= 1


def rays(count=400):
    """Rays from outside towards points in and around the solids."""
    rng = np.random.default_rng(0)
    origin = rng.normal(size=(3, count))
    origin *= 4 / np.linalg.norm(origin, axis=0)
    direction = rng.uniform(-1.3, 1.3, (3, count)) - origin
    return origin, direction / np.linalg.norm(direction, axis=0)


def cast(kind, shape, origin, direction):
    shapes = np.repeat(np.float32(shape)[:, None], origin.shape[1], 1)
    return geometry.enter(kind, origin.astype(np.float32), direction.astype(np.float32), shapes), shapes


@pytest.mark.parametrize('kind, shape', SOLIDS.values(), ids=SOLIDS)
def test_rays_enter_where_the_solid_begins(kind, shape):
    origin, direction = rays()
    t, _ = cast(kind, shape, origin, direction)
    steps = np.linspace(0, 8, 4001)
    inside = contains(kind, shape, origin[:, :, None] + direction[:, :, None] * steps)
    hit = inside.any(1)
    expected = steps[inside.argmax(1)]
    # A ray that only grazes a corner can slip between two steps of the search.
    assert (np.isfinite(t) | ~hit).all()
    assert (np.isfinite(t) & ~hit).mean() < 0.02
    assert hit.sum() > 50
    np.testing.assert_allclose(t[hit], expected[hit], atol=2.1e-3)


@pytest.mark.parametrize('kind, shape', SOLIDS.values(), ids=SOLIDS)
def test_normals_point_outwards_and_towards_the_ray(kind, shape):
    origin, direction = rays()
    t, shapes = cast(kind, shape, origin, direction)
    hit = np.isfinite(t)
    q = origin[:, hit] + direction[:, hit] * t[hit]
    n = geometry.normal(kind, q.astype(np.float32), shapes[:, hit])
    n = n / np.linalg.norm(n, axis=0)
    assert ((n * direction[:, hit]).sum(0) < 1e-3).all()
    assert not contains(kind, shape, q + 2e-3 * n).any()
    # Just beneath the surface, but for points near an edge of a thin solid.
    assert contains(kind, shape, q - 2e-3 * n).mean() > 0.97


@pytest.mark.parametrize('kind, shape', SOLIDS.values(), ids=SOLIDS)
def test_normals_are_perpendicular_to_the_surface(kind, shape):
    origin, direction = rays(2000)
    t, shapes = cast(kind, shape, origin, direction)
    hit = np.isfinite(t)
    q = origin[:, hit] + direction[:, hit] * t[hit]
    n = geometry.normal(kind, q.astype(np.float32), shapes[:, hit])
    n = n / np.linalg.norm(n, axis=0)
    # A short step along the surface must end on it: its distance from the surface is of second order.
    side = np.cross(n.T, (0.3, 0.5, 0.8)).T
    step = q + 0.02 * side / np.linalg.norm(side, axis=0)
    close = ~contains(kind, shape, step + 2e-3 * n) & contains(kind, shape, step - 2e-3 * n)
    assert close.mean() > 0.85


@pytest.mark.parametrize('kind, shape', SOLIDS.values(), ids=SOLIDS)
def test_half_extents_contain_a_turned_solid_closely(kind, shape):
    rng = np.random.default_rng(1)
    axes = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    scale = np.array([0.5, 0.5, 1.3])
    q = rng.uniform(-2.6, 2.6, (3, 200000))
    q = q[:, contains(kind, shape, q)]
    points = (q * scale[:, None]).T @ axes
    half = geometry.half_extents(np.array([kind]), axes[None], scale[None], np.array([shape]))[0]
    reach = np.abs(points).max(0)
    assert (reach <= half + 1e-9).all()
    if kind in (SPHERE, BOX):
        assert (reach > 0.9 * half).all()


def test_a_sphere_is_hit_at_the_analytic_distance():
    origin = np.float32([[0, 0.5], [0, 0], [3, 3]])
    direction = np.float32([[0, 0], [0, 0], [-1, -1]])
    t = geometry.enter(SPHERE, origin, direction, np.zeros((2, 2), np.float32))
    np.testing.assert_allclose(t, [2, 3 - np.sqrt(0.75)], rtol=1e-6)
