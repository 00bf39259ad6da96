"""Losses and outputs against sums written out in Python."""

import math

import pytest
import torch
from tiny import label_map

from mmvmt.models import L1PixelLoss, WeightedBCELoss
from mmvmt.registry import MODELS


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


def test_cross_entropy_is_a_mean_over_valid_pixels():
    x, y = logits(5), targets('semseg')
    output = MODELS.build(dict(type='mmvmt.ClassesOutput', num_classes=5))
    rows = [(v, t) for v, t in zip(x.permute(0, 2, 3, 1).reshape(-1, 5).tolist(), y.flatten().tolist()) if t != 255]
    expected = sum(math.log(sum(math.exp(v) for v in row)) - row[t] for row, t in rows) / len(rows)
    assert output.loss(x, y).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    'output, channels, shape, value',
    [
        (dict(type='mmvmt.ClassesOutput', num_classes=5), 5, (2, 1, 6, 5), 255),
        (dict(type='mmvmt.ProbabilityOutput'), 1, (2, 1, 6, 5), 255),
        (dict(type='mmvmt.UnitVectorOutput'), 3, (2, 3, 6, 5), 0),
        (dict(type='mmvmt.DepthOutput'), 1, (2, 1, 6, 5), 0),
    ],
)
def test_without_a_labelled_pixel_the_loss_is_a_zero_that_reaches_the_logits(output, channels, shape, value):
    output = MODELS.build(output)
    dtype = torch.uint8 if value else torch.float32
    x = logits(channels)
    loss = output.loss(x, torch.full(shape, value, dtype=dtype))
    assert loss.item() == 0
    loss.backward()
    assert torch.equal(x.grad, torch.zeros_like(x))


def test_predictions_are_of_their_kind():
    classes = MODELS.build(dict(type='mmvmt.ClassesOutput', num_classes=5)).predict(logits(5))
    assert classes.dtype == torch.uint8
    assert torch.equal(classes[:, 0].long(), logits(5).argmax(1))
    probability = MODELS.build(dict(type='mmvmt.ProbabilityOutput')).predict(logits(1))
    torch.testing.assert_close(probability, 1 / (1 + torch.exp(-logits(1))))
    normals = MODELS.build(dict(type='mmvmt.UnitVectorOutput')).predict(logits(3))
    torch.testing.assert_close(normals.norm(dim=1), torch.ones(2, 6, 5))
    assert (MODELS.build(dict(type='mmvmt.DepthOutput')).predict(logits(1)) >= 0).all()


@pytest.mark.parametrize('weight', [0.0, 1.0, -1.0, 'even'])
def test_positive_weight_out_of_range(weight):
    with pytest.raises(ValueError, match='positive_weight must be'):
        WeightedBCELoss(weight)


@pytest.mark.parametrize('classes', [0, 1, 256])
def test_number_of_classes_out_of_range(classes):
    with pytest.raises(ValueError, match=f'num_classes must be between 2 and 255, got {classes}'):
        MODELS.build(dict(type='mmvmt.ClassesOutput', num_classes=classes))
