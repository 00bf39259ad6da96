import json
import pickle

import numpy as np
import pytest
from cityscapes_folder import SPLITS, build_folder
from PIL import Image

from mmvmt.datasets import CityscapesMT
from mmvmt.structures import declare_tasks

PIPELINE = [
    dict(type='mmvmt.LoadMultiTaskImage'),
    dict(type='mmvmt.LoadMultiTaskAnnotations'),
    dict(type='mmvmt.PackMultiTaskInputs'),
]
DISPARITY = dict(disparity=dict(kind='metric', unit='px', motion='disparity'))


@pytest.fixture
def cityscapes(tmp_path):
    return build_folder(tmp_path / 'cityscapes')


@pytest.mark.parametrize('split', ['train', 'val'])
def test_maps_of_all_tasks(cityscapes, split):
    tasks = dict(semseg={}, depth={}, human_parts={}, **DISPARITY)
    dataset = CityscapesMT(str(cityscapes.root), split=split, tasks=tasks, pipeline=PIPELINE)
    assert [dataset.get_data_info(index)['img_id'] for index in range(len(dataset))] == list(SPLITS[split])
    for index, img_id in enumerate(SPLITS[split]):
        sample, expected = dataset[index]['data_samples'], cityscapes.maps[img_id]
        assert not expected['depth'][:8].any()  # the sky
        assert expected['depth'][10, 10] == 0
        for task in ('semseg', 'human_parts'):
            np.testing.assert_array_equal(sample.gt.get(task)[0], expected[task], err_msg=f'{task} of {img_id}')
        for task in ('depth', 'disparity'):
            np.testing.assert_allclose(sample.gt.get(task)[0], expected[task], rtol=1e-5)
    assert sample.num_classes == dict(semseg=19, human_parts=5)
    assert pickle.loads(pickle.dumps(dataset))[0]['data_samples'].num_classes == sample.num_classes


def test_either_map_of_classes(cityscapes):
    # That of training ids is read where there is one.
    path = cityscapes.path('gtFine', 'aachen/aachen_000000_000019')
    dataset = CityscapesMT(str(cityscapes.root), tasks=['semseg'], pipeline=PIPELINE)
    Image.fromarray(np.full((32, 64), 3, np.uint8)).save(path)
    assert (dataset[0]['data_samples'].gt.semseg == 3).all()
    path.unlink()
    expected = cityscapes.maps['aachen/aachen_000000_000019']['semseg']
    np.testing.assert_array_equal(dataset[0]['data_samples'].gt.semseg[0], expected)
    path.with_name(path.name.replace('labelTrainIds', 'labelIds')).unlink()
    with pytest.raises(FileNotFoundError, match=r'labelTrainIds\.png or .*labelIds\.png'):
        dataset[0]


def test_bound_of_depth(cityscapes):
    entry = CityscapesMT.LABELS['depth'] | dict(max_depth=30.0)
    dataset = CityscapesMT(str(cityscapes.root), tasks=['depth'], labels=dict(depth=entry), pipeline=PIPELINE)
    depth, expected = dataset[0]['data_samples'].gt.depth[0].numpy(), cityscapes.maps[SPLITS['train'][0]]['depth']
    assert expected.max() > 100
    np.testing.assert_allclose(depth, np.where(expected > 30, 0, expected), rtol=1e-5)
    with pytest.raises(ValueError, match=r'labels\.depth\.max_depth must be positive, got 0'):
        CityscapesMT(str(cityscapes.root), labels=dict(depth=entry | dict(max_depth=0)))


def test_people_without_parts_are_no_people(cityscapes):
    # Alone, the task drops images in which nobody has a part.
    dataset = CityscapesMT(str(cityscapes.root), tasks=['human_parts'], pipeline=PIPELINE)
    assert dataset.get_data_info(1)['drop_unlabelled']
    (cityscapes.root / 'gtFinePanopticParts').rename(cityscapes.root / 'parts')
    with pytest.raises(FileNotFoundError, match='has no folder gtFinePanopticParts/train'):
        CityscapesMT(str(cityscapes.root), tasks=['human_parts'])


@pytest.mark.parametrize(
    'group,name,value',
    [('intrinsic', 'fx', None), ('intrinsic', 'fx', 0), ('extrinsic', 'baseline', '0.2'), ('intrinsic', None, None)],
)
def test_camera_files_without_what_depth_needs(cityscapes, group, name, value):
    path = cityscapes.path('camera', SPLITS['train'][0])
    camera = json.loads(path.read_text())
    if name is None:
        del camera[group]
    elif value is None:
        del camera[group][name]
    else:
        camera[group][name] = value
    path.write_text(json.dumps(camera))
    dataset = CityscapesMT(str(cityscapes.root), pipeline=PIPELINE)
    what = 'focal length in pixels' if group == 'intrinsic' else 'distance of both cameras in metres'
    message = rf'aachen_000000_000019_camera\.json has {group}\.{name or "fx"} = {value!r}; depth needs the {what}'
    with pytest.raises(ValueError, match=message):
        dataset[0]
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r'aachen_000000_000019_camera\.json'):
        dataset[0]


def test_maps_in_another_format(cityscapes):
    img_id = SPLITS['train'][0]
    for package, pixels, message in (
        ('disparity', np.ones((32, 64), np.uint8), 'has 8 bits; maps of disparity have 16'),
        ('gtFinePanopticParts', np.full((32, 64), 2_400_107, np.int32), 'has a human with the part 7; .* are 1 to 4'),
        ('gtFine', np.full((32, 64), 24, np.uint8), 'holds the class 24 .* semseg classes are 0 to 18'),
    ):
        Image.fromarray(pixels).save(cityscapes.path(package, img_id))
        task = dict(disparity='depth', gtFinePanopticParts='human_parts', gtFine='semseg')[package]
        dataset = CityscapesMT(str(cityscapes.root), tasks=[task], pipeline=PIPELINE)
        with pytest.raises(ValueError, match=message):
            dataset[0]


def test_disparity_has_to_be_declared(cityscapes):
    with pytest.raises(ValueError, match="unknown task 'disparity'"):
        CityscapesMT(str(cityscapes.root), tasks=['disparity'])
    assert 'disparity' not in CityscapesMT.label_folders()
    declare_tasks(DISPARITY)
    assert CityscapesMT.label_folders()['disparity'] == ['disparity']
    assert CityscapesMT.label_folders()['semseg'] == ['gtFine', 'gtFine']
