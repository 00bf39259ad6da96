import json

import commands
import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner

from mmvmt.engine import AdapterCheckpointHook
from mmvmt.engine.adapter_file import load_adapter, read_adapter
from mmvmt.engine.inputs import check_load_from, set_resume
from mmvmt.models.checkpoint import read_checkpoint
from mmvmt.models.identity import lacks_encoder
from mmvmt.registry import MODELS


@pytest.fixture(scope='module')
def encoder(tiny_config, tmp_path_factory):
    """The weights of an encoder of the tiny config, as a pretraining leaves them."""
    path = tmp_path_factory.mktemp('encoder') / 'encoder.pth'
    backbone = MODELS.build(Config.fromfile(tiny_config).model).backbone
    backbone.init_weights()
    torch.save({f'backbone.{name}': value for name, value in backbone.state_dict().items()}, path)
    return path


@pytest.fixture(scope='module')
def config(tiny_config, encoder, tmp_path_factory):
    """A config with a pretrained encoder, averaged weights, drop path, and small checkpoints."""
    path = tmp_path_factory.mktemp('config') / 'small.py'
    path.write_text(
        f'_base_ = {str(tiny_config)!r}\n'
        f"encoder = dict(_delete_=True, type='Pretrained', checkpoint={str(encoder)!r})\n"
        'model = dict(backbone=dict(init_cfg=encoder, drop_path_rate=0.5))\n'
        'checkpoint = dict(interval=2, save_frozen=False)\n'
        'default_hooks = dict(checkpoint=checkpoint)\n'
        "custom_hooks = [dict(type='mmvmt.RandomnessHook'), dict(type='EMAHook', momentum=0.25),\n"
        "    dict(type='mmvmt.MethodRecordHook'), dict(type='mmvmt.AdapterCheckpointHook', interval=2)]\n"
        'randomness = dict(seed=3)\n'
    )
    return path


def runner_of(config, work_dir, iterations, resume=False, **changes):
    cfg = Config.fromfile(config)
    cfg.merge_from_dict({'train_cfg.max_iters': iterations, 'train_dataloader.num_workers': 0, **changes})
    cfg.train_dataloader.persistent_workers = False
    cfg.val_dataloader = cfg.val_evaluator = cfg.val_cfg = None
    cfg.work_dir, cfg.experiment_name = str(work_dir), f'small_{work_dir.name}_{iterations}_{resume}'
    if resume:
        set_resume(cfg)
    return Runner.from_cfg(cfg)


@pytest.fixture(scope='module')
def uninterrupted(config, tmp_path_factory):
    work_dir = tmp_path_factory.mktemp('uninterrupted')
    runner = runner_of(config, work_dir, 4)
    runner.train()
    return work_dir, runner


@pytest.fixture(scope='module')
def interrupted(config, tmp_path_factory):
    """Two iterations in one run, two more in another that starts from the small checkpoint."""
    work_dir = tmp_path_factory.mktemp('interrupted')
    runner_of(config, work_dir, 2).train()
    runner_of(config, work_dir, 4, resume=True).train()
    return work_dir


def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(uninterrupted, interrupted):
    ends = [read_checkpoint(str(folder / 'iter_4.pth')) for folder in (uninterrupted[0], interrupted)]
    for key in ('state_dict', 'ema_state_dict'):
        first, second = (end[key] for end in ends)
        assert first.keys() == second.keys()
        assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert read_adapter(interrupted / 'adapter.safetensors').manifest['iteration'] == 4


def test_small_checkpoints_hold_no_frozen_weights(uninterrupted):
    work_dir, runner = uninterrupted
    checkpoint = read_checkpoint(str(work_dir / 'iter_4.pth'))
    assert lacks_encoder(checkpoint)
    frozen = set(runner.model.backbone.frozen_parameters())
    assert frozen
    for name in (*checkpoint['state_dict'], *checkpoint['ema_state_dict']):
        assert name.rpartition('backbone.')[2] not in frozen
        assert not name.endswith('relative_position_index')


