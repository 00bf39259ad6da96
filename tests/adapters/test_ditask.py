"""DiTASK against its formulas: maps by their closed form cell by cell, and mmseg's blocks with the moved weights."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmseg.models.backbones.swin import SwinTransformer
from tiny import FOUR_TASKS, SWIN, tiny_swin
from torch.utils.flop_counter import FlopCounterMode

from mmvmt.adapters.base import SharedLayer
from mmvmt.adapters.ditask import flow
from mmvmt.registry import MODELS

IMAGES = torch.randn(2, 3, 64, 72, generator=torch.Generator().manual_seed(1))


def ditask_swin(**options):
    return tiny_swin(plugins=[dict(cfg=dict(type='mmvmt.DiTASK', **(dict(cells=8) | options)))])


def closed_form(theta, x):
    """Where a point is at time 1: in each cell the velocity is linear, and the solution an exponential."""
    n = len(theta) + 1

    def basis(k, x):
        """Of zero boundary: rises as x / k up to the knot k / n, and falls to 0 at the next."""
        return x / k if x <= k / n else max(0.0, 1 / n - (x - k / n))

    def velocity(x):
        return sum(t * basis(k, x) for k, t in enumerate(theta, 1))

    left = 1.0
    for _ in range(4 * n):
        v = velocity(x)
        if left <= 0 or abs(v) < 1e-14:
            break
        cell = min(math.floor(x * n + 1e-12 * (1 if v > 0 else -1)), n - 1)
        low, high = cell / n, (cell + 1) / n
        slope = (velocity(high) - velocity(low)) * n
        edge = high if v > 0 else low
        ratio = velocity(edge) / v
        if abs(slope) < 1e-12:
            reach = (edge - x) / v
        else:
            reach = math.log(ratio) / slope if ratio > 0 else math.inf
        if reach >= left:
            return x + (v * left if abs(slope) < 1e-12 else v / slope * math.expm1(slope * left))
        x, left = edge, left - reach
    return x


@pytest.mark.parametrize('cells, bound, error', [(64, 63**-0.5, 2.2e-5), (4, 3**-0.5, 2.2e-5), (4, 3.0, 2.4e-4)])
def test_maps_equal_their_closed_form(cells, bound, error):
    generator = torch.Generator().manual_seed(0)
    theta = (torch.rand(5, cells - 1, generator=generator, dtype=torch.float64) * 2 - 1) * bound
    x = torch.linspace(0, 1, 33, dtype=torch.float64).expand(5, -1)
    got = flow(theta, x)
    expected = [[closed_form(row, point) for point in points] for row, points in zip(theta.tolist(), x.tolist())]
    torch.testing.assert_close(got, torch.tensor(expected, dtype=torch.float64), atol=error, rtol=0)
    assert (got.diff(dim=1) > 0).all()
    assert torch.equal(got[:, 0], x[:, 0])
    assert torch.equal(got[:, -1], x[:, -1])
    assert (got - x).abs().max() > 20 * error


def test_the_identity_is_the_frozen_network_and_can_be_left():
    plain, swin = tiny_swin(plugins=None), ditask_swin()
    swin.load_state_dict(plain.state_dict(), strict=False)
    swin.adapters[0].reset_parameters()
    features = swin(IMAGES)
    for task in FOUR_TASKS:
        for a, b in zip(plain(IMAGES)[task], features[task]):
            torch.testing.assert_close(b, a, atol=1e-5, rtol=1e-5)
    sum(m.square().sum() for maps in features.values() for m in maps).backward()
    unread = {id(p) for p in swin.adapters[0].unread_parameters()}
    assert all(bool(p.grad.any()) == (id(p) not in unread) for p in swin.adapters[0].parameters())


def moved(weight, theta, on, parts):
    """A weight with moved singular values, by NumPy."""
    weights = []
    for part in np.split(weight.detach().double().numpy(), parts):
        left, values, right = np.linalg.svd(part, full_matrices=False)
        if on == 'index':
            last = len(values) - 1
            places = [closed_form(theta, i / last) * last for i in range(len(values))]
            values = np.interp(places, range(len(values)), values)
        else:
            values = np.array([closed_form(theta, v / values[0]) for v in values]) * values[0]
        assert (np.diff(values) <= 1e-12).all()
        weights.append(left @ np.diag(values) @ right)
    return torch.tensor(np.concatenate(weights))


@pytest.mark.parametrize('on', ['index', 'value'])
@pytest.mark.parametrize('order', ['sequential', 'stacked'])
def test_equals_the_formulas(on, order):
    swin = ditask_swin(on=on).double()
    swin.task_order = order
    (method,) = swin.adapters
    images, plain = IMAGES.double(), SwinTransformer(**SWIN).double()
    plain.eval()
    plain.load_state_dict(swin.state_dict(), strict=False)
    names = {id(p): name for name, p in swin.own_parameters().items()}
    frozen = {}
    for site in method.sites:
        weight = plain.get_parameter(names[id(swin.layer_of(site).weight)])
        frozen[site.key] = weight.detach().clone()
        theta = method.maps[site.key].theta[0].tolist()
        weight.data = moved(weight, theta, on, 3 if site.slot == 'qkv' else 1)
    features = swin(images)
    x, hw = plain.patch_embed(images)
    for index, stage in enumerate(plain.stages):
        for block in stage.blocks[:-1]:
            x = block(x, hw)
        h, block, at = x, stage.blocks[-1], f'stage{index}_block{len(stage.blocks) - 1}_'
        x = block(h, hw)
        # With a projection that is the identity, the attention puts out what enters the projection.
        handle = block.attn.w_msa.proj.register_forward_hook(lambda _, inputs, out: inputs[0])
        o = block.attn(block.norm1(h), hw)
        handle.remove()
        biases = block.attn.w_msa.proj.bias, block.ffn.layers[0][0].bias, block.ffn.layers[1].bias
        for task in FOUR_TASKS[:2]:
            proj, fc1, fc2 = (
                moved(frozen[at + slot], method.tails[task][at + slot].theta[0].tolist(), on, 1)
                for slot in ('proj', 'fc1', 'fc2')
            )
            u = h + F.linear(o, proj, biases[0])
            y = u + F.linear(F.gelu(F.linear(block.norm2(u), fc1, biases[1])), fc2, biases[2])
            expected = y.transpose(1, 2).unflatten(2, hw)
            error = (features[task][index] - expected).abs().max() / expected.abs().max()
            assert error < 1e-3, (index, task)
        if stage.downsample is not None:
            x, hw = stage.downsample(x, hw)
    assert not torch.allclose(features['semseg'][0], features['normals'][0])


@pytest.mark.parametrize(
    'options, expected',
    [
        (dict(), 1_602_714),
        (dict(task_cells=64), 1_605_594),
        (dict(merging=False), 54_426),
    ],
)
@pytest.mark.usefixtures('undrawn')
def test_swin_t_has_the_derived_counts(options, expected):
    plugin = dict(cfg=dict(type='mmvmt.DiTASK', **options))
    swin = MODELS.build(dict(type='mmvmt.AdaptedSwin', tasks=FOUR_TASKS, plugins=[plugin]))
    assert sum(p.numel() for p in swin.parameters() if p.requires_grad) == expected


def test_a_task_costs_the_tail_of_each_last_block():
    swin = ditask_swin()
    images = torch.randn(1, 3, 128, 128)
    counts = []
    for count in (1, 1, 4):
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            swin(images, tasks=FOUR_TASKS[:count])
        counts.append(counter.get_total_flops())
    # The first run makes the weights. Without padding: 32, 16, 8 and 4 tokens on a side; the MLP has width 2 d.
    of_task = sum(2 * n * (1 + 2 + 2) * d * d for d, n in zip((8, 16, 32, 64), (32**2, 16**2, 8**2, 4**2)))
    assert counts[2] - counts[1] == 3 * of_task
    assert counts[0] > counts[1]


def test_a_random_start_is_within_the_published_range():
    swin = ditask_swin(identity=False, cells=64)
    swin.adapters[0].reset_parameters()
    theta = torch.cat([p.flatten() for p in swin.adapters[0].maps.parameters()])
    assert 0.9 * 63**-0.5 < theta.abs().max() <= 63**-0.5


def test_the_shared_part_outside_of_the_tails_merges_and_comes_back():
    swin = ditask_swin().double()
    images = IMAGES.double()
    expected, before = swin(images), {name: p.clone() for name, p in swin.own_parameters().items()}
    (method,) = swin.adapters
    method.merge(swin)
    moved_names = {name for name, p in swin.own_parameters().items() if not torch.equal(p, before[name])}
    assert len(moved_names) == 4 * 5 - 3 * 4
    merged = swin(images)
    for task in FOUR_TASKS:
        for a, b in zip(expected[task], merged[task]):
            torch.testing.assert_close(b, a, atol=1e-10, rtol=1e-10)
    method.unmerge(swin)
    assert all(torch.equal(p, before[name]) for name, p in swin.own_parameters().items())


def test_weights_follow_those_that_are_loaded():
    first, second = ditask_swin(), ditask_swin()
    second(IMAGES)
    with torch.no_grad():
        for p in first.own_parameters().values():
            p.mul_(1.1)
    second.load_state_dict(first.state_dict())
    for a, b in zip(first(IMAGES)['semseg'], second(IMAGES)['semseg']):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(cells=1), 'cells must be an integer of at least 2, got 1'),
        (dict(task_cells=2.0), 'task_cells must be an integer of at least 2, got 2.0'),
        (dict(on='places'), "on must be 'index' or 'value', got 'places'"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ditask_swin(**options)


def test_published_dropout_drops_the_whole_input():
    swin = ditask_swin(dropout=0.3).train()
    (method,) = swin.adapters
    generated = method.generated(None)
    site = next(site for site in method.tail_sites if site.slot == 'proj')
    layer, inputs = swin.layer_of(site), torch.randn(2, 5, site.in_channels)
    torch.manual_seed(0)
    outputs, dropped = method.adapt(site, inputs, layer(inputs), None, generated)
    torch.manual_seed(0)
    assert torch.equal(dropped, F.dropout(inputs, 0.3))
    assert torch.equal(outputs, F.linear(dropped, generated.shared[site.key], layer.bias))
    shared = SharedLayer(inputs, layer(inputs), dropped, None, None)
    own, _ = method.branch(site, None, shared, 'normals', generated)
    assert torch.equal(own, F.linear(dropped, generated.tails['normals'][site.key], layer.bias))
    features = swin(IMAGES)
    sum(m.square().sum() for maps in features.values() for m in maps).backward()
    assert all(p.grad is not None for p in method.parameters())
    assert not torch.allclose(features['semseg'][0], swin(IMAGES)['semseg'][0])
    assert torch.equal(swin.eval()(IMAGES)['semseg'][0], swin(IMAGES)['semseg'][0])


@pytest.mark.parametrize('task_cells, expected', [(4, 1_602_858), (64, 1_608_618)])
@pytest.mark.usefixtures('undrawn')
def test_published_counts_have_maps_that_nothing_reads(task_cells, expected):
    plugin = dict(cfg=dict(type='mmvmt.DiTASK', task_cells=task_cells, qkv_maps=True))
    swin = MODELS.build(dict(type='mmvmt.AdaptedSwin', tasks=FOUR_TASKS, plugins=[plugin]))
    assert sum(p.numel() for p in swin.parameters() if p.requires_grad) == expected


def test_maps_that_nothing_reads_have_a_gradient_of_zero():
    swin, without = ditask_swin(qkv_maps=True), ditask_swin()
    (method,) = swin.adapters
    without.load_state_dict(swin.state_dict(), strict=False)
    features = swin(IMAGES)
    assert all(torch.equal(a, b) for a, b in zip(features['normals'], without(IMAGES)['normals']))
    sum(m.square().sum() for maps in features.values() for m in maps).backward()
    unread = [method.tails[task][site.key].theta for task in FOUR_TASKS for site in method.sites if site.slot == 'qkv']
    assert len(unread) == 4 * 5
    assert all(p.grad is not None and not p.grad.any() for p in unread)
