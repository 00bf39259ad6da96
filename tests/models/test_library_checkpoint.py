"""Weights of an encoder's own library: they load under their names and give its features, others are refused."""

import numpy as np
import pytest
import torch
from encoders import ENCODERS, adapted, plain
from safetensors.torch import save_file
from tiny import VMT, perturb, tiny_model

from mmvmt.registry import MODELS

TASKS = ('semseg', 'normals')
IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@pytest.fixture(params=sorted(ENCODERS))
def family(request):
    return request.param


def written_by_the_library(family, **changes):
    """The plain encoder with random weights, and its weights under the names of what the library publishes."""
    encoder = plain(family, **changes)
    perturb(encoder, seed=4)
    return encoder, dict(encoder.state_dict())


def load(path, family, tasks=None, **changes):
    cfg = adapted(family, **changes) | dict(init_cfg=dict(type='Pretrained', checkpoint=str(path)))
    encoder = MODELS.build(cfg | (dict(tasks=tasks, plugins=[VMT]) if tasks else {}))
    encoder.init_weights()
    return encoder.eval()


def test_weights_of_the_library_give_its_features(family, tmp_path):
    theirs, weights = written_by_the_library(family)
    head = {'head.weight': torch.ones(3, 16), 'head.bias': torch.ones(3)}
    torch.save(weights, tmp_path / 'alone.pth')
    torch.save(
        dict(
            meta={},
            state_dict={f'backbone.{n}': w for n, w in weights.items()}
            | {'decode_head.conv_seg.weight': torch.ones(3, 16)},
        ),
        tmp_path / 'segmentor.pth',
    )
    save_file({name: value.clone() for name, value in (weights | head).items()}, tmp_path / 'classifier.safetensors')
    with torch.no_grad():
        expected = theirs(IMAGES)
    for name in ('alone.pth', 'segmentor.pth', 'classifier.safetensors'):
        with torch.no_grad():
            for a, b in zip(expected, load(tmp_path / name, family)(IMAGES)):
                torch.testing.assert_close(b, a, atol=1e-5 * float(a.abs().max().clamp(min=1)), rtol=0)
    # With tasks the output norms are left out; the frozen encoder has all else.
    encoder = load(tmp_path / 'alone.pth', family, TASKS)
    own = encoder.own_parameters()
    assert own
    assert all(torch.equal(own[name], weights[name]) for name in own)


def test_weights_of_another_encoder_are_refused_by_name(family, tmp_path):
    _, weights = written_by_the_library(family)
    block = 'stages.1.blocks.1.' if 'stages.1.blocks.1.norm1.weight' in weights else 'layers.1.1.1.'
    block = next(
        p
        for p in (block, 'layers.3.', 'blocks.3.', 'stages.1.blocks.1.')
        if any(name.startswith(p) for name in weights)
    )
    lacking = {name: value for name, value in weights.items() if not name.startswith(block)}
    besides = weights | {
        name.replace(block, block[:-2] + '77.'): v for name, v in weights.items() if name.startswith(block)
    }
    key = next(
        name
        for name, value in weights.items()
        if name.startswith(block) and value.ndim == 2 and value.is_floating_point()
    )
    other = weights | {key: torch.zeros(5, 5)}
    broken = weights | {key: torch.full_like(weights[key], torch.nan)}
    for content, message in (
        (lacking, rf"is not of this encoder, {family}: \d+ of its \d+ weights are missing, e\.g\. '{block}"),
        (besides, rf"have no place in this one, {family}, e\.g\. '{block[:-2]}77\."),
        (other, rf"another encoder size: '{key}' has shape \(5, 5\)"),
        (broken, key),
        ({'something.weight': torch.ones(3)}, 'weights are missing'),
    ):
        torch.save(content, tmp_path / 'wrong.pth')
        with pytest.raises(ValueError, match=message):
            load(tmp_path / 'wrong.pth', family)


