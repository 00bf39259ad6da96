"""Losses of binary maps and of maps of numbers, as means over the known pixels of all ranks.

Dividing each rank's sum by its own count would weight pixels differently on several GPUs. Here the count is
all-reduced: with DDP's averaging of gradients, N ranks then give exactly the gradients of one.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from mmengine.dist import all_reduce, get_world_size
from torch import Tensor, nn

from mmvmt.registry import MODELS


def mean_over_ranks(counts: Tensor) -> Tensor:
    """Mean over ranks of some counts, in float32 and without gradient; on one rank the counts themselves."""
    counts = counts.detach().to(torch.float32)
    if get_world_size() > 1:
        counts = counts.clone()
        all_reduce(counts, op='mean')
    return counts


def unit_length(vectors: Tensor, shortest: float = 1e-12) -> Tensor:
    """Scale vectors along the channels to unit length; those shorter than ``shortest`` stay shorter.

    The function of ``F.normalize``, whose reduction takes several times as long on a CPU where channels are few.

    Args:
        vectors: ``(B, C, H, W)``.
        shortest: Vectors that are not longer are divided by this.
    """
    # Limited before the root, whose derivative at zero is infinite.
    return vectors / vectors.square().sum(dim=1, keepdim=True).clamp(min=shortest**2).sqrt()


class PixelLoss(nn.Module):
    """A loss that takes maps as data samples hold them, and is a mean over the known pixels of all ranks by itself.

    It is called with the logits and the target, both ``(B, C, H, W)``, and ``known``, ``(B, H, W)`` bool. Losses that
    are none are called as mmseg's decode heads call theirs, see :func:`decode_loss`.
    """

    loss_name: str
    """Name in the log; what has no ``loss`` in it is logged and does not train."""


@MODELS.register_module()
class WeightedBCELoss(PixelLoss):
    r"""Binary cross-entropy with a weight w for positive and 1 - w for negative pixels, over N valid pixels.

    .. math:: L = -\frac{1}{N} \Big( w \sum_{y=1} \log p + (1 - w) \sum_{y=0} \log (1 - p) \Big)

    Args:
        positive_weight: w between 0 and 1, or ``'balanced'``: the fraction of negative pixels over all ranks.
        loss_weight: Factor of the loss.
        ignore_index: Label of pixels that do not count.

    Raises:
        ValueError: ``positive_weight`` is out of range.
    """

    loss_name = 'loss_bce'

    def __init__(
        self, positive_weight: float | str = 'balanced', loss_weight: float = 1.0, ignore_index: int = 255
    ) -> None:
        super().__init__()
        if positive_weight != 'balanced' and not (isinstance(positive_weight, float) and 0 < positive_weight < 1):
            raise ValueError(f"positive_weight must be 'balanced' or between 0 and 1, got {positive_weight!r}")
        self.positive_weight = positive_weight
        self.loss_weight = loss_weight
        self.ignore_index = ignore_index

    def forward(self, logits: Tensor, target: Tensor, known: Tensor | None = None) -> Tensor:
        """A scalar.

        Args:
            logits: ``(B, 1, H, W)``.
            target: ``(B, 1, H, W)`` of 0, 1 and ``ignore_index``.
            known: ``(B, H, W)``, pixels that count; None: those that are not ``ignore_index``.
        """
        valid = target != self.ignore_index if known is None else known[:, None]
        positive = target == 1
        counts = mean_over_ranks(torch.stack([valid.sum(), positive.sum()]))
        total = counts[0].clamp(min=1)
        w = 1 - counts[1] / total if self.positive_weight == 'balanced' else self.positive_weight
        weight = torch.where(positive, w, 1 - w) * valid
        loss = F.binary_cross_entropy_with_logits(logits.float(), positive.float(), weight=weight, reduction='sum')
        return self.loss_weight * loss / total


class DifferenceLoss(PixelLoss):
    """Base of losses of the difference between prediction and target: means over the known pixels and their channels.

    Args:
        unit_vectors: Whether predictions are normalised to unit length first (surface normals).
        loss_weight: Factor of the loss.
    """

    def __init__(self, unit_vectors: bool = False, loss_weight: float = 1.0) -> None:
        super().__init__()
        self.unit_vectors = unit_vectors
        self.loss_weight = loss_weight

    def of_difference(self, difference: Tensor) -> Tensor:
        """The loss of every entry."""
        raise NotImplementedError

    def forward(self, prediction: Tensor, target: Tensor, known: Tensor | None = None) -> Tensor:
        """A scalar.

        Args:
            prediction: ``(B, C, H, W)``.
            target: Of the same shape.
            known: ``(B, H, W)``, pixels that count; None: those whose target is not zero in all channels.
        """
        prediction = prediction.float()
        if self.unit_vectors:
            prediction = unit_length(prediction)
        valid = (target != 0).any(dim=1, keepdim=True) if known is None else known[:, None]
        entries = mean_over_ranks(valid.sum() * target.shape[1]).clamp(min=1)
        # Unknown values may be NaN, which no factor would undo.
        difference = torch.where(valid, prediction - target, 0.0)
        return self.loss_weight * self.of_difference(difference).sum() / entries


@MODELS.register_module()
class L1PixelLoss(DifferenceLoss):
    """Mean absolute difference; arguments are those of :class:`DifferenceLoss`."""

    loss_name = 'loss_l1'

    def of_difference(self, difference: Tensor) -> Tensor:
        """``|d|``."""
        return difference.abs()


@MODELS.register_module()
class L2PixelLoss(DifferenceLoss):
    """Mean squared difference; arguments are those of :class:`DifferenceLoss`."""

    loss_name = 'loss_l2'

    def of_difference(self, difference: Tensor) -> Tensor:
        """``d^2``."""
        return difference.square()


@MODELS.register_module()
class HuberPixelLoss(DifferenceLoss):
    r"""Mean of Huber's function (1964): :math:`d^2 / 2` up to :math:`\delta`, linear beyond.

    Args:
        delta: :math:`\delta`, in the unit of the values.
        unit_vectors: As in :class:`DifferenceLoss`.
        loss_weight: Factor of the loss.

    Raises:
        ValueError: ``delta`` is not positive.
    """

    loss_name = 'loss_huber'

    def __init__(self, delta: float = 1.0, unit_vectors: bool = False, loss_weight: float = 1.0) -> None:
        super().__init__(unit_vectors, loss_weight)
        if not delta > 0:
            raise ValueError(f'delta must be positive, got {delta}')
        self.delta = delta

    def of_difference(self, difference: Tensor) -> Tensor:
        r""":math:`d^2 / 2` where :math:`|d| \le \delta`, else :math:`\delta (|d| - \delta / 2)`."""
        size = difference.abs()
        return torch.where(size <= self.delta, size.square() / 2, self.delta * (size - self.delta / 2))
