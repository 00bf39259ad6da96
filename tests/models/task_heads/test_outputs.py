"""Outputs of heads: the loss they learn by, and what they predict."""

import math

import pytest
import torch
from tiny import label_map

from mmvmt.models.task_heads import output_config
from mmvmt.registry import MODELS
from mmvmt.structures import Task


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
        (dict(type='mmvmt.DepthOutput', scale='log'), 1, (2, 1, 6, 5), 0),
        (dict(type='mmvmt.ClassesOutput', num_classes=300), 300, (2, 1, 6, 5), 65535),
        (dict(type='mmvmt.ValuesOutput', channels=2), 2, (2, 2, 6, 5), math.nan),
        (dict(type='mmvmt.ValuesOutput', loss=dict(type='mmvmt.HuberPixelLoss')), 1, (2, 1, 6, 5), math.nan),
    ],
)
def test_without_a_labelled_pixel_the_loss_is_a_zero_that_reaches_the_logits(output, channels, shape, value):
    output = MODELS.build(output)
    dtype = {255: torch.uint8, 65535: torch.int32}.get(value, torch.float32)
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


def test_logarithmic_metres_are_compared_as_logarithms_by_our_losses_and_as_metres_by_mmsegs():
    x, y = logits(1), targets('depth')
    output = MODELS.build(dict(type='mmvmt.DepthOutput', scale='log'))
    torch.testing.assert_close(output.predict(x), x.exp())
    pairs = [(a, b) for a, b in zip(x.flatten().tolist(), y.flatten().tolist()) if b > 0]
    expected = sum(abs(a - math.log(b)) for a, b in pairs) / len(pairs)
    assert output.loss(x, y).item() == pytest.approx(expected, rel=1e-5)
    silog = dict(loss=dict(type='mmseg.SiLogLoss'))
    ours = MODELS.build(dict(type='mmvmt.DepthOutput', scale='log', **silog)).loss(x, y)
    torch.testing.assert_close(ours, MODELS.build(dict(type='mmvmt.DepthOutput', **silog)).loss(x.exp(), y))


@pytest.mark.parametrize(
    'name, of', [('L2', lambda d: d * d), ('Huber', lambda d: d * d / 2 if d <= 0.5 else 0.5 * (d - 0.25))]
)
def test_values_are_compared_where_all_channels_are_known(name, of):
    x, y = logits(2), logits(2, seed=5).detach()
    y[0, 0, :3], y[1, :, 2:, 1] = math.nan, math.nan
    loss = dict(type=f'mmvmt.{name}PixelLoss', loss_weight=3.0) | (dict(delta=0.5) if name == 'Huber' else {})
    output = MODELS.build(dict(type='mmvmt.ValuesOutput', channels=2, loss=loss))
    errors = (x - y).abs()
    known = ~y.isnan().any(1)
    expected = [of(errors[b, c, i, j].item()) for b, i, j in known.nonzero().tolist() for c in range(2)]
    value = output.loss(x, y)
    assert value.item() == pytest.approx(3 * sum(expected) / len(expected), rel=1e-5)
    value.backward()
    assert torch.equal(x.grad != 0, known[:, None].expand_as(x))
    assert torch.equal(output.predict(x), x)


class Squares(torch.nn.Module):
    """A loss that is none of ours and knows of no unknown values."""

    def forward(self, prediction, target):
        return (prediction - target).square().mean()


def test_a_foreign_loss_sees_no_difference_where_values_are_unknown(monkeypatch):
    monkeypatch.setitem(MODELS.module_dict, 'Squares', Squares)
    x, y = logits(2), logits(2, seed=5).detach()
    y[:, 1, :3] = math.nan
    output = MODELS.build(dict(type='mmvmt.ValuesOutput', channels=2, loss=dict(type='Squares')))
    torch.testing.assert_close(output.loss(x, y), (x - y)[:, :, 3:].square().mean() / 2)


