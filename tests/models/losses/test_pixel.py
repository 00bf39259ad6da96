"""Losses against sums written out in Python."""

import math

import pytest
import torch
import torch.nn.functional as F
from tiny import label_map

from mmvmt.models import L1PixelLoss, WeightedBCELoss
from mmvmt.models.losses import unit_length


def logits(channels, seed=0):
    return torch.randn(2, channels, 6, 5, generator=torch.Generator().manual_seed(seed), requires_grad=True)


def targets(task, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([label_map(task, 6, 5, generator) for _ in range(2)])


@pytest.mark.parametrize('positive_weight', ['balanced', 0.95])
def test_weighted_bce(positive_weight):
    x, y = logits(1), targets('saliency')
    positive = [v for v, t in zip(x.flatten().tolist(), y.flatten().tolist()) if t == 1]
    negative = [v for v, t in zip(x.flatten().tolist(), y.flatten().tolist()) if t == 0]
    total = len(positive) + len(negative)
    w = len(negative) / total if positive_weight == 'balanced' else positive_weight
    expected = sum(w * math.log1p(math.exp(-v)) for v in positive) + sum(
        (1 - w) * math.log1p(math.exp(v)) for v in negative
    )
    got = WeightedBCELoss(positive_weight, loss_weight=5.0)(x, y)
    assert got.item() == pytest.approx(5 * expected / total, rel=1e-5)


def test_l1_of_unit_vectors():
    x, y = logits(3), targets('normals')
    expected, entries = 0.0, 0
    for b in range(2):
        for i in range(6):
            for j in range(5):
                target, vector = y[b, :, i, j].tolist(), x[b, :, i, j].tolist()
                if target == [0, 0, 0]:
                    continue
                length = math.sqrt(sum(v * v for v in vector))
                expected += sum(abs(v / length - t) for v, t in zip(vector, target))
                entries += 3
    assert L1PixelLoss(unit_vectors=True, loss_weight=10.0)(x, y).item() == pytest.approx(
        10 * expected / entries, rel=1e-5
    )


def test_l1_of_depth_skips_unknown_pixels():
    x, y = logits(1), targets('depth')
    pairs = [(a, b) for a, b in zip(x.flatten().tolist(), y.flatten().tolist()) if b != 0]
    expected = sum(abs(a - b) for a, b in pairs) / len(pairs)
    assert L1PixelLoss()(x, y).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize('weight', [0.0, 1.0, -1.0, 'even'])
def test_positive_weight_out_of_range(weight):
    with pytest.raises(ValueError, match='positive_weight must be'):
        WeightedBCELoss(weight)


@pytest.mark.parametrize('channels', [1, 3])
def test_unit_length_is_pytorchs_with_gradients(channels):
    x = logits(channels).detach()
    x[0, :, 0, 0] = 0
    x[0, :, 0, 1] = 1e-14
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    ours, theirs = unit_length(a), F.normalize(b, dim=1)
    torch.testing.assert_close(ours, theirs)
    weights = torch.randn(x.shape, generator=torch.Generator().manual_seed(2))
    (ours * weights).sum().backward()
    (theirs * weights).sum().backward()
    torch.testing.assert_close(a.grad, b.grad)
