import copy
from dataclasses import replace

import cv2
import numpy as np
import pytest

from mmvmt.datasets import seeded_rng
from mmvmt.datasets.transforms import (
    MultiTaskPad,
    MultiTaskRandomFlip,
    MultiTaskRandomRotate,
    MultiTaskRandomScaleCrop,
    MultiTaskResize,
)
from mmvmt.structures import TASKS, NormalsAxes
from mmvmt.synthetic.primitives import Draw
from mmvmt.synthetic.render import _Frame
from mmvmt.synthetic.scene import compose

RANDOM = [
    MultiTaskRandomFlip(0.5),
    MultiTaskRandomRotate(20),
    MultiTaskRandomScaleCrop((20, 30)),
]
EVERY = [*RANDOM, MultiTaskResize((50, 40)), MultiTaskPad(size_divisor=16)]


def names(transform):
    return type(transform).__name__


def same(first, second):
    keys = ['img', *(task.gt_key for task in TASKS.values())]
    return all(np.array_equal(first[key], second[key]) for key in keys)


@pytest.mark.parametrize('transform', EVERY, ids=names)
def test_kinds_and_sizes_stay_consistent(transform, results):
    before = copy.deepcopy(results)
    results = transform(results)
    shape = results['img'].shape[:2]
    assert results.get('pad_shape', results['img_shape']) == shape
    assert results['img'].dtype == np.uint8
    assert results['ori_shape'] == (24, 36)
    for task in TASKS.values():
        assert results[task.gt_key].shape[:2] == shape
        assert results[task.gt_key].dtype == before[task.gt_key].dtype
    length = np.linalg.norm(results['gt_normals'], axis=2)
    np.testing.assert_allclose(length[length > 0], 1, atol=1e-5)
    assert set(np.unique(results['gt_semseg'])) <= {*range(21), 255}
    assert set(np.unique(results['gt_saliency'])) <= {0, 1, 255}
    assert set(np.unique(results['gt_depth'])) <= {0, *np.unique(before['gt_depth'])}, 'depth keeps its metres'


@pytest.mark.parametrize('transform', EVERY, ids=names)
def test_absent_maps_stay_absent(transform, results):
    results = {key: value for key, value in results.items() if not key.startswith('gt_') or key == 'gt_saliency'}
    assert [key for key in transform(results) if key.startswith('gt_')] == ['gt_saliency']


@pytest.mark.parametrize('transform', RANDOM, ids=names)
def test_a_seed_fixes_the_result(transform, results):
    outcomes = []
    for seed in (1, 1, 2, 3, 4, 5):
        with seeded_rng(seed):
            outcomes.append(transform(copy.deepcopy(results)))
    assert same(outcomes[0], outcomes[1])
    assert not all(same(outcomes[0], outcome) for outcome in outcomes[2:])


@pytest.mark.parametrize('transform', EVERY, ids=names)
def test_repr_shows_the_arguments(transform):
    assert repr(transform).startswith(f'{type(transform).__name__}(')
    assert '=' in repr(transform)


def test_flip_twice_is_identity(results):
    flip = MultiTaskRandomFlip(1.0)
    once = flip(copy.deepcopy(results))
    assert once['flip']
    assert once['flip_direction'] == 'horizontal'
    np.testing.assert_array_equal(once['img'], results['img'][:, ::-1])
    np.testing.assert_array_equal(once['gt_semseg'], results['gt_semseg'][:, ::-1])
    np.testing.assert_array_equal(once['gt_normals'], results['gt_normals'][:, ::-1] * np.float32([-1, 1, 1]))
    assert same(flip(once), results)


@pytest.mark.parametrize('transform', [MultiTaskRandomFlip(0.0), MultiTaskRandomRotate(20, prob=0.0)], ids=names)
def test_probability_zero_changes_nothing(transform, results):
    assert same(transform(copy.deepcopy(results)), results)


def test_quarter_turn_of_a_square(results):
    for key in ('img', *(task.gt_key for task in TASKS.values())):
        results[key] = np.ascontiguousarray(results[key][:, :24])
    turned = MultiTaskRandomRotate((90, 90))(copy.deepcopy(results))
    assert turned['rotation'] == 90
    np.testing.assert_array_equal(turned['img'], np.rot90(results['img']))
    np.testing.assert_array_equal(turned['gt_depth'], np.rot90(results['gt_depth']))
    x, y, z = np.moveaxis(np.rot90(results['gt_normals']), 2, 0)
    np.testing.assert_allclose(turned['gt_normals'], np.stack([y, -x, z], axis=2), atol=1e-6)


def test_rotation_fills_the_border(results):
    turned = MultiTaskRandomRotate((45, 45), pad_val=(1, 2, 3))(results)
    assert turned['img'][0, 0].tolist() == [1, 2, 3]
    for task in TASKS.values():
        assert (turned[task.gt_key][0, 0] == task.ignore).all()


