"""Features of many tasks from one stream, in as few passes over memory as the sums allow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mmvmt.compat import is_recording

_CACHE_BYTES = 2**23
"""What a piece of all tensors should fit into on the CPU: a share of the third-level cache. Pieces that fit into the
second level are so small that starting their operations takes longer than the operations."""


def task_features(x: Tensor, scales: Tensor, shifts: Tensor, branches: Sequence[Tensor]) -> tuple[Tensor, ...]:
    r""":math:`F_t = x + \beta_t + \sum_l \gamma_{t,l} \odot a_l` for every task t.

    Op by op, every task and every branch is a pass over memory of its own, and another three in the backward pass. Here
    each piece of the tokens that fits into the cache goes through all of them; on a GPU the piece is everything.

    Args:
        x: ``(..., C)``, the stream.
        scales: ``(T, L, C)``, gamma.
        shifts: ``(T, C)``, beta.
        branches: L tensors ``a_l`` of the shape of ``x``.

    Returns:
        T tensors of the shape of ``x``, in the wider one of the types of ``x`` and ``shifts``.
    """
    if is_recording():
        # A compiler fuses these sums by itself.
        return tuple(
            sum((a * scale for a, scale in zip(branches, of_task)), x + shift) for of_task, shift in zip(scales, shifts)
        )
    return _TaskFeatures.apply(x, scales, shifts, *branches)


def _pieces(rows: int, row_bytes: int, device: torch.device) -> list[slice]:
    """The rows in pieces."""
    size = rows if device.type != 'cpu' else max(64, _CACHE_BYTES // max(1, row_bytes))
    return [slice(start, start + size) for start in range(0, rows, max(1, size))]


def _sums_over_rows(gradients: Sequence[Tensor], taps: Sequence[Tensor], wide: torch.dtype) -> tuple[Tensor, Tensor]:
    """Sums over rows, of every gradient times every tap and of the gradients themselves.

    Args:
        gradients: T tensors ``(N, C)``.
        taps: L tensors ``(N, C)``.
        wide: Type of the sums.

    Returns:
        ``(L, T, C)`` and ``(T, C)``.
    """
    if gradients[0].device.type != 'cpu' or gradients[0].dtype != wide:
        products = [torch.stack([(gradient * tap).sum(0, dtype=wide) for gradient in gradients]) for tap in taps]
        return torch.stack(products), torch.stack([gradient.sum(0, dtype=wide) for gradient in gradients])
    # The gradients of LayerNorm's weight and bias where the mean is 0 and the deviation 1: the one kernel of PyTorch
    # that multiplies and sums over rows without writing the products to memory.
    taps = [tap.to(wide) for tap in taps]
    rows, width = taps[0].shape
    zero, one, weight = taps[0].new_zeros(rows, 1), taps[0].new_ones(rows, 1), taps[0].new_ones(width)
    products, sums = [], []
    for tap in taps:
        wanted = (False, True, not sums)
        pairs = [
            torch.ops.aten.native_layer_norm_backward(gradient, tap, [width], zero, one, weight, weight, wanted)[1:]
            for gradient in gradients
        ]
        products.append(torch.stack([product for product, _ in pairs]))
        sums = sums or [total for _, total in pairs]
    return torch.stack(products), torch.stack(sums)


class _TaskFeatures(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scales: Tensor, shifts: Tensor, *branches: Tensor) -> tuple[Tensor, ...]:
        width = x.shape[-1]
        rows = [tensor.reshape(-1, width) for tensor in (x, *branches)]
        dtype = torch.promote_types(x.dtype, shifts.dtype)
        outputs = [torch.empty(x.shape, dtype=dtype, device=x.device) for _ in shifts]
        flat = [output.view(-1, width) for output in outputs]
        row_bytes = width * outputs[0].element_size() * (len(rows) + 1)
        # Taken apart once: one by one, indexing takes as long as a small sum.
        tables = [(shift, of_task.unbind()) for shift, of_task in zip(shifts.unbind(), scales.unbind())]
        for piece in _pieces(len(rows[0]), row_bytes, x.device):
            stream, *taps = (tensor[piece] for tensor in rows)
            for output, (shift, of_task) in zip(flat, tables):
                feature = torch.add(stream, shift, out=output[piece])
                for tap, scale in zip(taps, of_task):
                    feature.addcmul_(tap, scale)
        ctx.save_for_backward(scales, *branches)
        ctx.x_dtype, ctx.shift_dtype = x.dtype, shifts.dtype
        return tuple(outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        scales, *branches = ctx.saved_tensors
        width, shape = scales.shape[-1], gradients[0].shape
        of_tasks = [gradient.reshape(-1, width) for gradient in gradients]
        taps = [branch.reshape(-1, width) for branch in branches]
        needs_x, needs_scales, needs_shifts, *needs_branches = ctx.needs_input_grad
        device = gradients[0].device
        # Sums over tokens and tasks in float32 at least, as autograd's own sums have it.
        wide = torch.promote_types(scales.dtype, torch.float32)
        grad_x = torch.empty_like(of_tasks[0]) if needs_x else None
        grad_taps = [torch.empty_like(of_tasks[0]) if needed else None for needed in needs_branches]
        grad_scales = torch.zeros((len(taps), len(scales), width), dtype=wide, device=device)
        grad_shifts = torch.zeros((len(scales), width), dtype=wide, device=device)
        row_bytes = width * of_tasks[0].element_size() * (len(of_tasks) + 2)
        of_branches = [of_branch.unbind() for of_branch in scales.unbind(1)]
        for piece in _pieces(len(of_tasks[0]), row_bytes, device):
            parts = [gradient[piece] for gradient in of_tasks]
            if grad_x is not None:
                total = grad_x[piece].copy_(parts[0])
                for part in parts[1:]:
                    total.add_(part)
            if needs_scales or needs_shifts:
                products, sums = _sums_over_rows(parts, [tap[piece] for tap in taps], wide)
                grad_scales += products
                grad_shifts += sums
            for grad_tap, of_branch in zip(grad_taps, of_branches):
                if grad_tap is not None:
                    total = torch.mul(parts[0], of_branch[0], out=grad_tap[piece])
                    for part, scale in zip(parts[1:], of_branch[1:]):
                        total.addcmul_(part, scale)
        return (
            None if grad_x is None else grad_x.view(shape).to(ctx.x_dtype),
            grad_scales.transpose(0, 1).to(scales.dtype) if needs_scales else None,
            grad_shifts.to(ctx.shift_dtype) if needs_shifts else None,
            *(None if grad is None else grad.view(shape).to(b.dtype) for grad, b in zip(grad_taps, branches)),
        )
