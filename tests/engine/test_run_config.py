import pytest
import torch
from mmengine.config import Config

from mmvmt.engine.run_config import (
    dataset_cfgs,
    missing_inputs,
    set_amp,
    set_data_root,
    set_launcher,
    set_resume,
    set_test_outputs,
)


def config(**more):
    loader = dict(dataset=dict(type='X', data_root='here'))
    return Config(dict(train_dataloader=loader, optim_wrapper=dict(type='OptimWrapper'), **more))


def test_data_root_reaches_data_sets_inside_wrappers():
    wrapped = dict(type='Concat', datasets=[dict(data_root='a'), dict(type='Repeat', dataset=dict(data_root='b'))])
    cfg = config(val_dataloader=dict(dataset=wrapped), test_dataloader=None)
    set_data_root(cfg, 'there')
    assert [dataset['data_root'] for dataset in dataset_cfgs(cfg)] == ['there'] * 3


def test_amp_replaces_the_plain_wrapper_only():
    cfg = config()
    set_amp(cfg)
    assert cfg.optim_wrapper.type == ('AmpOptimWrapper' if torch.cuda.is_available() else 'mmvmt.CPUAmpOptimWrapper')
    cfg.optim_wrapper.type = 'ApexOptimWrapper'
    with pytest.raises(ValueError, match=r"optim_wrapper\.type is 'ApexOptimWrapper'"):
        set_amp(cfg)


def test_no_launcher_changes_nothing():
    cfg = config(sync_bn='torch')
    set_launcher(cfg, 'none')
    assert cfg.sync_bn == 'torch'
    assert 'model_wrapper_cfg' not in cfg


@pytest.mark.skipif(torch.cuda.is_available(), reason='concerns machines without a GPU')
def test_slurm_without_gpus_is_refused():
    with pytest.raises(ValueError, match='--launcher slurm needs GPUs'):
        set_launcher(config(), 'slurm')


def test_missing_inputs_name_what_and_how(tmp_path):
    cfg = config(model=dict(backbone=dict(init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'x.pth')))))
    messages = missing_inputs(cfg, ('train_dataloader',), weights=True)
    assert len(messages) == 2
    assert "folder 'here' does not exist" in messages[0]
    assert 'x.pth' in messages[1]
    set_data_root(cfg, str(tmp_path))
    assert len(missing_inputs(cfg, ('train_dataloader',), weights=True)) == 1
    assert missing_inputs(cfg, ('train_dataloader',), weights=False) == []


def test_a_url_alone_is_no_gap(tmp_path):
    cfg = config(
        model=dict(backbone=dict(init_cfg=dict(type='Pretrained', checkpoint='https://nowhere.invalid/x.pth')))
    )
    set_data_root(cfg, str(tmp_path))
    assert missing_inputs(cfg, ('train_dataloader',), weights=True) == []


def test_resuming_needs_no_encoder_file(tmp_path):
    init_cfg = dict(type='Pretrained', checkpoint='gone.pth')
    cfg = config(work_dir=str(tmp_path), model=dict(backbone=dict(init_cfg=init_cfg)))
    set_resume(cfg)
    assert cfg.model.backbone.init_cfg == init_cfg
    torch.save(dict(state_dict={}), tmp_path / 'iter_1.pth')
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'iter_1.pth'))
    set_resume(cfg)
    assert cfg.resume
    assert cfg.model.backbone.init_cfg is None


def test_missing_data_of_other_models_names_no_layout_of_ours():
    (message,) = missing_inputs(config(model=dict(type='EncoderDecoder')), ('train_dataloader',), weights=False)
    assert message.endswith('Pass --data-root DIR')
    (message,) = missing_inputs(
        config(model=dict(type='mmvmt.MultiTaskEncoderDecoder')), ('train_dataloader',), weights=False
    )
    assert 'PASCAL_MT layout' in message


def test_outputs_of_several_tasks_come_from_our_hooks():
    cfg = config(model=dict(type='mmvmt.MultiTaskEncoderDecoder'))
    set_test_outputs(cfg, out='maps', show_dir='pictures')
    assert cfg.custom_hooks == [dict(type='mmvmt.SavePredictionsHook', out_dir='maps')]
    assert cfg.default_hooks.visualization.type == 'mmvmt.MultiTaskVisualizationHook'
    assert cfg.default_hooks.visualization.out_dir == 'pictures'


@pytest.mark.parametrize(
    'evaluator, metric',
    [
        (dict(type='IoUMetric'), lambda e: e),
        ([dict(type='Other'), dict(type='mmseg.IoUMetric')], lambda e: e[1]),
        (dict(type='Evaluator', metrics=[dict(type='IoUMetric')]), lambda e: e.metrics[0]),
    ],
)
def test_outputs_of_a_segmentor_come_from_mmseg(evaluator, metric):
    hook = dict(type='SegVisualizationHook')
    cfg = config(
        model=dict(type='EncoderDecoder'),
        test_evaluator=evaluator,
        visualizer=dict(type='SegLocalVisualizer'),
        default_hooks=dict(visualization=hook),
    )
    set_test_outputs(cfg, out='out', show_dir='pictures')
    assert metric(cfg.test_evaluator).output_dir == 'out/semseg'
    assert cfg.visualizer.save_dir == 'pictures'
    assert cfg.default_hooks.visualization.type == 'SegVisualizationHook'
    assert cfg.default_hooks.visualization.draw
    assert 'out_dir' not in cfg.default_hooks.visualization
    assert 'custom_hooks' not in cfg
