import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from mmvmt.datasets import PASCALContextMT, formats
from mmvmt.datasets.transforms import LoadMultiTaskAnnotations, LoadMultiTaskImage, MultiTaskResize

ALL = ('semseg', 'human_parts', 'saliency', 'normals', 'edge')


def info(folder, tasks=ALL, **kwargs):
    dataset = PASCALContextMT(str(folder.root), tasks=tasks, **kwargs)
    return dataset.get_data_info(0)


def load(folder, **kwargs):
    return LoadMultiTaskAnnotations().transform(LoadMultiTaskImage().transform(info(folder, **kwargs)))


def test_kinds_of_maps(pascal_mt):
    results = load(pascal_mt)
    assert results['img'].shape == (40, 60, 3)
    assert results['ori_shape'] == results['img_shape'] == (40, 60)
    for task in ('semseg', 'human_parts', 'saliency', 'edge'):
        assert results[f'gt_{task}'].shape == (40, 60)
        assert results[f'gt_{task}'].dtype == np.uint8
    assert results['gt_normals'].shape == (40, 60, 3)
    assert results['gt_normals'].dtype == np.float32


def test_normals_are_unit_where_valid_and_zero_elsewhere(pascal_mt):
    results = load(pascal_mt)
    length = np.linalg.norm(results['gt_normals'], axis=2)
    assert (length[:15] == 0).all(), 'sky'
    np.testing.assert_allclose(length[15:], 1, atol=1e-6)


def test_context_labels_are_read_once_for_two_tasks(pascal_mt, monkeypatch):
    read, paths = formats.read_context_labels, []
    monkeypatch.setattr(formats, 'read_context_labels', lambda path: (paths.append(path), read(path))[1])
    load(pascal_mt, tasks=('normals', 'edge'))
    assert len(paths) == 1


def test_some_tasks_of_the_sample(pascal_mt):
    results = LoadMultiTaskImage().transform(info(pascal_mt))
    results = LoadMultiTaskAnnotations(tasks=['edge']).transform(results)
    assert [key for key in results if key.startswith('gt_')] == ['gt_edge']


def test_after_the_resize_maps_keep_the_original_size(pascal_mt):
    results = MultiTaskResize((30, 20)).transform(LoadMultiTaskImage().transform(info(pascal_mt)))
    results = LoadMultiTaskAnnotations().transform(results)
    assert results['img'].shape[:2] == (20, 30)
    assert results['gt_semseg'].shape == results['gt_human_parts'].shape == (40, 60)


@pytest.mark.parametrize('task', ALL)
def test_size_mismatch_names_file_and_both_sizes(pascal_mt, task):
    img_id = pascal_mt.train[0]
    Image.new('RGB', (50, 30)).save(pascal_mt.path('image', img_id))
    with pytest.raises(ValueError, match=rf'size mismatch.*{img_id}\.(png|mat) has 40 x 60 .* 30 x 50'):
        load(pascal_mt, tasks=(task,))


def test_size_mismatch_of_the_validity_of_normals(pascal_mt):
    path = pascal_mt.path('context', pascal_mt.train[0])
    savemat(path, {'LabelMap': np.ones((3, 4), dtype=np.uint16)})
    with pytest.raises(ValueError, match=rf'size mismatch.*{path.name} has 3 x 4'):
        load(pascal_mt, tasks=('normals',))


@pytest.mark.parametrize('task', [*ALL[:4], 'context'])
def test_missing_and_truncated_label_files_are_named(pascal_mt, task):
    path = pascal_mt.path(task, pascal_mt.train[0])
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=str(path)):
        load(pascal_mt)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=str(path)):
        load(pascal_mt)


def test_truncated_image_is_named(pascal_mt):
    path = pascal_mt.path('image', pascal_mt.train[0])
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(ValueError, match=str(path)):
        load(pascal_mt)


def test_unlabelled_samples_are_dropped_on_demand(pascal_mt):
    empty = PASCALContextMT(str(pascal_mt.root), tasks=['human_parts']).get_data_info(1)
    assert LoadMultiTaskAnnotations().transform(LoadMultiTaskImage().transform(empty)) is None
    assert load(pascal_mt, tasks=['human_parts']) is not None


def test_task_without_files(pascal_mt):
    results = LoadMultiTaskImage().transform(info(pascal_mt, tasks=('edge',)))
    with pytest.raises(KeyError, match=r"no label file for task 'semseg' of image .*gives edge"):
        LoadMultiTaskAnnotations(tasks=['semseg']).transform(results)


@pytest.mark.parametrize('tasks', [['depth'], ['semseg', 'semseg'], []])
def test_bad_tasks(tasks):
    with pytest.raises(ValueError, match='task'):
        LoadMultiTaskAnnotations(tasks=tasks)
