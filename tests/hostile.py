"""Checkpoints that run code in a program that trusts them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


class _Touches:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def write_hostile(path: Path, checkpoint: dict[str, Any] | None = None) -> Path:
    """Write a checkpoint, all of it right, that makes a file when it is unpickled.

    Args:
        path: The checkpoint.
        checkpoint: What it holds besides.

    Returns:
        The file that it makes.
    """
    trace = path.with_name('owned')
    torch.save((checkpoint or {}) | dict(extra=_Touches(trace)), path)
    return trace


def _key(weights: dict[str, torch.Tensor]) -> str:
    """A weight that every model of the tests has: the bias of its first norm."""
    return next(name for name in weights if name.endswith('patch_embed.norm.bias'))


def _replaced(change: Callable[[torch.Tensor], Any]) -> Callable[[dict[str, torch.Tensor]], dict[Any, Any]]:
    return lambda weights: dict(weights) | {_key(weights): change(weights[_key(weights)])}


def _some(tensor: torch.Tensor, *values: float) -> torch.Tensor:
    changed = tensor.detach().clone()
    changed[: len(values)] = torch.tensor(values)
    return changed


_NAMED = r"'[\w.]*patch_embed\.norm\.bias' "
ODD_WEIGHTS: dict[str, tuple[Callable[[dict[str, torch.Tensor]], dict[Any, Any]], str]] = {
    'a number as name': (lambda w: dict(w) | {7: torch.ones(1)}, 'the names of its entries must be text, and one is 7'),
    'meta device': (_replaced(lambda t: t.to('meta')), f'{_NAMED}lies on the meta device'),
    'sparse': (_replaced(lambda t: t.detach().to_sparse()), rf'{_NAMED}is not dense \(torch\.sparse_coo\)'),
    'complex': (_replaced(lambda t: t.detach().to(torch.complex64)), rf'{_NAMED}is complex \(torch\.complex64\)'),
    'integers': (_replaced(lambda t: t.detach().long()), f'{_NAMED}is torch.int64; weights are floating'),
    'booleans': (_replaced(lambda t: t.detach() > 0), f'{_NAMED}is torch.bool; weights are floating'),
    'NaN': (
        _replaced(lambda t: _some(t, float('nan'), 0, float('inf'), float('nan'))),
        f'are not finite: {_NAMED}has 2 NaN and 1 infinite among 8 values',
    ),
}
"""State dicts that no model may take: how to spoil one, and what the error says."""
