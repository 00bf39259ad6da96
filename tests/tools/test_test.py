import json

import commands
import cv2
import numpy as np
import pytest
from hostile import write_hostile

from mmvmt.models.checkpoint import read_checkpoint


@pytest.fixture(scope='module')
def tested(tiny_config, tmp_path_factory):
    """A short training, and its test with maps and pictures."""
    folder = tmp_path_factory.mktemp('tested')
    commands.run('tools/train.py', tiny_config, '--work-dir', folder, '--cfg-options', 'train_cfg.max_iters=1')
    result = commands.run(
        *('tools/test.py', tiny_config, folder / 'iter_1.pth', '--work-dir', folder, '--out', folder / 'out'),
        *('--show-dir', folder / 'pictures'),
    )
    return folder, result


def test_writes_metrics_with_their_origin(tested):
    folder, _ = tested
    record = json.loads((folder / 'out' / 'metrics.json').read_text())
    assert {'semseg/mIoU', 'human_parts/mIoU', 'saliency/mIoU', 'saliency/maxF', 'normals/mean'} <= set(
        record['metrics']
    )
    assert record['seed'] == 0
    assert record['checkpoint'].endswith('iter_1.pth')
    assert {'torch', 'mmengine', 'mmcv', 'mmseg', 'mmvmt'} <= set(record['versions'])
    assert record['hardware']['cores'] >= 1
    assert 'tools/test.py' in record['command']


def test_writes_maps_in_the_formats_of_the_data_set(tested):
    folder, _ = tested
    for task in ('semseg', 'human_parts', 'saliency', 'normals'):
        maps = sorted((folder / 'out' / task).iterdir())
        assert len(maps) == 5
        array = cv2.imread(str(maps[0]), cv2.IMREAD_UNCHANGED)
        assert array.dtype == np.uint8
        assert array.shape == ((64, 64, 3) if task == 'normals' else (64, 64))
    normals = cv2.imread(str(maps[0]), cv2.IMREAD_UNCHANGED).astype(float) / 127.5 - 1
    assert np.abs(np.linalg.norm(normals, axis=2) - 1).max() < 0.02


def test_writes_one_picture_per_image(tested):
    folder, _ = tested
    pictures = sorted((folder / 'pictures').iterdir())
    assert len(pictures) == 5
    assert cv2.imread(str(pictures[0])).shape[1] > 5 * 64


PIPELINES = {
    # One augmentation that changes nothing.
    'plain': "tta_pipeline = [dict(type='mmvmt.LoadMultiTaskImage'), dict(type='mmcv.TestTimeAug', transforms=["
    "[dict(type='mmvmt.LoadMultiTaskAnnotations')], [dict(type='mmvmt.PackMultiTaskInputs')]])]",
    'shipped': '',
}


@pytest.mark.parametrize('pipeline', PIPELINES)
def test_augmentation_while_testing(tested, tiny_config, tmp_path, pipeline):
    folder, _ = tested
    config = tmp_path / 'augmented.py'
    config.write_text(f"_base_ = '{tiny_config}'\n{PIPELINES[pipeline]}\n")
    commands.run(
        *('tools/test.py', config, folder / 'iter_1.pth', '--work-dir', tmp_path, '--out', tmp_path / 'out', '--tta'),
        *('--show-dir', tmp_path / 'pictures'),
    )
    plain, augmented = (json.loads((out / 'out' / 'metrics.json').read_text())['metrics'] for out in (folder, tmp_path))
    figures = [key for key in plain if '/' in key]
    assert figures
    assert len(list((tmp_path / 'pictures').iterdir())) == len(list((tmp_path / 'out' / 'normals').iterdir())) == 5
    if pipeline == 'plain':
        assert {key: augmented[key] for key in figures} == pytest.approx({key: plain[key] for key in figures}, rel=1e-5)
    else:
        assert all(np.isfinite(augmented[key]) for key in figures if np.isfinite(plain[key]))
        assert augmented['normals/mean'] != plain['normals/mean']


def test_prints_one_table(tested):
    _, result = tested
    output = result.stdout + result.stderr
    assert output.count('protocol mti') == 1
    assert 'human_parts' in output


def test_missing_checkpoint_and_data(tiny_config, tmp_path):
    result = commands.run(
        'tools/test.py', tiny_config, tmp_path / 'no.pth', '--data-root', tmp_path / 'none', check=False
    )
    assert result.returncode == 2
    assert "checkpoint: file '" in result.stderr
    assert "data: folder '" in result.stderr


def test_a_checkpoint_of_another_method_is_refused(tiny_config, tested, tmp_path):
    folder, _ = tested
    result = commands.run(
        *('tools/test.py', tiny_config, folder / 'iter_1.pth', '--work-dir', tmp_path, '--cfg-options'),
        'model.backbone.plugins.0.cfg.type=mmvmt.VMTAdapterLite',
        check=False,
    )
    assert result.returncode != 0
    assert "iter_1.pth' was trained with another method than this model" in result.stderr


@pytest.mark.parametrize('way', ['test', 'resume'])
def test_nothing_in_a_checkpoint_is_executed(way, tiny_config, tested, tmp_path):
    folder, _ = tested
    trace = write_hostile(tmp_path / 'iter_1.pth', read_checkpoint(str(folder / 'iter_1.pth')))
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'iter_1.pth'))
    arguments = {
        'test': ['tools/test.py', tiny_config, tmp_path / 'iter_1.pth'],
        'resume': ['tools/train.py', tiny_config, '--resume'],
    }[way]
    result = commands.run(*arguments, '--work-dir', tmp_path, check=False)
    assert result.returncode != 0
    assert 'holding code that would be executed' in result.stderr
    assert not trace.exists()


def test_a_trusted_checkpoint_is_loaded_whatever_it_holds(tiny_config, tested, tmp_path):
    folder, _ = tested
    path = tmp_path / 'iter_1.pth'
    trace = write_hostile(path, read_checkpoint(str(folder / 'iter_1.pth')))
    out = tmp_path / 'out'
    commands.run('tools/test.py', tiny_config, path, '--trust-checkpoint', '--work-dir', tmp_path, '--out', out)
    assert trace.exists()
    figures = [json.loads((place / 'metrics.json').read_text())['metrics'] for place in (out, folder / 'out')]
    assert figures[0] == pytest.approx(figures[1])
