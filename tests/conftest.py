import gc
import sys
from pathlib import Path

import pytest
from mmengine.registry import DefaultScope

# Helpers of test modules, such as distributed.run_ranks, are imported from this folder, benchmarks/ from the root.
sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]


@pytest.fixture(autouse=True, scope='module')
def imports_stay():
    """What was imported is no garbage: every data set of mmengine asks to look for some, which took half a second."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def no_default_scope():
    """A run leaves its scope to the whole process: no test is to find that of another, or of a fixture."""
    DefaultScope._instance_dict.clear()


def declared_tasks_are_forgotten():
    """Tasks that a test declares are known to the whole process: no other test is to find them."""
    # Not imported for the sake of tests that do not need it, which would wait for PyTorch.
    tasks = sys.modules.get('mmvmt.structures.tasks')
    before = None if tasks is None else dict(tasks.TASKS)
    yield
    tasks = sys.modules.get('mmvmt.structures.tasks')
    if tasks is not None:
        tasks.TASKS.clear()
        tasks.TASKS.update(before or tasks._BUILT_IN)


# Of a module too: its tests share what its fixtures declare, and no other module is to find that.
of_modules = pytest.fixture(autouse=True, scope='module')(declared_tasks_are_forgotten)
of_tests = pytest.fixture(autouse=True)(declared_tasks_are_forgotten)


@pytest.fixture
def undrawn():
    """Models of full size are counted, not run, see :func:`tiny.undrawn`."""
    import tiny

    with tiny.undrawn():
        yield


@pytest.fixture(scope='session')
def scenes(tmp_path_factory):
    """A rendered PASCAL_MT folder: 8 training and 5 validation scenes of 64 x 64."""
    from mmvmt.synthetic import write_pascal_mt

    root = tmp_path_factory.mktemp('scenes') / 'root'
    write_pascal_mt(root, 8, 5, size=64, seed=1, jobs=1, progress=False)
    return root


@pytest.fixture(scope='session')
def tiny_config(tmp_path_factory, scenes):
    """Path of a config that trains in seconds: the demo's, with a tiny encoder and norms that ignore the batch."""
    path = tmp_path_factory.mktemp('config') / 'tiny.py'
    path.write_text(TINY_CONFIG.format(root=Path(__file__).parents[1], scenes=scenes))
    return path


@pytest.fixture(scope='session')
def tiny_checkpoint(tmp_path_factory, tiny_config):
    """Path of a checkpoint of the tiny config, with random weights."""
    import torch
    from mmengine.config import Config
    from tiny import perturb

    from mmvmt.apis.weights import build_model

    path = tmp_path_factory.mktemp('trained') / 'model.pth'
    model = build_model(Config.fromfile(tiny_config))
    perturb(model)
    torch.save(dict(state_dict=model.state_dict(), meta={}), path)
    return path


TINY_CONFIG = """
_base_ = '{root}/configs/vmt/swin_nano_synthetic.py'
norm = dict(type='GN', num_groups=2)
head = dict(channels=8, norm_cfg=norm)
model = dict(
    backbone=dict(init_cfg=None, embed_dims=8, depths=(1, 1, 1, 1), num_heads=(1, 2, 4, 8), window_size=4),
    heads=dict(semseg=head, human_parts=head, saliency=head, normals=head),
)
crop = dict(type='mmvmt.MultiTaskRandomScaleCrop', scale_range=(0.75, 1.25), crop_size=(64, 64))
train_pipeline = [
    dict(type='mmvmt.LoadMultiTaskImage'),
    dict(type='mmvmt.LoadMultiTaskAnnotations'),
    crop,
    dict(type='mmvmt.MultiTaskRandomFlip', prob=0.5),
    dict(type='mmseg.PhotoMetricDistortion'),
    dict(type='mmvmt.PackMultiTaskInputs'),
]
train_dataloader = dict(batch_size=2, dataset=dict(data_root='{scenes}', pipeline=train_pipeline))
val_dataloader = dict(batch_size=2, dataset=dict(data_root='{scenes}'))
test_dataloader = val_dataloader
train_cfg = dict(max_iters=4, val_interval=100)
param_scheduler = [dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=8)]
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=100))
"""
