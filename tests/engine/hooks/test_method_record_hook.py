from types import SimpleNamespace

import pytest
from mmengine.config import ConfigDict
from tiny import VMT, tiny_model

from mmvmt.adapters import VMTAdapter
from mmvmt.engine import MethodRecordHook


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
