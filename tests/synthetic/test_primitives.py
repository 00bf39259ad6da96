import numpy as np
import pytest

from mmvmt.synthetic import geometry, raster
from mmvmt.synthetic.primitives import Assembly, Draw, rotation


def axes_of(**angles):
    return np.array(rotation(**angles)).reshape(3, 3)


@pytest.mark.parametrize(
    'angles, axis, image',
    [
        (dict(yaw=90), 2, (1, 0, 0)),
        (dict(pitch=90), 2, (0, -1, 0)),
        (dict(roll=90), 0, (0, 1, 0)),
        (dict(yaw=90, pitch=90), 2, (0, -1, 0)),
        (dict(yaw=90, roll=90), 0, (0, 1, 0)),
    ],
)
def test_rotation_turns_axes_as_documented(angles, axis, image):
    np.testing.assert_allclose(axes_of(**angles)[axis], image, atol=1e-12)


def test_rotations_are_proper():
    axes = axes_of(yaw=20, pitch=-50, roll=130)
    np.testing.assert_allclose(axes @ axes.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(axes) == pytest.approx(1)


def extents(build):
    a = Assembly()
    a.begin()
    build(a, a.material((1, 1, 1)))
    p = a.primitives()
    half = geometry.half_extents(p.kind, p.axes, p.scale, p.shape)
    return (p.center - half).min(0), (p.center + half).max(0), p


@pytest.mark.parametrize(
    'build, low, high',
    [
        (lambda a, m: a.sphere((0, 1, 0), (1, 2, 3), m), (-1, -1, -3), (1, 3, 3)),
        (lambda a, m: a.box((1, 0, 0), (0.5, 1, 2), m), (0.5, -1, -2), (1.5, 1, 2)),
        (lambda a, m: a.frustum((0, 0, 0), (0, 2, 0), 0.5, 0.5, m), (-0.5, 0, -0.5), (0.5, 2, 0.5)),
        (lambda a, m: a.frustum((0, 0, 0), (3, 0, 0), 0.1, 0.5, m), (0, -0.5, -0.5), (3, 0.5, 0.5)),
        (lambda a, m: a.capsule((0, 0, 0), (0, 0, 2), 0.5, m), (-0.5, -0.5, -0.5), (0.5, 0.5, 2.5)),
        (lambda a, m: a.ring((0, 0, 0), (1, 0, 0), 2, 0.9, 0.2, m), (-0.1, -2, -2), (0.1, 2, 2)),
    ],
    ids=['ellipsoid', 'box', 'cylinder', 'frustum', 'capsule', 'ring'],
)
def test_primitives_reach_as_far_as_asked(build, low, high):
    reached_low, reached_high, _ = extents(build)
    np.testing.assert_allclose(reached_low, low, atol=1e-9)
    np.testing.assert_allclose(reached_high, high, atol=1e-9)


@pytest.mark.parametrize('swapped', [False, True], ids=['a to b', 'b to a'])
def test_a_frustum_has_its_radii_at_the_right_ends(swapped):
    ends = ((0, 0, 0), (0, 2, 0), 0.5, 0.1)
    a = Assembly()
    a.begin()
    material = a.material((1, 1, 1))
    a.frustum(*(ends if not swapped else (ends[1], ends[0], ends[3], ends[2])), material)
    p = a.primitives().moved(np.eye(3), np.array([0, 0, -5.0]))
    # Rays at the foot and the top, 0.4 from the axis, and at the top close to it.
    u, v = np.float32([0.4, 0.4, 0.05]), np.float32([0.1, 1.9, 1.9])
    hits = raster.cast(p, np.array([[0, 1, 0, 3]]), raster.View(1, 3, 1, perspective=False), u, v)
    assert list(hits.primitive) == [0, -1, 0]


def test_moving_scales_turns_and_shifts():
    _, _, p = extents(lambda a, m: a.box((1, 0, 0), (0.5, 1, 2), m))
    turn = axes_of(yaw=90).T
    moved = p.moved(turn, np.array([0, 5, 0]), 2.0)
    np.testing.assert_allclose(moved.center, [[0, 5, -2]], atol=1e-12)
    np.testing.assert_allclose(moved.scale, [[1, 2, 4]])
    np.testing.assert_allclose(geometry.half_extents(moved.kind, moved.axes, moved.scale, moved.shape), [[4, 2, 1]])


def test_primitives_know_their_object_and_part():
    a = Assembly()
    for part in (3, 0):
        a.begin()
        a.part = part
        a.sphere((0, 0, 0), 1, a.material((1, 1, 1)))
    p = a.primitives()
    assert list(p.entity) == [0, 1]
    assert list(p.part) == [3, 0]
    assert list(p.material) == [0, 1]
    assert list(p.select(np.array([1])).entity) == [1]


def test_materials_hold_linear_colours():
    a = Assembly()
    a.material((0.5, 1.0, 0.0), (0.1, 0.1, 0.1))
    materials = a.materials()
    np.testing.assert_allclose(materials.color, [[0.25, 1, 0]])
    np.testing.assert_allclose(materials.second, [[0.01, 0.01, 0.01]], rtol=1e-6)


def test_draws_repeat_with_the_seed_and_stay_in_range():
    first, again, other = (Draw(seed) for seed in ((1, 2), (1, 2), (2, 1)))
    values = [first.uniform(2, 3) for _ in range(200)]
    assert values == [again.uniform(2, 3) for _ in range(200)]
    assert values != [other.uniform(2, 3) for _ in range(200)]
    assert 2 <= min(values) < 2.1
    assert 2.9 < max(values) < 3
    assert {first.integer(1, 3) for _ in range(100)} == {1, 2, 3}
    assert {first.pick('ab') for _ in range(100)} == {'a', 'b'}
    assert {first.sign() for _ in range(100)} == {-1, 1}
    colors = np.array([first.vary(first.color()) for _ in range(200)])
    assert colors.min() >= 0
    assert colors.max() <= 1
