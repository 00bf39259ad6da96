import numpy as np
import pytest

from mmvmt.synthetic import raster
from mmvmt.synthetic.primitives import Assembly, Draw, rotation
from mmvmt.synthetic.raster import View


def assembly_with(build):
    a = Assembly()
    a.begin()
    build(a, a.material((1, 1, 1)))
    return a.primitives()


def clutter(count=60, seed=0):
    """Primitives of all solids, in front of a camera at the origin."""
    draw = Draw(seed)

    def add(a, m, kind):
        c = (draw.uniform(-3, 3), draw.uniform(-3, 3), draw.uniform(-8, -2))
        d = tuple(x + draw.uniform(-0.6, 0.6) for x in c)
        size, axes = draw.uniform(0.05, 0.5), rotation(*(draw.uniform(0, 360) for _ in range(3)))
        half = (size, draw.uniform(0.05, 0.5), draw.uniform(0.05, 0.5))
        (
            lambda: a.sphere(c, half, m, axes),
            lambda: a.dome(c, half, draw.uniform(-0.5, 0.5), m, axes),
            lambda: a.box(c, half, m, axes),
            lambda: a.wedge(c, half, (draw.uniform(0, 1), draw.uniform(0, 1)), m, axes),
            lambda: a.frustum(c, d, size, draw.uniform(0, 0.5), m),
            lambda: a.ring(c, axes[:3], size, 0.7, 0.2, m),
            lambda: a.capsule(c, d, size * 0.4, m),
        )[kind]()

    return assembly_with(lambda a, m: [add(a, m, index % 7) for index in range(count)])


@pytest.mark.parametrize('perspective', [True, False], ids=['camera', 'light'])
def test_the_pixels_of_a_primitive_lie_in_its_box(perspective):
    prims = clutter()
    view = View(70, 90, 60 if perspective else 12, perspective=perspective)
    boxes = raster.pixel_boxes(prims, view)
    whole = np.tile([0, view.height, 0, view.width], (len(prims), 1))
    u, v = view.grid()
    culled, complete = (raster.cast(prims, box, view, u, v) for box in (boxes, whole))
    assert (complete.primitive >= 0).mean() > 0.2
    np.testing.assert_array_equal(culled.primitive, complete.primitive)
    np.testing.assert_array_equal(culled.t, complete.t)
    area = (boxes[:, 1] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 2])
    assert area.mean() < 0.1 * view.height * view.width


def test_each_ray_takes_the_nearest_primitive():
    prims = clutter()
    view = View(40, 40, 30)
    boxes = raster.pixel_boxes(prims, view)
    u, v = view.grid()
    together = raster.cast(prims, boxes, view, u, v)
    alone = np.stack(
        [raster.cast(prims.select(np.array([i])), boxes[i : i + 1], view, u, v).t for i in range(len(prims))]
    )
    np.testing.assert_array_equal(together.t, alone.min(0))
    hit = np.isfinite(together.t)
    np.testing.assert_array_equal(together.primitive[hit], alone.argmin(0)[hit])
    assert (together.primitive[~hit] == -1).all()


def test_a_sphere_has_analytic_depth_and_normals():
    center, radius = np.array([0.4, -0.3, -5.0]), 1.2
    prims = assembly_with(lambda a, m: a.sphere(tuple(center), radius, m))
    view = View(64, 80, 70)
    u, v = view.grid()
    hits = raster.cast(prims, raster.pixel_boxes(prims, view), view, u, v)
    points = np.stack([u * hits.t, v * hits.t, -hits.t])
    normals = raster.normals(prims, hits, np.where(np.isfinite(points), points, 0))
    # Independent: solve |t d - c| = r in double precision.
    d = np.stack([u, v, -np.ones_like(u)]).astype(np.float64)
    a, b = (d * d).sum(0), d.T @ center
    h = b * b - a * (center @ center - radius**2)
    hit = h > 1e-3
    t = (b[hit] - np.sqrt(h[hit])) / a[hit]
    expected = (d[:, hit] * t - center[:, None]) / radius
    assert hit.sum() > 300
    np.testing.assert_allclose(hits.t[hit], t, atol=2e-5)
    np.testing.assert_allclose(normals[:, hit], expected, atol=2e-4)
    assert not np.isfinite(hits.t[h < -1e-3]).any()
    assert (normals[:, hits.primitive < 0] == 0).all()


def test_a_plane_has_analytic_depth_and_normals():
    pitch = 25
    axes = rotation(pitch=pitch)
    prims = assembly_with(lambda a, m: a.plane((0, -1, -2), axes, m))
    view = View(48, 48, 40)
    u, v = view.grid()
    hits = raster.cast_planes(prims, 7, u, v)
    n = np.array([0, np.cos(np.radians(pitch)), np.sin(np.radians(pitch))])
    facing = v * n[1] - n[2]
    t = (n @ (0, -1, -2)) / facing
    hit = (t > 0.1) & (t < 100)
    assert hit.sum() > 500
    np.testing.assert_allclose(hits.t[hit], t[hit], rtol=1e-4)
    assert set(hits.primitive[hit]) == {7}
    assert (hits.primitive[t < 0] == -1).all()
    hits.primitive[hits.primitive == 7] = 0
    normals = raster.normals(prims, hits, np.zeros((3, len(u)), np.float32))
    np.testing.assert_allclose(normals[:, hit], np.repeat(n[:, None], hit.sum(), 1), atol=1e-6)


def test_several_rays_per_pixel_equal_separate_casts():
    prims, view = clutter(), View(40, 40, 30)
    boxes = raster.pixel_boxes(prims, view)
    pixels = np.arange(3, 1600, 7)
    rays = np.full(1600, -1)
    rays[pixels] = np.arange(len(pixels))
    shifts = ((0.3, 0.1), (-0.4, -0.2))
    points = [view.plane_points(pixels, shift) for shift in shifts]
    u, v = (np.concatenate(p) for p in zip(*points))
    together = raster.cast(prims, boxes, view, u, v, rays=rays, copies=2)
    for index, (du, dv) in enumerate(points):
        part = slice(index * len(pixels), (index + 1) * len(pixels))
        alone = raster.cast(prims, boxes, view, du, dv, rays=rays)
        np.testing.assert_array_equal(together.t[part], alone.t)
        np.testing.assert_array_equal(together.primitive[part], alone.primitive)
    assert np.isfinite(together.t).sum() > 50


def test_pixels_and_grid_agree_and_v_points_up():
    view = View(6, 8, 4, center=(1.0, 2.0))
    u, v = view.grid()
    pu, pv = view.plane_points(np.arange(48))
    np.testing.assert_array_equal(u, pu)
    np.testing.assert_array_equal(v, pv)
    np.testing.assert_allclose((u[0], v[0]), (1 - 3.5 / 4, 2 + 2.5 / 4))
    assert v[0] > v[-1]


def test_what_is_behind_the_camera_is_not_seen():
    prims = assembly_with(lambda a, m: a.sphere((0, 0, 4), 1, m))
    view = View(32, 32, 20)
    boxes = raster.pixel_boxes(prims, view)
    assert (boxes == 0).all()
    assert (raster.cast(prims, boxes, view, *view.grid()).primitive == -1).all()
