"""Methods times encoders: what the contract suite asks of a method holds on every family, or is refused."""

import io

import pytest
import torch
from encoders import ENCODERS, VARIANTS, adapted
from test_contract import CASES, DECLARED_START
from tiny import FOUR_TASKS, batch, losses_of, tiny_encoder, tiny_model

from mmvmt.adapters.base import SLOTS
from mmvmt.models import AdaptedBackbone
from mmvmt.models.backbones.layouts import LAYOUTS
from mmvmt.models.backbones.layouts.base import find
from mmvmt.registry import ADAPTERS, MODELS

IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
TASKS = ('semseg', 'normals')

# Slots that blocks of a family do not offer, and why.
NO_QKV = 'keys and values come from fewer tokens than queries, by a layer of their own'
NO_PROMPTS = 'attention is inside windows, or to a map of fewer tokens, or there is none'
NO_DOWNSAMPLE = 'patches are merged by a convolution, or not at all, or inside a module of the library'
NO_ATTENTION = 'blocks are convolutions and an MLP'
SWIN = dict(tokens=NO_PROMPTS)
PYRAMID = dict(tokens=NO_PROMPTS, downsample=NO_DOWNSAMPLE)
COLUMN = dict(downsample=NO_DOWNSAMPLE)
LACKS = {
    'mmseg.SwinTransformer': SWIN,
    'mmpretrain.SwinTransformerV2': SWIN,
    'timm.SwinTransformerV2': SWIN,
    'mmseg.MixVisionTransformer': PYRAMID | dict(qkv=NO_QKV, fc1='a convolution', fc2='a convolution'),
    'mmseg.PCPVT': PYRAMID | dict(qkv=NO_QKV),
    'mmseg.SVT': PYRAMID | dict(qkv=NO_QKV),
    'timm.PyramidVisionTransformerV2': PYRAMID | dict(qkv=NO_QKV),
    'timm.Hiera': PYRAMID,
    'timm.MultiScaleVit': PYRAMID,
    'timm.ConvNeXt': PYRAMID | dict.fromkeys(('attn', 'qkv', 'proj'), NO_ATTENTION),
    'mmpretrain.HiViT': {},
    'mmseg.VisionTransformer': COLUMN,
    'mmseg.BEiT': COLUMN,
    'mmpretrain.VisionTransformer': COLUMN,
    'mmpretrain.ViTEVA02': COLUMN,
    'timm.VisionTransformer': COLUMN,
    'timm.Eva': COLUMN,
}
WITH_TABLES = ('mmseg.SwinTransformer', 'mmseg.BEiT')
# All methods on a column and a pyramid; on the others one of each kind: a tap, layers, branches inside drop path by
# generated weights, neighbours, prompts, copies of the encoder's parameters, weights in their place, tails.
WHOLE = ('mmpretrain.VisionTransformer', 'timm.SwinTransformerV2')
KINDS = ('VMTAdapter', 'LoRA', 'PolyhistorLite', 'Mona', 'VPTDeep', 'BitFit', 'SSF', 'MTLoRA', 'RelativePositionBias')
ALL_CELLS = [(family, method) for family in sorted(ENCODERS) for method in sorted(CASES)]
CELLS = [(family, method) for family, method in ALL_CELLS if family in WHOLE or method in KINDS]


def default_slots(method):
    kind = ADAPTERS.get(method)
    return kind.positions[:1] if kind.default_positions is None else kind.default_positions


def slots_of(family, method):
    """The slots that a method fills by default, as far as the family offers them."""
    return [slot for slot in default_slots(method) if slot not in LACKS[family]]


def plugins_of(family, method):
    plugin = dict(cfg=CASES[method][0])
    return [plugin | dict(position=slots_of(family, method)) if default_slots(method) else plugin]


def reason_of(family, method):
    """What the product says where a method cannot be on a family at all; None: it can be."""
    if default_slots(method) and not slots_of(family, method):
        return 'matches no slot'
    # HiViT's first stages have no attention.
    without = set(LACKS[family]) & {'proj', 'fc1', 'fc2'} or family == 'mmpretrain.HiViT'
    if ADAPTERS.get(method).branches and without:
        return f'runs a tail per task .* which blocks of {family} do not offer'
    if ADAPTERS.get(method).wants_prompt_scores:
        return f'with the tokens of the image in the attention, and blocks of {family} do not'
    if method == 'RelativePositionBias' and family not in WITH_TABLES:
        return f'trains nothing: {family} has no such parameters'
    if method == 'SSF' and family == 'mmseg.VisionTransformer':
        return 'cannot shift what patch_embed.projection puts out: it has no bias'
    return None


