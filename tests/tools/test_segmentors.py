"""A user's mmsegmentation config plus three lines, through our tools and through mmsegmentation's own."""

import json
import shutil

import commands
import cv2
import pytest
import torch
from segmentors import MIM, UPERNET, small, three_lines, write_ade_folder, write_encoder

from mmvmt.models.checkpoint import read_checkpoint

METHODS = {
    'vmt': dict(type='mmvmt.VMTAdapter', reduction=2),
    'lora': dict(type='mmvmt.LoRA', rank=2, per_task=False),
    'bitfit': dict(type='mmvmt.BitFit', per_task=False),
}
THEIRS = MIM / 'tools' / 'train.py'


@pytest.fixture(scope='module')
def inputs(tmp_path_factory):
    """Folder of ADE20K's layout, path of an encoder file, and its weights."""
    root = tmp_path_factory.mktemp('segmentors')
    weights = write_encoder(root / 'swin.pth')
    return write_ade_folder(root / 'ade'), root / 'swin.pth', weights


def config(folder, inputs, method, base):
    user = three_lines(folder / 'user.py', base, [dict(cfg=METHODS[method])])
    return small(folder / 'small.py', user, 'upernet', *inputs[:2])


def weights_of(work_dir, iteration, encoder, trains=lambda name: False):
    """Weights of a checkpoint; those of the encoder file moved only where they train."""
    weights = read_checkpoint(str(work_dir / f'iter_{iteration}.pth'))['state_dict']
    moved = {name for name, value in encoder.items() if not torch.equal(weights[f'backbone.{name}'], value)}
    assert moved == {name for name in encoder if trains(name)}
    return weights


def moved(before, after, prefix):
    return any(not torch.equal(before[name], after[name]) for name in before if name.startswith(prefix))


@pytest.fixture(scope='module')
def run(inputs, tmp_path_factory):
    """A short training with PEFTHook by our tools, and its test with maps and pictures."""
    folder = tmp_path_factory.mktemp('run')
    # mmsegmentation's own tools read a config before anything could import mmvmt: a path.
    path = config(folder, inputs, 'vmt', MIM / 'configs' / UPERNET)
    with path.open('a') as file:
        file.write("custom_hooks = [dict(type='mmvmt.PEFTHook'), dict(type='mmvmt.MethodRecordHook')]\n")
    training = commands.run('tools/train.py', path, '--work-dir', folder / 'run')
    test = commands.run(
        *('tools/test.py', path, folder / 'run' / 'iter_2.pth', '--work-dir', folder / 'run'),
        *('--out', folder / 'out', '--show-dir', folder / 'pictures'),
    )
    return path, folder, training, test


def test_training_moves_the_adapters_and_says_so(run, inputs):
    _, folder, training, _ = run
    weights = weights_of(folder / 'run', 2, inputs[2])
    assert weights['backbone.adapters.0.bottlenecks.stage0_block0_ffn.up_weight'].any()
    assert 'PEFT: ' in training.stdout + training.stderr


def test_testing_writes_metrics_maps_and_pictures(run):
    _, folder, _, test = run
    metrics = json.loads((folder / 'out' / 'metrics.json').read_text())['metrics']
    assert {'aAcc', 'mIoU', 'mAcc'} <= set(metrics)
    assert f'mIoU: {metrics["mIoU"]:.4f}' in test.stdout + test.stderr
    maps = sorted((folder / 'out' / 'semseg').iterdir())
    assert [path.name for path in maps] == ['ADE_00000000.png', 'ADE_00000001.png']
    assert cv2.imread(str(maps[0]), cv2.IMREAD_UNCHANGED).shape == (40, 48)
    assert len(list((folder / 'pictures').rglob('*.png'))) == 2


@pytest.mark.parametrize('tool', ['tools/test.py', MIM / 'tools' / 'test.py'], ids=['ours', 'theirs'])
def test_augmentation_while_testing(run, tmp_path, tool):
    """By mmsegmentation's pipeline of six scales, each mirrored too, and its merging model."""
    path, folder, _, _ = run
    commands.run(tool, path, folder / 'run' / 'iter_2.pth', '--work-dir', tmp_path, '--tta')
    (figures,) = [json.loads(file.read_text()) for file in tmp_path.glob('*/*.json')]
    assert {'aAcc', 'mIoU', 'mAcc'} <= set(figures)


def test_mmsegs_own_tool_goes_on_with_it(run, inputs, tmp_path):
    path, folder, _, _ = run
    shutil.copy(folder / 'run' / 'iter_2.pth', tmp_path)
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'iter_2.pth'))
    commands.run(THEIRS, path, '--work-dir', tmp_path, '--resume', '--cfg-options', 'train_cfg.max_iters=4')
    before, after = weights_of(tmp_path, 2, inputs[2]), weights_of(tmp_path, 4, inputs[2])
    assert moved(before, after, 'backbone.adapters.')
    assert moved(before, after, 'decode_head.')


def test_ours_goes_on_with_what_mmsegs_own_tool_began_and_needs_no_encoder_file(inputs, tmp_path):
    path = config(tmp_path, inputs, 'lora', MIM / 'configs' / UPERNET)
    commands.run(THEIRS, path, '--work-dir', tmp_path)
    gone = f'model.backbone.init_cfg.checkpoint={tmp_path}/gone.pth'
    commands.run(
        *('tools/train.py', path, '--work-dir', tmp_path, '--resume', '--cfg-options', 'train_cfg.max_iters=4', gone)
    )
    before, after = weights_of(tmp_path, 2, inputs[2]), weights_of(tmp_path, 4, inputs[2])
    assert moved(before, after, 'backbone.adapters.')


def test_the_base_is_found_by_package_and_biases_train(inputs, tmp_path):
    path = config(tmp_path, inputs, 'bitfit', f'mmseg::{UPERNET}')
    commands.run('tools/train.py', path, '--work-dir', tmp_path)
    weights_of(tmp_path, 2, inputs[2], trains=lambda name: name.endswith('.bias'))
