import numpy as np
import pytest
import torch

from mmvmt.datasets.transforms import PackMultiTaskInputs
from mmvmt.structures import TASKS, MultiTaskDataSample


def test_packed_shapes_types_and_values(results):
    packed = PackMultiTaskInputs()(results)
    assert set(packed) == {'inputs', 'data_samples'}
    assert packed['inputs'].shape == (3, 24, 36)
    assert packed['inputs'].dtype == torch.uint8
    np.testing.assert_array_equal(packed['inputs'].permute(1, 2, 0), results['img'])
    sample = packed['data_samples']
    assert isinstance(sample, MultiTaskDataSample)
    assert set(sample.gt.keys()) == set(TASKS)
    for task in TASKS.values():
        label = getattr(sample.gt, task.name)
        assert label.shape == (task.channels, 24, 36)
        assert label.dtype == (torch.uint8 if task.kind in ('classes', 'binary') else torch.float32)
        assert label.is_contiguous()
    np.testing.assert_array_equal(sample.gt.normals.permute(1, 2, 0), results['gt_normals'])
    np.testing.assert_array_equal(sample.gt.depth[0], results['gt_depth'])


def test_meta_information(results):
    sample = PackMultiTaskInputs()(results)['data_samples']
    assert (sample.img_id, sample.ori_shape, sample.sample_idx) == ('2008_000001', (24, 36), 0)
    assert 'flip' not in sample.metainfo
    sample = PackMultiTaskInputs(meta_keys=['img_path'])(results)['data_samples']
    assert sample.metainfo == dict(img_path='JPEGImages/2008_000001.jpg')


def test_without_labels_there_is_no_ground_truth(results):
    results = {key: value for key, value in results.items() if not key.startswith('gt_')}
    assert 'gt' not in PackMultiTaskInputs()(results)['data_samples']


def test_maps_of_different_sizes(results):
    results['gt_edge'] = results['gt_edge'][:5]
    with pytest.raises(ValueError, match=r"image '2008_000001' differ in size.*'edge': \(5, 36\)"):
        PackMultiTaskInputs()(results)


def test_meta_keys_as_a_string():
    with pytest.raises(TypeError, match="got the string 'img_id'"):
        PackMultiTaskInputs(meta_keys='img_id')


@pytest.mark.parametrize('task', ['human_parts', 'semseg'])
def test_crops_without_a_part_are_ignored_and_others_are_not(results, task):
    label = results[f'gt_{task}'] = np.zeros((24, 36), dtype=np.uint8)
    label[:5] = 255
    packed = PackMultiTaskInputs()(results)['data_samples'].gt.get(task)[0]
    np.testing.assert_array_equal(packed, np.full_like(label, 255) if task == 'human_parts' else label)
    assert (label[5:] == 0).all()
    label[7, 9] = 1
    np.testing.assert_array_equal(PackMultiTaskInputs()(results)['data_samples'].gt.get(task)[0], label)
