"""Mona against its formula, with convolutions as sums over neighbours."""

import pytest
import torch
import torch.nn.functional as F
from tiny import FOUR_TASKS, perturb, tiny_swin

from mmvmt.adapters import Mona, Site
from mmvmt.registry import MODELS

SITE = Site(0, 0, 'ffn', 6, 6)


def neighbours(y, convolution):
    """A depthwise convolution of ``(B, H, W, r)`` as a sum over shifted maps."""
    weight, bias = convolution.weight, convolution.bias
    reach = weight.shape[-1] // 2
    height, width = y.shape[1:3]
    padded = F.pad(y, (0, 0, reach, reach, reach, reach))
    total = bias.expand_as(y).clone()
    for row in range(2 * reach + 1):
        for column in range(2 * reach + 1):
            total += padded[:, row : row + height, column : column + width] * weight[:, 0, row, column]
    return total


def test_equals_the_formula():
    mona = Mona([SITE], ['semseg'], bottleneck=4).eval()
    perturb(mona, std=0.5)
    generator = torch.Generator().manual_seed(0)
    h, branch = (torch.randn(2, 15, 6, generator=generator) for _ in range(2))
    m = mona.bottlenecks['shared'][SITE.key]
    x = h + branch
    normed = (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    normed = normed * m.norm.weight + m.norm.bias
    y = (normed * m.gamma + x * m.gamma_x) @ m.down.weight.T + m.down.bias
    y = y.view(2, 3, 5, 4)
    y = y + sum(neighbours(y, convolution) for convolution in m.convolutions) / 3
    y = y + y @ m.pointwise.weight[:, :, 0, 0].T + m.pointwise.bias
    expected = x + F.gelu(y).view(2, 15, 4) @ m.up.weight.T + m.up.bias
    adapted, tapped = mona.adapt_map(SITE, h, branch, None, None, (3, 5))
    torch.testing.assert_close(h + adapted, expected)
    assert tapped is None
    assert [c.weight.shape[-1] for c in m.convolutions] == [3, 5, 7]


def test_starts_as_published():
    mona = Mona([SITE], ['semseg'], bottleneck=4)
    m = mona.bottlenecks['shared'][SITE.key]
    assert torch.equal(m.gamma, torch.full((6,), 1e-6))
    assert torch.equal(m.gamma_x, torch.ones(6))
    assert m.up.weight.any()


def test_prompts_are_left_as_they_are():
    mona = Mona([SITE], ['semseg'], bottleneck=4)
    outputs = torch.randn(2, 3, 6)
    assert mona.adapt_map(SITE, outputs, outputs, None, None, None)[0] is outputs


@pytest.mark.parametrize('per_task, sets', [(False, 1), (True, 4)])
@pytest.mark.usefixtures('undrawn')
def test_swin_t_has_the_published_count(per_task, sets):
    plugin = dict(cfg=dict(type='mmvmt.Mona', per_task=per_task))
    swin = MODELS.build(dict(type='mmvmt.AdaptedSwin', tasks=FOUR_TASKS, plugins=[plugin]))
    assert sum(p.numel() for p in swin.adapter_parameters()) == sets * 1_408_128


def test_tasks_with_their_own_set_get_features_of_their_own():
    swin = tiny_swin(plugins=[dict(cfg=dict(type='mmvmt.Mona', bottleneck=4, per_task=True))])
    features = swin(torch.randn(1, 3, 64, 96))
    assert not torch.allclose(features['semseg'][0], features['normals'][0])


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(bottleneck=0), 'bottleneck must be an integer of at least 1, got 0'),
        (dict(dropout=1), 'dropout must be at least 0 and below 1, got 1'),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Mona([SITE], ['semseg'], **options)
