"""The check that weights pass wherever they come in: dense, finite numbers under names that are text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

_INTEGERS = ('num_batches_tracked', 'relative_position_index', 'relative_coords_table', 'n_averaged', 'steps')
"""Ends of the names of buffers that are rightly integers."""


def check_structure(checkpoint: Any, what: str) -> None:
    """Refuse a checkpoint that is no dictionary, whose names are no text, or whose meta information is no dictionary.

    Args:
        checkpoint: What a file held.
        what: What it is, for the error.

    Raises:
        ValueError: It is none.
    """
    if not isinstance(checkpoint, Mapping):
        raise ValueError(
            f'{what} holds no dictionary of weights, but {type(checkpoint).__name__}; name a file that '
            f'a training or torch.save(model.state_dict(), PATH) wrote'
        )
    check_names(checkpoint, what)
    for key in ('meta', 'state_dict', 'ema_state_dict'):
        value = checkpoint.get(key)
        if value is None and key == 'meta':
            continue
        if key in checkpoint and not isinstance(value, Mapping):
            raise ValueError(
                f'{what} is no checkpoint: its {key!r} must be a dictionary, and is {type(value).__name__}; write it '
                f'again, with torch.save(dict(state_dict=model.state_dict()), PATH)'
            )
        check_names(value or {}, f'{key!r} of {what}')


def check_names(entries: Mapping[Any, Any], what: str) -> None:
    """Refuse entries whose names are no text.

    Raises:
        ValueError: One is not.
    """
    wrong = next((name for name in entries if not isinstance(name, str)), None)
    if wrong is not None:
        raise ValueError(
            f'{what} is no checkpoint: the names of its entries must be text, and one is {wrong!r}, '
            f'{type(wrong).__name__}; write it again from model.state_dict()'
        )


def check_tensors(weights: Mapping[str, Any], what: str, own: Mapping[str, Tensor] | None = None) -> None:
    """Refuse weights that a model could not compute with.

    Args:
        weights: Weights by name.
        what: Where they come from, for the error.
        own: The model's weights: only those that it has are looked at, and integers are right where it has integers.
            None: all are looked at, and integers are right in buffers that are known by their names.

    Raises:
        ValueError: An entry is no tensor, lies on the meta device, is sparse, or is complex or an integer where there
            should be a real number; or values are not finite, of which the message has the counts.
    """
    wrong: list[tuple[str, int, int, int]] = []
    for name, value in weights.items():
        if own is not None and name not in own:
            continue
        floating = not name.endswith(_INTEGERS) if own is None else own[name].is_floating_point()
        problem = _problem(value, floating)
        if problem is not None:
            raise ValueError(f'{what} holds no usable weights: {name!r} {problem}')
        if value.is_floating_point():
            nan, infinite = _count(value)
            if nan or infinite:
                wrong.append((name, nan, infinite, value.numel()))
    if wrong:
        name, nan, infinite, size = wrong[0]
        more = f'; {len(wrong)} tensors have such values' if len(wrong) > 1 else ''
        raise ValueError(
            f'{what} holds weights that are not finite: {name!r} has {nan} NaN and {infinite} infinite among {size} '
            f'values{more}. The training that wrote it had diverged, or the file is damaged: take an earlier one'
        )


def _problem(value: Any, floating: bool) -> str | None:
    """What is wrong with the kind of an entry, and how it would be right."""
    if not isinstance(value, Tensor):
        return f'is {type(value).__name__}, no tensor'
    if value.is_meta:
        return 'lies on the meta device, where tensors have no values; save it after the values were loaded'
    if value.layout != torch.strided or value.is_nested:
        return f'is not dense ({value.layout}); save value.to_dense()'
    if value.is_quantized:
        return f'is quantized ({value.dtype}); save value.dequantize()'
    if value.is_complex():
        return f'is complex ({value.dtype}); weights are real numbers'
    if floating and not value.is_floating_point():
        return f'is {value.dtype}; weights are floating-point numbers'
    return None


def _count(value: Tensor) -> tuple[int, int]:
    """Number of NaN and of infinite values."""
    if value.element_size() == 1:  # 8-bit types know few operations
        value = value.float()
    if value.isfinite().all():
        return 0, 0
    return int(value.isnan().sum()), int(value.isinf().sum())
