"""Bottleneck adapters against a reference that is written from its equations, with loops over tokens."""

import math

import pytest
import torch
from mmengine.config import Config
from mmseg.models.backbones.swin import SwinTransformer
from tiny import FOUR_TASKS, SWIN, perturb, tiny_swin

from mmvmt.adapters import Adapter, LowRankAdapter, SharedAdapter, Site
from mmvmt.registry import MODELS

IMAGES = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
SITES = [Site(0, 0, 'ffn', 6, 6), Site(0, 0, 'attn', 6, 6), Site(1, 0, 'ffn', 12, 12)]
TASKS = ('semseg', 'normals')
METHODS = {Adapter: {}, SharedAdapter: {}, LowRankAdapter: dict(rank=2)}


def cfg_of(method):
    return dict(type=f'mmvmt.{method.__name__}', **METHODS[method])


def layer_norm(x, weight, bias):
    mean = sum(x) / len(x)
    std = math.sqrt(sum((v - mean) ** 2 for v in x) / len(x) + 1e-5)
    return [w * (v - mean) / std + b for v, w, b in zip(x, weight, bias)]


def linear(x, weight, bias):
    return [sum(w * v for w, v in zip(row, x)) + b for row, b in zip(weight, bias)]


def gelu(x):
    return [0.5 * v * (1 + math.erf(v / math.sqrt(2))) for v in x]


def matrix(projection):
    """The weight of a projection, the product of low-rank factors by loops."""
    if hasattr(projection, 'weight'):
        return projection.weight.tolist()
    left, right = projection.left.tolist(), projection.right.t().tolist()
    return [[sum(a * b for a, b in zip(row, column)) for column in right] for row in left]


def reference_a(bottleneck, x):
    """a = act(n(x) W_down + b_down) W_up + b_up of one token, in plain Python."""
    if hasattr(bottleneck.norm, 'weight'):
        x = layer_norm(x, bottleneck.norm.weight.tolist(), bottleneck.norm.bias.tolist())
    z = gelu(linear(x, matrix(bottleneck.down), bottleneck.down.bias.tolist()))
    return linear(z, matrix(bottleneck.up), bottleneck.up.bias.tolist())


@pytest.mark.parametrize('method', METHODS)
@pytest.mark.parametrize('parallel', [False, True])
@pytest.mark.parametrize('norm', [False, True])
@pytest.mark.parametrize('scale', [1.0, 0.3])
def test_equals_the_equations(method, parallel, norm, scale):
    adapter = method(SITES, TASKS, parallel=parallel, norm=norm, scale=scale, **METHODS[method])
    perturb(adapter, std=0.5)
    generator = torch.Generator().manual_seed(3)
    for site in SITES:
        inputs, outputs = torch.randn(2, 1, 2, site.in_channels, generator=generator).unbind()
        for task in TASKS if method.per_task else (None,):
            bottleneck = adapter.bottlenecks[task or 'shared'][site.key]
            adapted, tap = adapter.adapt(site, inputs, outputs, task, adapter.generated(task))
            assert tap is None
            for token in range(2):
                y = outputs[0, token].tolist()
                a = reference_a(bottleneck, inputs[0, token].tolist() if parallel else y)
                assert adapted[0, token].tolist() == pytest.approx([v + scale * u for v, u in zip(y, a)], abs=1e-5)


def reference_maps(swin, task):
    """Features of a task by mmseg's own Swin, whose attention and FFN are hooked to adapt what they put out."""
    plain = SwinTransformer(**SWIN)
    plain.load_state_dict(swin.state_dict(), strict=False)
    adapter = swin.adapters[0]
    streams = {}

    def hook(site, branch_of):
        def adapt(module, args, kwargs, result):
            branch, skipped = branch_of(site, kwargs, result)
            x = skipped if adapter.parallel else branch
            b = adapter.bottlenecks[task if adapter.per_task else 'shared'][site.key]
            z = torch.nn.functional.gelu(b.norm(x) @ b.down.weight.t() + b.down.bias)
            return result + adapter.scale * (z @ b.up.weight.t() + b.up.bias)

        return adapt

    for site in adapter.sites:
        block = plain.stages[site.stage].blocks[site.block]
        if site.slot == 'attn':
            # mmseg's attention puts out the branch alone; the stream is what its norm got.
            block.norm1.register_forward_pre_hook(lambda _, args, site=site: streams.update({site: args[0]}))
            adapt = hook(site, lambda site, kwargs, result: (result, streams[site]))
            block.attn.register_forward_hook(adapt, with_kwargs=True)
        else:
            # mmseg's FFN adds the stream to the branch by itself.
            adapt = hook(site, lambda site, kwargs, result: (result - kwargs['identity'], kwargs['identity']))
            block.ffn.register_forward_hook(adapt, with_kwargs=True)
    for index in range(4):
        setattr(plain, f'norm{index}', torch.nn.Identity())
    plain.eval()
    return plain(IMAGES)


