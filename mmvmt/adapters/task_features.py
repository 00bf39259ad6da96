"""Features of many tasks from one stream, in as few passes over memory as the sums allow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_CACHE_BYTES = 2**22
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
    if torch.compiler.is_compiling():
        # The compiler fuses these sums by itself.
        return tuple(
            sum((a * scale for a, scale in zip(branches, of_task)), x + shift) for of_task, shift in zip(scales, shifts)
        )
    return _TaskFeatures.apply(x, scales, shifts, *branches)


def _pieces(rows: int, row_bytes: int, device: torch.device) -> list[slice]:
    """The rows in pieces."""
    size = rows if device.type != 'cpu' else max(64, _CACHE_BYTES // max(1, row_bytes))
    return [slice(start, start + size) for start in range(0, rows, max(1, size))]


class _TaskFeatures(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scales: Tensor, shifts: Tensor, *branches: Tensor) -> tuple[Tensor, ...]:
        width = x.shape[-1]
        rows = [tensor.reshape(-1, width) for tensor in (x, *branches)]
        dtype = torch.promote_types(x.dtype, shifts.dtype)
        outputs = [torch.empty(x.shape, dtype=dtype, device=x.device) for _ in shifts]
        flat = [output.view(-1, width) for output in outputs]
        row_bytes = width * outputs[0].element_size() * (len(rows) + 1)
        for piece in _pieces(len(rows[0]), row_bytes, x.device):
            stream, *taps = (tensor[piece] for tensor in rows)
            for output, of_task, shift in zip(flat, scales, shifts):
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
        grad_scales = torch.zeros(scales.shape, dtype=wide, device=device)
        grad_shifts = torch.zeros((len(scales), width), dtype=wide, device=device)
        row_bytes = width * of_tasks[0].element_size() * (len(of_tasks) + 2)
        for piece in _pieces(len(of_tasks[0]), row_bytes, device):
            parts = [gradient[piece] for gradient in of_tasks]
            if grad_x is not None:
                total = grad_x[piece].copy_(parts[0])
                for part in parts[1:]:
                    total.add_(part)
            if needs_shifts:
                for task, part in enumerate(parts):
                    grad_shifts[task] += part.sum(0, dtype=wide)
            for index, (tap, grad_tap) in enumerate(zip(taps, grad_taps)):
                if grad_tap is not None:
                    total = torch.mul(parts[0], scales[0, index], out=grad_tap[piece])
                    for part, scale in zip(parts[1:], scales[1:, index]):
                        total.addcmul_(part, scale)
                if needs_scales:
                    here = tap[piece]
                    for task, part in enumerate(parts):
                        grad_scales[task, index] += (part * here).sum(0, dtype=wide)
        return (
            None if grad_x is None else grad_x.view(shape).to(ctx.x_dtype),
            grad_scales.to(scales.dtype) if needs_scales else None,
            grad_shifts.to(ctx.shift_dtype) if needs_shifts else None,
            *(None if grad is None else grad.view(shape).to(b.dtype) for grad, b in zip(grad_taps, branches)),
        )
