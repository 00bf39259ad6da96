"""A loss whose gradients are there as soon as its value is, so that what led to it can be forgotten."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def loss_with_gradients(
    compute: Callable[[Sequence[Tensor]], Tensor], features: Sequence[Tensor], parameters: Sequence[Tensor]
) -> Tensor:
    """Compute a loss and, at once, its gradients; the backward pass only multiplies them.

    What ``compute`` would keep for the backward pass is free when this returns: of several losses, each with a head of
    its own on features of one encoder, one head's intermediate results are in memory at a time. Values and gradients
    are those of ``compute(features)``. Second derivatives are not available.

    Under autocast to float16 small gradients would vanish, since the loss is scaled only later: there, and where no
    gradient is recorded, this is ``compute(features)``.

    Args:
        compute: Gives the scalar loss from tensors like ``features``, and from ``parameters``.
        features: Tensors of any shape.
        parameters: Leaves that ``compute`` uses; what it uses besides gets no gradient.

    Returns:
        A scalar with a gradient to those of ``features`` and ``parameters`` that require one.
    """
    wanted = any(tensor.requires_grad for tensor in (*features, *parameters))
    device = features[0].device.type
    scaled_later = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) == torch.float16
    if scaled_later or not (wanted and torch.is_grad_enabled()):
        return compute(features)
    return _LossWithGradients.apply(compute, len(features), *features, *parameters)


class _LossWithGradients(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, compute: Callable[[Sequence[Tensor]], Tensor], count: int, *tensors: Tensor) -> Tensor:
        leaves = [feature.detach().requires_grad_(feature.requires_grad) for feature in tensors[:count]]
        inputs = [*leaves, *tensors[count:]]
        needed = [index for index, tensor in enumerate(inputs) if tensor.requires_grad]
        with torch.enable_grad():
            # Views, for hooks such as those of PyTorch's counter of operations, which cannot ask about leaves in here.
            loss = compute([leaf.view_as(leaf) for leaf in leaves])
        # A backward pass outside of autocast, as it is when an optimizer's wrapper starts it.
        with torch.autocast(loss.device.type, enabled=False):
            gradients = torch.autograd.grad(loss, [inputs[index] for index in needed], allow_unused=True)
        ctx.count, ctx.needed = len(inputs), needed
        ctx.save_for_backward(*gradients)
        return loss.detach()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, factor: Tensor) -> tuple[Tensor | None, ...]:
        results: list[Tensor | None] = [None] * ctx.count
        for index, gradient in zip(ctx.needed, ctx.saved_tensors):
            results[index] = None if gradient is None else gradient * factor.to(gradient.dtype)
        return None, None, *results