def test_every_layout_has_a_tiny_encoder():
    assert {family for family in LAYOUTS if family in LACKS} == set(LACKS) == set(LAYOUTS)
    assert set(ENCODERS) <= set(LACKS)


@pytest.mark.parametrize('family', sorted(ENCODERS))
def test_a_family_offers_all_slots_but_those_that_are_listed_with_a_reason(family):
    slots = MODELS.build(adapted(family)).slots
    assert set(slots) == set(SLOTS) - set(LACKS[family])
    for method in sorted(CASES):
        missing = [slot for slot in default_slots(method) if slot in LACKS[family]]
        if missing:
            with pytest.raises(ValueError, match=f"blocks of {family} have no '{missing[0]}'; they offer "):
                tiny_encoder(adapted(family), TASKS, [dict(cfg=CASES[method][0])])


@pytest.mark.parametrize('family', sorted(ENCODERS))
def test_what_cannot_be_is_refused_with_the_reason(family):
    for method in sorted(CASES):
        if reason_of(family, method) is not None:
            with pytest.raises(ValueError, match=reason_of(family, method)):
                tiny_encoder(adapted(family), TASKS, plugins_of(family, method))


@pytest.mark.parametrize('family, method', [cell for cell in CELLS if reason_of(*cell) is None])
def test_a_method_runs_trains_saves_and_gets_tasks(family, method):
    encoder, plugins = adapted(family), plugins_of(family, method)
    model = tiny_model(TASKS, plugins, encoder).train()
    backbone = model.backbone
    assert isinstance(backbone, AdaptedBackbone)

    data = batch(TASKS)
    losses = losses_of(model, data)
    sum(losses.values()).backward()
    backbone.task_order = 'stacked'
    with torch.no_grad():
        for task, loss in losses_of(model, data).items():
            torch.testing.assert_close(loss, losses[task], msg=task)
    backbone.task_order = 'sequential'

    declared = {id(p) for p in (*model.heads.parameters(), *backbone.declared_parameters())}
    # Parts of a published method that no feature depends on have a gradient of zero.
    unread = {id(p) for a in backbone.adapters for p in getattr(a, 'unread_parameters', tuple)()}
    for name, parameter in model.named_parameters():
        trains = id(parameter) in declared
        assert parameter.requires_grad == trains == (parameter.grad is not None), name
        assert not trains or bool(parameter.grad.any()) == (id(parameter) not in unread), name

    file = io.BytesIO()
    torch.save(backbone.state_dict(), file)
    file.seek(0)
    other = tiny_encoder(encoder, TASKS, plugins)
    other.load_state_dict(torch.load(file, weights_only=True))
    backbone.eval()
    with torch.no_grad():
        expected, got = backbone(IMAGES), other(IMAGES)
        for task in TASKS:
            assert all(torch.equal(a, b) for a, b in zip(expected[task], got[task])), task
        before = list(backbone.state_dict())
        backbone.add_task('depth')
        widened = backbone(IMAGES)
        backbone.remove_task('depth')
    assert list(backbone.state_dict()) == before
    assert tuple(widened) == (*TASKS, 'depth')
    for task in TASKS:
        assert all(torch.equal(a, b) for a, b in zip(expected[task], widened[task])), task


@pytest.mark.parametrize('family, method', [cell for cell in CELLS if reason_of(*cell) is None])
def test_starts_from_the_frozen_network_and_has_its_own_number_of_parameters(family, method):
    frozen = tiny_encoder(adapted(family), TASKS, None)
    encoder = tiny_encoder(adapted(family), TASKS, plugins_of(family, method))
    encoder.load_state_dict(frozen.state_dict(), strict=False)
    for adapter in encoder.adapters:
        adapter.reset_parameters()
    if method not in DECLARED_START:
        with torch.no_grad():
            expected, got = frozen(IMAGES), encoder(IMAGES)
        for task in TASKS:
            for a, b in zip(expected[task], got[task]):
                torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
    assert list(frozen.state_dict()) == [name for name in encoder.state_dict() if not name.startswith('adapters.')]