@pytest.mark.parametrize('x, sign', [('left', 1), ('right', -1)])
def test_a_floor_turned_by_twenty_degrees(x, sign):
    # The side of a floor that comes up when the picture turns counter-clockwise lets it lean to the left.
    floor = np.zeros((9, 9, 3), np.float32)
    floor[..., 1] = 1
    results = dict(img=np.zeros((9, 9, 3), np.uint8), gt_normals=floor, normals_x=x, normals_y='up')
    turned = MultiTaskRandomRotate((20, 20))(results)['gt_normals']
    np.testing.assert_allclose(turned[4, 4], [sign * 0.342, 0.940, 0], atol=5e-4)


@pytest.mark.parametrize('angle', [20, -13])
@pytest.mark.parametrize('x, y', [('left', 'up'), ('right', 'up'), ('left', 'down')])
def test_a_rotation_shows_what_a_camera_that_is_rolled_sees(angle, x, y):
    size, draw = 96, Draw((3, 1))
    scene = compose(draw, 1.0)
    cos, sin = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    # In camera coordinates (x right, y up) everything turns counter-clockwise, and so does the picture.
    rolled = replace(scene, camera=np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]]) @ scene.camera)
    before, after = (_Frame(one, Draw(7), size, size).sample() for one in (scene, rolled))
    axes = NormalsAxes(x, y)
    first, second = (NormalsAxes().convert(sample.normals, axes) for sample in (before, after))
    inner = np.s_[20:-20, 20:-20]
    rotate = MultiTaskRandomRotate((angle, angle))

    def error(declared):
        results = dict(img=before.img, gt_normals=first.copy(), gt_semseg=before.semseg, **declared.meta)
        turned = rotate(results)
        assert (turned['gt_semseg'] == after.semseg)[inner].mean() > 0.95
        cosine = (turned['gt_normals'] * second).sum(axis=2)[inner]
        return np.degrees(np.arccos(np.clip(cosine, -1, 1)))

    assert second[inner].any(axis=2).all()
    # Away from outlines, where half a pixel decides which surface is seen, the two agree.
    assert np.median(error(axes)) < 0.5
    mirrored = NormalsAxes(dict(left='right', right='left')[x], y)
    assert np.median(error(mirrored)) > 1.5 * abs(angle)


def test_normals_without_declared_axes_are_not_turned(results):
    del results['normals_x']
    with pytest.raises(KeyError, match="'2008_000001' has normals, but normals_x and normals_y do not say"):
        MultiTaskRandomRotate((5, 5))(results)


@pytest.mark.parametrize('axes', [NormalsAxes(x, y) for x in ('left', 'right') for y in ('up', 'down')], ids=str)
def test_rotated_normals_agree_with_a_rotated_surface(axes):
    # A sphere seen from the front: its normals depend on the place alone, so a rotation must reproduce them.
    axis = np.linspace(-1.1, 1.1, 111, dtype=np.float32)
    x, y = np.meshgrid(axis, -axis)
    inside = x**2 + y**2 < 1
    normals = np.stack([x, y, np.sqrt(np.clip(1 - x**2 - y**2, 0, None))], axis=2) * inside[..., None]
    normals = NormalsAxes('right', 'up').convert(normals, axes)
    results = dict(img=np.zeros((111, 111, 3), np.uint8), gt_normals=normals.copy(), **axes.meta)
    turned = MultiTaskRandomRotate((30, 30))(results)
    inner = x**2 + y**2 < 0.9
    np.testing.assert_allclose(turned['gt_normals'][inner], normals[inner], atol=0.01)


@pytest.mark.parametrize(
    'scale, keep_ratio, shape',
    [((50, 40), False, (40, 50)), (48, False, (48, 48)), ((72, 72), True, (48, 72)), ((500, 12), True, (12, 18))],
)
def test_resize(scale, keep_ratio, shape, results):
    resized = MultiTaskResize(scale, keep_ratio)(results)
    assert resized['img'].shape[:2] == resized['gt_semseg'].shape == shape
    assert resized['scale_factor'] == (shape[1] / 36, shape[0] / 24)
    assert resized['scale'] == shape[::-1]


def test_resize_keeps_image_and_labels_in_register():
    # A grey ramp as image and the same ramp as depth: interpolation differs by less than a step of the nearest pixel.
    ramp = np.tile(np.arange(0, 200, 4, dtype=np.uint8), (10, 1))
    results = dict(img=cv2.merge([ramp] * 3), gt_depth=ramp.astype(np.float32))
    resized = MultiTaskResize((133, 27))(results)
    assert np.abs(resized['img'][..., 0] - resized['gt_depth']).max() <= 2


