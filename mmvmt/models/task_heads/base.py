"""What every task head has: an output, which says what its logits mean, and logits of any size for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor

from mmvmt.compat import is_exporting
from mmvmt.models.losses import sum_of_losses
from mmvmt.registry import MODELS
from mmvmt.structures import Task

from .outputs import TaskOutput

Logits = Tensor | tuple[Tensor, ...]
"""What a head gives: logits, or in training with further logits that learn too, behind them."""


def upsample(x: Tensor, size: Sequence[int], align_corners: bool = False) -> Tensor:
    """``(B, C, H, W)`` bilinearly to another height and width, unless it has them."""
    # In an exported graph sizes are symbols: whether they are equal is not known, and nothing depends on it.
    if not is_exporting() and x.shape[2:] == torch.Size(size):
        return x
    return F.interpolate(x, size=tuple(size), mode='bilinear', align_corners=align_corners)


def first_of(logits: Logits) -> Tensor:
    """The logits that predict."""
    return logits if isinstance(logits, Tensor) else logits[0]


class TaskHead(BaseModule):
    """Base class of task heads: a subclass defines :meth:`forward`.

    Args:
        in_channels: Widths of the features, finest first.
        output: Config of a :class:`TaskOutput`.
        init_cfg: As in mmengine.
    """

    align_corners = False
    """How the logits are resized, to labels and to images."""

    def __init__(
        self, in_channels: Sequence[int], output: dict[str, Any], init_cfg: dict[str, Any] | None = None
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        self.in_channels = tuple(in_channels)
        self.output: TaskOutput = MODELS.build(output)
        self.configs: dict[str, dict[str, Any]] = {}
        """Configs of parts of mmseg that the head is made of, by option: what its weights mean depends on them."""

    def bind(self, task: Task) -> None:
        """Take over the rules of the task that the head is of, see :meth:`TaskOutput.bind`.

        Raises:
            ValueError: The output does not fit the task.
        """
        self.output.bind(task)

    @property
    def levels_read(self) -> tuple[int, ...]:
        """The levels of the features that the logits depend on; here all."""
        return tuple(range(len(self.in_channels)))

    def graph_obstacle(self) -> str | None:
        """Why the head cannot be part of a graph by ``torch.export``; None: it can."""
        return None

    def forward(self, features: Sequence[Tensor]) -> Logits:
        """Logits of a task.

        Args:
            features: One ``(B, C_i, H_i, W_i)`` per level, finest first.

        Returns:
            ``(B, output.channels, H, W)``.
        """
        raise NotImplementedError(f'{type(self).__name__} does not define forward()')

    def losses(self, logits: Logits, target: Tensor) -> dict[str, Tensor]:
        """Losses of the logits by name, upsampled to the size of the target ``(B, C, H, W)``."""
        # Losses read class by class: in this memory order they need no copy of the many times larger upsampled logits.
        resized = upsample(logits.contiguous(), target.shape[2:], self.align_corners)
        return self.output.losses(resized, target)

    def loss(self, logits: Logits, target: Tensor) -> Tensor:
        """The loss that trains, the sum of :meth:`losses`: a scalar."""
        return sum_of_losses(self.losses(logits, target))

    def predict(self, logits: Tensor) -> Tensor:
        """Prediction from logits of any size."""
        return self.output.predict(logits)
