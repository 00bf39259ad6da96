"""mmseg's losses in our outputs against mmseg's own heads, PyTorch and formulas; on two ranks; without labels."""

import importlib
import pkgutil

import mmseg.models.losses
import pytest
import torch
import torch.nn.functional as F
from distributed import run_ranks
from mmengine.structures import PixelData
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.registry import MODELS as MMSEG_MODELS
from mmseg.structures import SegDataSample
from tiny import batch as tiny_batch
from tiny import label_map, losses_of, model_cfg, perturb

from mmvmt.models.losses import decode
from mmvmt.registry import MODELS

CLASSES = 4
WEIGHTS = [0.5, 1.0, 2.0, 4.0]


class Head(BaseDecodeHead):
    """A decode head of mmseg whose logits are given."""

    def forward(self, inputs):
        return inputs


def mmseg_head(losses, logits, target, sampler=None):
    """What mmseg's decode head adds up."""
    channels = logits.shape[1]
    head = Head(1, 1, num_classes=max(channels, 2), out_channels=channels, loss_decode=losses, sampler=sampler)
    samples = [SegDataSample(gt_sem_seg=PixelData(data=labels.long())) for labels in target]
    found = head.loss_by_feat(logits, samples)
    return sum(value.mean() for name, value in found.items() if 'loss' in name)


def called_bare(loss, logits, target):
    """What mmseg's PIDNet and depth heads add up, which hand over logits and labels alone."""
    target = target.squeeze(1).long() if target.dtype == torch.uint8 else target
    return MMSEG_MODELS.build(loss)(logits, target)


def weighted_cross_entropy(loss, logits, target):
    return F.cross_entropy(logits, target.squeeze(1).long(), torch.tensor(loss['class_weight']), ignore_index=255)


def focal(loss, logits, target):
    r"""Mean over pixels and classes of :math:`-\alpha_t (1 - p_t)^\gamma \log p_t`, ignored pixels adding zero."""
    alpha, gamma = loss.get('alpha', 0.5), loss.get('gamma', 2.0)
    classes = range(logits.shape[1]) if logits.shape[1] > 1 else (1,)
    total = 0
    for channel, index in enumerate(classes):
        p = logits[:, channel].sigmoid()
        positive = target[:, 0] == index
        p_t = torch.where(positive, p, 1 - p)
        alpha_t = torch.where(positive, alpha, 1 - alpha)
        total = total + (-alpha_t * (1 - p_t) ** gamma * p_t.log() * (target[:, 0] != 255)).sum()
    return total / logits.numel()


def binary_dice(loss, logits, target):
    p, y = logits.sigmoid().flatten(1), (target == 1).float().flatten(1)
    return (1 - 2 * (p * y).sum(1) / (p.square().sum(1) + y.square().sum(1) + 2e-3)).mean()


# By loss of mmseg's registry: output, options, reference.
CASES = {
    'CrossEntropyLoss': [
        ('classes', {}, mmseg_head),
        ('classes', dict(avg_non_ignore=True, loss_weight=2.0), mmseg_head),
        ('classes', dict(use_sigmoid=True), mmseg_head),
        ('classes', dict(use_sigmoid=True, avg_non_ignore=True), mmseg_head),
        ('classes', dict(reduction='sum'), mmseg_head),
        ('classes', dict(reduction='none'), mmseg_head),
        ('classes', dict(class_weight=WEIGHTS), weighted_cross_entropy),
        ('classes', dict(class_weight=WEIGHTS, avg_non_ignore=True), weighted_cross_entropy),
        ('binary', dict(use_sigmoid=True), mmseg_head),
        ('binary', dict(use_sigmoid=True, avg_non_ignore=True), mmseg_head),
    ],
    'FocalLoss': [
        ('classes', {}, focal),
        ('classes', dict(gamma=1.5, alpha=0.25), focal),
        ('binary', dict(alpha=0.25), focal),
    ],
    'DiceLoss': [
        ('classes', {}, mmseg_head),
        ('classes', dict(use_sigmoid=False, naive_dice=True, eps=1.0), mmseg_head),
        ('classes', dict(reduction='sum'), mmseg_head),
        ('binary', {}, binary_dice),
    ],
    'TverskyLoss': [('classes', {}, mmseg_head), ('classes', dict(class_weight=WEIGHTS), mmseg_head)],
    'HuasdorffDisstanceLoss': [('classes', {}, mmseg_head)],
    'LovaszLoss': [
        ('classes', dict(reduction='none'), mmseg_head),
        ('classes', dict(reduction='none', classes='all', class_weight=WEIGHTS), mmseg_head),
        ('classes', dict(per_image=True), mmseg_head),
        ('binary', dict(loss_type='binary', reduction='none'), mmseg_head),
        ('binary', dict(loss_type='binary', per_image=True, reduction='sum'), mmseg_head),
    ],
    'OhemCrossEntropy': [
        ('classes', dict(min_kept=10), called_bare),
        ('classes', dict(thres=0.3, min_kept=5, class_weight=WEIGHTS), called_bare),
    ],
    'BoundaryLoss': [('binary', dict(loss_weight=3.0), called_bare)],
    'SiLogLoss': [('metric', {}, called_bare)],
}
# Losses whose value on a rank depends on what else is in its batch, so that two ranks are not one; and sums.
OF_A_BATCH = ('OhemCrossEntropy', 'BoundaryLoss')
NONE_FITS = {'KLDivLoss': 'compares the logits of two models; no output has logits for its truth'}
OUTPUTS = {
    'classes': (dict(type='mmvmt.ClassesOutput', num_classes=CLASSES), 'semseg', CLASSES),
    'binary': (dict(type='mmvmt.ProbabilityOutput'), 'saliency', 1),
    'metric': (dict(type='mmvmt.DepthOutput'), 'depth', 1),
}
ROWS = [(name, *case) for name, cases in CASES.items() for case in cases]
IDS = [f'{name}-{kind}-{"-".join(options)}' for name, kind, options, _ in ROWS]


