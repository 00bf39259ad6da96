"""VMT-Adapter against a reference that is written from its equations, with loops over tokens."""

import math

import pytest
import torch
from tiny import FOUR_TASKS, perturb, tiny_swin

from mmvmt.adapters import Site, VMTAdapter, VMTAdapterLite
from mmvmt.registry import MODELS

IMAGES = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
SITES = [Site(0, 0, 'ffn', 6, 6), Site(0, 1, 'ffn', 6, 6), Site(1, 0, 'ffn', 12, 12)]
TASKS = ('semseg', 'normals')


def gelu(x):
    return 0.5 * x * (1 + math.erf(x / math.sqrt(2)))


def reference_a(adapter, site, h):
    """a = act(h W_down + b_down) W_up + b_up of one token, in plain Python."""
    block = adapter.bottlenecks[site.key]
    down, up = block.down_weight.tolist(), (block.down_weight.t() if block.tied else block.up_weight).tolist()
    z = [gelu(sum(w * x for w, x in zip(row, h)) + b) for row, b in zip(down, block.down_bias.tolist())]
    return [sum(w * x for w, x in zip(row, z)) + b for row, b in zip(up, block.up_bias.tolist())]


@pytest.mark.parametrize('method', [VMTAdapter, VMTAdapterLite])
@pytest.mark.parametrize('scale', [1.0, 0.3, 'learned'])
@pytest.mark.parametrize('tap', ['all', 'last'])
def test_equals_the_equations(method, scale, tap):
    adapter = method(SITES, TASKS, reduction=2, scale=scale, tap=tap)
    perturb(adapter, std=0.5)
    generator = torch.Generator().manual_seed(3)
    h = [torch.randn(1, 2, 6, generator=generator) for _ in range(2)]
    mlp = [torch.randn(1, 2, 6, generator=generator) for _ in range(2)]
    out = torch.randn(1, 2, 6, generator=generator)
    tapped = []
    for site, inputs, outputs in zip(SITES, h, mlp):
        adapted, a = adapter.adapt(site, inputs, outputs, None, None)
        if a is not None:
            tapped.append(a)
        s = adapter.scales[site.key].item() if scale == 'learned' else scale
        for token in range(2):
            expected = [
                m + s * x
                for m, x in zip(outputs[0, token].tolist(), reference_a(adapter, site, inputs[0, token].tolist()))
            ]
            assert adapted[0, token].tolist() == pytest.approx(expected, abs=1e-5)

    features = adapter.tap(0, out, tapped, adapter.tasks)
    assert tuple(features) == TASKS
    blocks = [0, 1] if tap == 'all' else [1]
    for task in TASKS:
        extraction = adapter.extractions['stage0'][task]
        for token in range(2):
            expected = out[0, token].tolist()
            for row, block in enumerate(blocks):
                site = SITES[block]
                s = adapter.scales[site.key].item() if scale == 'learned' else scale
                a = reference_a(adapter, site, h[block][0, token].tolist())
                gamma, beta = extraction.scale[row].tolist(), extraction.shift[row].tolist()
                expected = [f + s * (g * x + b) for f, g, x, b in zip(expected, gamma, a, beta)]
            assert features[task][0, token].tolist() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    'name, adapters',
    [('VMTAdapter', 1_119_120), ('VMTAdapterLite', 399_904)],
)
def test_swin_t_with_four_tasks_has_the_derived_counts(name, adapters):
    swin = MODELS.build(
        dict(type='mmvmt.AdaptedSwin', tasks=FOUR_TASKS, plugins=[dict(cfg=dict(type=f'mmvmt.{name}'))])
    )
    assert sum(p.numel() for p in swin.adapter_parameters()) == adapters
    assert sum(p.numel() for p in swin.parameters() if p.requires_grad) == adapters


def test_last_block_tap_has_11520_scales_and_shifts():
    plugin = dict(cfg=dict(type='mmvmt.VMTAdapter', tap='last'))
    swin = MODELS.build(dict(type='mmvmt.AdaptedSwin', tasks=FOUR_TASKS, plugins=[plugin]))
    assert sum(p.numel() for p in swin.adapters[0].extractions.parameters()) == 11_520


def test_the_stream_does_not_depend_on_the_tasks():
    one = tiny_swin(tasks=('semseg',))
    many = tiny_swin(tasks=(*FOUR_TASKS, 'depth', 'edge'))
    many.load_state_dict(one.state_dict(), strict=False)
    for a, b in zip(one(IMAGES)['semseg'], many(IMAGES)['semseg']):
        torch.testing.assert_close(a, b)


def test_unfreezing_norms_adds_exactly_the_layer_norms():
    swin = tiny_swin(plugins=[dict(cfg=dict(type='mmvmt.VMTAdapter', reduction=2, unfreeze='norms'))])
    trained = {id(p) for p in swin.parameters() if p.requires_grad} - {id(p) for p in swin.adapter_parameters()}
    norms = {id(p) for m in swin.modules() if isinstance(m, torch.nn.LayerNorm) for p in m.parameters()}
    assert norms
    assert trained == norms


@pytest.mark.parametrize('reduction', [0, -2, 0.5, 9])
def test_reduction_out_of_range_names_the_value_and_the_width(reduction):
    with pytest.raises(ValueError, match=rf'reduction must be between 1 and the block width 8, got {reduction}'):
        tiny_swin(plugins=[dict(cfg=dict(type='mmvmt.VMTAdapter', reduction=reduction))])


@pytest.mark.parametrize(
    'key, value, message',
    [
        ('tap', 'first', "tap must be 'all' or 'last', got 'first'"),
        ('unfreeze', 'all', "unfreeze must be 'none' or 'norms', got 'all'"),
        ('scale', 'big', "scale must be a finite number or 'learned', got 'big'"),
        ('scale', float('nan'), 'scale must be a finite number .* got nan'),
        ('scale', True, 'scale must be a finite number .* got True'),
        ('scale', None, 'scale must be a finite number .* got None'),
        ('activation', 'tanh', "unknown activation 'tanh'; choose one of gelu"),
    ],
)
def test_wrong_options_are_quoted(key, value, message):
    with pytest.raises(ValueError, match=message):
        VMTAdapter(SITES, TASKS, reduction=2, **{key: value})


def test_stages_that_do_not_leave_the_encoder_have_no_scales_and_shifts():
    swin = tiny_swin(out_indices=(2, 3))
    assert sorted(swin.adapters[0].extractions) == ['stage2', 'stage3']
    assert [len(maps) for maps in swin(IMAGES).values()] == [2] * 4
