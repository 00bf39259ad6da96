"""VMT-Adapter against a reference that is written from its equations, with loops over tokens."""

import math

import pytest
import torch
import torch.nn.functional as F
from contributing import example
from mmseg.models.backbones.swin import SwinTransformer
from tiny import FOUR_TASKS, SWIN, VMT, perturb, tiny_encoder, tiny_model, tiny_swin

from mmvmt.adapters import Site, VMTAdapter, VMTAdapterLite
from mmvmt.models.identity import check_method_record, method_record
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


def reference_features(plain, adapter, image, input='normed', scale=1.0, tap='all', shift=True):
    """Tokens of every task and stage, by the blocks of mmseg's Swin."""
    features = {task: [] for task in TASKS}
    x, hw = plain.patch_embed(image)
    for i, stage in enumerate(plain.stages):
        specific = dict.fromkeys(TASKS, 0)
        for j, block in enumerate(stage.blocks):
            x = x + block.attn(block.norm1(x), hw)
            normed = block.norm2(x)
            shared = adapter.bottlenecks[f'stage{i}_block{j}_ffn']
            down, up = shared.down_weight.t(), shared.down_weight if shared.tied else shared.up_weight.t()
            z = F.gelu((normed if input == 'normed' else x) @ down + shared.down_bias)
            a = z @ up + shared.up_bias
            s = adapter.scales[f'stage{i}_block{j}_ffn'] if scale == 'learned' else scale
            x = x + block.ffn(normed, identity=torch.zeros_like(x)) + s * a
            tapped = range(len(stage.blocks)) if tap == 'all' else [len(stage.blocks) - 1]
            for task in TASKS if j in tapped else ():
                own, row = adapter.extractions[f'stage{i}'][task], tapped.index(j)
                beta = own.shift[row] if shift else 0
                specific[task] = specific[task] + s * (own.scale[row] * a + beta)
        for task in TASKS:
            features[task].append((x + specific[task]).transpose(1, 2).unflatten(2, hw))
        if stage.downsample is not None:
            x, hw = stage.downsample(x, hw)
    return features


READINGS = [
    dict(),
    dict(input='stream'),
    dict(scale=0.1),
    dict(scale='learned'),
    dict(tap='last'),
    dict(shift=False),
    dict(input='stream', scale='learned', tap='last', shift=False),
]


@pytest.mark.parametrize('method', ['VMTAdapter', 'VMTAdapterLite'])
@pytest.mark.parametrize('options', READINGS)
def test_features_and_gradients_in_an_encoder_equal_the_equations(method, options):
    plugins = [dict(cfg=dict(type=f'mmvmt.{method}', reduction=2, **options))]
    swin = tiny_swin(TASKS, plugins)
    plain = SwinTransformer(**SWIN)
    plain.load_state_dict(swin.state_dict(), strict=False)
    got, expected = swin(IMAGES), reference_features(plain, swin.adapters[0], IMAGES, **options)
    for task in TASKS:
        for a, b in zip(got[task], expected[task], strict=True):
            torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
    own = dict(swin.adapters.named_parameters())
    gradients = [
        torch.autograd.grad(sum(x.square().mean() for maps in features.values() for x in maps), list(own.values()))
        for features in (got, expected)
    ]
    for name, a, b in zip(own, *gradients, strict=True):
        assert a.any(), name
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3, msg=name)


SWIN_T = [
    Site(stage, block, 'ffn', 96 * 2**stage, 96 * 2**stage)
    for stage, depth in enumerate((2, 2, 6, 2))
    for block in range(depth)
]


