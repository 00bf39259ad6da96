"""Kronecker adapters against a reference that is written from their equations: torch.kron, loops over n and tokens."""

import math

import pytest
import torch
from tiny import FOUR_TASKS, perturb, tiny_swin

from mmvmt.adapters import Compacter, CompacterPlusPlus, PHMAdapter, Site
from mmvmt.adapters.compacter import kronecker_sum
from mmvmt.registry import MODELS

IMAGES = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
SITES = [Site(0, 0, 'ffn', 8, 8), Site(0, 1, 'ffn', 8, 8), Site(1, 0, 'ffn', 16, 16)]
TASKS = ('semseg', 'normals')
METHODS = {PHMAdapter: dict(n=4), Compacter: dict(n=2, rank=2), CompacterPlusPlus: dict(n=4)}


def cfg_of(method, **options):
    return dict(type=f'mmvmt.{method.__name__}', n=4, **options)


def matrix(projection, rules):
    """W = sum_i R_i kron F_i, with F_i = s_i t_i where the factors have low rank."""
    total = 0
    for i, rule in enumerate(rules):
        if hasattr(projection, 'factors'):
            factor = projection.factors[i]
        else:
            left, right = projection.left[i], projection.right[i]
            factor = sum(torch.outer(left[:, k], right[k]) for k in range(left.shape[1]))
        total = total + torch.kron(rule, factor)
    return total.tolist()


def linear(x, weight, bias):
    return [sum(w * v for w, v in zip(row, x)) + b for row, b in zip(weight, bias)]


def reference_a(bottleneck, rules, x, norm):
    """a = act(n(x) W_down + b_down) W_up + b_up of one token, in plain Python."""
    if norm:
        mean = sum(x) / len(x)
        std = math.sqrt(sum((v - mean) ** 2 for v in x) / len(x) + 1e-5)
        scale, shift = bottleneck.norm.weight.tolist(), bottleneck.norm.bias.tolist()
        x = [g * (v - mean) / std + b for v, g, b in zip(x, scale, shift)]
    z = linear(x, matrix(bottleneck.down, rules), bottleneck.down.bias.tolist())
    z = [0.5 * v * (1 + math.erf(v / math.sqrt(2))) for v in z]
    return linear(z, matrix(bottleneck.up, rules), bottleneck.up.bias.tolist())


@pytest.mark.parametrize('method', METHODS)
@pytest.mark.parametrize('parallel', [False, True])
@pytest.mark.parametrize('norm', [False, True])
@pytest.mark.parametrize('scale', [1.0, 0.3])
@torch.no_grad()
def test_equals_the_equations(method, parallel, norm, scale):
    adapter = method(SITES, TASKS, parallel=parallel, norm=norm, scale=scale, **METHODS[method])
    perturb(adapter, std=0.5)
    generator = torch.Generator().manual_seed(3)
    for task in TASKS:
        generated = adapter.generate(task)
        for site in SITES:
            inputs, outputs = torch.randn(2, 1, 2, site.in_channels, generator=generator).unbind()
            adapted, tap = adapter.adapt(site, inputs, outputs, task, generated)
            assert tap is None
            for token in range(2):
                y = outputs[0, token].tolist()
                x = inputs[0, token].tolist() if parallel else y
                a = reference_a(adapter.bottlenecks[task][site.key], adapter.rules, x, norm)
                assert adapted[0, token].tolist() == pytest.approx([v + scale * u for v, u in zip(y, a)], abs=1e-4)


