import importlib.util
from pathlib import Path

import numpy as np
import pytest
from own_folder import build_own_folder
from pascal_mt_folder import build_folder
from PIL import Image

TOOL = Path(__file__).parents[2] / 'tools/dataset/browse_dataset.py'
CONFIG = """
train_dataloader = dict(
    dataset=dict(
        type='mmvmt.PASCALContextMT',
        data_root='nowhere',
        split='train',
        tasks=['semseg', 'human_parts', 'saliency', 'normals', 'edge'],
        pipeline=[
            dict(type='mmvmt.LoadMultiTaskImage'),
            dict(type='mmvmt.LoadMultiTaskAnnotations'),
            dict(type='mmvmt.MultiTaskRandomRotate', degree=20.0),
            dict(type='mmvmt.MultiTaskRandomScaleCrop', crop_size=(64, 96)),
            dict(type='mmvmt.MultiTaskRandomFlip', prob=0.5),
            dict(type='mmvmt.PackMultiTaskInputs'),
        ],
    )
)
val_dataloader = dict(
    dataset=dict(
        type='mmvmt.PASCALContextMT',
        data_root='nowhere',
        split='val',
        tasks=['semseg'],
        test_mode=True,
        pipeline=[dict(type='mmvmt.LoadMultiTaskImage')],
    )
)
"""


@pytest.fixture(scope='module')
def tool():
    spec = importlib.util.spec_from_file_location('browse_dataset', TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def folder(tmp_path):
    return build_folder(tmp_path / 'PASCAL_MT')


@pytest.fixture
def browse(tool, folder, tmp_path):
    config = tmp_path / 'config.py'
    config.write_text(CONFIG)

    def run(out, *args):
        argv = [str(config), '--data-root', str(folder.root), '--out', str(tmp_path / out), *args]
        assert tool.main(argv) == 0
        return {path.name: np.asarray(Image.open(path)) for path in (tmp_path / out).iterdir()}

    return run


def test_one_picture_per_sample(browse, folder):
    pictures = browse('out')
    assert set(pictures) == {f'train_{index:05d}_{img_id}.png' for index, img_id in enumerate(folder.train)}
    for picture in pictures.values():
        # Six columns of maps that are 96 pixels wide or a multiple of it.
        assert picture.shape[1] > 6 * 96
        assert picture.std() > 20


def test_number_ids_and_options(browse, folder):
    assert len(browse('some', '--number', '2')) == 2
    assert set(browse('ids', '--ids', folder.train[2])) == {f'train_00002_{folder.train[2]}.png'}
    narrow = browse('narrow', '--number', '1', '--cfg-options', 'train_dataloader.dataset.tasks=[semseg]')
    wide = browse('wide', '--number', '1')
    assert next(iter(narrow.values())).shape[1] < next(iter(wide.values())).shape[1]


def test_the_seed_fixes_the_pictures(browse):
    first, again, other = browse('a'), browse('b'), browse('c', '--seed', '1')
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not all(np.array_equal(first[name], other[name]) for name in first)


def test_the_picture_shows_the_image_in_its_colours(browse, folder):
    img_id = folder.train[0]
    Image.new('RGB', (60, 40), (200, 30, 60)).save(folder.path('image', img_id), quality=95)
    picture = browse('red', '--number', '1')[f'train_00000_{img_id}.png'].astype(int)
    assert (np.abs(picture - (200, 30, 60)).max(axis=2) < 8).sum() > 500


def test_unlisted_id(browse):
    with pytest.raises(KeyError, match='1999_000000'):
        browse('out', '--ids', '1999_000000')


def test_pipeline_without_packing(browse):
    with pytest.raises(TypeError, match=r'does not end with mmvmt\.PackMultiTaskInputs'):
        browse('out', '--split', 'val')


def test_bad_number(tool, capsys):
    with pytest.raises(SystemExit, match='2'):
        tool.main(['config.py', '--number', '0'])
    assert '--number' in capsys.readouterr().err


def test_several_data_sets_of_ones_own(tool, folder, tmp_path):
    own = build_own_folder(tmp_path / 'own')
    pipeline = [dict(type=f'mmvmt.{name}') for name in ('LoadMultiTaskImage', 'LoadMultiTaskAnnotations')]
    pipeline.append(dict(type='mmvmt.PackMultiTaskInputs'))
    voc = dict(type='PASCALContextMT', data_root=str(folder.root), tasks=['semseg'], pipeline=pipeline)
    parts = [own.config(pipeline=pipeline), voc]
    (tmp_path / 'config.py').write_text(
        f"default_scope = 'mmvmt'\ntrain_dataloader = dict(dataset=dict(type='ConcatDataset', datasets={parts}))\n"
    )
    assert tool.main([str(tmp_path / 'config.py'), '--out', str(tmp_path / 'out'), '--number', '4']) == 0
    assert sorted(path.name for path in (tmp_path / 'out').iterdir()) == [
        'train_00000_day0_field_000.png',
        'train_00001_day0_field_002.png',
        f'train_00006_{folder.train[0]}.png',
        f'train_00007_{folder.train[1]}.png',
    ]
