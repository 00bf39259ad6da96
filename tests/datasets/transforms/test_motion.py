"""Maps of tasks that a config declares, of every kind and motion, through our transforms and through others."""

import math

import numpy as np
import pytest
import torch
from mmengine.registry import DefaultScope

from mmvmt.datasets import seeded_rng
from mmvmt.datasets.transforms import FollowedTransform, PackMultiTaskInputs
from mmvmt.models import MultiTaskDataPreProcessor
from mmvmt.registry import TRANSFORMS
from mmvmt.structures import TASKS, Task, declare_tasks

SHAPE = HEIGHT, WIDTH = 60, 80
DECLARED = dict(
    species=dict(kind='classes', classes=300),
    lanes=dict(kind='binary'),
    wind=dict(kind='vectors', channels=2, axes=('right', 'down')),
    texture=dict(kind='vectors', motion='none'),
    disparity=dict(kind='metric', motion='disparity', unit='px'),
    albedo=dict(kind='values', channels=3),
    heat=dict(kind='values', channels=6),
    light=dict(kind='values', channels=2, motion='direction', axes=('left', 'up')),
    flow=dict(kind='values', channels=2, motion='displacement', unit='px'),
    parallax=dict(kind='values', motion='disparity'),
)
VALUES = dict(
    species=299,
    lanes=1,
    wind=(0.6, 0.8),
    texture=(0.0, 0.6, 0.8),
    disparity=8.0,
    albedo=(0.25, 0.5, 0.75),
    heat=(0.0, 1.0, 2.0, 3.0, 4.0, 5.0),
    light=(3.0, 1.0),
    flow=(10.0, -5.0),
    parallax=-4.0,
)
TURN = math.radians(20)
# The picture's x to the right, y down: counter-clockwise is from x towards -y.
COUNTER_CLOCKWISE = np.array([[math.cos(TURN), math.sin(TURN)], [-math.sin(TURN), math.cos(TURN)]])
FLIP = np.diag([-1.0, 1.0])
CASES = [
    (dict(type='mmvmt.MultiTaskRandomFlip', prob=1.0), FLIP, FLIP),
    (dict(type='mmvmt.MultiTaskRandomRotate', degree=(20, 20)), COUNTER_CLOCKWISE, COUNTER_CLOCKWISE),
    (
        dict(type='mmvmt.MultiTaskRandomScaleCrop', crop_size=(75, 100), scale_range=(1.25, 1.25)),
        1.25 * np.eye(2),
        np.eye(2),
    ),
    (dict(type='mmvmt.MultiTaskResize', scale=(160, 30)), np.diag([2.0, 0.5]), np.eye(2)),
    (dict(type='mmvmt.MultiTaskResize', scale=(40, 30), truth='published'), 0.5 * np.eye(2), np.eye(2)),
    (dict(type='mmvmt.MultiTaskPad', size=(64, 96)), np.eye(2), np.eye(2)),
    (dict(type='mmcv.RandomFlip', prob=1.0), FLIP, FLIP),
    (dict(type='mmcv.RandomFlip', prob=1.0, direction='vertical'), -FLIP, -FLIP),
    (dict(type='mmseg.RandomRotate', prob=1.0, degree=(20, 20)), COUNTER_CLOCKWISE.T, COUNTER_CLOCKWISE.T),
    (dict(type='mmcv.Resize', scale=(160, 30)), np.diag([2.0, 0.5]), np.eye(2)),
    (dict(type='mmseg.Resize', scale=(100, 75), keep_ratio=True), 1.25 * np.eye(2), np.eye(2)),
    (dict(type='mmseg.RandomCrop', crop_size=(40, 50)), np.eye(2), np.eye(2)),
]


@pytest.fixture(autouse=True)
def scope():
    with DefaultScope.overwrite_default_scope('mmvmt'):
        yield