@pytest.mark.parametrize('factor', [0.5, 0.8, 1.0, 1.5, 3.0])
@pytest.mark.parametrize('crop', [(16, 24), (40, 20), (64, 64)])
def test_scale_crop_equals_resize_then_crop(factor, crop):
    # Linear ramps in x and y survive resizing, so each pixel tells which source point it shows.
    y, x = np.mgrid[:40, :60].astype(np.float32)
    img = np.stack([4 * x, 4 * y, 0 * x], axis=2).astype(np.uint8)
    results = dict(img=img, gt_depth=x + 1, gt_semseg=np.full((40, 60), 7, np.uint8))
    with seeded_rng(3):
        out = MultiTaskRandomScaleCrop(crop, (factor, factor), pad_val=(9, 9, 9))(results)
    assert out['img'].shape[:2] == out['img_shape'] == crop
    shown = out['gt_semseg'] == 7
    height, width = shown.any(axis=1).sum(), shown.any(axis=0).sum()
    assert (height, width) == tuple(min(c, round(n * factor)) for c, n in zip(crop, (40, 60)))
    assert shown[:height, :width].all()
    assert (out['gt_semseg'][~shown] == 255).all()
    assert (out['img'][~shown] == 9).all()
    assert (out['gt_depth'][~shown] == 0).all()
    seen_x = out['img'][:height, :width, 0] / 4
    steps = np.diff(seen_x[height // 2])
    assert steps[2:-2].mean() == pytest.approx(1 / factor, rel=0.1)
    assert np.abs(seen_x + 1 - out['gt_depth'][:height, :width]).max() <= 1.01


def test_scale_crop_reaches_every_place(results):
    results['gt_depth'] = np.arange(1, 24 * 36 + 1, dtype=np.float32).reshape(24, 36)
    crop = MultiTaskRandomScaleCrop(12, (1, 1))
    corners = set()
    for seed in range(400):
        with seeded_rng(seed):
            corner = int(crop(copy.deepcopy(results))['gt_depth'][0, 0]) - 1
        corners.add(divmod(corner, 36))
    assert {y for y, _ in corners} == set(range(13))
    assert {x for _, x in corners} == set(range(25))


@pytest.mark.parametrize(
    'kwargs, shape', [(dict(size=(30, 40)), (30, 40)), (dict(size=36), (36, 36)), (dict(size_divisor=16), (32, 48))]
)
def test_pad(kwargs, shape, results):
    before = copy.deepcopy(results)
    padded = MultiTaskPad(pad_val=(1, 2, 3), **kwargs)(results)
    assert padded['pad_shape'] == shape
    np.testing.assert_array_equal(padded['img'][:24, :36], before['img'])
    assert (padded['img'][24:] == (1, 2, 3)).all()
    for task in TASKS.values():
        np.testing.assert_array_equal(padded[task.gt_key][:24, :36], before[task.gt_key])
        assert (padded[task.gt_key][24:] == task.ignore).all()


def test_pad_to_less_than_the_image(results):
    with pytest.raises(ValueError, match=r'2008_000001\.jpg has 24 x 36 .* to 20 x 40'):
        MultiTaskPad(size=(20, 40))(results)


@pytest.mark.parametrize(
    'transform, kwargs, message',
    [
        (MultiTaskRandomFlip, dict(prob=1.5), 'prob must be between 0 and 1, got 1.5'),
        (MultiTaskRandomRotate, dict(prob=-1), 'prob must be between 0 and 1, got -1'),
        (MultiTaskRandomRotate, dict(degree=-5), 'degree must be'),
        (MultiTaskRandomRotate, dict(degree=(9, 3)), 'degree must be'),
        (MultiTaskRandomRotate, dict(pad_val=(1, 2)), 'pad_val must be a colour'),
        (MultiTaskResize, dict(scale=(0, 5)), r'scale must be a positive number of pixels .* got \(0, 5\)'),
        (MultiTaskResize, dict(scale=(2.5, 5)), 'scale must be a positive number'),
        (MultiTaskRandomScaleCrop, dict(crop_size=0), 'crop_size must be a positive number'),
        (MultiTaskRandomScaleCrop, dict(crop_size=8, scale_range=(0, 1)), 'scale_range must be'),
        (MultiTaskRandomScaleCrop, dict(crop_size=8, scale_range=(2, 1)), 'scale_range must be'),
        (MultiTaskPad, dict(), 'either size or size_divisor'),
        (MultiTaskPad, dict(size=5, size_divisor=5), 'either size or size_divisor'),
        (MultiTaskPad, dict(size_divisor=0), 'size_divisor must be at least 1, got 0'),
    ],
)
def test_bad_arguments(transform, kwargs, message):
    with pytest.raises(ValueError, match=message):
        transform(**kwargs)
