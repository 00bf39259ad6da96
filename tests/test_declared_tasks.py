"""A model of tasks that the package does not know: trained, predicting, in files, enlarged, exported."""

import json
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.structures import PixelData
from tiny import batch, losses_of, model_cfg, tiny_model

import mmvmt
from mmvmt.apis import MultiTaskInferencer
from mmvmt.apis.tasks import add_task
from mmvmt.apis.weights import build_model, declare_tasks_of, load_weights
from mmvmt.engine import MethodRecordHook
from mmvmt.engine.adapter_file import read_adapter, save_adapter
from mmvmt.models.export import MultiTaskGraph
from mmvmt.models.identity import TASKS_KEY, model_record
from mmvmt.registry import MODELS
from mmvmt.structures import TASKS, MultiTaskDataSample, declarations, declare_tasks

DECLARED = dict(
    crops=dict(kind='classes', classes=['soil', 'wheat', 'maize'], loss=dict(type='mmseg.DiceLoss')),
    species=dict(kind='classes', classes=300),
    lanes=dict(kind='binary'),
    wind=dict(kind='vectors', channels=2, axes=('right', 'down')),
    range=dict(kind='metric', scale='log', unit='m'),
    flow=dict(kind='values', channels=2, motion='displacement', unit='px'),
    depth={},
)


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
    """Paths of an adapter file and a checkpoint, and the config that names the tasks without declaring them."""
    folder = tmp_path_factory.mktemp('files')
    before = dict(TASKS)
    model = tiny_model(DECLARED)
    save_adapter(model, folder / 'adapter.safetensors')
    torch.save(dict(meta=model_record(model), state_dict=model.state_dict()), folder / 'model.pth')
    cfg = model_cfg(DECLARED)
    del cfg['tasks']
    TASKS.clear()
    TASKS.update(before)
    return folder, Config(dict(model=cfg))


def test_every_kind_trains_and_predicts():
    model = tiny_model(DECLARED).train()
    assert model.tasks == tuple(DECLARED)
    losses = losses_of(model, batch(model.tasks))
    assert list(losses) == [f'loss_{task}' for task in DECLARED]
    assert type(model.heads.crops.output.loss_decode[0]).__name__ == 'DiceLoss'
    sum(losses.values()).backward()
    for task in DECLARED:
        assert model.heads[task].predictor.weight.grad.abs().sum() > 0, task
    sample = model.eval().test_step(batch(model.tasks))[0]
    assert {task: (value.shape[0], value.dtype) for task, value in sample.pred.items()} == dict(
        crops=(1, torch.uint8),
        species=(1, torch.int32),
        lanes=(1, torch.float32),
        wind=(2, torch.float32),
        range=(1, torch.float32),
        flow=(2, torch.float32),
        depth=(1, torch.float32),
    )


def test_a_batch_without_labels_of_a_task_gives_it_no_gradient():
    model = tiny_model(DECLARED).train()
    data = batch(model.tasks)
    for sample in data['data_samples']:
        maps = {
            task: torch.full_like(label, TASKS[task].ignore) for task, label in sample.gt.items() if task != 'lanes'
        }
        sample.gt = PixelData(**maps, lanes=sample.gt.lanes)
    losses = losses_of(model, data)
    sum(losses.values()).backward()
    for task in DECLARED:
        gradient = model.heads[task].predictor.weight.grad
        assert (losses[f'loss_{task}'] > 0) == gradient.any() == (task == 'lanes')


def test_displacements_are_in_pixels_of_the_picture_that_they_are_given_for():
    model = tiny_model(dict(flow=DECLARED['flow'], range=DECLARED['range'] | dict(motion='disparity')))
    images = batch((), sizes=((64, 64),))['inputs']
    meta = dict(img_shape=(64, 64), ori_shape=(64, 64))
    small = model.test_step(dict(inputs=images, data_samples=[MultiTaskDataSample(metainfo=meta)]))[0].pred
    meta['ori_shape'] = (128, 32)
    large = model.test_step(dict(inputs=images, data_samples=[MultiTaskDataSample(metainfo=meta)]))[0].pred
    for task, factors in (('flow', (0.5, 2.0)), ('range', (0.5,))):
        found = large.get(task).mean(dim=(1, 2)) / small.get(task).mean(dim=(1, 2))
        torch.testing.assert_close(found, torch.tensor(factors), rtol=0.05, atol=0)


def test_one_config_of_a_head_serves_all_tasks():
    cfg = model_cfg(DECLARED)
    one = MODELS.build(cfg | dict(heads=dict(cfg['heads']['lanes'])))
    assert {name: value.shape for name, value in one.state_dict().items()} == {
        name: value.shape for name, value in MODELS.build(cfg).state_dict().items()
    }


