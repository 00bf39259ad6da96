import importlib.util
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hostile import write_hostile
from tiny import FOUR_TASKS

DEMO = Path(__file__).parents[2] / 'demo'


def load(name):
    spec = importlib.util.spec_from_file_location(name, DEMO / f'{name}.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope='module')
def trained(tiny_config, tiny_checkpoint):
    """Arguments that name the tiny config and a checkpoint of it."""
    return [str(tiny_config), str(tiny_checkpoint), '--device', 'cpu']


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / 'photos'
    folder.mkdir()
    for name, size in (('one.png', (40, 56)), ('two.png', (64, 48))):
        pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
        assert cv2.imwrite(str(folder / name), pixels)
    return folder


def names(folder):
    return {path.name: sorted(file.name for file in path.iterdir()) for path in folder.iterdir()}


def test_a_folder(trained, photos, tmp_path, capsys):
    out = tmp_path / 'out'
    assert load('image_demo').main([str(photos), *trained, '--out', str(out), '--batch-size', '2']) == 0
    assert names(out) == {folder: ['one.png', 'two.png'] for folder in (*FOUR_TASKS, 'pictures')}
    assert cv2.imread(str(out / 'pictures' / 'two.png')).shape[1] > 5 * 48
    assert 'semseg, human_parts, saliency, normals of 2 pictures in' in capsys.readouterr().out


def test_one_picture_and_some_tasks(trained, photos, tmp_path):
    out = tmp_path / 'out'
    assert (
        load('image_demo').main([str(photos / 'one.png'), *trained, '--out', str(out), '--tasks', 'normals,semseg'])
        == 0
    )
    assert names(out) == {folder: ['one.png'] for folder in ('semseg', 'normals', 'pictures')}


def test_unreadable_pictures(trained, photos, tmp_path, capsys):
    (photos / 'bad.jpg').write_bytes(b'no picture')
    demo, out = load('image_demo'), tmp_path / 'out'
    assert demo.main([str(photos), *trained, '--out', str(out)]) == 1
    error = capsys.readouterr().err
    assert 'bad.jpg' in error
    assert '2 pictures were computed' in error
    assert sorted(names(out)['semseg']) == ['one.png', 'two.png']
    assert demo.main([str(photos), *trained, '--out', str(out), '--skip-unreadable']) == 0
    assert demo.main([str(photos / 'bad.jpg'), *trained, '--out', str(out)]) == 2


def test_nothing_in_a_checkpoint_is_executed_unless_it_is_trusted(trained, photos, tmp_path, capsys):
    config, checkpoint, *device = trained
    trace = write_hostile(tmp_path / 'hostile.pth', torch.load(checkpoint, weights_only=True))
    demo = load('image_demo')
    arguments = [str(photos), config, str(tmp_path / 'hostile.pth'), *device, '--out', str(tmp_path / 'out')]
    assert demo.main(arguments) == 2
    assert 'holding code that would be executed' in capsys.readouterr().err
    assert not trace.exists()
    assert demo.main([*arguments, '--trust-checkpoint']) == 0
    assert trace.exists()


def test_what_cannot_be_done_is_one_message(trained, photos, tmp_path, capsys):
    demo, (_, checkpoint, *device) = load('image_demo'), trained
    (tmp_path / 'file').touch()
    assert demo.main([str(photos), *trained, '--out', str(tmp_path / 'file')]) == 2
    assert f'{tmp_path / "file"}' in capsys.readouterr().err
    other = tmp_path / 'other.py'
    other.write_text("model = dict(type='mmvmt.MultiTaskDataPreProcessor')")
    assert demo.main([str(photos), str(other), checkpoint, *device]) == 2
    assert 'the model must be a MultiTaskEncoderDecoder, got MultiTaskDataPre' in capsys.readouterr().err
    (tmp_path / 'empty').mkdir()
    assert demo.main([str(tmp_path / 'empty'), *trained]) == 2
    assert 'holds no picture' in capsys.readouterr().err


@pytest.mark.parametrize('replaced, message', [(0, "config 'no' does not exist"), (1, "'no' does not exist")])
def test_missing_files(replaced, message, trained, photos, tmp_path, capsys):
    arguments = [*trained[:replaced], 'no', *trained[replaced + 1 :]]
    assert load('image_demo').main([str(photos), *arguments, '--out', str(tmp_path / 'out')]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()
