"""The method that CONTRIBUTING shows is a real one."""

import re

import pytest
import torch
from contributing import TEXT, example
from tiny import FOUR_TASKS, batch, losses_of, perturb, tiny_model, tiny_swin

from mmvmt.registry import ADAPTERS

WIDTHS = (8, 16, 16, 32, 64)


@pytest.fixture
def ia3():
    """The example, registered as its users would have it."""
    yield example('ia3').IA3
    ADAPTERS.module_dict.pop('IA3')


def plugins():
    return [dict(cfg=dict(type='mmvmt.IA3'))]


def test_it_starts_from_the_frozen_network_and_then_scales(ia3):
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    plain, swin = tiny_swin(plugins=None), tiny_swin(plugins=plugins())
    swin.load_state_dict(plain.state_dict(), strict=False)
    swin.adapters[0].reset_parameters()
    for task in FOUR_TASKS:
        for a, b in zip(plain(images)[task], swin(images)[task]):
            torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)

    method, outputs = swin.adapters[0], torch.randn(2, 3, 24)
    perturb(method)
    site = method.sites[0]
    adapted, tapped = method.adapt(site, torch.randn(2, 3, 8), outputs, 'normals', None)
    scale = method.scales['normals'][site.key]
    torch.testing.assert_close(adapted, outputs * scale)
    assert tapped is None


def test_it_has_the_count_that_the_page_says(ia3):
    formula = re.search(r"'IA3': \(dict\(type='mmvmt.IA3'\), (.*?)\)`\.", TEXT)[1]
    swin = tiny_swin(plugins=plugins())
    assert sum(p.numel() for p in swin.adapter_parameters()) == eval(formula, dict(WIDTHS=WIDTHS, sum=sum))


def test_it_trains_in_both_orders(ia3):
    losses = {}
    for order in ('sequential', 'stacked'):
        model = tiny_model(plugins=plugins()).train()
        model.backbone.task_order = order
        losses[order] = sum(losses_of(model, batch()).values())
        losses[order].backward()
        assert all(p.grad is not None and p.grad.any() for p in model.backbone.adapter_parameters())
    torch.testing.assert_close(losses['sequential'], losses['stacked'])
