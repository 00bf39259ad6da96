import pytest
import torch
from hostile import ODD_WEIGHTS
from safetensors.torch import save_file
from tiny import SWIN, VMT, tiny_model

from mmvmt.apis.weights import load_weights
from mmvmt.registry import MODELS


def model_of(seed=0):
    return tiny_model(tasks=('saliency',), seed=seed)


def segmentor(**changes):
    backbone = dict(type='mmvmt.AdaptedSwin', plugins=[VMT], **(SWIN | changes))
    head = dict(type='mmseg.FCNHead', in_channels=64, in_index=3, channels=4, num_classes=3, num_convs=1)
    return MODELS.build(dict(type='mmseg.EncoderDecoder', backbone=backbone, decode_head=head))


# Of every program that takes a checkpoint: inferencer, demos, add_task.py, export_onnx.py, export_adapter.py.
@pytest.mark.parametrize('build', [model_of, segmentor])
@pytest.mark.parametrize('name', ODD_WEIGHTS)
def test_odd_weights_are_refused_with_file_and_key(build, name, tmp_path):
    spoil, message = ODD_WEIGHTS[name]
    model, path = build(), tmp_path / 'odd.pth'
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.save(dict(state_dict=spoil(model.state_dict())), path)
    with pytest.raises(ValueError, match=rf"checkpoint '.*odd\.pth'.*{message}"):
        load_weights(model, path)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize('spoil', [lambda c: c | dict(meta=[1]), lambda c: c | {3: 4}, lambda c: dict(state_dict=[1])])
def test_what_is_no_checkpoint_is_refused(spoil, tmp_path):
    path = tmp_path / 'odd.pth'
    torch.save(spoil(dict(state_dict=model_of().state_dict())), path)
    with pytest.raises(ValueError, match=r"checkpoint '.*odd\.pth' is no checkpoint: "):
        load_weights(model_of(), path)


@pytest.mark.parametrize('prefix', ['', 'module.', '_orig_mod.', 'model.', 'module._orig_mod.model.'])
@pytest.mark.parametrize('build', [model_of, segmentor])
def test_names_lose_what_stands_in_front_of_them(build, prefix, tmp_path):
    source, model = build(), build()
    for parameter in model.parameters():
        torch.nn.init.constant_(parameter, 2)
    torch.save({f'{prefix}{name}': value for name, value in source.state_dict().items()}, tmp_path / 'named.pth')
    load_weights(torch.compile(model), tmp_path / 'named.pth')
    assert all(torch.equal(model.state_dict()[name], value) for name, value in source.state_dict().items())


def test_weights_in_safetensors(tmp_path):
    source, model = model_of(), model_of(seed=1)
    save_file(source.state_dict(), tmp_path / 'all.safetensors')
    load_weights(model, tmp_path / 'all.safetensors')
    assert all(torch.equal(model.state_dict()[name], value) for name, value in source.state_dict().items())


@pytest.mark.parametrize(
    'change, message',
    [
        (
            lambda w: segmentor(depths=(1, 2, 2, 1)).state_dict(),
            r'is of another encoder: 13 weights .*depths=\(1, 2, 2, 1\); this encoder is .*\(1, 2, 1, 1\)',
        ),
        (
            lambda w: {k: v for k, v in w.items() if 'adapters' not in k},
            r'it lacks backbone\.adapters\.0\..* and \d+ more',
        ),
        (
            lambda w: w | {'auxiliary_head.conv_seg.bias': torch.ones(3)},
            r'it has besides auxiliary_head\.conv_seg\.bias\.',
        ),
        (lambda w: w | {'decode_head.conv_seg.bias': torch.ones(4)}, r'has shape \(4,\), the model needs \(3,\)'),
    ],
)
def test_a_segmentor_of_another_kind_is_refused_in_one_line(change, message, tmp_path):
    torch.save(change(dict(segmentor().state_dict())), tmp_path / 'other.pth')
    with pytest.raises(ValueError, match=rf"checkpoint '.*other\.pth' .*{message}"):
        load_weights(segmentor(), tmp_path / 'other.pth')
