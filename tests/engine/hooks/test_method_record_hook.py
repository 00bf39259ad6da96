from types import SimpleNamespace

import pytest
import torch
from hostile import ODD_WEIGHTS
from mmengine.config import ConfigDict
from mmengine.registry import MODELS as MMENGINE_MODELS
from tiny import SWIN, VMT, tiny_model

from mmvmt.adapters import VMTAdapter
from mmvmt.adapters.base import Method
from mmvmt.engine import MethodRecordHook
from mmvmt.models.identity import METHOD_KEY, method_record
from mmvmt.registry import ADAPTERS
from mmvmt.structures import NormalsAxes


def runner_of(model, **kwargs):
    return SimpleNamespace(model=model, work_dir='run', _load_from='run/iter_2.pth', _resume=False, **kwargs)


def checkpoint_of(*plugins):
    model = tiny_model(tasks=('saliency',), plugins=plugins)
    checkpoint = dict(meta={}, state_dict=model.state_dict(), message_hub={})
    MethodRecordHook().before_save_checkpoint(runner_of(model), checkpoint)
    return checkpoint


def load_into(checkpoint, *plugins):
    MethodRecordHook().after_load_checkpoint(runner_of(tiny_model(tasks=('saliency',), plugins=plugins)), checkpoint)


LORA = dict(cfg=dict(type='mmvmt.LoRA', rank=2))
POLYHISTOR = dict(cfg=dict(type='mmvmt.PolyhistorLite', rank=2, embedding=4, hidden=8, code=4))


@pytest.mark.parametrize(
    'first, second',
    [
        (VMT, ConfigDict(VMT)),
        (VMT, dict(cfg=dict(type='VMTAdapter', reduction=2))),
        (VMT, dict(cfg=dict(type=VMTAdapter, reduction=2))),
        (VMT, dict(cfg=dict(type='mmvmt.adapters.vmt.VMTAdapter', reduction=2))),
        (VMT, dict(cfg=dict(type='mmvmt.VMTAdapter', reduction=2.0, scale=1, activation='gelu'))),
        (VMT | dict(position='ffn'), VMT | dict(position=['ffn'])),
        (VMT, VMT | dict(position=('ffn',))),
        (VMT, VMT | dict(position=None, stages=[True] * 4)),
        (VMT | dict(stages=(True,) * 4), VMT | dict(stages=[1, 1, 1, 1])),
        (LORA, dict(cfg=dict(type='LoRA', rank=2, alpha=None, norms=False), position=['qkv'])),
        # Options that a base class takes.
        (POLYHISTOR, dict(cfg=dict(POLYHISTOR['cfg'], type='PolyhistorLite', unfreeze='none'))),
    ],
)
def test_the_same_plugin_written_otherwise_loads(first, second):
    if first is LORA:
        second = dict(second, position=method_record(tiny_model(tasks=('saliency',), plugins=[LORA]))[0]['position'])
    for one, other in ((first, second), (second, first)):
        load_into(checkpoint_of(one), other)


def test_a_record_of_an_earlier_version_loads():
    """Earlier records have the plugins as the config had them."""
    former = dict(cfg=dict(VMT['cfg'], input='stream'))
    checkpoint = checkpoint_of(former)
    for record in ([VMT], [dict(cfg=dict(type='VMTAdapter', reduction=2, activation='gelu'))], None):
        load_into(checkpoint | dict(meta={METHOD_KEY: record}), former)
    load_into(dict(state_dict=checkpoint['state_dict']), former)
    load_into(dict(checkpoint['state_dict']), former)


def test_a_class_in_the_config_is_recorded_by_its_name():
    """A pure-Python config has classes, which no checkpoint may hold and no JSON can."""
    record = checkpoint_of(dict(cfg=dict(type=VMTAdapter, reduction=2)))['meta']
    assert record == checkpoint_of(VMT)['meta']
    assert record[METHOD_KEY][0]['cfg']['type'] == 'mmvmt.VMTAdapter'
    assert record[METHOD_KEY][0]['cfg']['activation'] == 'gelu'


@pytest.mark.parametrize(
    'other, message',
    [
        (
            dict(cfg=dict(VMT['cfg'], activation='relu')),
            "activation of mmvmt.VMTAdapter is 'gelu' there and 'relu' here",
        ),
        (dict(cfg=dict(VMT['cfg'], scale=0.1)), r'scale of mmvmt.VMTAdapter is 1.0 there and 0.1 here'),
        (
            dict(cfg=dict(type='FullFineTuning')),
            'its plugins are mmvmt.VMTAdapter, this model has mmvmt.FullFineTuning',
        ),
        (
            VMT | dict(stages=(True, True, True, False)),
            r'stages of mmvmt.VMTAdapter is \[True, True, True, True\] there',
        ),
    ],
)
def test_options_that_no_shape_shows_are_compared(other, message):
    with pytest.raises(
        ValueError, match=f'run/iter_2.pth. was trained with another method than this model: .*{message}'
    ):
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
    loader = {f'{stage}_dataloader': SimpleNamespace(dataset=dataset)}
    runner = runner_of(tiny_model(tasks=('saliency',), plugins=[VMT]), **loader)
    hook = MethodRecordHook()
    hook.after_load_checkpoint(runner, checkpoint_of(VMT) | dict(meta=dict(dataset_meta=trained)))
    for _ in range(2):
        getattr(hook, f'before_{stage}_epoch')(runner)
    assert len(lines) == warned
    if warned:
        assert f'axes {NormalsAxes.of(trained)}; those of this data set are {NormalsAxes.of(data)}' in lines[0]


