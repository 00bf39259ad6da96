import commands
import pytest
import torch
from pascal_mt_folder import build_folder

SHORT = ['train_cfg.max_iters=2', 'val_cfg=None', 'val_dataloader=None', 'val_evaluator=None']


def test_swin_b_trains_on_rendered_scenes(scenes, tmp_path):
    """The command of the README, on 64 x 64 scenes; the 512 x 512 crop of the config stays."""
    result = commands.run(
        *('tools/train.py', 'configs/vmt/swin_b_pascal.py', '--data-root', scenes, '--work-dir', tmp_path),
        *('--cfg-options', 'model.backbone.init_cfg=None', 'train_dataloader.batch_size=1', *SHORT),
        *('train_pipeline.3.crop_size=(64,64)', 'train_dataloader.dataset.pipeline.3.crop_size=(64,64)'),
    )
    assert 'optimizer group adapters: 3,489,792 parameters' in result.stdout + result.stderr
    assert (tmp_path / 'iter_2.pth').is_file()


def test_a_folder_shaped_like_the_archive_trains_and_validates(tmp_path):
    """Labels in both semseg folders, maps of another size, no person, parts with empty masks: the published config."""
    folder = build_folder(tmp_path / 'PASCAL_MT')
    result = commands.run(
        *('tools/train.py', 'configs/vmt/swin_t_pascal.py', '--data-root', folder.root, '--work-dir', tmp_path / 'run'),
        *('--cfg-options', 'model.backbone.init_cfg=None', 'model.backbone.embed_dims=8'),
        *('model.backbone.depths=(1,1,1,1)', 'model.backbone.num_heads=(1,2,4,8)'),
        *('train_cfg.max_iters=2', 'train_cfg.val_interval=2', 'train_dataloader.batch_size=2'),
        *('train_dataloader.num_workers=1', 'val_dataloader.num_workers=1'),
        'train_dataloader.dataset.pipeline.3.crop_size=(64,64)',
    )
    log = result.stdout + result.stderr
    assert 'Evaluation of 2 images' in log
    # The references of the config are of another protocol.
    assert 'No Delta_m: ' in log
    assert 'delta_m: ' not in log
    for task, path in (('semseg', folder.path('semseg', folder.train[2])), ('saliency', 'sal_distill/2008_000004.png')):
        (line,) = (line for line in log.splitlines() if f' {task}: 1 of ' in line)
        assert 'maps have another size than their image and are resized to it' in line
        assert str(path) in line
    assert (tmp_path / 'run' / 'iter_2.pth').is_file()


def test_missing_data_and_weights_are_named_with_their_remedies(tmp_path):
    result = commands.run(
        *('tools/train.py', 'configs/vmt/swin_b_pascal.py', '--data-root', tmp_path / 'nothing'),
        *('--work-dir', tmp_path / 'run'),
        check=False,
    )
    assert result.returncode == 2
    assert f"data: folder '{tmp_path / 'nothing'}' does not exist. Pass --data-root DIR" in result.stderr
    assert 'encoder weights: https://' in result.stderr
    assert 'model.backbone.init_cfg.checkpoint=PATH' in result.stderr
    assert 'Traceback' not in result.stderr
    assert not (tmp_path / 'run').exists()


def test_a_missing_local_checkpoint_is_named(scenes, tmp_path):
    result = commands.run(
        *('tools/train.py', 'configs/vmt/swin_b_pascal.py', '--data-root', scenes),
        *('--cfg-options', f'model.backbone.init_cfg.checkpoint={tmp_path}/swin.pth'),
        check=False,
    )
    assert result.returncode == 2
    assert f"file '{tmp_path}/swin.pth' does not exist" in result.stderr


def test_amp_and_tensorboard(tiny_config, tmp_path):
    commands.run(
        *('tools/train.py', tiny_config, '--work-dir', tmp_path, '--amp', '--cfg-options', *SHORT),
        'visualizer.vis_backends.0.type=TensorboardVisBackend',
    )
    assert list(tmp_path.rglob('events.out.tfevents.*'))
    dumped = (tmp_path / 'tiny.py').read_text()
    amp = 'AmpOptimWrapper' if torch.cuda.is_available() else 'mmvmt.CPUAmpOptimWrapper'
    assert f"type='{amp}'" in dumped


def test_a_loss_that_is_not_finite_stops_with_iteration_task_and_samples(tiny_config, tmp_path):
    result = commands.run(
        *('tools/train.py', tiny_config, '--work-dir', tmp_path, '--cfg-options', 'train_cfg.max_iters=6'),
        *('optim_wrapper.optimizer.lr=1e30', 'optim_wrapper.clip_grad=None', 'default_hooks.checkpoint.interval=1'),
        check=False,
    )
    assert result.returncode != 0
    message = result.stderr.strip().splitlines()[-1]
    assert message.startswith('FloatingPointError: loss of task')
    assert 'is not finite at iteration ' in message
    assert "samples ['synth_" in message
    assert list(tmp_path.glob('iter_*.pth'))


def test_data_root_without_a_data_set_is_an_error(tmp_path):
    config = tmp_path / 'empty.py'
    config.write_text("model = dict(type='X')\n")
    result = commands.run('tools/train.py', config, '--data-root', tmp_path, check=False)
    assert 'has no data set with a data_root' in result.stderr


@pytest.mark.parametrize('tool', ['train', 'test'])
def test_help(tool):
    assert '--data-root' in commands.run(f'tools/{tool}.py', '--help').stdout
