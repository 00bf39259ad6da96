"""Three tasks that the package does not know, from a config alone: every tool in a process of its own."""

import json

import commands
import cv2
import numpy as np
import pytest
from own_folder import LABELS, TASKS, build_own_folder

from mmvmt.compat import RECORDS_GRAPHS
from mmvmt.engine.adapter_file import read_adapter
from mmvmt.models.checkpoint import read_checkpoint

CONFIG = """
_base_ = '{root}/configs/_base_/synthetic_runtime.py'
tasks = {tasks}
data = dict(type='mmvmt.MultiTaskDataset', data_root={folder!r}, tasks=tasks)
data.update(images='photos/{{id}}.jpg', labels={labels})
load = [dict(type='mmvmt.LoadMultiTaskImage'), dict(type='mmvmt.LoadMultiTaskAnnotations')]
pack = dict(type='mmvmt.PackMultiTaskInputs')
crop = dict(type='mmvmt.MultiTaskRandomScaleCrop', crop_size=(32, 32))
train_dataloader = dict(
    batch_size=2,
    num_workers=0,
    sampler=dict(type='mmvmt.SeededInfiniteSampler', shuffle=True),
    dataset=dict(data, pipeline=[*load, crop, dict(type='mmvmt.MultiTaskRandomFlip'), pack]),
)
val_dataloader = dict(
    batch_size=2,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False, round_up=False),
    dataset=dict(data, test_mode=True, pipeline=[*load, pack]),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='mmvmt.MultiTaskEvaluator', metrics=None, tasks=tasks)
test_evaluator = val_evaluator
model = dict(
    type='mmvmt.MultiTaskEncoderDecoder',
    tasks=tasks,
    data_preprocessor=dict(type='mmvmt.MultiTaskDataPreProcessor'),
    backbone=dict(
        type='mmvmt.AdaptedSwin',
        embed_dims=8,
        depths=(1, 1),
        num_heads=(1, 2),
        strides=(4, 2),
        out_indices=(0, 1),
        window_size=4,
        plugins=[dict(cfg=dict(type='mmvmt.VMTAdapter', reduction=2))],
    ),
    heads=dict(type='mmvmt.MLPHead', channels=8, norm_cfg=dict(type='GN', num_groups=2)),
    task_weights=dict(type='mmvmt.UncertaintyWeights'),
)
optimizer = dict(type='AdamW', lr=0.01)
optim_wrapper = dict(type='OptimWrapper', constructor='mmvmt.PEFTOptimWrapperConstructor', optimizer=optimizer)
train_cfg = dict(type='IterBasedTrainLoop', max_iters=2, val_interval=2)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
default_hooks = dict(logger=dict(interval=1))
"""


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """The config, and the folder of a run that was interrupted once."""
    root = tmp_path_factory.mktemp('own')
    folder = build_own_folder(root / 'data', number=5)
    config, run = root / 'own.py', root / 'run'
    config.write_text(CONFIG.format(root=commands.ROOT, tasks=TASKS, labels=LABELS, folder=str(folder.root)))
    first = commands.run('tools/train.py', config, '--work-dir', run)
    assert 'crops.weight: ' in first.stdout + first.stderr
    resumed = commands.run(
        'tools/train.py', config, '--work-dir', run, '--resume', '--cfg-options', 'train_cfg.max_iters=3'
    )
    assert 'iter: 2' in resumed.stdout + resumed.stderr
    return config, run


def test_a_training_is_resumed_and_its_files_know_the_tasks(trained):
    _, run = trained
    checkpoint = read_checkpoint(str(run / 'iter_3.pth'))
    declared = checkpoint['meta']['mmvmt_tasks']
    assert {task: fields['kind'] for task, fields in declared.items()} == dict(
        crops='classes', lanes='binary', albedo='values'
    )
    assert set(checkpoint['meta']['dataset_meta']['task_declarations']) == set(TASKS)
    moved = [name for name in checkpoint['state_dict'] if name.startswith('task_weights.log_variances.')]
    assert len(moved) == 3
    assert all(checkpoint['state_dict'][name] != 0 for name in moved)
    manifest = read_adapter(run / 'adapter.safetensors').manifest
    assert json.loads(json.dumps(declared)) == manifest['task_declarations']


def test_a_test_scores_and_saves_every_task(trained, tmp_path):
    config, run = trained
    commands.run('tools/test.py', config, run / 'iter_3.pth', '--work-dir', tmp_path, '--out', tmp_path)
    metrics = json.loads((tmp_path / 'metrics.json').read_text())['metrics']
    assert {'crops/mIoU', 'lanes/mIoU', 'albedo/rmse', 'albedo/mae'} <= set(metrics)
    crops = cv2.imread(str(tmp_path / 'crops/day0/field_002.png'), cv2.IMREAD_UNCHANGED)
    assert crops.shape == (40, 60)
    assert crops.max() <= 2
    assert np.load(tmp_path / 'albedo/day0/field_002.npy').shape == (40, 60, 3)


@pytest.mark.skipif(not RECORDS_GRAPHS, reason='graphs are recorded from PyTorch 2.7 on')
def test_a_graph_says_what_its_tasks_are(trained, tmp_path):
    onnx = pytest.importorskip('onnx')
    pytest.importorskip('onnxscript')
    config, run = trained
    out = tmp_path / 'own.onnx'
    commands.run('tools/deployment/export_onnx.py', config, run / 'iter_3.pth', out, '--height', '64', '--width', '64')
    model = onnx.load(out)
    assert [output.name for output in model.graph.output] == [*TASKS]
    described = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(described['task_declarations'])['crops']['classes'] == TASKS['crops']['classes']
    assert json.loads(described['outputs'])['albedo'] == dict(kind='values', channels=3)