def test_many_classes():
    output = MODELS.build(dict(type='mmvmt.ClassesOutput', num_classes=300))
    output.bind(Task('species', 'classes', classes=300))
    x = logits(300)
    y = torch.arange(60).view(2, 1, 6, 5).int() + 230
    y[0, 0, 0, :3] = 65535
    expected = torch.nn.functional.cross_entropy(x, y[:, 0].long(), ignore_index=65535)
    torch.testing.assert_close(output.loss(x, y), expected)
    assert output.predict(x).dtype == torch.int32
    assert torch.equal(output.predict(x)[:, 0].long(), x.argmax(1))


@pytest.mark.parametrize(
    'motion, channels, direction, signs',
    [
        ('displacement', 2, 'horizontal', (-1, 1)),
        ('displacement', 2, 'diagonal', (-1, -1)),
        ('direction', 3, 'vertical', (1, -1, 1)),
        ('none', 3, 'horizontal', (1, 1, 1)),
    ],
)
def test_mirrored_values_are_turned_back_as_their_motion_says(motion, channels, direction, signs):
    output = MODELS.build(dict(type='mmvmt.ValuesOutput', channels=channels))
    output.bind(Task('own', 'values', channels=channels, motion=motion))
    x = logits(channels).detach()
    dims = dict(horizontal=(3,), vertical=(2,), diagonal=(2, 3))[direction]
    assert torch.equal(output.mirror(x, direction), x.flip(dims) * torch.tensor(signs).view(-1, 1, 1))


@pytest.mark.parametrize(
    'output, task, message',
    [
        (dict(type='ClassesOutput', num_classes=3), dict(kind='binary'), "'classes' maps, but the task has 'binary'"),
        (dict(type='ClassesOutput', num_classes=3), dict(kind='classes', classes=4), r'num_classes=3.*declared with 4'),
        (dict(type='ClassesOutput', num_classes=300), dict(kind='classes'), r'300 classes.*255.*classes=300'),
        (dict(type='ValuesOutput', channels=3), dict(kind='values', channels=2), 'channels=3.*declared with 2'),
        (dict(type='UnitVectorOutput'), dict(kind='vectors', channels=2), 'channels=3.*declared with 2'),
        (dict(type='DepthOutput'), dict(kind='metric', scale='log'), "scale='linear'.*declared with 'log'"),
        (
            dict(type='ClassesOutput', num_classes=3, loss=dict(type='mmseg.OhemCrossEntropy', min_kept=4)),
            dict(kind='classes', ignore=65535),
            'by OhemCrossEntropy',
        ),
    ],
)
def test_an_output_is_that_of_its_task(output, task, message):
    output = MODELS.build(output | dict(type=f'mmvmt.{output["type"]}'))
    with pytest.raises(ValueError, match=message):
        output.bind(Task('own', **task))


def test_an_output_is_completed_by_the_declaration():
    loss = [dict(type='mmseg.DiceLoss')]
    crops = Task('crops', 'classes', classes=3, loss=loss)
    assert output_config(crops) == dict(type='mmvmt.ClassesOutput', num_classes=3, loss=loss)
    assert output_config(crops, dict(type='Own')) == dict(type='Own', loss=loss)
    other = dict(type='mmseg.CrossEntropyLoss')
    assert output_config(crops, dict(loss=other))['loss'] == other
    assert output_config(Task('flow', 'values', channels=2)) == dict(type='mmvmt.ValuesOutput', channels=2)
    depth = Task('range', 'metric', scale='log')
    assert output_config(depth) == dict(type='mmvmt.DepthOutput', scale='log')
    with pytest.raises(ValueError, match="task 'open' has classes, and nothing says how many"):
        output_config(Task('open', 'classes'))


@pytest.mark.parametrize('classes', [0, 1, 65536])
def test_number_of_classes_out_of_range(classes):
    with pytest.raises(ValueError, match=f'num_classes must be between 2 and 65535, got {classes}'):
        MODELS.build(dict(type='mmvmt.ClassesOutput', num_classes=classes))


def test_huber_bends_at_a_positive_difference():
    with pytest.raises(ValueError, match='delta must be positive, got 0'):
        MODELS.build(dict(type='mmvmt.HuberPixelLoss', delta=0))
