from types import SimpleNamespace

import pytest
from mmengine.config import ConfigDict
from tiny import VMT, tiny_model

from mmvmt.adapters import VMTAdapter
from mmvmt.engine import MethodRecordHook
from mmvmt.structures import NormalsAxes


def checkpoint_of(*plugins):
    checkpoint = dict(meta={})
    MethodRecordHook().before_save_checkpoint(SimpleNamespace(model=tiny_model(plugins=plugins)), checkpoint)
    return checkpoint


def load_into(checkpoint, *plugins):
    MethodRecordHook().after_load_checkpoint(SimpleNamespace(model=tiny_model(plugins=plugins)), checkpoint)


def test_the_same_plugins_load():
    load_into(checkpoint_of(VMT), ConfigDict(VMT))
    load_into(checkpoint_of(VMT | dict(stages=(True,) * 4)), VMT | dict(stages=[True] * 4))
    load_into(dict(meta={}), VMT)


def test_a_class_in_the_config_is_recorded_by_its_name():
    """A pure-Python config has classes, which no checkpoint may hold and no JSON can."""
    checkpoint = checkpoint_of(dict(cfg=dict(type=VMTAdapter, reduction=2)))
    assert checkpoint == checkpoint_of(VMT)
    load_into(checkpoint, VMT)


@pytest.mark.parametrize(
    'other',
    [
        dict(cfg=dict(type='mmvmt.VMTAdapter', reduction=2, activation='relu')),
        dict(cfg=dict(type='mmvmt.VMTAdapter', reduction=2, scale=0.1)),
        dict(cfg=dict(type='mmvmt.FullFineTuning')),
    ],
)
def test_options_that_no_shape_shows_are_compared(other):
    with pytest.raises(ValueError, match='trained with another method than this model: its plugins are'):
        load_into(checkpoint_of(VMT), other)


@pytest.mark.parametrize('stage', ['train', 'val', 'test'])
@pytest.mark.parametrize(
    'trained, data, warned',
    [
        (NormalsAxes('right').meta, NormalsAxes().meta, True),
        (NormalsAxes('left', 'down').meta, NormalsAxes().meta, True),
        (NormalsAxes().meta, NormalsAxes().meta, False),
        ({}, NormalsAxes().meta, False),
        (NormalsAxes().meta, {}, False),
        (NormalsAxes().meta, None, False),
    ],
)
def test_other_axes_of_normals_are_named_once(stage, trained, data, warned, monkeypatch):
    lines = []
    monkeypatch.setattr('mmvmt.structures.normals_axes.print_log', lambda line, **_: lines.append(line))
    dataset = SimpleNamespace() if data is None else SimpleNamespace(metainfo=data)
    runner = SimpleNamespace(
        model=tiny_model(plugins=[VMT]), **{f'{stage}_dataloader': SimpleNamespace(dataset=dataset)}
    )
    hook = MethodRecordHook()
    hook.after_load_checkpoint(runner, checkpoint_of(VMT) | dict(meta=dict(dataset_meta=trained)))
    for _ in range(2):
        getattr(hook, f'before_{stage}_epoch')(runner)
    assert len(lines) == warned
    if warned:
        assert f'axes {NormalsAxes.of(trained)}; those of this data set are {NormalsAxes.of(data)}' in lines[0]