@pytest.mark.parametrize(
    'options, difference',
    [
        (dict(input='stream'), 0),
        (dict(scale=0.1), 0),
        (dict(start='gamma'), 0),
        # A scalar for each of the 12 blocks.
        (dict(scale='learned', scale_start=0.1), 12),
        # Half of 4 tasks times 2 times the sum of widths over blocks, 4,416; or over last blocks, 1,440.
        (dict(shift=False), -17_664),
        (dict(tap='last'), 11_520 - 35_328),
    ],
)
def test_options_change_the_count_by_what_they_add(options, difference):
    for method, count in ((VMTAdapter, 1_119_120), (VMTAdapterLite, 399_904)):
        adapter = method(SWIN_T, FOUR_TASKS, **options)
        assert sum(p.numel() for p in adapter.parameters()) == count + difference


def started(cfg, **options):
    """A frozen encoder, and the same with an adapter at its start."""
    plain, swin = tiny_encoder(cfg, TASKS, None), tiny_encoder(cfg, TASKS, [dict(cfg=dict(reduction=2, **options))])
    swin.load_state_dict(plain.state_dict(), strict=False)
    torch.manual_seed(0)
    swin.adapters[0].reset_parameters()
    return plain, swin


@pytest.mark.parametrize('method', ['VMTAdapter', 'VMTAdapterLite'])
def test_gamma_that_starts_at_zero_gives_every_task_the_moved_stream(method):
    plain, swin = started(dict(type='mmvmt.AdaptedSwin', **SWIN), type=f'mmvmt.{method}', start='gamma')
    frozen, got = plain(IMAGES), swin(IMAGES)
    for a, b, c in zip(got['semseg'], got['normals'], frozen['semseg'], strict=True):
        assert torch.equal(a, b)
        assert not torch.allclose(a, c, atol=1e-2)
    for site in swin.adapters[0].sites:
        shared = swin.adapters[0].bottlenecks[site.key]
        assert not shared.up_bias.any()
        for weight in (shared.down_weight,) if shared.tied else (shared.down_weight, shared.up_weight):
            spread = 4 / math.sqrt(2 * weight.numel())
            assert weight.std().item() * math.sqrt(weight.shape[1]) == pytest.approx(1, rel=spread)


@pytest.mark.parametrize('method', ['VMTAdapter', 'VMTAdapterLite'])
@pytest.mark.parametrize('input', ['stream', 'normed'])
def test_gamma_and_a_learned_scale_that_start_at_zero_keep_the_frozen_network_and_learn(method, input):
    options = dict(type=f'mmvmt.{method}', start='gamma', scale='learned', scale_start=0, input=input)
    plain, swin = started(dict(type='mmvmt.AdaptedSwin', **SWIN), **options)
    optimizer, missing = torch.optim.SGD(swin.adapters.parameters(), lr=0.1), []
    for step in range(3):
        features = swin(IMAGES)
        if not step:
            torch.testing.assert_close(features, plain(IMAGES), atol=1e-5, rtol=1e-5)
        optimizer.zero_grad()
        sum((x - 1).square().mean() for maps in features.values() for x in maps).backward()
        missing.append({n for n, p in swin.adapters.named_parameters() if not p.grad.any()})
        optimizer.step()
    assert not any('.scales.' in name for name in missing[0])
    assert missing[2] == set()


def plain_encoder():
    """The one that CONTRIBUTING shows."""
    kind = example('plain').PlainEncoder
    MODELS.module_dict.pop('PlainEncoder')
    return dict(type=kind, embed_dims=8, depths=(1, 2, 1, 1), num_heads=(1, 2, 2, 4))


@pytest.mark.parametrize('cfg', [dict(type='mmvmt.AdaptedSwin', **SWIN), plain_encoder()], ids=['swin', 'plain'])
def test_what_the_mlp_reads_is_what_the_adapter_reads(cfg):
    encoder = tiny_encoder(cfg, TASKS, [VMT])
    read = {'mlp': [], 'adapter': []}
    for site in encoder.adapters[0].sites:
        layers = dict(
            mlp=encoder.slot_layers(site.stage, site.block)['fc1'], adapter=encoder.adapters[0].bottlenecks[site.key]
        )
        for name, layer in layers.items():
            layer.register_forward_pre_hook(lambda _, args, name=name: read[name].append(args[0]))
    encoder(IMAGES)
    assert len(read['mlp']) == 5
    assert all(torch.equal(a, b) for a, b in zip(read['mlp'], read['adapter'], strict=True))


