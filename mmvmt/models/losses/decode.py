"""Losses of mmseg, called as its decode heads call them: the same value, the same on several ranks where that can be.

mmseg's cross-entropy and focal loss are means over pixels: the number that they divide by is averaged over ranks, so
that N ranks give the gradients of one. All others are means over images or over the batch of a rank, as in mmseg; those
over images (Dice, Tversky, Hausdorff, SiLog, Lovász with ``per_image``) are the same on N ranks with as many images
each, and those that sort or count the pixels of a batch (OHEM, Lovász, boundary) are not.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from mmseg.models.losses import CrossEntropyLoss, DiceLoss, FocalLoss, LovaszLoss, SiLogLoss
from torch import Tensor, nn

from mmvmt.structures import IGNORE_INDEX

from .pixel import mean_over_ranks


def loss_name(loss: nn.Module) -> str:
    """Name of a loss in the log, as mmseg gives it."""
    return getattr(loss, 'loss_name', None) or f'loss_{type(loss).__name__.lower()}'


def sum_of_losses(losses: Mapping[str, Tensor]) -> Tensor:
    """The loss that trains: as in mmengine, those count whose name has ``loss`` in it."""
    return sum(value for name, value in losses.items() if 'loss' in name)


def decode_loss(
    loss: nn.Module,
    logits: Tensor,
    target: Tensor,
    known: Tensor,
    weight: Tensor | None = None,
    over_ranks: bool = True,
    ignore_index: int = IGNORE_INDEX,
) -> Tensor:
    """Value of a loss with the signature of mmseg's.

    Where mmseg's own call fails, it gets what it needs: the focal loss takes label maps on GPUs alone; the Dice loss of
    one logit takes class 0 for the foreground; cross-entropy with weights of classes does not know which of them to add
    up where pixels are ignored; Lovász and SiLog losses cannot take images without labels, which add nothing here.

    Args:
        loss: The loss.
        logits: ``(B, C, H, W)`` float32.
        target: Labels ``(B, H, W)`` int64, or a map ``(B, C, H, W)`` float32.
        known: ``(B, H, W)`` bool, the labelled pixels.
        weight: ``(B, H, W)``, of a pixel sampler.
        over_ranks: Whether ranks are asked for their numbers of pixels.
        ignore_index: Label of unknown pixels.

    Returns:
        A scalar; zero, with a gradient of zero, where no pixel is labelled.
    """
    options = _accepted(loss, dict(weight=weight, ignore_index=ignore_index)) if target.dim() == 3 else {}
    if isinstance(loss, (CrossEntropyLoss, FocalLoss)) and loss.reduction == 'mean':
        divisor = _divisor(loss, logits, target, known)
        options['avg_factor'] = mean_over_ranks(divisor) if over_ranks else divisor
    if isinstance(loss, FocalLoss) and not logits.is_cuda:
        options['weight'] = (known if weight is None else known * weight).flatten()
        target = _one_hot(target, logits)
    elif isinstance(loss, DiceLoss) and logits.shape[1] == 1:
        target = _one_hot(target, logits)
    # Of many logits these are zero without labels by themselves, and need not wait for a GPU to tell.
    if isinstance(loss, (CrossEntropyLoss, FocalLoss)) and logits.shape[1] > 1:
        return loss(logits, target, **options).mean()
    # mmseg's Lovász loss cannot take a single pixel either.
    least = 2 if isinstance(loss, LovaszLoss) else 1
    counts = known.flatten(1).sum(dim=1)
    if isinstance(loss, SiLogLoss) or getattr(loss, 'per_image', False):
        labelled = counts >= least
        if labelled.any() and not labelled.all():
            value = loss(logits[labelled], target[labelled], **options).mean()
            return value if loss.reduction == 'sum' else value * labelled.float().mean()
        counts = counts * labelled
    if counts.sum() < least:
        return 0 * logits.sum()
    return loss(logits, target, **options).mean()


def _accepted(loss: nn.Module, options: dict[str, Any]) -> dict[str, Any]:
    """Those of the options that a loss takes: OHEM and boundary losses take none."""
    parameters = inspect.signature(loss.forward).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return options
    return {name: value for name, value in options.items() if name in parameters}


def _divisor(loss: CrossEntropyLoss | FocalLoss, logits: Tensor, target: Tensor, known: Tensor) -> Tensor:
    """What mmseg divides the sum over pixels by."""
    if isinstance(loss, FocalLoss):
        return logits.new_tensor(logits.numel())
    if loss.class_weight is not None and not loss.use_sigmoid:
        return (logits.new_tensor(loss.class_weight)[target * known] * known).sum()
    pixels = known.sum() if loss.avg_non_ignore else logits.new_tensor(known.numel())
    return pixels * logits.shape[1] if loss.use_sigmoid else pixels


def _one_hot(labels: Tensor, logits: Tensor) -> Tensor:
    """Labels as a map of the logits' shape, zero where ignored; one logit stands for class 1."""
    channels = logits.shape[1]
    classes = torch.arange(channels, device=labels.device) if channels > 1 else labels.new_ones(1)
    return (labels[:, None] == classes.view(1, -1, 1, 1)).to(logits.dtype)
