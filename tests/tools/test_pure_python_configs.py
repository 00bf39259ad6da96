"""Configs that import what they name: mmengine's pure-Python style, through training, testing and an added task."""

import commands
import pytest
from mmengine.config import Config

from mmvmt.models.checkpoint import read_checkpoint

CONFIG = """
from mmengine.config import read_base
from mmengine.dataset import DefaultSampler
from mmengine.optim import OptimWrapper
from mmengine.runner import EpochBasedTrainLoop, TestLoop, ValLoop
from torch.optim import AdamW

from mmvmt.adapters import VMTAdapter
from mmvmt.datasets import SyntheticMT
from mmvmt.datasets.samplers import SeededInfiniteSampler
from mmvmt.datasets.transforms import LoadMultiTaskAnnotations, LoadMultiTaskImage, PackMultiTaskInputs
from mmvmt.engine import (
    AdapterCheckpointHook, AtomicCheckpointHook, MethodRecordHook, PEFTOptimWrapperConstructor, RandomnessHook,
)
from mmvmt.evaluation import MultiTaskEvaluator, SaliencyMetric
from mmvmt.models import (
    AdaptedSwin, MLPHead, MultiTaskDataPreProcessor, MultiTaskEncoderDecoder, ProbabilityOutput, WeightedBCELoss,
)
from mmvmt.visualization import MultiTaskVisualizer

with read_base():
    from .runtime import *

model = dict(
    type=MultiTaskEncoderDecoder,
    data_preprocessor=dict(type=MultiTaskDataPreProcessor),
    backbone=dict(
        type=AdaptedSwin,
        embed_dims=8, depths=(1, 1, 1, 1), num_heads=(1, 2, 4, 8), window_size=4,
        plugins=[dict(cfg=dict(type=VMTAdapter, reduction=2))],
        drop_path_rate=0.2,
    ),
    heads=dict(
        saliency=dict(
            type=MLPHead,
            channels=8,
            norm_cfg=dict(type='GN', num_groups=2),
            output=dict(type=ProbabilityOutput, loss=dict(type=WeightedBCELoss, positive_weight='balanced')),
        ),
    ),
)
pipeline = [dict(type=LoadMultiTaskImage), dict(type=LoadMultiTaskAnnotations), dict(type=PackMultiTaskInputs)]
dataset = dict(type=SyntheticMT, data_root={scenes!r}, tasks=['saliency'], pipeline=pipeline)
train_dataloader = dict(
    batch_size=2, num_workers=0, sampler=dict(type=SeededInfiniteSampler), dataset=dict(dataset, split='train'),
)
val_dataloader = dict(
    batch_size=2,
    num_workers=0,
    sampler=dict(type=DefaultSampler, shuffle=False, round_up=False),
    dataset=dict(dataset, split='val', test_mode=True),
)
test_dataloader = val_dataloader
val_evaluator = dict(type=MultiTaskEvaluator, metrics=dict(saliency=dict(type=SaliencyMetric)))
test_evaluator = val_evaluator
optim_wrapper = dict(
    type=OptimWrapper, constructor=PEFTOptimWrapperConstructor, optimizer=dict(type=AdamW, lr=1e-3)
)
train_cfg = dict(type=EpochBasedTrainLoop, max_epochs=2)
val_cfg = dict(type=ValLoop)
test_cfg = dict(type=TestLoop)
visualizer = dict(type=MultiTaskVisualizer, name='visualizer')
default_hooks.update(checkpoint=dict(type=AtomicCheckpointHook, interval=1))
custom_hooks = [dict(type=RandomnessHook), dict(type=MethodRecordHook), dict(type=AdapterCheckpointHook)]
"""
RUNTIME = """
from mmengine.hooks import IterTimerHook, LoggerHook, ParamSchedulerHook

default_hooks = dict(
    timer=dict(type=IterTimerHook), logger=dict(type=LoggerHook), param_scheduler=dict(type=ParamSchedulerHook)
)
randomness = dict(seed=0)
"""


@pytest.fixture(scope='module')
def run(tmp_path_factory, scenes):
    """A training in mixed precision, its config and work dir."""
    folder = tmp_path_factory.mktemp('pure')
    (folder / 'runtime.py').write_text(RUNTIME)
    (folder / 'pure.py').write_text(CONFIG.replace('{scenes!r}', repr(str(scenes))))
    commands.run('tools/train.py', folder / 'pure.py', '--work-dir', folder / 'run', '--amp')
    return folder / 'pure.py', folder / 'run'


def test_the_config_that_a_run_writes_is_the_config_of_the_run(run):
    _, work_dir = run
    written = Config.fromfile(work_dir / 'pure.py')
    assert written.optim_wrapper.type.endswith('AmpOptimWrapper')
    assert written.model.type == 'mmvmt.MultiTaskEncoderDecoder'
    meta = read_checkpoint(str(work_dir / 'epoch_2.pth'))['meta']
    (plugin,) = meta['mmvmt_method']
    assert (plugin['cfg']['type'], plugin['cfg']['reduction']) == ('mmvmt.VMTAdapter', 2)
    # Eight images in batches of two.
    assert (meta['epoch'], meta['iter']) == (2, 8)


@pytest.mark.parametrize('config', ['its own', 'written by the run'])
def test_it_is_tested_with_maps_and_pictures(run, config, tmp_path):
    path, work_dir = run
    path = path if config == 'its own' else work_dir / 'pure.py'
    commands.run(
        *('tools/test.py', path, work_dir / 'epoch_2.pth', '--work-dir', tmp_path, '--out', tmp_path / 'out'),
        *('--show-dir', tmp_path / 'pictures'),
    )
    assert len(list((tmp_path / 'out' / 'saliency').iterdir())) == len(list((tmp_path / 'pictures').iterdir())) == 5


def test_a_task_is_added_and_the_written_config_tests_it(run, tmp_path):
    path, work_dir = run
    commands.run(
        *('tools/add_task.py', path, work_dir / 'epoch_2.pth', '--task', 'normals', '--work-dir', tmp_path),
        *('--cfg-options', 'train_cfg.max_epochs=1'),
    )
    commands.run('tools/test.py', tmp_path / 'config.py', tmp_path / 'model.pth', '--work-dir', tmp_path / 'test')
