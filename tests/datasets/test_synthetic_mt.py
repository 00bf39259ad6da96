import io
import json

import numpy as np
import pytest
from commands import ROOT
from label_maps import read_label
from mmengine.config import Config

from mmvmt.datasets import PASCALContextMT, SyntheticMT
from mmvmt.datasets.integrity import check_sample
from mmvmt.datasets.transforms import LoadMultiTaskAnnotations, LoadMultiTaskImage
from mmvmt.registry import DATASETS
from mmvmt.synthetic import render_scene

TASKS = ['semseg', 'depth']


def dataset_of(root, tasks=TASKS, **kwargs):
    return SyntheticMT(str(root), split='val', tasks=tasks, test_mode=True, **kwargs)


def test_depth_goes_through_the_pipeline_in_metres(scenes):
    pipeline = [LoadMultiTaskImage(), LoadMultiTaskAnnotations()]
    for index, results in enumerate(dataset_of(scenes, pipeline=pipeline)):
        expected = render_scene((1, 1, index), 64).depth
        assert results['gt_depth'].dtype == np.float32
        np.testing.assert_array_equal(results['gt_depth'], expected)
        assert results['gt_depth'].max() > 1
        assert set(results['label_paths']) == set(TASKS)


def test_training_keeps_the_metres_of_what_stays_in_the_picture(scenes):
    cfg = Config.fromfile(ROOT / 'configs/vmt/swin_nano_synthetic.py').train_dataloader.dataset
    assert cfg.type == 'mmvmt.SyntheticMT'
    dataset = DATASETS.build(cfg | dict(data_root=str(scenes), tasks=TASKS))
    plain = {value for sample in range(8) for value in np.load(scenes / f'depth/synth_{sample + 1:06d}.npy').ravel()}
    for packed in (dataset[index] for index in range(3)):
        depth = packed['data_samples'].gt.depth
        assert depth.shape == (1, 160, 160)
        assert set(depth.ravel().tolist()) <= plain | {0}


@pytest.mark.parametrize(
    'manifest, metainfo, x',
    [
        ({'normals_x': 'left'}, {}, 'left'),
        ({'version': 1}, {}, 'right'),
        ({'normals_x': 'left'}, {'normals_x': 'right'}, 'right'),
        (None, {}, 'left'),
    ],
)
def test_the_folder_declares_its_axes(pascal_mt, manifest, metainfo, x):
    if manifest is not None:
        (pascal_mt.root / 'synthetic.json').write_text(json.dumps(manifest))
    dataset = dataset_of(pascal_mt.root, ['normals'], metainfo=metainfo)
    assert dataset.metainfo['normals_x'] == x
    info = dataset.get_data_info(0)
    assert (info['normals_x'], info['normals_y']) == (x, 'up')


@pytest.mark.parametrize('text', ['', '[]', '{"normals_x": "up"}'])
def test_a_damaged_manifest_is_named(pascal_mt, text):
    (pascal_mt.root / 'synthetic.json').write_text(text)
    with pytest.raises(ValueError, match=r'synthetic.json is no manifest|normals_x must be'):
        dataset_of(pascal_mt.root, ['normals'])


def test_other_tasks_are_those_of_the_real_data_set(scenes):
    real = PASCALContextMT(str(scenes), split='val', tasks=['semseg', 'normals'], test_mode=True)
    ours = dataset_of(scenes, ['semseg', 'normals'])
    assert [ours.get_data_info(i) for i in range(len(ours))] == [real.get_data_info(i) for i in range(len(real))]
    with pytest.raises(ValueError, match="PASCAL-Context has no labels for task 'depth'"):
        PASCALContextMT(str(scenes), tasks=TASKS)
    with pytest.raises(ValueError, match=r"unknown task 'flow'; known tasks are .*edge, depth"):
        dataset_of(scenes, ['flow'])


def test_a_folder_that_was_rendered_without_depth_says_so(scenes, tmp_path):
    for entry in scenes.iterdir():
        if entry.name != 'depth':
            (tmp_path / entry.name).symlink_to(entry)
    assert len(dataset_of(tmp_path, ['semseg'])) == 5
    with pytest.raises(FileNotFoundError, match="has no folder depth, which holds task 'depth'"):
        dataset_of(tmp_path)


def test_depth_is_checked_like_the_other_files(scenes):
    info = dataset_of(scenes).get_data_info(0)
    report = check_sample(info, deep=True)['depth']
    low, high = report.ranges['value']
    depth = np.load(info['label_paths']['depth'])
    assert (low, high) == (depth[depth > 0].min(), depth.max())
    assert report.totals['known'] == (depth > 0).sum()


def npy(array):
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


@pytest.mark.parametrize(
    'content, message',
    [
        (npy(np.ones((4, 4), np.float32))[:-8], 'as a NumPy file: .*truncated'),
        (b'PK\x03\x04', 'as a NumPy file'),
        (npy(np.array([object()])), 'as a NumPy file: .*allow_pickle'),
        (npy(np.ones((4, 4, 2), np.float32)), r'holds an array \(4, 4, 2\); maps of depth have one channel'),
        (npy(np.ones((4, 4), np.int32)), r'whole numbers \(int32\), and labels.depth.scale does not say'),
        (npy(np.full((4, 4), -1.0)), 'negative or infinite values or NaN'),
        (npy(np.full((4, 4), np.nan)), 'negative or infinite values or NaN'),
    ],
)
def test_damaged_depth_files_are_named(content, message, tmp_path):
    path = tmp_path / 'ID.npy'
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_label('depth', path)
    assert str(path) in str(caught.value)


def test_double_precision_is_read_too(tmp_path):
    np.save(tmp_path / 'ID.npy', np.array([[0.0, 2.5]]))
    depth = read_label('depth', tmp_path / 'ID.npy')
    assert depth.dtype == np.float32
    assert depth.tolist() == [[0.0, 2.5]]
