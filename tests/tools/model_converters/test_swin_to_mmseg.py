"""The command; that converted weights give the source's features is tested beside the conversion."""

import re
import runpy

import commands
import pytest
import torch
from hostile import ODD_WEIGHTS
from mmseg.models.backbones.swin import SwinTransformer
from safetensors.torch import load_file, save_file
from tiny import SWIN

from mmvmt.models.checkpoint import read_checkpoint

TOOL = 'tools/model_converters/swin_to_mmseg.py'
main = runpy.run_path(str(commands.ROOT / TOOL))['main']


def mmseg_swin():
    torch.manual_seed(0)
    return SwinTransformer(**SWIN)


def test_a_classifier_of_mmpretrain_becomes_an_encoder_that_mmseg_loads(tmp_path):
    source = mmseg_swin().state_dict()
    weights = {f'backbone.{name}': value for name, value in source.items() if not name.startswith('norm')}
    save_file(
        {name: value.contiguous() for name, value in weights.items()} | {'head.fc.bias': torch.ones(3)},
        tmp_path / 'source.safetensors',
    )
    target = tmp_path / 'new' / 'swin.pth'
    result = commands.run(TOOL, tmp_path / 'source.safetensors', target, '--layout', 'mmpretrain')
    assert f'{target}: ' in result.stdout
    assert result.stdout.rstrip().endswith('from mmpretrain')
    torch.manual_seed(1)
    swin = SwinTransformer(init_cfg=dict(type='Pretrained', checkpoint=str(target)), **SWIN)
    swin.init_weights()
    for name, value in swin.state_dict().items():
        assert name.startswith('norm') or torch.equal(value, source[name]), name


def test_writes_safetensors_too(tmp_path):
    torch.save(dict(state_dict=mmseg_swin().state_dict()), tmp_path / 'source.pth')
    assert main([str(tmp_path / 'source.pth'), str(tmp_path / 'swin.safetensors')]) == 0
    written = load_file(tmp_path / 'swin.safetensors')
    expected = read_checkpoint(str(tmp_path / 'source.pth'))['state_dict']
    assert written.keys() == expected.keys()
    assert all(torch.equal(written[name], value) for name, value in expected.items())


@pytest.mark.parametrize(
    'weights, options, message',
    [
        ({'conv.weight': torch.ones(1)}, (), "no Swin Transformer of the first version (but e.g. 'conv.weight')"),
        ({'stages.0.norm': torch.ones(1)}, ('--layout', 'timm'), "have the layout 'mmseg', not 'timm'"),
    ],
)
def test_other_weights_are_refused(weights, options, message, tmp_path, capsys):
    torch.save(weights, tmp_path / 'source.pth')
    assert main([str(tmp_path / 'source.pth'), str(tmp_path / 'target.pth'), *options]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / 'target.pth').exists()


def test_a_missing_source_is_named(tmp_path, capsys):
    assert main([str(tmp_path / 'gone.pth'), str(tmp_path / 'target.pth')]) == 2
    assert "gone.pth' does not exist" in capsys.readouterr().err


@pytest.mark.parametrize(
    'name, message', [('there.pth', 'exists already'), ('target.bin', 'must end in .pth or .safetensors')]
)
def test_nothing_is_overwritten_and_the_ending_says_the_format(name, message, tmp_path, capsys):
    (tmp_path / 'there.pth').write_text('mine')
    with pytest.raises(SystemExit):
        main([str(tmp_path / 'source.pth'), str(tmp_path / name)])
    assert message in capsys.readouterr().err
    assert (tmp_path / 'there.pth').read_text() == 'mine'


@pytest.mark.parametrize('name', ODD_WEIGHTS)
def test_odd_weights_are_not_converted(name, tmp_path, capsys):
    spoil, message = ODD_WEIGHTS[name]
    torch.save(dict(state_dict=spoil(mmseg_swin().state_dict())), tmp_path / 'source.pth')
    assert main([str(tmp_path / 'source.pth'), str(tmp_path / 'target.pth')]) == 2
    assert re.search(rf"Cannot convert .*: .*checkpoint '.*source\.pth'.*{message}", capsys.readouterr().err)
    assert not (tmp_path / 'target.pth').exists()