@pytest.mark.parametrize('family', [name for name in sorted(ENCODERS) if name.endswith('.VisionTransformer')])
def test_positions_are_interpolated_as_the_library_does(family, tmp_path):
    _, weights = written_by_the_library(family)
    torch.save(weights, tmp_path / 'small.pth')
    ours = load(tmp_path / 'small.pth', family, img_size=64)
    theirs = plain(family, img_size=64)
    if family == 'timm.VisionTransformer':
        from timm.models.vision_transformer import checkpoint_filter_fn

        theirs.load_state_dict(checkpoint_filter_fn(weights, theirs))
    elif family == 'mmpretrain.VisionTransformer':
        theirs.load_state_dict(dict(weights))
    else:
        theirs.init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'small.pth'))
        theirs.init_weights()
    assert ours.pos_embed.shape[1] > weights['pos_embed'].shape[1]
    with torch.no_grad():
        for a, b in zip(theirs(IMAGES), ours(IMAGES)):
            torch.testing.assert_close(b, a, atol=1e-5, rtol=1e-5)


def test_biases_by_offsets_are_interpolated_as_in_beit(tmp_path):
    """Offsets of the table lie at steps 1, 1 + q, 1 + q + q^2, ... on either side, as far out as those of the larger
    map; cubic splines reproduce cubic polynomials.
    """
    # From 4 to 8 patches along an edge: the farthest offset is 1 + q + q^2 = 7.
    q = next(r.real for r in np.roots([1, 1, 1 - 7]) if r.real > 0)
    steps = np.cumsum([1, q, q * q])
    given, wanted = (torch.tensor(np.concatenate((-s[::-1], [0], s))) for s in (steps, np.arange(1.0, 8)))
    tables = [(at[:, None] ** 3 + 2 * at[None] ** 2 - at[:, None] * at[None]).flatten() for at in (given, wanted)]
    _, weights = written_by_the_library('mmseg.BEiT', img_size=32)
    name = 'layers.2.attn.relative_position_bias_table'
    weights[name] = torch.cat((tables[0].float(), torch.tensor([5.0, 6.0, 7.0])))[:, None] * torch.tensor([1.0, -2.0])
    torch.save(weights, tmp_path / 'small.pth')
    got = load(tmp_path / 'small.pth', 'mmseg.BEiT').state_dict()[name]
    expected = torch.cat((tables[1].float(), torch.tensor([5.0, 6.0, 7.0])))[:, None] * torch.tensor([1.0, -2.0])
    torch.testing.assert_close(got, expected, atol=1e-2, rtol=1e-4)


def test_the_encoders_own_init_cfg_is_read_by_ours(tmp_path):
    _, weights = written_by_the_library('mmseg.MixVisionTransformer')
    torch.save(weights, tmp_path / 'mit.pth')
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'mit.pth'))
    encoder = MODELS.build(adapted('mmseg.MixVisionTransformer', init_cfg=init_cfg))
    encoder.init_weights()
    assert torch.equal(encoder.state_dict()['layers.0.2.weight'], weights['layers.0.2.weight'])


def test_a_whole_model_starts_from_scratch(family):
    """mmengine keeps a record of who initialised what, over all modules of the model."""
    model = tiny_model(TASKS, [VMT], adapted(family))
    model.init_weights()
    assert all(p.isfinite().all() for p in model.parameters())
    assert not any(hasattr(module, '_params_init_info') for module in model.modules())
    assert not hasattr(model.backbone.layout.encoder, '_params_init_info')


def test_from_scratch_it_starts_as_its_library_does(family):
    torch.manual_seed(0)
    ours = MODELS.build(adapted(family) | dict(tasks=TASKS, plugins=[VMT]))
    ours.init_weights()
    weight = next(
        p
        for name, p in ours.own_parameters().items()
        if name.endswith(('qkv.weight', 'in_proj_weight', 'q.weight', 'fc1.weight'))
    )
    assert 0 < weight.std() < 0.5
    assert all(p.isfinite().all() for p in ours.parameters())
    assert all(p.requires_grad == name.startswith('adapters.') for name, p in ours.named_parameters())
