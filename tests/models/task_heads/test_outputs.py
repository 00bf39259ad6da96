"""Outputs of heads: the loss they learn by, and what they predict."""

import math

import pytest
import torch
from tiny import label_map

from mmvmt.registry import MODELS


def logits(channels, seed=0):
    return torch.randn(2, channels, 6, 5, generator=torch.Generator().manual_seed(seed), requires_grad=True)


def targets(task, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([label_map(task, 6, 5, generator) for _ in range(2)])


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


@pytest.mark.parametrize('classes', [0, 1, 256])
def test_number_of_classes_out_of_range(classes):
    with pytest.raises(ValueError, match=f'num_classes must be between 2 and 255, got {classes}'):
        MODELS.build(dict(type='mmvmt.ClassesOutput', num_classes=classes))
