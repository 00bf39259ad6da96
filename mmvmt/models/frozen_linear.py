"""Linear layers of a frozen encoder, by the faster one of PyTorch's two libraries for matrix products on a CPU."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from mmcv.cnn import Linear as MMCVLinear
from torch import Tensor, nn
from torch.utils.flop_counter import flop_registry, shape_wrapper

from mmvmt.compat import is_exporting, is_recording

_ONEDNN_LINEAR = getattr(torch.ops.mkldnn, '_linear_pointwise', None)
"""oneDNN's linear layer, which PyTorch has on x86 for its compiler; None where it was built without."""


class FrozenLinear(nn.Linear):
    """``nn.Linear`` that multiplies by oneDNN where its weight is frozen, in single precision on a CPU.

    ``F.linear`` hands such products to MKL. oneDNN, which comes with PyTorch too and which ``F.linear`` uses for half
    precision, took 0.84 to 0.87 of that time for the layers of Swin-T and Swin-B, forward and backward, on two cores of
    an AMD EPYC; sums are added up in another order. In all other cases (weights that train, autocast, GPUs, graphs)
    this is ``F.linear``.
    """

    @classmethod
    def over(cls, layer: nn.Linear) -> FrozenLinear:
        """Make a plain linear layer one of these: the same object, with its parameters and hooks."""
        layer.__class__ = cls
        return layer

    def forward(self, x: Tensor) -> Tensor:
        """``(..., in_features)`` to ``(..., out_features)``."""
        if not _is_for_onednn(x, self.weight, self.bias):
            return F.linear(x, self.weight, self.bias)
        if not torch.is_grad_enabled():
            return _onednn_linear(x, self.weight, self.bias)
        return _OneDNNLinear.apply(x, self.weight, self.bias)


def use_onednn(module: nn.Module) -> None:
    """Make every plain linear layer inside a module a :class:`FrozenLinear`."""
    for layer in module.modules():
        # mmcv's differs only where a PyTorch of long ago could not do with empty batches.
        if type(layer) in (nn.Linear, MMCVLinear):
            FrozenLinear.over(layer)


def _is_for_onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    tensors = (x, weight) if bias is None else (x, weight, bias)
    return (
        _ONEDNN_LINEAR is not None
        and not is_exporting()
        and not is_recording()
        and not (weight.requires_grad and torch.is_grad_enabled())
        and all(type(t) in (Tensor, nn.Parameter) and t.is_cpu and t.dtype == torch.float32 for t in tensors)
        and x.ndim > 1
        and x.numel() > 0
        and not torch.is_autocast_enabled('cpu')
        and torch.backends.mkldnn.is_available()
        and torch.backends.mkldnn.enabled
    )


def _onednn_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return _ONEDNN_LINEAR(x, weight, bias, 'none', [], '')


class _OneDNNLinear(torch.autograd.Function):
    """``x W^T + b`` with a constant W."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return _onednn_linear(x, weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: Tensor) -> None:
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None, Tensor | None]:
        (weight,) = ctx.saved_tensors
        needs_x, _, needs_bias = ctx.needs_input_grad
        grad_x = _OneDNNLinear.apply(gradient, weight.t(), None) if needs_x else None
        return grad_x, None, gradient.flatten(0, -2).sum(0) if needs_bias else None


def _linear_flops(x_shape: torch.Size, weight_shape: torch.Size, *_: Any, **__: Any) -> int:
    """Multiplications and additions of a linear layer."""
    return 2 * x_shape.numel() * weight_shape[0]


if _ONEDNN_LINEAR is not None:
    # For PyTorch's counter. Its own way to register a formula misses the operation in older releases.
    flop_registry[_ONEDNN_LINEAR] = shape_wrapper(_linear_flops)