@pytest.fixture
def results():
    """A sample whose maps hold one value each, and are unknown in the lower third."""
    declare_tasks(DECLARED)
    shown = np.random.default_rng(0).integers(0, 256, (HEIGHT // 5, WIDTH // 5, 3)).repeat(5, 0).repeat(5, 1)
    maps = {}
    for name, value in VALUES.items():
        label = maps[f'gt_{name}'] = TASKS[name].unknown_map(*SHAPE)
        label[:40] = value
    return dict(img=shown.astype(np.uint8), img_id='one', ori_shape=SHAPE, img_shape=SHAPE, **maps)


def expected(task: Task, linear: np.ndarray, turn: np.ndarray) -> np.ndarray:
    value = np.array(VALUES[task.name], float)
    if task.motion == 'disparity':
        return value * np.linalg.norm(linear[:, 0])
    if task.motion == 'displacement':
        return linear @ value
    if task.motion == 'direction':
        # Two axes that are both turned around give the same numbers.
        return turn @ value
    return value


@pytest.mark.parametrize('config, linear, turn', CASES, ids=[config['type'] for config, _, _ in CASES])
def test_values_follow_the_picture(config, linear, turn, results):
    transform = TRANSFORMS.build(config)
    ours = config['type'].startswith('mmvmt.')
    with seeded_rng(3):
        moved = (transform if ours else FollowedTransform(transform))(results)
    for name in DECLARED:
        task, label = TASKS[name], moved[f'gt_{name}']
        assert label.dtype == task.dtype
        assert label.shape[:2] == moved['img'].shape[:2]
        known = task.known(label)
        assert 0.2 < known.mean() < 0.9
        found = label[known]
        if config.get('truth') == 'published' and task.kind == 'vectors':
            continue  # interpolated over the zeros of unknown pixels
        # Through others the motion is measured, to a pixel in the whole picture.
        np.testing.assert_allclose(
            found, np.broadcast_to(expected(task, linear, turn), found.shape), atol=1e-5 if ours else 0.1
        )
        np.testing.assert_array_equal(label[~known], np.full_like(label[~known], task.ignore))


def test_padding_of_a_batch_is_unknown(results):
    packed = PackMultiTaskInputs()(results)
    preprocessor = MultiTaskDataPreProcessor(size_divisor=64)
    sample = preprocessor(dict(inputs=[packed['inputs']], data_samples=[packed['data_samples']]), True)['data_samples'][
        0
    ]
    assert sample.gt.species.dtype == torch.int32
    for name in DECLARED:
        task, label = TASKS[name], sample.gt.get(name)
        assert label.shape == (task.channels, 64, 128)
        known = task.known(label)
        assert known[:40, :80].all()
        assert not known[40:].any()
        assert not known[:, 80:].any()


def test_axes_of_vectors_are_declared_by_task_or_data_set(results):
    declare_tasks(dict(current=dict(kind='vectors', channels=2)))
    results['gt_current'] = results['gt_wind'].copy()
    rotate = TRANSFORMS.build(dict(type='mmvmt.MultiTaskRandomRotate', degree=(20, 20)))
    with pytest.raises(KeyError, match="image 'one' has current, but normals_x and normals_y do not say"):
        rotate(dict(results))
    turned = rotate(results | dict(normals_x='right', normals_y='up'))
    # Mirrored axes turn the other way round.
    np.testing.assert_allclose(turned['gt_current'][30, 45], COUNTER_CLOCKWISE.T @ (0.6, 0.8), atol=1e-6)
    np.testing.assert_allclose(turned['gt_wind'][30, 45], COUNTER_CLOCKWISE @ (0.6, 0.8), atol=1e-6)


def test_a_bent_picture_leaves_displacements_without_rule(results):
    class Bend:
        def __call__(self, results):
            rows = np.arange(HEIGHT)[:, None]
            shifted = (np.arange(WIDTH) + (12 * np.sin(rows / 6)).astype(int)) % WIDTH
            for key in ('img', *results['seg_fields']):
                results[key] = results[key][rows, shifted]
            return results

    with pytest.raises(ValueError, match=r'Bend moves the picture so that .* cannot follow: it is bent'):
        FollowedTransform(Bend())(results)