def test_the_adapter_file_has_the_averaged_weights_of_the_checkpoint(uninterrupted):
    work_dir, runner = uninterrupted
    checkpoint = read_checkpoint(str(work_dir / 'iter_4.pth'))
    adapter = read_adapter(work_dir / 'adapter.safetensors')
    assert adapter.tensors.keys() == checkpoint['state_dict'].keys()
    assert all(torch.equal(value, checkpoint['state_dict'][name]) for name, value in adapter.tensors.items())
    trained = runner.model.state_dict()
    assert not all(torch.equal(value, trained[name]) for name, value in adapter.tensors.items())
    assert adapter.manifest['iteration'] == 4


def test_another_encoder_is_refused_on_resume(config, uninterrupted, tmp_path):
    work_dir, runner = uninterrupted
    other = {f'backbone.{name}': value.clone() for name, value in runner.model.backbone.state_dict().items()}
    other['backbone.patch_embed.norm.weight'] += 1
    torch.save(other, tmp_path / 'other.pth')
    (tmp_path / 'last_checkpoint').write_text(str(work_dir / 'iter_4.pth'))
    changes = {'model.backbone.init_cfg.checkpoint': str(tmp_path / 'other.pth')}
    with pytest.raises(ValueError, match='holds no frozen weights, was trained on another encoder'):
        runner_of(config, tmp_path, 6, resume=True, **changes).train()


def test_resuming_without_a_name_of_the_encoder_is_refused_at_once(config, uninterrupted, tmp_path):
    (tmp_path / 'last_checkpoint').write_text(str(uninterrupted[0] / 'iter_4.pth'))
    with pytest.raises(ValueError, match=r'holds no frozen weights, and model\.backbone\.init_cfg is None'):
        runner_of(config, tmp_path, 6, resume=True, **{'model.backbone.init_cfg': None})


def test_small_checkpoints_need_an_encoder_to_resume_with(config, tmp_path):
    with pytest.raises(ValueError, match=r'save_frozen=False .* model\.backbone\.init_cfg is None'):
        runner_of(config, tmp_path, 2, **{'model.backbone.init_cfg': None}).train()


def test_a_full_checkpoint_can_be_followed_by_small_ones(config, tmp_path):
    full = {'default_hooks.checkpoint.save_frozen': True}
    runner_of(config, tmp_path, 2, **full).train()
    assert not lacks_encoder(read_checkpoint(str(tmp_path / 'iter_2.pth')))
    runner_of(config, tmp_path, 4, resume=True).train()
    assert lacks_encoder(read_checkpoint(str(tmp_path / 'iter_4.pth')))


def test_the_tools_train_and_test_an_adapter_file(config, tmp_path):
    options = ['--cfg-options', 'train_cfg.max_iters=2', 'train_cfg.val_interval=2']
    commands.run('tools/train.py', config, '--work-dir', tmp_path, *options)
    path = tmp_path / 'adapter.safetensors'
    manifest = read_adapter(path).manifest
    assert {'semseg/mIoU', 'normals/mean'} <= set(manifest['metrics'])

    commands.run('tools/test.py', config, path, '--work-dir', tmp_path, '--out', tmp_path / 'out')
    metrics = json.loads((tmp_path / 'out' / 'metrics.json').read_text())['metrics']
    assert metrics == pytest.approx(manifest['metrics'])


def test_an_adapter_file_is_something_to_start_from(config, uninterrupted, tmp_path):
    """Its weights are those of the run before the first step, on the encoder of the config."""
    path = uninterrupted[0] / 'adapter.safetensors'
    runner = runner_of(config, tmp_path, 1, load_from=str(path), **{'optim_wrapper.optimizer.lr': 0.0})
    runner.train()
    state = runner.model.state_dict()
    for name, value in read_adapter(path).tensors.items():
        assert torch.equal(state[name], value), name
    own = MODELS.build(Config.fromfile(config).model)
    own.init_weights()
    for name, value in own.backbone.frozen_parameters().items():
        assert torch.equal(state[f'backbone.{name}'], value), name


