import math

import numpy as np
import pytest

from mmvmt.synthetic import raster
from mmvmt.synthetic.primitives import (
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
    rotation,
)
from mmvmt.synthetic.raster import Hits, View
from mmvmt.synthetic.shading import Lights, Shader, noise_table, sample_noise

TEXTURED = dict(
    checker=CHECKER,
    stripes=STRIPES,
    noise=NOISE,
    blotches=BLOTCHES,
    bricks=BRICKS,
    tiles=TILES,
    planks=PLANKS,
    dots=DOTS,
    windows=WINDOWS,
    waves=WAVES,
)


def lights(key=(0, 1, 0), **changes):
    key = np.array(key) / np.linalg.norm(key)
    values = dict(
        key=key,
        key_color=np.full(3, 0.5),
        fill=np.array([0.0, 1, 0]),
        fill_color=np.zeros(3),
        above=np.full(3, 0.2),
        below=np.full(3, 0.1),
        haze=np.ones(3),
        haze_distance=math.inf,
    )
    return Lights(**{**values, **changes})


def ground(texture=SOLID, color=(1, 1, 1), second=(0, 0, 0), period=0.4, light=None, with_ball=False):
    """Colours of points of a plane 2 below the camera, and the points."""
    a = Assembly()
    a.begin()
    material = a.material(color, second, texture, period, specular=0)
    a.sphere((0, -1, -6), 0.4, material)
    a.begin()
    a.plane((0, -2, 0), rotation(), material)
    prims = a.primitives()
    view = View(64, 64, 1000)
    casters = np.array([0]) if with_ball else np.array([], np.intp)
    shader = Shader(prims, casters, a.materials(), light or lights(), np.eye(3), view)
    x, z = (p.ravel().astype(np.float32) for p in np.meshgrid(np.linspace(-2, 2, 81), np.linspace(-8, -4, 81)))
    points = np.stack([x, np.full_like(x, -2), z])
    normals = np.repeat(np.float32([[0], [1], [0]]), x.size, 1)
    return shader(Hits(-z, np.ones(x.size, np.intp)), points, normals), points


def test_light_falls_off_with_the_cosine():
    flat, _ = ground(light=lights((0, 1, 0)))
    slanted, _ = ground(light=lights((math.sqrt(3), 1, 0)))
    np.testing.assert_allclose(flat, 0.2 + 0.5, rtol=1e-5)
    np.testing.assert_allclose(slanted, 0.2 + 0.25, rtol=1e-5)


def test_a_ball_casts_a_shadow_where_the_light_says():
    color, (x, _, z) = ground(with_ball=True, light=lights((1, 2, 0)))
    # The ball's centre is 1 above the ground and the light comes from the right: the shadow is half a metre left.
    distance = np.hypot(x + 0.5, z + 6)
    dark, bright = 0.2, 0.2 + 0.5 * 2 / math.sqrt(5)
    np.testing.assert_allclose(color[:, distance < 0.3], dark, rtol=1e-4)
    np.testing.assert_allclose(color[:, distance > 0.6], bright, rtol=1e-4)


def test_a_ball_does_not_shadow_its_own_lit_side():
    a = Assembly()
    a.begin()
    a.sphere((0, 0, -5), 1.0, a.material((1, 1, 1), specular=0))
    prims, view = a.primitives(), View(64, 64, 120)
    shader = Shader(prims, np.array([0]), a.materials(), lights((1, 1, 1)), np.eye(3), view)
    u, v = view.grid()
    hits = raster.cast(prims, raster.pixel_boxes(prims, view), view, u, v)
    seen = np.isfinite(hits.t)
    hits = Hits(hits.t[seen], hits.primitive[seen])
    points = np.stack([u[seen] * hits.t, v[seen] * hits.t, -hits.t])
    normals = raster.normals(prims, hits, points)
    cosine = normals.sum(0) / math.sqrt(3)
    ambient = 0.1 + 0.1 * (0.5 + 0.5 * normals[1])
    lit = cosine > 0.25
    np.testing.assert_allclose(shader(hits, points, normals)[0, lit], (ambient + 0.5 * cosine)[lit], atol=1e-4)


@pytest.mark.parametrize('texture', TEXTURED.values(), ids=TEXTURED)
def test_textures_mix_the_two_colours(texture):
    color, _ = ground(texture, (0.9, 0.5, 0.2), (0.1, 0.3, 0.6))
    low, high = np.square(((0.1, 0.3, 0.2), (0.9, 0.5, 0.6))) * 0.7
    assert (color >= low[:, None] - 1e-5).all()
    assert (color <= high[:, None] + 1e-5).all()
    # Stripes follow y, which is the same all over this plane.
    assert (color.std(1).min() > 0.02) == (texture != STRIPES)


def test_far_textures_fade_instead_of_aliasing():
    near, _ = ground(CHECKER, period=0.5)
    far, _ = ground(CHECKER, period=0.004)
    assert near.std() > 0.3
    assert far.std() < 1e-4


def test_haze_covers_63_percent_at_its_distance():
    color, points = ground(light=lights(haze_distance=6.0))
    distance = np.sqrt((points**2).sum(0))
    expected = 1 - (1 - 0.7) * np.exp(-distance / 6)
    np.testing.assert_allclose(color[0], expected, rtol=1e-4)


def test_noise_is_uniform_smooth_and_periodic():
    values = noise_table()
    assert values.min() >= 0
    assert values.max() < 1
    np.testing.assert_allclose(np.histogram(values, 10, (0, 1))[0] / values.size, 0.1, atol=1e-3)
    x = np.linspace(0, 3, 500, dtype=np.float32)
    line = sample_noise(x, x * 0.7)
    assert np.abs(np.diff(line)).max() < 0.15
    np.testing.assert_allclose(sample_noise(x + 16, x * 0.7 - 16), line, atol=1e-3)