CHANNELS_FIRST = ('timm.ConvNeXt, V2', 'timm.ConvNeXt, conv_mlp')  # whose norms run on such maps
POST_NORM = (
    'mmpretrain.SwinTransformerV2',
    'timm.SwinTransformerV2',
    'timm.VisionTransformer, norms behind',
    'timm.Eva, norms behind',
)


@pytest.mark.parametrize('family', sorted(ENCODERS | VARIANTS))
@torch.no_grad()
def test_an_adapter_reads_what_the_mlp_reads(family):
    """The outputs of the norm, or the stream where the norm stands behind the MLP."""
    encoder = tiny_encoder(adapted(family), TASKS, plugins_of(family.partition(',')[0], 'VMTAdapter'))
    (adapter,), mlp, read = encoder.adapters, [], []
    for site in adapter.sites:
        if family in POST_NORM:
            block = encoder.stage_blocks()[site.stage][site.block].block
            module = find(block, encoder.layout.mlp[0])
            module.register_forward_pre_hook(lambda _, args: mlp.append(args[0]))
        else:
            encoder.norm_of(site).register_forward_hook(lambda _, args, outputs: mlp.append(outputs))
        adapter.bottlenecks[site.key].register_forward_pre_hook(lambda _, args: read.append(args[0]))
    encoder(IMAGES)
    assert len(mlp) == len(read) == len(adapter.sites)
    for a, b in zip(mlp, read, strict=True):
        tokens = a.flatten(2).transpose(1, 2) if family in CHANNELS_FIRST else a.flatten(1, -2)
        assert torch.equal(tokens, b)


@pytest.mark.parametrize('family', ['timm.Hiera', 'timm.MultiScaleVit'])
def test_input_of_an_attention_that_is_not_known_is_refused(family):
    (plugin,) = plugins_of(family, 'PolyhistorLite')
    plugin = plugin | dict(position='attn', cfg=plugin['cfg'] | dict(position='parallel', input='normed'))
    with pytest.raises(ValueError, match=f"of the branch 'attn' reads, which blocks of {family} .* input='stream'"):
        tiny_encoder(adapted(family), TASKS, [plugin])


# The widths and blocks of pyramids are those of the contract suite, whose formulas for branches hold as they stand.
OF_BRANCHES = [
    name for name in sorted(CASES) if set(ADAPTERS.get(name).positions) & {'ffn'} and not ADAPTERS.get(name).branches
]


@pytest.mark.parametrize('method', OF_BRANCHES)
def test_parameters_by_formula(method):
    for family in ('mmseg.MixVisionTransformer', 'timm.PyramidVisionTransformerV2', 'mmseg.SwinTransformer'):
        encoder = MODELS.build(dict(adapted(family), tasks=FOUR_TASKS, plugins=plugins_of(family, method)))
        assert sum(p.numel() for p in encoder.adapter_parameters()) == CASES[method][1], family


def test_parameters_by_formula_where_all_blocks_are_of_one_width():
    d, blocks = 16, 4
    counts = {
        'VMTAdapter': blocks * (2 * d * (d // 2) + d // 2 + d + 4 * 2 * d),
        'Adapter': blocks * 4 * (d * d + d // 2 + d + 2 * d),
        'VPTDeep': blocks * 4 * 3 * d,
        # One width is k = 1: a single hypernetwork, no kernels and no coefficients.
        'PolyhistorLite': 4 * 5 + (11 * 16 + 17 * 6 + 7 * (2 * 2 * (d + d // 2) + d // 2 + 3 * d)) + 5 * blocks,
        'LoRA': 4 * blocks * (2 * (d + 3 * d) + 2 * d),
    }
    for family in ('mmseg.VisionTransformer', 'mmpretrain.VisionTransformer', 'timm.VisionTransformer'):
        for method, count in counts.items():
            encoder = MODELS.build(dict(adapted(family), tasks=FOUR_TASKS, plugins=plugins_of(family, method)))
            assert sum(p.numel() for p in encoder.adapter_parameters()) == count, (family, method)