@pytest.mark.parametrize(
    'changes, message',
    [
        ({'model.backbone.plugins.0.cfg.scale': 0.5}, 'adapter.safetensors. was trained with another method'),
        ({'model.heads.semseg.output.num_classes': 3}, "adapter.safetensors. has another head of task 'semseg'"),
        ({'model.backbone.init_cfg': None}, 'adapter.safetensors. was trained on another encoder'),
    ],
)
def test_an_adapter_file_of_another_model_is_nothing_to_start_from(changes, message, config, uninterrupted, tmp_path):
    path = uninterrupted[0] / 'adapter.safetensors'
    with pytest.raises(ValueError, match=message):
        runner_of(config, tmp_path, 1, load_from=str(path), **changes).train()


def test_other_heads_start_anew_on_request(config, uninterrupted, tmp_path):
    path = uninterrupted[0] / 'adapter.safetensors'
    classes = {'model.heads.semseg.output.num_classes': 40, 'model.strict_heads': False}
    classes |= {'optim_wrapper.optimizer.lr': 0.0, 'train_dataloader.dataset.num_classes': dict(semseg=40)}
    runner = runner_of(config, tmp_path, 1, load_from=str(path), **classes)
    runner.train()
    state = runner.model.state_dict()
    differ = {name for name, value in read_adapter(path).tensors.items() if value.shape != state[name].shape}
    assert differ == {'heads.semseg.predictor.weight', 'heads.semseg.predictor.bias'}
    for name, value in read_adapter(path).tensors.items():
        assert name in differ or torch.equal(state[name], value), name


def test_the_run_sees_that_the_encoder_is_the_files_own(config, uninterrupted):
    path = uninterrupted[0] / 'adapter.safetensors'
    cfg = Config.fromfile(config)
    cfg.load_from, cfg.custom_hooks = str(path), None
    check_load_from(cfg)
    assert cfg.custom_hooks == [dict(type='mmvmt.MethodRecordHook')]
    check_load_from(cfg)
    assert len(cfg.custom_hooks) == 1
    cfg.model.backbone.init_cfg = None
    with pytest.raises(
        ValueError, match=r'adapter\.safetensors. holds no frozen weights, and .*init_cfg is None; name'
    ):
        check_load_from(cfg)
    cfg.load_from = str(path.with_name('gone.safetensors'))
    with pytest.raises(FileNotFoundError, match=r'gone\.safetensors. does not exist'):
        check_load_from(cfg)


def test_an_adapter_file_cannot_be_resumed(config, uninterrupted, tmp_path):
    runner = runner_of(config, tmp_path, 6, load_from=str(uninterrupted[0] / 'adapter.safetensors'), resume=True)
    with pytest.raises(ValueError, match=r'adapter\.safetensors. holds weights alone, .*load_from, without resume'):
        runner.train()


def test_a_method_that_freezes_nothing_has_no_adapter_file(tiny_config, tmp_path):
    hooks = [dict(type='mmvmt.AdapterCheckpointHook')]
    plugins = [dict(cfg=dict(type='mmvmt.FullFineTuning'))]
    runner_of(tiny_config, tmp_path, 1, **{'custom_hooks': hooks, 'model.backbone.plugins': plugins}).train()
    assert not (tmp_path / 'adapter.safetensors').exists()


def test_an_adapter_file_of_a_run_fits_a_model_of_its_config(config, uninterrupted):
    model = MODELS.build(Config.fromfile(config).model)
    model.init_weights()
    manifest = load_adapter(model, uninterrupted[0] / 'adapter.safetensors')
    assert manifest['tasks'] == ['semseg', 'human_parts', 'saliency', 'normals']
    assert manifest['dataset_meta'] == dict(normals_x='left', normals_y='up')


def test_wrong_interval():
    with pytest.raises(ValueError, match='interval must be 1 or more, or None, got 0'):
        AdapterCheckpointHook(interval=0)
