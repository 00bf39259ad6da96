from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import OptimWrapper
from torch.utils.data import DataLoader

from mmvmt.engine.run_config import (
    dataset_cfgs,
    name_types,
    read_config,
    schedule_options,
    set_amp,
    set_data_root,
    set_launcher,
    set_test_outputs,
    set_tta,
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


def test_amp_replaces_a_class_as_well_as_its_name():
    for kind in (OptimWrapper, 'mmengine.optim.OptimWrapper', 'mmengine.optim.optimizer.OptimWrapper'):
        cfg = config()
        cfg.optim_wrapper.type = kind
        set_amp(cfg)
        assert cfg.optim_wrapper.type.endswith('AmpOptimWrapper')


def test_no_launcher_changes_nothing():
    cfg = config(sync_bn='torch')
    set_launcher(cfg, 'none')
    assert cfg.sync_bn == 'torch'
    assert 'model_wrapper_cfg' not in cfg


@pytest.mark.skipif(torch.cuda.is_available(), reason='concerns machines without a GPU')
def test_slurm_without_gpus_is_refused():
    with pytest.raises(ValueError, match='--launcher slurm needs GPUs'):
        set_launcher(config(), 'slurm')


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


def test_types_are_named_wherever_a_pure_python_config_has_classes(tmp_path):
    path = tmp_path / 'pure.py'
    path.write_text(PURE)
    cfg = read_config(str(path), {'model.backbone.plugins.0.cfg.reduction': 4})
    assert cfg.optim_wrapper.type == 'mmengine.optim.optimizer.optimizer_wrapper.OptimWrapper'
    assert cfg.model.backbone.plugins[0].cfg == dict(type='mmvmt.VMTAdapter', reduction=4)
    assert cfg.train_dataloader.collate_fn.type == 'mmengine.dataset.utils.pseudo_collate'
    # A class that is a value and no type stays one.
    assert cfg.model.norm_layer is torch.nn.LayerNorm
    set_amp(cfg)
    set_test_outputs(cfg, out='maps', show_dir='pictures')
    assert cfg.default_hooks.visualization.type == 'mmvmt.MultiTaskVisualizationHook'
    # A changed config is written, and read again, with the types that it had.
    cfg.model.pop('norm_layer')
    cfg.dump(tmp_path / 'written.py')
    again = Config.fromfile(tmp_path / 'written.py')
    assert again.optim_wrapper == cfg.optim_wrapper
    assert again.default_hooks == cfg.default_hooks
    assert again.model == cfg.model


PURE = """
from torch.nn import LayerNorm
from torch.optim import AdamW
from mmengine.config import read_base
from mmengine.dataset import pseudo_collate
from mmengine.hooks import IterTimerHook
from mmengine.optim import OptimWrapper

from mmvmt.adapters import VMTAdapter
from mmvmt.engine import MultiTaskVisualizationHook
from mmvmt.models import AdaptedSwin, MultiTaskEncoderDecoder

model = dict(
    type=MultiTaskEncoderDecoder,
    backbone=dict(type=AdaptedSwin, plugins=[dict(cfg=dict(type=VMTAdapter, reduction=2))]),
    norm_layer=LayerNorm,
)
optim_wrapper = dict(type=OptimWrapper, optimizer=dict(type=AdamW, lr=1e-3))
default_hooks = dict(timer=dict(type=IterTimerHook), visualization=dict(type=MultiTaskVisualizationHook))
train_dataloader = dict(num_workers=1, collate_fn=dict(type=pseudo_collate), dataset=dict(data_root='here'))
"""


def test_a_class_that_cannot_be_imported_stays_itself():
    class Local:
        pass

    cfg = Config(dict(model=dict(type=Local, parts=[dict(type=torch.nn.Linear), (dict(type=torch.nn.GELU),)])))
    name_types(cfg)
    assert cfg.model.type is Local
    assert [cfg.model.parts[0].type, cfg.model.parts[1][0].type] == [
        'torch.nn.modules.linear.Linear',
        'torch.nn.modules.activation.GELU',
    ]


LOADER = dict(
    batch_size=1, num_workers=2, persistent_workers=True, prefetch_factor=4, timeout=5, multiprocessing_context='fork'
)


@pytest.mark.parametrize('workers, kept', [(0, {'batch_size', 'num_workers', 'dataset'}), (1, {*LOADER, 'dataset'})])
def test_options_about_workers_go_with_the_workers(workers, kept, tmp_path):
    path = tmp_path / 'loaders.py'
    path.write_text(f"""
train_dataloader = dict(dataset=dict(type='X', data_root='here'), **{LOADER})
val_dataloader = train_dataloader
test_dataloader = None
""")
    cfg = read_config(str(path), {f'{name}_dataloader.num_workers': workers for name in ('train', 'val')})
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        assert set(loader) == kept
        options = {key: value for key, value in loader.items() if key != 'dataset'}
        assert list(DataLoader([1, 2], **options)) == [1, 2]


@pytest.mark.parametrize(
    'wrapper, expected',
    [
        (None, dict(type='MMDistributedDataParallel', device_ids=None, broadcast_buffers=False)),
        (dict(find_unused_parameters=True), dict(type='MMDistributedDataParallel', device_ids=None)),
        (dict(type='mmengine.MMDistributedDataParallel', device_ids=[0]), dict(device_ids=None)),
        (dict(type=MMDistributedDataParallel, broadcast_buffers=True), dict(device_ids=None, broadcast_buffers=True)),
    ],
)
@pytest.mark.skipif(torch.cuda.is_available(), reason='concerns machines without a GPU')
def test_ranks_on_a_cpu_have_no_devices_whatever_wraps_the_model(wrapper, expected, monkeypatch):
    monkeypatch.setattr(torch.distributed, 'init_process_group', lambda backend: None)
    cfg = config(model_wrapper_cfg=wrapper, find_unused_parameters=True)
    set_launcher(cfg, 'pytorch')
    assert dict(cfg.model_wrapper_cfg) == (wrapper or dict(find_unused_parameters=True)) | dict(cfg.model_wrapper_cfg)
    assert {key: cfg.model_wrapper_cfg[key] for key in expected} == expected


def test_other_wrappers_get_no_devices(monkeypatch):
    monkeypatch.setattr(torch.distributed, 'init_process_group', lambda backend: None)
    cfg = config(model_wrapper_cfg=dict(type=torch.nn.Identity))
    set_launcher(cfg, 'pytorch')
    assert 'device_ids' not in cfg.model_wrapper_cfg


@pytest.mark.parametrize(
    'model, tta_model, merged_by',
    [
        ('EncoderDecoder', dict(type='SegTTAModel'), 'SegTTAModel'),
        ('EncoderDecoder', None, 'mmseg.SegTTAModel'),
        ('mmvmt.MultiTaskEncoderDecoder', None, 'mmvmt.MultiTaskTTAModel'),
        ('mmvmt.MultiTaskEncoderDecoder', dict(type='SegTTAModel'), 'mmvmt.MultiTaskTTAModel'),
        ('mmvmt.MultiTaskEncoderDecoder', dict(type='mine.TTAModel'), 'mine.TTAModel'),
    ],
)
def test_augmentation_replaces_model_and_pipelines(model, tta_model, merged_by):
    part = dict(type='Part', data_root='here', pipeline=['plain'])
    cfg = config(
        model=dict(type=model),
        tta_model=tta_model,
        tta_pipeline=['augmented'],
        test_dataloader=dict(dataset=dict(type='ConcatDataset', datasets=[part, dict(part)])),
    )
    set_tta(cfg)
    assert cfg.model == dict(type=merged_by, module=dict(type=model))
    assert [each.pipeline for each in cfg.test_dataloader.dataset.datasets] == [['augmented']] * 2


def test_augmentation_needs_a_pipeline():
    with pytest.raises(ValueError, match='--tta needs a tta_pipeline in the config'):
        set_tta(config(model=dict(type='mmvmt.MultiTaskEncoderDecoder')))


def test_another_length_fits_the_configs():
    cfg = Config.fromfile(Path(__file__).parents[2] / 'configs/vmt/swin_nano_synthetic.py')
    cfg.merge_from_dict({key: int(value) for key, value in (o.split('=') for o in schedule_options(40, 0.25))})
    assert (cfg.train_cfg.max_iters, cfg.train_cfg.val_interval) == (40, 40)
    assert [(s.begin, s.end) for s in cfg.param_scheduler] == [(0, 10), (10, 40)]
