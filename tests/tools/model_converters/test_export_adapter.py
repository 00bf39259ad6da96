import json
import runpy

import pytest
import torch
from commands import ROOT
from hostile import write_hostile
from mmengine.config import Config
from tiny import perturb

from mmvmt.apis.weights import build_model, load_weights
from mmvmt.engine.adapter_file import read_adapter
from mmvmt.models.identity import METHOD_KEY, leave_frozen_out, method_record


@pytest.fixture(scope='module')
def export():
    return runpy.run_path(str(ROOT / 'tools/model_converters/export_adapter.py'))['main']


@pytest.fixture(scope='module')
def tester():
    return runpy.run_path(str(ROOT / 'tools/test.py'))['main']


@pytest.fixture
def trained(tiny_config, tmp_path):
    """A config that names its encoder, that encoder, and a checkpoint."""
    encoder = tmp_path / 'encoder.pth'
    config = tmp_path / 'config.py'
    config.write_text(
        f'_base_ = {str(tiny_config)!r}\n'
        f"encoder = dict(_delete_=True, type='Pretrained', checkpoint={str(encoder)!r})\n"
        'model = dict(backbone=dict(init_cfg=encoder))\n'
    )
    model = build_model(Config.fromfile(config))
    perturb(model)
    torch.save({f'backbone.{name}': value for name, value in model.backbone.state_dict().items()}, encoder)
    meta = dict(iter=120, **{METHOD_KEY: method_record(model)})
    torch.save(dict(meta=meta, state_dict=model.state_dict()), tmp_path / 'iter_120.pth')
    return config, model


def test_a_checkpoint_becomes_an_adapter_file(export, trained, tmp_path, capsys):
    config, model = trained
    (tmp_path / 'metrics.json').write_text(json.dumps(dict(metrics={'semseg/mIoU': 12.5}, seed=0)))
    out = tmp_path / 'a.safetensors'
    arguments = [config, tmp_path / 'iter_120.pth', out, '--metrics', tmp_path / 'metrics.json']
    assert export([str(argument) for argument in arguments]) == 0
    assert f'{out}: {out.stat().st_size:,} bytes, tasks semseg, human_parts' in capsys.readouterr().out
    manifest = read_adapter(out).manifest
    assert (manifest['iteration'], manifest['metrics']) == (120, {'semseg/mIoU': 12.5})
    loaded = build_model(Config.fromfile(config))
    load_weights(loaded, out)
    for name, value in model.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name]), name


def test_half_is_about_half_as_large(export, trained, tmp_path):
    config, _ = trained
    for name, more in (('full', []), ('half', ['--half']), ('brain', ['--half', 'bfloat16'])):
        assert export([str(config), str(tmp_path / 'iter_120.pth'), str(tmp_path / f'{name}.safetensors'), *more]) == 0
    kinds = {
        name: read_adapter(tmp_path / f'{name}.safetensors').manifest['half'] for name in ('full', 'half', 'brain')
    }
    assert kinds == dict(full=None, half='float16', brain='bfloat16')
    sizes = [
        sum(t.numel() * t.element_size() for t in read_adapter(tmp_path / f'{name}.safetensors').tensors.values())
        for name in ('full', 'half', 'brain')
    ]
    assert sizes[1] == sizes[2] < 0.7 * sizes[0]


def test_a_checkpoint_without_frozen_weights_takes_the_encoder_from_the_config(export, trained, tmp_path):
    config, model = trained
    checkpoint = dict(meta={METHOD_KEY: method_record(model)}, state_dict=model.state_dict())
    leave_frozen_out(model, checkpoint)
    torch.save(checkpoint, tmp_path / 'small.pth')
    for source in ('iter_120', 'small'):
        assert export([str(config), str(tmp_path / f'{source}.pth'), str(tmp_path / f'{source}.safetensors')]) == 0
    first, second = (read_adapter(tmp_path / f'{name}.safetensors').manifest for name in ('iter_120', 'small'))
    assert first['sha256'] == second['sha256']


@pytest.mark.parametrize(
    'change, message',
    [
        (dict(config='nothing.py'), 'nothing.py'),
        (dict(checkpoint='nothing.pth'), "nothing.pth' does not exist"),
        (dict(out='adapter.pth'), 'the name of an adapter file ends in .safetensors'),
        (dict(metrics='config.py'), 'config.py is not valid JSON'),
        (dict(metrics='list.json'), 'holds no dictionary of figures'),
        (dict(option='model.backbone.plugins.0.cfg.type=mmvmt.VMTAdapterLite'), 'was trained with another method than'),
    ],
)
def test_wrong_arguments_are_one_line(change, message, export, trained, tmp_path, capsys):
    (tmp_path / 'list.json').write_text('[1]')
    names = dict(config='config.py', checkpoint='iter_120.pth', out='a.safetensors') | change
    arguments = [str(tmp_path / names[key]) for key in ('config', 'checkpoint', 'out')]
    arguments += ['--metrics', str(tmp_path / names['metrics'])] if 'metrics' in names else []
    arguments += ['--cfg-options', names['option']] if 'option' in names else []
    assert export(arguments) == 1
    error = capsys.readouterr().err
    assert error.startswith('export_adapter.py: ')
    assert message in error
    assert len(error.strip().splitlines()) == 1
    assert not (tmp_path / 'a.safetensors').exists()


def test_nothing_in_a_checkpoint_is_executed_unless_it_is_trusted(export, trained, tmp_path, capsys):
    config, _ = trained
    trace = write_hostile(tmp_path / 'hostile.pth', torch.load(tmp_path / 'iter_120.pth', weights_only=True))
    arguments = [str(config), str(tmp_path / 'hostile.pth'), str(tmp_path / 'a.safetensors')]
    assert export(arguments) == 1
    assert 'holding code that would be executed' in capsys.readouterr().err
    assert not trace.exists()
    assert export([*arguments, '--trust-checkpoint']) == 0
    assert trace.exists()
    assert read_adapter(tmp_path / 'a.safetensors').manifest['iteration'] == 120


@pytest.mark.parametrize(
    'option, message',
    [
        ('model.backbone.init_cfg=None', 'holds no frozen weights; name the pretrained encoder in the config'),
        ('model.backbone.init_cfg.checkpoint=no.pth', "encoder weights: file 'no.pth' does not exist"),
    ],
)
def test_testing_an_adapter_file_needs_its_encoder(option, message, export, tester, trained, tmp_path, capsys):
    config, _ = trained
    assert export([str(config), str(tmp_path / 'iter_120.pth'), str(tmp_path / 'a.safetensors')]) == 0
    assert tester([str(config), str(tmp_path / 'a.safetensors'), '--cfg-options', option]) == 2
    assert message in capsys.readouterr().err