def test_slots_are_compared():
    with pytest.raises(ValueError, match=r"position of mmvmt\.LoRA is \['qkv', 'fc1'\] there and \['qkv'\] here"):
        load_into(checkpoint_of(LORA | dict(position=('qkv', 'fc1'))), LORA | dict(position='qkv'))


def test_a_method_of_a_file_that_is_not_imported_is_compared_by_its_words():
    class Foreign(Method):
        """A method of somebody else."""

        def __init__(self, sites, tasks, strength=1):
            super().__init__(sites, tasks)

    with pytest.raises(ValueError, match=r'its plugins are somewhere\.Foreign, this model has mmvmt\.VMTAdapter'):
        load_into(checkpoint_of(VMT) | dict(meta={METHOD_KEY: [dict(cfg=dict(type='somewhere.Foreign'))]}), VMT)
    ADAPTERS.register_module(name='Foreign', module=Foreign)
    try:
        plugin = dict(cfg=dict(type='Foreign'))
        load_into(checkpoint_of(plugin), dict(cfg=dict(type=Foreign, strength=1)))
    finally:
        del ADAPTERS._module_dict['Foreign']


@pytest.mark.parametrize('record', ['VMT', [1], [dict(type='mmvmt.VMTAdapter')], dict(cfg=1)])
def test_what_is_no_record_is_refused(record):
    with pytest.raises(ValueError, match='its record of the method must be a list of plugins'):
        load_into(checkpoint_of(VMT) | dict(meta={METHOD_KEY: record}), VMT)


@pytest.mark.parametrize('name', ODD_WEIGHTS)
def test_odd_weights_are_refused_with_file_and_key(name):
    spoil, message = ODD_WEIGHTS[name]
    for key in ('state_dict', 'ema_state_dict'):
        checkpoint = checkpoint_of(VMT)
        averages = {f'module.{name}': value for name, value in checkpoint['state_dict'].items()}
        checkpoint |= dict(ema_state_dict=averages)
        with pytest.raises(ValueError, match=rf"checkpoint 'run/iter_2\.pth'.*{message}"):
            load_into(checkpoint | {key: spoil(checkpoint[key])}, VMT)


@pytest.mark.parametrize('checkpoint', [[1], dict(meta=[1], state_dict={}), dict(state_dict=[]), {1: torch.ones(1)}])
def test_what_is_no_checkpoint_is_refused(checkpoint):
    with pytest.raises(ValueError, match=r"checkpoint 'run/iter_2\.pth' (is no checkpoint|holds no dictionary)"):
        load_into(checkpoint, VMT)


def test_weights_alone_cannot_be_resumed():
    model = tiny_model(tasks=('saliency',))
    runner = runner_of(model)
    runner._resume = True
    with pytest.raises(ValueError, match=r'iter_2\.pth. holds weights alone, .*load_from, without resume'):
        MethodRecordHook().after_load_checkpoint(runner, dict(state_dict=model.state_dict()))


@pytest.mark.parametrize('prefix', ['module.', '_orig_mod.', 'model.', 'module._orig_mod.', 'net.model.'])
def test_names_lose_what_stands_in_front_of_them(prefix):
    checkpoint = checkpoint_of(VMT)
    named = {f'{prefix}{name}': value for name, value in checkpoint['state_dict'].items()}
    loaded = dict(meta={}, state_dict=named)
    load_into(loaded, VMT)
    assert loaded['state_dict'].keys() == checkpoint['state_dict'].keys()


def test_a_compiled_encoder_is_saved_under_the_names_of_the_model_and_loads_from_them():
    bare, model = tiny_model(tasks=('saliency',)), tiny_model(tasks=('saliency',), seed=1)
    model.backbone = torch.compile(model.backbone)
    checkpoint = dict(meta={}, state_dict=model.state_dict())
    MethodRecordHook().before_save_checkpoint(runner_of(model), checkpoint)
    assert checkpoint['state_dict'].keys() == bare.state_dict().keys()
    checkpoint['state_dict'] = bare.state_dict()
    MethodRecordHook().after_load_checkpoint(runner_of(model), checkpoint)
    model.load_state_dict(checkpoint['state_dict'])
    for name, value in bare.state_dict().items():
        assert torch.equal(value, model.state_dict()[name.replace('backbone.', 'backbone._orig_mod.')]), name


def test_another_encoder_of_a_segmentor_is_refused():
    def segmentor(**changes):
        backbone = dict(type='mmvmt.AdaptedSwin', plugins=[VMT], **(SWIN | changes))
        head = dict(type='mmseg.FCNHead', in_channels=64, in_index=3, channels=4, num_classes=2, num_convs=1)
        return MMENGINE_MODELS.build(dict(type='mmseg.EncoderDecoder', backbone=backbone, decode_head=head))

    model, large = segmentor(), segmentor(depths=(1, 2, 2, 1))
    hook = MethodRecordHook()
    with pytest.raises(ValueError, match=r'depths=\(1, 2, 2, 1\); this encoder is a Swin with .*\(1, 2, 1, 1\)'):
        hook.after_load_checkpoint(runner_of(model), dict(state_dict=large.state_dict()))
    with pytest.raises(ValueError, match=r'is not of this encoder: 13 of its 91 weights are missing'):
        hook.after_load_checkpoint(runner_of(large), dict(state_dict=model.state_dict()))
    # A segmentor without adapters, or with another head, is something to start from.
    plain = {name: value for name, value in model.state_dict().items() if 'adapters' not in name}
    hook.after_load_checkpoint(runner_of(model), dict(state_dict=plain))
    hook.after_load_checkpoint(runner_of(model), dict(state_dict={'decode_head.conv_seg.bias': torch.ones(5)}))
