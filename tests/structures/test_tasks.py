import json
import math
import pickle

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict

from mmvmt.structures import (
    TASKS,
    Task,
    check_tasks,
    declarations,
    declare_tasks,
    meet_declarations,
    register_task,
)

OWN = dict(
    lanes=dict(kind='binary'),
    crops=dict(kind='classes', classes=['soil', 'wheat', 'maize'], palette=[[0, 0, 0], [255, 0, 0], [0, 255, 0]]),
    species=dict(kind='classes', classes=300),
    flow=dict(kind='values', channels=2, motion='displacement', unit='px', main_metric='mae'),
    wind=dict(kind='vectors', channels=2, axes=['right', 'down']),
    disparity=dict(kind='metric', unit='px', motion='disparity', scale='log'),
    heat=dict(kind='values', channels=5, loss=dict(type='mmvmt.ValuesLoss', norm='l2'), higher_is_better=False),
)


def test_names_kinds_and_directions():
    assert {name: (task.kind, task.channels, task.ignore) for name, task in TASKS.items()} == {
        'semseg': ('classes', 1, 255),
        'human_parts': ('classes', 1, 255),
        'saliency': ('binary', 1, 255),
        'normals': ('vectors', 3, 0),
        'edge': ('binary', 1, 255),
        'depth': ('metric', 1, 0),
    }
    assert [name for name, task in TASKS.items() if not task.higher_is_better] == ['normals', 'depth']
    assert TASKS['semseg'].gt_key == 'gt_semseg'
    assert (TASKS['normals'].motion, TASKS['depth'].motion) == ('direction', 'none')
    assert [task.figure_unit for task in TASKS.values()] == ['%', '%', '%', '°', '%', 'm']
    assert declarations(TASKS) == {}


def test_order_is_kept():
    assert check_tasks(['normals', 'semseg']) == ('normals', 'semseg')


@pytest.mark.parametrize(
    'tasks, error, message',
    [
        (['parts'], ValueError, "unknown task 'parts'; known tasks are semseg, human_parts"),
        (['edge', 'edge'], ValueError, r"task 'edge' is listed twice in \['edge', 'edge'\]"),
        ([], ValueError, 'tasks is empty'),
        ('edge', TypeError, r"write \['edge'\]"),
        ({}, ValueError, 'tasks is empty'),
        (dict(parts={}), ValueError, r"unknown task 'parts'.*tasks=dict\(parts=dict\(kind='binary'\)\)"),
        (dict(parts='binary'), TypeError, 'must be declared by a dictionary'),
        (dict(parts=dict(classes=3)), ValueError, "task 'parts' is declared without its kind"),
    ],
)
def test_wrong_lists(tasks, error, message):
    with pytest.raises(error, match=message):
        declare_tasks(tasks)


def test_defaults_of_the_kinds():
    names = declare_tasks(ConfigDict(OWN) | dict(semseg=None))
    assert names == (*OWN, 'semseg')
    figures = {name: (task.channels, str(task.ignore), task.motion, task.main_metric) for name, task in TASKS.items()}
    assert {name: figures[name] for name in OWN} == {
        'lanes': (1, '255', 'none', 'mIoU'),
        'crops': (1, '255', 'none', 'mIoU'),
        'species': (1, '65535', 'none', 'mIoU'),
        'flow': (2, 'nan', 'displacement', 'mae'),
        'wind': (2, '0', 'direction', 'mean'),
        'disparity': (1, '0', 'disparity', 'rmse'),
        'heat': (5, 'nan', 'none', 'rmse'),
    }
    assert TASKS['species'].classes[299] == 'class 299'
    assert [TASKS[name].dtype.name for name in ('lanes', 'species', 'flow')] == ['uint8', 'int32', 'float32']
    assert TASKS['lanes'].metric == dict(type='mmvmt.SaliencyMetric')
    assert (TASKS['lanes'].higher_is_better, TASKS['flow'].higher_is_better) == (True, False)
    assert TASKS['flow'].axes_in(dict(normals_x='left', normals_y='up')).meta == dict(
        normals_x='right', normals_y='down'
    )
    assert TASKS['normals'].axes_in({}) is None
    assert hash(TASKS['heat']) == hash(Task('heat', **OWN['heat']))


@pytest.mark.parametrize('task', OWN)
def test_a_declaration_survives_json_and_pickling(task):
    register_task(task, **OWN[task])
    recorded = json.loads(json.dumps(declarations(['semseg', task])))
    assert list(recorded) == [task]
    assert register_task(task, **recorded[task]) is TASKS[task]
    assert pickle.loads(pickle.dumps(TASKS[task])) == TASKS[task]
    before = TASKS.pop(task)
    meet_declarations(recorded, 'file x')
    assert before == TASKS[task]
    assert TASKS[task].declaration == before.declaration
    meet_declarations(recorded, 'file x')