@pytest.mark.parametrize('n, out_features, in_features', [(1, 3, 5), (2, 4, 6), (4, 8, 4), (3, 3, 9)])
def test_the_sum_and_its_gradients_follow_torch_kron(n, out_features, in_features):
    generator = torch.Generator().manual_seed(0)
    rules = torch.randn(n, n, n, generator=generator, dtype=torch.double, requires_grad=True)
    factors = torch.randn(n, out_features // n, in_features // n, generator=generator, dtype=torch.double)
    factors.requires_grad_()
    got = kronecker_sum(rules, factors)
    expected = sum(torch.kron(rule, factor) for rule, factor in zip(rules, factors))
    assert got.shape == (out_features, in_features)
    torch.testing.assert_close(got, expected)
    loss = torch.randn(got.shape, generator=generator, dtype=torch.double)
    for a, b in zip(
        torch.autograd.grad(got, (rules, factors), loss), torch.autograd.grad(expected, (rules, factors), loss)
    ):
        torch.testing.assert_close(a, b)


def test_rules_are_one_set_for_all_sites_tasks_and_projections():
    adapter = PHMAdapter(SITES, TASKS, n=4)
    assert [name for name, p in adapter.named_parameters() if p.shape == (4, 4, 4)] == ['rules']
    before = {task: adapter.generate(task) for task in TASKS}
    perturb(adapter)
    between = {task: adapter.generate(task) for task in TASKS}
    with torch.no_grad():
        adapter.rules.mul_(2)
    for task in TASKS:
        after = adapter.generate(task)
        assert set(after) == set(before[task]) == {site.key for site in SITES}
        for key, weights in after.items():
            for weight, old in zip(weights, between[task][key], strict=True):
                torch.testing.assert_close(weight, 2 * old)


@pytest.mark.parametrize('method', METHODS)
def test_a_task_knows_nothing_of_the_others_factors(method):
    swin = tiny_swin(tasks=TASKS, plugins=[dict(cfg=cfg_of(method))])
    before = swin(IMAGES)
    perturb(swin.adapters[0].bottlenecks['normals'], seed=9)
    after = swin(IMAGES)
    assert all(torch.equal(a, b) for a, b in zip(before['semseg'], after['semseg']))
    assert not any(torch.equal(a, b) for a, b in zip(before['normals'], after['normals']))


@pytest.mark.parametrize('method', METHODS)
def test_weights_are_made_once_per_task_and_step(method, monkeypatch):
    swin = tiny_swin(tasks=TASKS, plugins=[dict(cfg=cfg_of(method))])
    made = []
    generate = method.generate
    monkeypatch.setattr(method, 'generate', lambda self, task: made.append(task) or generate(self, task))
    swin.train()(IMAGES)
    assert made == list(TASKS)
    swin.eval()
    with torch.no_grad():
        first = swin(IMAGES)
        assert made == 2 * list(TASKS)
        again = swin(IMAGES)
        assert made == 2 * list(TASKS)
        perturb(swin.adapters[0])
        changed = swin(IMAGES)
        assert made == 3 * list(TASKS)
    for task in TASKS:
        assert all(torch.equal(a, b) for a, b in zip(first[task], again[task]))
        assert not any(torch.equal(a, b) for a, b in zip(first[task], changed[task]))


@pytest.mark.parametrize(
    'method, slots', [(PHMAdapter, {'ffn'}), (Compacter, {'attn', 'ffn'}), (CompacterPlusPlus, {'ffn'})]
)
def test_places_that_are_filled_unasked(method, slots):
    swin = tiny_swin(plugins=[dict(cfg=cfg_of(method))])
    assert {site.slot for site in swin.adapters[0].sites} == slots


@pytest.mark.parametrize('task', TASKS)
@torch.no_grad()
def test_compacter_on_the_ffn_alone_is_compacter_plus_plus(task):
    one = tiny_swin(tasks=TASKS, plugins=[dict(cfg=cfg_of(Compacter), position='ffn')])
    other = tiny_swin(tasks=TASKS, plugins=[dict(cfg=cfg_of(CompacterPlusPlus))])
    other.load_state_dict(one.state_dict(), strict=True)
    assert all(torch.equal(a, b) for a, b in zip(one(IMAGES)[task], other(IMAGES)[task], strict=True))


def test_compacter_plus_plus_refuses_the_attention():
    with pytest.raises(ValueError, match="cannot fill position 'attn'; it fills ffn"):
        tiny_swin(plugins=[dict(cfg=cfg_of(CompacterPlusPlus), position='attn')])


@pytest.mark.parametrize('method', METHODS)
@pytest.mark.parametrize('parallel', [False, True])
def test_starts_as_the_identity_and_learns_at_once(method, parallel):
    torch.manual_seed(0)
    adapter = method(SITES, TASKS, parallel=parallel, **METHODS[method])
    perturb(adapter)
    adapter.reset_parameters()
    inputs, outputs = torch.randn(2, 3, 5, 16).unbind()
    adapted, _ = adapter.adapt(SITES[2], inputs, outputs, 'normals', adapter.generated('normals'))
    assert torch.equal(adapted, outputs)
    adapted.square().sum().backward()
    up = adapter.bottlenecks['normals'][SITES[2].key].up
    assert (up.factors if method is PHMAdapter else up.left).grad.any()


@pytest.mark.parametrize('method, n, rank', [(PHMAdapter, 16, None), (Compacter, 4, 1), (CompacterPlusPlus, 8, 3)])
def test_down_weights_start_at_fan_in_scale(method, n, rank):
    torch.manual_seed(0)
    site = Site(0, 0, 'ffn', 256, 256)
    options = {} if rank is None else dict(rank=rank)
    # Few entries of rules and low-rank factors are common to all of W: only over many draws does the variance show.
    variances = []
    for _ in range(40):
        down, up = method([site], ['semseg'], n=n, **options).generate('semseg')[site.key]
        assert down.shape == (128, 256)
        assert up.shape == (256, 128)
        assert not up.any()
        variances.append(down.var().item())
    assert sum(variances) / len(variances) == pytest.approx(1 / 256, rel=0.25)


@pytest.mark.parametrize('method', METHODS)
@pytest.mark.parametrize('tasks', [('semseg',), None, (*FOUR_TASKS, 'depth', 'edge')])
def test_every_parameter_gets_a_gradient(method, tasks):
    swin = tiny_swin(tasks=tasks, plugins=[dict(cfg=cfg_of(method))])
    features = swin(IMAGES)
    maps = features if tasks is None else [m for task in tasks for m in features[task]]
    sum(m.square().sum() for m in maps).backward()
    assert [n for n, p in swin.adapters.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize('method', METHODS)
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
@pytest.mark.parametrize('inside', [True, False])
def test_autocast_stays_close_wherever_the_weights_were_made(method, dtype, inside):
    adapter = method(SITES, TASKS, **METHODS[method])
    perturb(adapter)
    inputs, outputs = torch.randn(2, 3, 5, 16, generator=torch.Generator().manual_seed(2)).unbind()
    generated = adapter.generate('normals')
    expected, _ = adapter.adapt(SITES[2], inputs, outputs, 'normals', generated)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        if inside:
            generated = adapter.generate('normals')
        got, _ = adapter.adapt(SITES[2], inputs, outputs.to(dtype), 'normals', generated)
    assert got.dtype == dtype
    torch.testing.assert_close(got.float(), expected, atol=0.1, rtol=0.05)


@pytest.mark.parametrize('method', METHODS)
def test_rules_and_factors_decay_and_biases_and_norms_do_not(method):
    adapter = method(SITES, TASKS, **METHODS[method])
    kept = {id(p) for p in adapter.no_decay_parameters()}
    for name, parameter in adapter.named_parameters():
        assert (id(parameter) in kept) == ('bias' in name or '.norm.' in name), name


@pytest.mark.parametrize(
    'name, count',
    [
        ('PHMAdapter', 4 * (134_784 + 6_624 + 8_832) + 16**3),
        ('Compacter', 4 * 2 * (13_248 + 6_624 + 8_832) + 4**3),
        ('CompacterPlusPlus', 4 * (13_248 + 6_624 + 8_832) + 4**3),
    ],
)
@pytest.mark.usefixtures('undrawn')
def test_swin_t_with_four_tasks_has_the_derived_counts(name, count):
    plugin = dict(cfg=dict(type=f'mmvmt.{name}'))
    swin = MODELS.build(dict(type='mmvmt.AdaptedSwin', tasks=FOUR_TASKS, plugins=[plugin]))
    assert sum(p.numel() for p in swin.adapter_parameters()) == count
    assert sum(p.numel() for p in swin.parameters() if p.requires_grad) == count


@pytest.mark.parametrize('method', METHODS)
@pytest.mark.parametrize(
    'n, reduction, message',
    [
        (3, 2, r'n=3 does not divide the width 4; .*\(reduction=2\), which these do: 1, 2, 4$'),
        (8, 2, r'n=8 does not divide the width 4; .* which these do: 1, 2, 4$'),
        (4, 3, r'n=4 does not divide the width 2; .*\(reduction=3\), which these do: 1$'),
        (0, 2, r'n must be a positive integer, got 0; these divide all widths: 1, 2, 4$'),
        (-4, 2, r'n must be a positive integer, got -4; these divide'),
        (4.0, 2, r'n must be a positive integer, got 4\.0; these divide'),
        (True, 2, r'n must be a positive integer, got True; these divide'),
        (4, 9, r'reduction must be between 1 and the block width 8, got 9'),
        (4, 0, r'reduction must be between 1 and the block width 8, got 0'),
    ],
)
def test_n_has_to_divide_every_width(method, n, reduction, message):
    with pytest.raises(ValueError, match=message):
        tiny_swin(plugins=[dict(cfg=dict(type=f'mmvmt.{method.__name__}', n=n, reduction=reduction))])


@pytest.mark.parametrize('rank', [0, 2, -1, 1.0, True])
@pytest.mark.parametrize('method', [Compacter, CompacterPlusPlus])
def test_rank_above_the_factors_width_is_refused(method, rank):
    message = rf'rank must be an integer from 1 to the bottleneck width over n=4, here 1; got {rank!r}'
    with pytest.raises(ValueError, match=message):
        tiny_swin(plugins=[dict(cfg=cfg_of(method, rank=rank))])


def test_without_a_site_the_method_says_so():
    with pytest.raises(ValueError, match='PHMAdapter got no site to fill'):
        PHMAdapter([], TASKS)