def output_of(name, kind, options):
    return MODELS.build(OUTPUTS[kind][0] | dict(loss=dict(type=f'mmseg.{name}', **options)))


def data_of(kind, images=4, seed=0):
    """Logits, and labels of which each image has another share."""
    _, task, channels = OUTPUTS[kind]
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(images, channels, 6, 7, generator=generator)
    target = torch.stack([label_map(task, 6, 7, generator) for _ in range(images)])
    if kind == 'classes':
        target[target == CLASSES] = 0
    target[0, :, :4] = 0 if kind == 'metric' else 255
    return (logits.abs() if kind == 'metric' else logits).requires_grad_(), target


def value_and_gradient(compute, logits, target):
    logits = logits.detach().requires_grad_()
    value = compute(logits, target)
    return value.detach(), torch.autograd.grad(value, logits)[0]


def registered():
    for module in pkgutil.iter_modules(mmseg.models.losses.__path__):
        importlib.import_module(f'mmseg.models.losses.{module.name}')
    package = mmseg.models.losses.__name__
    return {name for name, loss in MMSEG_MODELS.module_dict.items() if loss.__module__.startswith(f'{package}.')}


def test_the_table_knows_every_loss_of_mmseg():
    assert registered() == {*CASES, *NONE_FITS}


@pytest.mark.parametrize('name, kind, options, reference', ROWS, ids=IDS)
def test_value_and_gradient_are_those_of_mmsegs_head(name, kind, options, reference):
    logits, target = data_of(kind)
    expected = value_and_gradient(lambda x, y: reference(dict(type=name, **options), x, y), logits, target)
    found = value_and_gradient(output_of(name, kind, options).loss, logits, target)
    assert expected[0] > 1e-3
    assert expected[1].any()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize('options', [{}, dict(loss_weight=3.0)])
def test_weights_of_classes_as_in_mmsegs_head_where_that_can_compute_it(options):
    logits, target = data_of('classes')
    target[target == 255] = 1
    loss = dict(type='CrossEntropyLoss', class_weight=WEIGHTS, **options)
    found = output_of('CrossEntropyLoss', 'classes', dict(class_weight=WEIGHTS, **options)).loss(logits, target)
    torch.testing.assert_close(found, mmseg_head(loss, logits, target))


@pytest.mark.parametrize('name, kind, options, reference', ROWS, ids=IDS)
def test_without_labels_it_is_zero_and_with_few_it_is_finite(name, kind, options, reference):
    output = output_of(name, kind, options)
    logits, target = data_of(kind)
    ignore = 0 if kind == 'metric' else 255
    value, gradient = value_and_gradient(output.loss, logits, torch.full_like(target, ignore))
    assert value == 0
    assert not gradient.any()
    for images, rows, columns in ((slice(1), 6, 7), (slice(1), 1, 1), (slice(4), 1, 1), (slice(2), 1, 2)):
        sparse = torch.full_like(target, ignore)
        sparse[images, :, :rows, :columns] = 1
        value, gradient = value_and_gradient(output.loss, logits, sparse)
        assert torch.isfinite(value)
        assert torch.isfinite(gradient).all()