def test_one_name_stands_for_one_task():
    register_task('lanes', kind='binary')
    with pytest.raises(ValueError, match=r"task 'lanes' is declared as .*'classes'.*known already as .*'binary'"):
        register_task('lanes', kind='classes', classes=2)
    with pytest.raises(ValueError, match=r"file x has another task 'lanes' .*'classes'.*'binary'"):
        meet_declarations(dict(lanes=dict(kind='classes', classes=2)), 'file x')
    meet_declarations(dict(lanes=dict(kind='binary', palette=((0, 0, 0), (9, 9, 9)))), 'colours are no matter')
    register_task('crops', kind='classes', classes=3)
    with pytest.raises(ValueError, match=r"file x has another task 'crops' .*4 classes.*3 classes"):
        meet_declarations(dict(crops=dict(kind='classes', classes=4)), 'file x')
    with pytest.raises(ValueError, match='file x is damaged'):
        meet_declarations(['lanes'], 'file x')
    with pytest.raises(ValueError, match="file x declares task 'more' in a way"):
        meet_declarations(dict(more=dict(sort='binary')), 'file x')


def test_a_task_of_the_package_can_be_declared_more_closely():
    assert declare_tasks(dict(human_parts=dict(classes=['none', 'head']), edge={})) == ('human_parts', 'edge')
    assert TASKS['human_parts'].needs_foreground
    assert declarations(['human_parts', 'edge']) == {
        'human_parts': dict(kind='classes', classes=['none', 'head'], needs_foreground=True)
    }
    with pytest.raises(ValueError, match=r"task 'semseg' is declared as .*'binary'"):
        register_task('semseg', kind='binary')
    with pytest.raises(ValueError, match="task 'human_parts' is declared as"):
        register_task('human_parts', kind='classes', classes=4)


@pytest.mark.parametrize(
    'fields, message',
    [
        (dict(kind='classes', classes='abc'), 'classes must be a list of names or their number'),
        (dict(kind='classes', classes=1), 'classes must be 2 to 65535 different names'),
        (dict(kind='classes', classes=['a', 'a']), 'different names'),
        (dict(kind='classes', classes=300, ignore=255), 'ignore must be 65535'),
        (dict(kind='classes', ignore=0), r'ignore must be 255 or 65535 .*option of the data set'),
        (dict(kind='binary', classes=2), "classes must be left out, unless the kind is 'classes'"),
        (dict(kind='binary', ignore=65535), 'ignore must be 255'),
        (dict(kind='sets'), "kind must be one of classes, binary, vectors, metric, values, got 'sets'"),
        (dict(kind='vectors', channels=4), 'channels must be 2 or 3, got 4'),
        (dict(kind='values', channels=0), 'channels must be a positive number, got 0'),
        (dict(kind='metric', channels=2), 'channels must be 1, got 2'),
        (dict(kind='metric', motion='direction'), "motion must be 'none' or 'disparity'"),
        (dict(kind='values', channels=3, motion='displacement'), "channels must be 2 with motion='displacement'"),
        (dict(kind='values', channels=2, axes=('up', 'down')), "axes must be left out with motion='none'"),
        (dict(kind='vectors', axes=('up', 'down')), "axes must be a pair of 'left' or 'right'"),
        (dict(kind='values', scale='log'), "scale must be 'linear'"),
        (dict(kind='classes', classes=3, palette=[(0, 0, 0)]), 'palette must be 3 colours'),
        (dict(kind='binary', unit='m'), 'unit must be left out'),
        (dict(kind='values', needs_foreground=True), 'needs_foreground must be left out'),
        (dict(kind='values', loss='l1'), "loss must be a config with a type, got 'l1'"),
        (dict(kind='values', chanels=3), 'is declared with chanels; a task has kind, channels'),
    ],
)
def test_wrong_declarations(fields, message):
    with pytest.raises(ValueError, match=f"task 'own'.*{message}"):
        register_task('own', **fields)
    assert 'own' not in TASKS


@pytest.mark.parametrize(
    'name', ['values', 'type', 'training', 'init_cfg', 'seg_map', 'a.b', 'loss_map', '', '1st', 'keys']
)
def test_names_that_stand_for_something_else(name):
    with pytest.raises(ValueError, match='cannot be the name of a task'):
        register_task(name, kind='binary')


@pytest.mark.parametrize(
    'kind, channels, known, unknown',
    [
        ('classes', 1, [7], [255]),
        ('binary', 1, [0], [255]),
        ('vectors', 3, [0, 1, 0], [0, 0, 0]),
        ('metric', 1, [0.1], [0]),
        ('values', 2, [0, -1], [math.nan, math.nan]),
        ('values', 2, [0, -1], [math.nan, 1]),
        ('values', 1, [0], [math.nan]),
    ],
)
def test_known_pixels(kind, channels, known, unknown):
    task = Task('own', kind, channels=channels)
    assert task.unknown_map(2, 3).dtype == task.dtype
    assert not task.known(task.unknown_map(2, 3)).any()
    assert task.unknown_map(2, 3).shape == ((2, 3) if channels == 1 else (2, 3, channels))
    label = np.array([[known, unknown]], task.dtype)
    tensor = torch.from_numpy(label.transpose(2, 0, 1).copy())
    label = label[..., 0] if channels == 1 else label
    assert task.known(label).tolist() == [[True, False]]
    assert task.known(tensor).tolist() == [[True, False]]
    assert task.known(tensor[None]).tolist() == [[[True, False]]]
