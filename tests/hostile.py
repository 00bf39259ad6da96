"""Checkpoints that run code in a program that trusts them."""

from __future__ import annotations

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