@pytest.mark.parametrize(
    'name, kind, options',
    [('SiLogLoss', 'metric', {}), ('LovaszLoss', 'classes', dict(per_image=True))],
)
def test_an_image_without_labels_counts_as_zero_in_a_mean_over_images(name, kind, options):
    output = output_of(name, kind, options)
    logits, target = data_of(kind)
    target[1:3] = 0 if kind == 'metric' else 255
    kept = [0, 3]
    torch.testing.assert_close(output.loss(logits, target), output.loss(logits[kept], target[kept]) / 2)


def compute_rows(rank, world_size):
    """The value and gradient of every row on this rank's images."""
    found = []
    for name, kind, options, _ in ROWS:
        logits, target = data_of(kind)
        share = slice(rank * 4 // world_size, (rank + 1) * 4 // world_size)
        found.append(value_and_gradient(output_of(name, kind, options).loss, logits[share], target[share]))
    # One rank without any label waits for no other.
    logits, target = data_of('classes')
    target[2:] = 255
    share = slice(rank * 4 // world_size, (rank + 1) * 4 // world_size)
    output = output_of('CrossEntropyLoss', 'classes', dict(class_weight=WEIGHTS))
    found.append(value_and_gradient(output.loss, logits[share], target[share]))
    return found


def test_two_ranks_give_what_one_gives():
    ranks, single = run_ranks(compute_rows, 2), compute_rows(0, 1)
    rows = [*ROWS, ('CrossEntropyLoss', 'classes', dict(class_weight=WEIGHTS), None)]
    compared = 0
    for row, first, second, (value, gradient) in zip(rows, *ranks, single):
        name, _, options, _ = row
        if name in OF_A_BATCH or (name == 'LovaszLoss' and not options.get('per_image')):
            continue
        # DDP averages gradients; a sum over pixels or images is halved by it, as in mmseg.
        factor = 2 if options.get('reduction') == 'sum' else 1
        torch.testing.assert_close(factor * (first[0] + second[0]) / 2, value, rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(factor * torch.cat([first[1], second[1]]) / 2, gradient, rtol=1e-5, atol=1e-7)
        compared += 1
    assert compared >= 20


LISTS = [
    [dict(type='CrossEntropyLoss', avg_non_ignore=True), dict(type='DiceLoss', loss_weight=3.0)],
    [dict(type='CrossEntropyLoss'), dict(type='CrossEntropyLoss', use_sigmoid=True)],
    [dict(type='LovaszLoss', reduction='none'), dict(type='TverskyLoss'), dict(type='CrossEntropyLoss')],
    [dict(type='CrossEntropyLoss'), dict(type='DiceLoss', loss_name='dice')],
]


@pytest.mark.parametrize('losses', LISTS)
def test_lists_add_up_as_in_mmsegs_head(losses):
    logits, target = data_of('classes')
    ours = [loss | dict(type=f'mmseg.{loss["type"]}') for loss in losses]
    output = MODELS.build(OUTPUTS['classes'][0] | dict(loss=ours))
    expected = value_and_gradient(lambda x, y: mmseg_head(losses, x, y), logits, target)
    torch.testing.assert_close(value_and_gradient(output.loss, logits, target), expected)


@pytest.mark.parametrize('thresh', [None, 0.4])
@pytest.mark.parametrize('avg_non_ignore', [True, False])
def test_a_pixel_sampler_weighs_as_in_mmsegs_head(thresh, avg_non_ignore):
    logits, target = data_of('classes')
    sampler = dict(type='OHEMPixelSampler', thresh=thresh, min_kept=8)
    loss = dict(type='CrossEntropyLoss', avg_non_ignore=avg_non_ignore)
    output = MODELS.build(
        OUTPUTS['classes'][0]
        | dict(loss=loss | dict(type='mmseg.CrossEntropyLoss'), sampler=sampler | dict(type='mmseg.OHEMPixelSampler'))
    )
    expected = value_and_gradient(lambda x, y: mmseg_head(loss, x, y, sampler), logits, target)
    found = value_and_gradient(output.loss, logits, target)
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(found[0], mmseg_head(loss, logits, target))
    assert output.loss(logits, torch.full_like(target, 255)) == 0


@pytest.mark.parametrize(
    'kind, options, message',
    [
        (
            'classes',
            dict(loss=dict(type='mmseg.SiLogLoss')),
            '4 logits per pixel by SiLogLoss: AssertionError: the shap',
        ),
        ('classes', dict(loss=dict(type='mmseg.CrossEntropyLoss', use_mask=True)), 'by CrossEntropyLoss: '),
        ('classes', dict(loss=dict(type='mmseg.CrossEntropyLoss', class_weight=[1.0, 2.0])), 'by CrossEntropyLoss: '),
        (
            'classes',
            dict(loss=dict(type='mmseg.CrossEntropyLoss', use_sigmoid=True, class_weight=WEIGHTS)),
            'CrossEntropyLoss: RuntimeError: The size of tensor',
        ),
        (
            'classes',
            dict(loss=dict(type='mmseg.DiceLoss'), sampler=dict(type='mmseg.OHEMPixelSampler', thresh=0.7)),
            'by DiceLoss: AssertionError',
        ),
        ('classes', dict(loss=dict(type='mmseg.DiceLoss', loss_name='dice')), r"no loss has 'loss' in .*\['dice'\]"),
        ('binary', dict(loss=dict(type='mmseg.TverskyLoss')), 'by TverskyLoss: it does not depend on them'),
        ('binary', dict(loss=dict(type='mmseg.CrossEntropyLoss')), 'by CrossEntropyLoss: '),
        ('binary', dict(loss=dict(type='mmseg.HuasdorffDisstanceLoss')), 'by HuasdorffDisstanceLoss: '),
        ('metric', dict(loss=dict(type='mmseg.DiceLoss')), 'by DiceLoss: '),
    ],
)
def test_a_loss_that_does_not_fit_is_refused_when_the_head_is_built(kind, options, message):
    with pytest.raises(ValueError, match=message):
        MODELS.build(OUTPUTS[kind][0] | options)


class Own(torch.nn.Module):
    """A loss with the signature of mmseg's that needs more pixels than a few."""

    def forward(self, logits, label, ignore_index=255):
        return F.avg_pool2d(logits, 6).mean() + 0 * label[label != ignore_index].sum()


def test_losses_of_ones_own_and_without_weight_are_not_refused():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MODELS.module_dict, 'Own', Own)
        loss = [dict(type='Own'), dict(type='mmseg.DiceLoss', loss_weight=0.0)]
        output = MODELS.build(OUTPUTS['classes'][0] | dict(loss=loss))
    logits, target = data_of('classes')
    losses = output.losses(logits, target)
    assert list(losses) == ['loss_own', 'loss_dice']
    torch.testing.assert_close(output.loss(logits, target), logits[..., :6].mean())


@pytest.mark.parametrize('at_once', [True, False])
def test_a_model_logs_the_losses_of_a_list_and_trains_their_sum(at_once):
    cfg = model_cfg(gradients_at_once=at_once)
    cfg['heads']['semseg']['output'] = dict(
        type='mmvmt.ClassesOutput',
        num_classes=5,
        loss=[
            dict(type='mmseg.CrossEntropyLoss'),
            dict(type='mmseg.DiceLoss', loss_weight=0.5),
            dict(type='mmseg.TverskyLoss', loss_name='tversky'),
        ],
    )
    cfg['heads']['saliency']['output'] = dict(
        type='mmvmt.ProbabilityOutput', loss=[dict(type='mmvmt.WeightedBCELoss'), dict(type='mmseg.DiceLoss')]
    )
    torch.manual_seed(0)
    model = MODELS.build(cfg).train()
    perturb(model)
    losses = losses_of(model, tiny_batch())
    terms = ['semseg.ce', 'semseg.dice', 'semseg.tversky', 'saliency.bce', 'saliency.dice']
    assert list(losses) == [*(f'loss_{task}' for task in model.tasks), *terms]
    torch.testing.assert_close(losses['loss_semseg'].detach(), losses['semseg.ce'] + losses['semseg.dice'])
    torch.testing.assert_close(losses['loss_saliency'].detach(), losses['saliency.bce'] + losses['saliency.dice'])
    total, log = model.parse_losses(losses)
    torch.testing.assert_close(total, sum(losses[f'loss_{task}'] for task in model.tasks))
    assert {*terms, 'loss'} <= set(log)
    total.backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_on_a_gpu_the_focal_loss_takes_label_maps(monkeypatch):
    seen = {}

    class Focal(decode.FocalLoss):
        def forward(self, pred, target, **options):
            seen.update(options, target=target)
            return pred.mean()

    logits, target = data_of('classes')
    monkeypatch.setattr(torch.Tensor, 'is_cuda', True)
    labels = target.squeeze(1).long()
    decode.decode_loss(Focal(), logits, labels, labels != 255)
    assert seen['target'] is labels
    assert seen['weight'] is None
    assert seen['avg_factor'] == logits.numel()