@pytest.mark.parametrize('name', ['Adapter', 'SharedAdapter'])
@pytest.mark.parametrize('position', ['ffn', 'attn', ['attn', 'ffn']])
@pytest.mark.parametrize('parallel', [False, True])
@torch.no_grad()
def test_the_whole_encoder_equals_mmsegs_with_adapters_hooked_in(name, position, parallel):
    plugin = dict(cfg=dict(type=f'mmvmt.{name}', parallel=parallel, scale=0.5), position=position)
    swin = tiny_swin(tasks=TASKS, plugins=[plugin])
    slots = [position] if isinstance(position, str) else position
    assert {site.slot for site in swin.adapters[0].sites} == set(slots)
    features = swin(IMAGES)
    for task in TASKS:
        for got, expected in zip(features[task], reference_maps(swin, task), strict=True):
            torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize('method', [Adapter, LowRankAdapter])
def test_a_task_knows_nothing_of_the_others(method):
    swin = tiny_swin(tasks=TASKS, plugins=[dict(cfg=cfg_of(method))])
    before = swin(IMAGES)
    perturb(swin.adapters[0].bottlenecks['normals'], seed=9)
    after = swin(IMAGES)
    assert all(torch.equal(a, b) for a, b in zip(before['semseg'], after['semseg']))
    assert not any(torch.equal(a, b) for a, b in zip(before['normals'], after['normals']))


def test_shared_adapters_give_every_task_the_same_features_for_any_number_of_tasks():
    one = tiny_swin(tasks=('semseg',), plugins=[dict(cfg=dict(type='mmvmt.SharedAdapter'))])
    many = tiny_swin(tasks=(*FOUR_TASKS, 'depth', 'edge'), plugins=[dict(cfg=dict(type='mmvmt.SharedAdapter'))])
    many.load_state_dict(one.state_dict(), strict=True)
    features = many(IMAGES)
    for maps in features.values():
        assert all(torch.equal(a, b) for a, b in zip(maps, one(IMAGES)['semseg'], strict=True))


@pytest.mark.parametrize('method', METHODS)
@pytest.mark.parametrize('parallel', [False, True])
def test_starts_as_the_identity_and_learns_at_once(method, parallel):
    torch.manual_seed(0)
    adapter = method(SITES, TASKS, parallel=parallel, **METHODS[method])
    perturb(adapter)
    adapter.reset_parameters()
    task = 'normals' if method.per_task else None
    inputs, outputs = torch.randn(2, 3, 5, 12).unbind()
    adapted, _ = adapter.adapt(SITES[2], inputs, outputs, task, adapter.generated(task))
    assert torch.equal(adapted, outputs)
    adapted.square().sum().backward()
    up = adapter.bottlenecks[task or 'shared'][SITES[2].key].up
    assert (up.left if method is LowRankAdapter else up.weight).grad.any()


@pytest.mark.parametrize('method', METHODS)
def test_down_projections_start_at_fan_in_scale(method):
    torch.manual_seed(0)
    site = Site(0, 0, 'ffn', 256, 256)
    adapter = method([site], ['semseg'])
    down = adapter.bottlenecks['semseg' if method.per_task else 'shared'][site.key].down
    weight = down.left @ down.right if method is LowRankAdapter else down.weight
    assert weight.shape == (128, 256)
    assert weight.std().item() == pytest.approx(256**-0.5, rel=0.2)


