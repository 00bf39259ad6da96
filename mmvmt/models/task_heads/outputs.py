"""What a head's logits mean: the loss they learn by, and how they become a prediction."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mmvmt.models.losses import mean_over_ranks, unit_length
from mmvmt.registry import MODELS
from mmvmt.structures import IGNORE_INDEX


class TaskOutput(nn.Module):
    """Base class of outputs.

    Args:
        channels: Number of logits per pixel.
        loss: Config of the loss.
    """

    kind: str
    """The kind of label map that this output learns from, see :class:`mmvmt.structures.Task`."""

    def __init__(self, channels: int, loss: dict[str, Any]) -> None:
        super().__init__()
        self.channels = channels
        self.loss_module = MODELS.build(loss)

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Args: logits ``(B, channels, H, W)``; target of the same size, as in data samples. Returns a scalar."""
        return self.loss_module(logits, target)

    def predict(self, logits: Tensor) -> Tensor:
        """``(B, channels, H, W)`` logits to the prediction that a data sample holds."""
        raise NotImplementedError


@MODELS.register_module()
class ClassesOutput(TaskOutput):
    """Class logits to class indices ``(B, 1, H, W)``, uint8.

    Args:
        num_classes: Number of classes, background included.
        loss: A loss of mmseg that takes ``avg_factor`` and ``ignore_index``.

    Raises:
        ValueError: ``num_classes`` does not fit 8-bit labels.
    """

    kind = 'classes'

    def __init__(self, num_classes: int, loss: dict[str, Any] | None = None) -> None:
        if not 2 <= num_classes <= IGNORE_INDEX:
            raise ValueError(f'num_classes must be between 2 and {IGNORE_INDEX}, got {num_classes}')
        super().__init__(num_classes, loss or dict(type='mmseg.CrossEntropyLoss', avg_non_ignore=True, loss_weight=1.0))

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        target = target.squeeze(1).long()
        count = mean_over_ranks((target != IGNORE_INDEX).sum()).clamp(min=1)
        return self.loss_module(logits.float(), target, avg_factor=count, ignore_index=IGNORE_INDEX)

    def predict(self, logits: Tensor) -> Tensor:
        return logits.argmax(dim=1, keepdim=True).to(torch.uint8)


@MODELS.register_module()
class ProbabilityOutput(TaskOutput):
    """One logit to a probability ``(B, 1, H, W)`` in 0..1: saliency and edges.

    Args:
        loss: Config of the loss; balanced cross-entropy by default.
    """

    kind = 'binary'

    def __init__(self, loss: dict[str, Any] | None = None) -> None:
        super().__init__(1, loss or dict(type='mmvmt.WeightedBCELoss', positive_weight='balanced'))

    def predict(self, logits: Tensor) -> Tensor:
        return logits.float().sigmoid()


@MODELS.register_module()
class UnitVectorOutput(TaskOutput):
    """Three logits to unit vectors ``(B, 3, H, W)``: surface normals.

    Args:
        loss: Config of the loss; L1 on unit vectors by default.
    """

    kind = 'vectors'

    def __init__(self, loss: dict[str, Any] | None = None) -> None:
        super().__init__(3, loss or dict(type='mmvmt.L1PixelLoss', unit_vectors=True))

    def predict(self, logits: Tensor) -> Tensor:
        return unit_length(logits.float())


@MODELS.register_module()
class DepthOutput(TaskOutput):
    """One logit to metres ``(B, 1, H, W)``, not below zero.

    Args:
        loss: Config of the loss; L1 in metres by default.
    """

    kind = 'metric'

    def __init__(self, loss: dict[str, Any] | None = None) -> None:
        super().__init__(1, loss or dict(type='mmvmt.L1PixelLoss'))

    def predict(self, logits: Tensor) -> Tensor:
        return logits.float().clamp(min=0)
