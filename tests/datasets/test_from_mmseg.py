import mmcv
import numpy as np
import pytest
from mmengine.registry import DATASETS, TRANSFORMS
from PIL import Image

import mmvmt
from mmvmt.datasets.integrity import check_sample
from mmvmt.structures import declare_tasks

PIPELINE = [
    dict(type='mmvmt.LoadMultiTaskImage'),
    dict(type='mmvmt.LoadMultiTaskAnnotations'),
    dict(type='mmvmt.PackMultiTaskInputs'),
]
ADE = dict(type='mmseg.ADE20KDataset', data_prefix=dict(img_path='img', seg_map_path='ann'))
CITYSCAPES = dict(type='mmseg.CityscapesDataset', data_prefix=dict(img_path='img', seg_map_path='ann'))
VOC = dict(type='mmseg.PascalVOCDataset', ann_file='list.txt', data_prefix=dict(img_path='img', seg_map_path='ann'))
OWN = dict(
    type='mmseg.BaseSegDataset',
    img_suffix='.png',
    seg_map_suffix='_labels.png',
    metainfo=dict(classes=('soil', 'wheat'), palette=[[0, 0, 0], [9, 9, 9]]),
    data_prefix=dict(img_path='img', seg_map_path='ann'),
)


def write(root, image_end, label_end, labels, ids=('a', 'b/c')):
    rng = np.random.default_rng(0)
    for img_id in ids:
        for folder, end, array in (
            ('img', image_end, rng.integers(0, 256, (*labels.shape, 3))),
            ('ann', label_end, labels),
        ):
            path = root / f'{folder}/{img_id}{end}'
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array.astype(np.uint8)).save(path)
    (root / 'list.txt').write_text('\n'.join(ids))


def build(root, dataset, task='semseg', **options):
    cfg = dict(type='mmvmt.FromMMSeg', task=task, dataset=dataset | dict(data_root=str(root)), pipeline=PIPELINE)
    return DATASETS.build(cfg | options)


INDICES = np.arange(24 * 30).reshape(24, 30)
CASES = {
    'zero label reduced': (ADE, '.jpg', '.png', INDICES % 151, 150),
    'suffixes': (
        CITYSCAPES,
        '_leftImg8bit.png',
        '_gtFine_labelTrainIds.png',
        np.where(INDICES % 20 == 19, 255, INDICES % 20),
        19,
    ),
    'list': (VOC, '.jpg', '.png', INDICES % 21, 21),
    'own': (OWN, '.png', '_labels.png', INDICES % 2, 2),
    'classes chosen': (
        VOC | dict(metainfo=dict(classes=('person', 'cat'), palette=[[0, 0, 0], [9, 9, 9]])),
        '.jpg',
        '.png',
        INDICES % 21,
        2,
    ),
}


@pytest.mark.parametrize('case', CASES)
def test_maps_are_those_that_mmsegmentation_loads(tmp_path, case):
    cfg, image_end, label_end, labels, classes = CASES[case]
    write(tmp_path, image_end, label_end, labels)
    ours = build(tmp_path, cfg)
    pipeline = [dict(type='LoadImageFromFile'), dict(type='mmseg.LoadAnnotations')]
    theirs = DATASETS.build(cfg | dict(data_root=str(tmp_path), pipeline=pipeline))
    assert len(ours) == len(theirs) == 2
    assert [len(str(ours.get_data_info(index)['img_id'])) > 0 for index in range(2)] == [True] * 2
    for index in range(2):
        sample, loaded = ours[index], theirs[index]
        np.testing.assert_array_equal(sample['data_samples'].gt.semseg[0], loaded['gt_seg_map'])
        assert (sample['inputs'].numpy().transpose(1, 2, 0) == loaded['img']).mean() > 0.99
        assert sample['data_samples'].num_classes == dict(semseg=classes)
    assert tuple(ours.metainfo['classes']) == tuple(theirs.metainfo['classes'])
    assert len(ours.metainfo['palette']) == classes
    assert check_sample(ours.get_data_info(0), deep=True)['semseg'].read == 1


def test_maps_of_another_task_and_another_loading(tmp_path):
    write(tmp_path, '.png', '_labels.png', INDICES % 2 * 7)

    @TRANSFORMS.register_module()
    class LoadSevens(mmcv.transforms.BaseTransform):
        def transform(self, results):
            results['gt_seg_map'] = mmcv.imread(results['seg_map_path'], 'grayscale') // 7
            return results

    try:
        tasks = dict(weeds=dict(kind='binary'), crops=dict(kind='classes', classes=['none', 'weed']))
        for task in tasks:
            dataset = build(tmp_path, OWN, task=task, tasks=tasks, loading=dict(type='LoadSevens'))
            np.testing.assert_array_equal(dataset[0]['data_samples'].gt.get(task)[0], INDICES % 2)
            assert dataset.metainfo['tasks'] == (task,)
            with pytest.raises(ValueError, match=rf'a_labels\.png holds the class 7 .*{task} classes are 0 to 1'):
                build(tmp_path, OWN, task=task, tasks=tasks)[0]
    finally:
        TRANSFORMS.module_dict.pop('LoadSevens')


def test_images_without_a_map(tmp_path):
    write(tmp_path, '.png', '_labels.png', INDICES % 2, ids=('a', 'b', 'c'))
    (tmp_path / 'ann/b_labels.png').unlink()
    with pytest.raises(FileNotFoundError, match=r'missing file .*b_labels\.png'):
        build(tmp_path, OWN)[1]
    assert len(build(tmp_path, OWN, missing='ignore')) == 2
    dataset = build(tmp_path, OWN, missing='ignore', test_mode=True)
    assert (dataset[1]['data_samples'].gt.semseg == 255).all()
    (tmp_path / 'ann/c_labels.png').write_bytes(b'\x89PNG\r\n\x1a\n')
    with pytest.raises(ValueError, match=r'cannot read .*c_labels\.png'):
        dataset[2]


def test_with_a_data_set_of_other_tasks(tmp_path):
    write(tmp_path, '.png', '_labels.png', INDICES % 2)
    np.save(tmp_path / 'a.npy', np.ones((24, 30)))
    depth = dict(
        type='mmvmt.MultiTaskDataset', data_root=str(tmp_path), images='img/{id}.png', labels=dict(depth='{id}.npy')
    )
    (tmp_path / 'list.txt').write_text('a')
    own = dict(type='mmvmt.FromMMSeg', task='semseg', dataset=OWN | dict(data_root=str(tmp_path)), pipeline=PIPELINE)
    dataset = DATASETS.build(
        dict(type='mmvmt.ConcatDataset', datasets=[own, depth | dict(ann_file='list.txt', pipeline=PIPELINE)])
    )
    assert dataset.metainfo['classes'] == ('soil', 'wheat')
    kept = [{task for task in ('semseg', 'depth') if known(dataset[index], task)} for index in range(3)]
    assert kept == [{'semseg'}, {'semseg'}, {'depth'}]


def known(packed, task):
    return mmvmt.structures.TASKS[task].known(packed['data_samples'].gt.get(task)).any()


def test_tasks_of_other_kinds_have_no_such_maps(tmp_path):
    declare_tasks(dict(albedo=dict(kind='values', channels=3)))
    with pytest.raises(ValueError, match="maps of classes, and those of task 'albedo' are of kind 'values'"):
        build(tmp_path, OWN, task='albedo')