@pytest.mark.parametrize('method', METHODS)
@pytest.mark.parametrize('tasks', [('semseg',), None, (*FOUR_TASKS, 'depth', 'edge')])
def test_every_parameter_gets_a_gradient(method, tasks):
    swin = tiny_swin(tasks=tasks, plugins=[dict(cfg=cfg_of(method), position=['attn', 'ffn'])])
    features = swin(IMAGES)
    maps = features if tasks is None else [m for task in tasks for m in features[task]]
    sum(m.square().sum() for m in maps).backward()
    assert [n for n, p in swin.adapters.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize('method', METHODS)
@pytest.mark.parametrize('parallel', [False, True])
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_autocast_stays_close_whatever_the_branch_puts_out(method, parallel, dtype):
    adapter = method(SITES, TASKS, parallel=parallel, **METHODS[method])
    perturb(adapter)
    task = 'normals' if method.per_task else None
    inputs, outputs = torch.randn(2, 3, 5, 12, generator=torch.Generator().manual_seed(2)).unbind()
    expected, _ = adapter.adapt(SITES[2], inputs, outputs, task, adapter.generated(task))
    with torch.autocast('cpu', dtype=torch.bfloat16):
        got, _ = adapter.adapt(SITES[2], inputs, outputs.to(dtype), task, adapter.generated(task))
    assert got.dtype == dtype
    torch.testing.assert_close(got.float(), expected, atol=0.1, rtol=0.05)


@pytest.mark.parametrize('method', METHODS)
def test_weights_decay_and_biases_and_norms_do_not(method):
    adapter = method(SITES, TASKS, norm=True, **METHODS[method])
    kept = {id(p) for p in adapter.no_decay_parameters()}
    for name, parameter in adapter.named_parameters():
        assert (id(parameter) in kept) == ('bias' in name or '.norm.' in name), name


@pytest.mark.parametrize(
    'cfg, position, count',
    [
        (dict(type='mmvmt.Adapter'), None, 8_688_000),
        (dict(type='mmvmt.Adapter', norm=False), 'attn', 4 * 2_163_168),
        (dict(type='mmvmt.SharedAdapter'), None, 2_172_000),
        (dict(type='mmvmt.SharedAdapter'), ['attn', 'ffn'], 2 * 2_172_000),
        (dict(type='mmvmt.LowRankAdapter'), None, 344_448),
    ],
)
@pytest.mark.usefixtures('undrawn')
def test_swin_t_with_four_tasks_has_the_derived_counts(cfg, position, count):
    plugin = dict(cfg=cfg) if position is None else dict(cfg=cfg, position=position)
    swin = MODELS.build(dict(type='mmvmt.AdaptedSwin', tasks=FOUR_TASKS, plugins=[plugin]))
    assert sum(p.numel() for p in swin.adapter_parameters()) == count
    assert sum(p.numel() for p in swin.parameters() if p.requires_grad) == count


@pytest.mark.parametrize('reduction', [0, -2, 0.5, 9])
@pytest.mark.parametrize('method', METHODS)
def test_reduction_out_of_range_names_the_value_and_the_width(method, reduction):
    with pytest.raises(ValueError, match=rf'reduction must be between 1 and the block width 8, got {reduction}'):
        tiny_swin(plugins=[dict(cfg=cfg_of(method) | dict(reduction=reduction))])


@pytest.mark.parametrize('rank', [0, -1, 5, 2.0, True, 'full'])
def test_rank_above_the_bottleneck_width_is_refused(rank):
    message = rf'rank must be an integer from 1 to the bottleneck width, here 4; got {rank!r}'
    with pytest.raises(ValueError, match=message):
        tiny_swin(plugins=[dict(cfg=dict(type='mmvmt.LowRankAdapter', rank=rank))])


@pytest.mark.parametrize(
    'key, value, message',
    [
        ('scale', 'learned', "scale must be a finite number, got 'learned'"),
        ('scale', float('inf'), 'scale must be a finite number, got inf'),
        ('scale', True, 'scale must be a finite number, got True'),
        ('parallel', 'serial', "parallel must be True or False, got 'serial'"),
        ('norm', 'LN', "norm must be True or False, got 'LN'"),
        ('activation', 'tanh', "unknown activation 'tanh'; choose one of gelu"),
    ],
)
def test_wrong_options_are_quoted(key, value, message):
    with pytest.raises(ValueError, match=message):
        Adapter(SITES, TASKS, **{key: value})


def test_a_linear_layer_is_no_place_for_a_bottleneck():
    with pytest.raises(ValueError, match="cannot fill position 'qkv'; it fills ffn, attn"):
        tiny_swin(plugins=[dict(cfg=dict(type='mmvmt.Adapter'), position='qkv')])


def test_adaptformer_is_a_config_of_the_shared_adapter():
    cfg = Config.fromfile('configs/baselines/swin_t_adaptformer_pascal.py')
    swin = MODELS.build(cfg.model.backbone | dict(init_cfg=None, tasks=FOUR_TASKS))
    assert sum(p.numel() for p in swin.adapter_parameters()) == 570_432
    (method,) = swin.adapters
    perturb(method.train())
    site = method.sites[-1]
    m = method.bottlenecks['shared'][site.key]
    h, mlp = (torch.randn(2, 3, site.in_channels) for _ in range(2))
    torch.manual_seed(0)
    adapted, _ = method.adapt(site, h, mlp, None, None)
    torch.manual_seed(0)
    z = torch.nn.functional.dropout((h @ m.down.weight.T + m.down.bias).relu(), 0.1)
    torch.testing.assert_close(adapted, mlp + 0.1 * (z @ m.up.weight.T + m.up.bias))
