"""DoRA against encoders that hold the whole weights; its backward pass; merging."""

import pytest
import torch
from tiny import FOUR_TASKS, perturb, tiny_swin

from mmvmt.registry import MODELS

IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
ALL = ['qkv', 'proj', 'fc1', 'fc2', 'downsample']


def dora_swin(position=ALL, **options):
    plugin = dict(cfg=dict(type='mmvmt.DoRA', **(dict(rank=2, alpha=3) | options)), position=position)
    return tiny_swin(plugins=[plugin])


def weight_of(update, frozen, factor):
    v = frozen + factor * update.up_weight @ update.down_weight
    return update.magnitude.unsqueeze(1) * v / v.norm(dim=1, keepdim=True).detach()


@pytest.mark.parametrize('per_task', [False, True])
def test_equals_an_encoder_with_the_whole_weights(per_task):
    swin = dora_swin(per_task=per_task)
    features = swin(IMAGES)
    (method,) = swin.adapters
    for task in FOUR_TASKS[:2]:
        plain = tiny_swin(plugins=None)
        plain.load_state_dict(swin.state_dict(), strict=False)
        for site in method.sites:
            update = method.updates[task if per_task else 'shared'][site.key]
            plain.layer_of(site).weight.data = weight_of(update, plain.layer_of(site).weight, 1.5).detach()
        for a, b in zip(features[task], plain(IMAGES)[task]):
            torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_gradients_are_those_of_a_norm_that_is_a_constant():
    swin = dora_swin(position='fc1').double()
    (method,) = swin.adapters
    site = method.sites[0]
    update, layer = method.updates['shared'][site.key], swin.layer_of(site)
    x = torch.randn(3, site.in_channels, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    got, _ = method.adapt(site, x, layer(x), None, method.generate(None))
    expected = x @ weight_of(update, layer.weight, 1.5).T + layer.bias
    torch.testing.assert_close(got, expected)
    wanted = torch.autograd.grad(expected.square().sum(), list(update.parameters()))
    for a, b in zip(torch.autograd.grad(got.square().sum(), list(update.parameters())), wanted):
        torch.testing.assert_close(a, b)


@pytest.mark.usefixtures('undrawn')
def test_swin_t_has_the_derived_count():
    plugin = dict(cfg=dict(type='mmvmt.DoRA', rank=4))
    swin = MODELS.build(dict(type='mmvmt.AdaptedSwin', tasks=FOUR_TASKS, plugins=[plugin]))
    assert sum(p.numel() for p in swin.adapter_parameters()) == 83_904


def test_lengths_start_from_the_weights_that_are_loaded():
    swin = dora_swin()
    (method,) = swin.adapters
    perturb(swin, seed=8)
    method.reset_parameters()
    for site in method.sites:
        magnitude = method.updates['shared'][site.key].magnitude
        torch.testing.assert_close(magnitude, swin.layer_of(site).weight.norm(dim=1))


def test_merging_is_exact_and_is_undone():
    swin = dora_swin().double()
    before = {name: p.clone() for name, p in swin.own_parameters().items()}
    expected = swin(IMAGES.double())
    (method,) = swin.adapters
    method.merge(swin)
    merged = swin(IMAGES.double())
    method.unmerge(swin)
    for a, b, c in zip(expected['semseg'], merged['semseg'], swin(IMAGES.double())['semseg']):
        torch.testing.assert_close(b, a, atol=1e-11, rtol=1e-11)
        torch.testing.assert_close(c, a, atol=1e-11, rtol=1e-11)
    for name, p in swin.own_parameters().items():
        torch.testing.assert_close(p, before[name], atol=1e-12, rtol=1e-12, msg=name)