@pytest.mark.parametrize(
    'changes, message',
    [
        (dict(tasks=dict(lanes=dict(kind='binary'))), r"model.tasks \['lanes'\] differ from the heads \['crops'"),
        (dict(tasks=dict(crops=dict(kind='binary'), lanes={})), "unknown task 'lanes'"),
        (dict(tasks=None), "unknown task 'crops'"),
        (
            dict(tasks=dict(crops=dict(kind='binary'), lanes=dict(kind='binary'))),
            "puts out 'classes' maps, but the task",
        ),
        (
            dict(tasks=dict(crops=dict(kind='classes', classes=4), lanes=dict(kind='binary'))),
            'num_classes=3, but the task is declared with 4',
        ),
    ],
)
def test_heads_and_declarations_agree(changes, message):
    cfg = model_cfg(dict(crops=None, lanes=None))
    cfg['heads']['crops']['output'] = dict(type='mmvmt.ClassesOutput', num_classes=3)
    with pytest.raises(ValueError, match=message):
        MODELS.build(cfg | changes)


@pytest.mark.parametrize('name', ['adapter.safetensors', 'model.pth'])
def test_a_file_makes_its_tasks_known(saved, name):
    folder, cfg = saved
    assert 'species' not in TASKS
    with pytest.raises(ValueError, match="unknown task 'crops'"):
        build_model(cfg)
    declare_tasks_of(cfg, folder / name)
    assert declarations(DECLARED) == declarations(declare_tasks(DECLARED))
    assert set(declarations(DECLARED)) == set(DECLARED) - {'depth'}
    build_model(cfg)


def test_a_file_of_another_task_by_the_same_name_is_refused(saved):
    folder, _ = saved
    declare_tasks(DECLARED | dict(lanes=dict(kind='classes', classes=2)))
    with pytest.raises(ValueError, match=r"adapter.safetensors' has another task 'lanes' .*'binary'.*'classes'"):
        read_adapter(folder / 'adapter.safetensors')
    model = build_model(Config(dict(model=model_cfg(DECLARED | dict(lanes=dict(kind='classes', classes=2))))))
    with pytest.raises(ValueError, match=r"model.pth' has another task 'lanes'"):
        load_weights(model, folder / 'model.pth')


def test_a_checkpoint_of_a_run_says_its_tasks_and_is_compared():
    model = tiny_model(dict(saliency={}, lanes=dict(kind='binary')))
    runner = SimpleNamespace(model=model, work_dir='run', _load_from='run/iter_2.pth', _resume=False)
    checkpoint = dict(meta={}, state_dict=model.state_dict())
    MethodRecordHook().before_save_checkpoint(runner, checkpoint)
    assert checkpoint['meta'][TASKS_KEY] == dict(lanes=dict(kind='binary'))
    MethodRecordHook().after_load_checkpoint(runner, checkpoint)
    checkpoint['meta'][TASKS_KEY] = dict(lanes=dict(kind='metric'))
    with pytest.raises(ValueError, match=r"checkpoint 'run/iter_2.pth' has another task 'lanes' .*'metric'.*'binary'"):
        MethodRecordHook().after_load_checkpoint(runner, checkpoint)


def test_the_inferencer_takes_maps_from_a_model_that_a_file_declares(saved, tmp_path):
    folder, cfg = saved
    pipeline = [dict(type='mmvmt.LoadMultiTaskImage'), dict(type='mmvmt.PackMultiTaskInputs')]
    inferencer = MultiTaskInferencer(cfg, folder / 'model.pth', show_progress=False, pipeline=pipeline)
    (prediction,) = inferencer.predict(np.zeros((40, 56, 3), np.uint8))
    prediction.save(tmp_path)
    shapes = {task: value.shape for task, value in prediction.maps.items()}
    assert shapes == {task: (2, 40, 56) if task in ('wind', 'flow') else (40, 56) for task in DECLARED}
    species = cv2.imread(str(tmp_path / 'species/array_0.png'), cv2.IMREAD_UNCHANGED)
    assert species.dtype == np.uint16
    np.testing.assert_array_equal(species, prediction.maps['species'])
    np.testing.assert_array_equal(np.load(tmp_path / 'flow/array_0.npy').transpose(2, 0, 1), prediction.maps['flow'])
    assert cv2.imread(str(tmp_path / 'pictures/array_0.png')).shape[1] > 56 * len(DECLARED)


def test_a_task_is_declared_while_it_is_added():
    model = tiny_model(('saliency',))
    head = model_cfg(('saliency',))['heads']['saliency']
    with pytest.raises(ValueError, match="unknown task 'flow'"):
        add_task(model, 'flow', head | dict(output={}))
    add_task(model, 'flow', head | dict(output={}), DECLARED['flow'])
    assert (model.tasks, model.heads.flow.output.channels) == (('saliency', 'flow'), 2)
    assert model_record(model)[TASKS_KEY] == declarations(['flow'])


def test_graphs_describe_their_tasks():
    graph = MultiTaskGraph(tiny_model(DECLARED))
    described = graph.description()
    outputs = json.loads(described['outputs'])
    assert outputs['wind'] == dict(kind='vectors', channels=2, normals_x='right', normals_y='down')
    assert outputs['species'] == dict(kind='classes', channels=300)
    assert json.loads(described['task_declarations']) == declarations(DECLARED)
    maps = graph(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))
    assert [value.shape[1:] for value in maps] == [(2, 64, 64) if t in ('wind', 'flow') else (64, 64) for t in DECLARED]


def test_the_package_names_what_declares_tasks():
    assert mmvmt.register_task('lanes', kind='binary') is TASKS['lanes']
    assert mmvmt.declare_tasks(dict(lanes=None)) == ('lanes',)