def test_an_encoder_that_does_not_hand_out_what_the_mlp_reads_is_named(monkeypatch):
    cfg = plain_encoder()
    monkeypatch.setattr(cfg['type'], 'normed_slots', ())
    with pytest.raises(ValueError, match=r"MLP of the branch 'ffn' reads, .* PlainEncoder .*input='stream'"):
        tiny_encoder(cfg, TASKS, [VMT])
    tiny_encoder(cfg, TASKS, [dict(cfg=dict(VMT['cfg'], input='stream'))])


@pytest.mark.parametrize('shift', [True, False])
def test_weights_with_and_without_shifts_are_told_apart(shift):
    theirs, ours = (VMTAdapter(SITES, TASKS, reduction=2, shift=there) for there in (shift, not shift))
    with pytest.raises(ValueError, match=rf"cfg=dict\(type='VMTAdapter', shift={shift}\)"):
        ours.load_state_dict(theirs.state_dict(), strict=False)


@pytest.mark.parametrize(
    'options', [dict(input='stream'), dict(scale='learned'), dict(tap='last'), dict(shift=False), dict(start='gamma')]
)
def test_weights_of_another_reading_are_refused_by_their_record(options):
    default, other = (tiny_model(TASKS, [dict(cfg=dict(VMT['cfg'], **more))]) for more in ({}, options))
    for theirs, ours in ((method_record(other), default), (method_record(default), other)):
        with pytest.raises(ValueError, match=next(iter(options))):
            check_method_record(theirs, ours, 'the file')


@pytest.mark.parametrize('method', ['VMTAdapter', 'VMTAdapterLite'])
def test_a_record_from_before_these_options_is_of_adapters_that_read_the_stream(method):
    today, before = (dict(cfg=dict(type=f'mmvmt.{method}', reduction=2, **more)) for more in ({}, dict(input='stream')))
    check_method_record([today], tiny_model(TASKS, [before]), 'the file')
    with pytest.raises(ValueError, match=r"input of .* is 'stream' there and 'normed' here"):
        check_method_record([today], tiny_model(TASKS, [today]), 'the file')


@pytest.mark.parametrize(
    'name, adapters',
    [('VMTAdapter', 1_119_120), ('VMTAdapterLite', 399_904)],
)
@pytest.mark.usefixtures('undrawn')
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
        ('input', 'mlp', "input must be 'stream' or 'normed', got 'mlp'"),
        ('shift', 1, 'shift must be True or False, got 1'),
        ('start', 'down', "start must be 'up' or 'gamma', got 'down'"),
        ('scale_start', 'zero', "scale_start must be a finite number, got 'zero'"),
        ('scale_start', 0.1, r"scale_start=0\.1 is for scale='learned', but scale is 1\.0"),
        ('activation', 'tanh', "unknown activation 'tanh'; choose one of gelu"),
    ],
)
def test_wrong_options_are_quoted(key, value, message):
    with pytest.raises(ValueError, match=message):
        VMTAdapter(SITES, TASKS, reduction=2, **{key: value})


def test_a_scale_and_an_up_projection_that_both_start_at_zero_are_refused():
    with pytest.raises(ValueError, match=r"neither gets a gradient; choose start='gamma' or another scale_start"):
        VMTAdapter(SITES, TASKS, reduction=2, scale='learned', scale_start=0)


def test_stages_that_do_not_leave_the_encoder_have_no_scales_and_shifts():
    swin = tiny_swin(out_indices=(2, 3))
    assert sorted(swin.adapters[0].extractions) == ['stage2', 'stage3']
    assert [len(maps) for maps in swin(IMAGES).values()] == [2] * 4
