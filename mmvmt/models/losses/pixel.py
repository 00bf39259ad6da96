"""Losses of binary, vector and metric maps, as means over the valid pixels of all ranks.

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
    """A loss that takes maps as data samples hold them, and is a mean over the valid pixels of all ranks by itself.

    Losses that are none are called as mmseg's decode heads call theirs, see :func:`decode_loss`.
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

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Args: logits ``(B, 1, H, W)``; target ``(B, 1, H, W)`` of 0, 1 and ``ignore_index``. Returns a scalar."""
        valid = target != self.ignore_index
        positive = target == 1
        counts = mean_over_ranks(torch.stack([valid.sum(), positive.sum()]))
        total = counts[0].clamp(min=1)
        w = 1 - counts[1] / total if self.positive_weight == 'balanced' else self.positive_weight
        weight = torch.where(positive, w, 1 - w) * valid
        loss = F.binary_cross_entropy_with_logits(logits.float(), positive.float(), weight=weight, reduction='sum')
        return self.loss_weight * loss / total


@MODELS.register_module()
class L1PixelLoss(PixelLoss):
    """Mean absolute difference over the valid pixels and their channels.

    Args:
        unit_vectors: Whether predictions are normalised to unit length first (surface normals).
        loss_weight: Factor of the loss.
    """

    loss_name = 'loss_l1'

    def __init__(self, unit_vectors: bool = False, loss_weight: float = 1.0) -> None:
        super().__init__()
        self.unit_vectors = unit_vectors
        self.loss_weight = loss_weight

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Args: prediction and target ``(B, C, H, W)``; a target pixel of only zeros is unknown. Returns a scalar."""
        prediction = prediction.float()
        if self.unit_vectors:
            prediction = unit_length(prediction)
        valid = (target != 0).any(dim=1, keepdim=True)
        entries = mean_over_ranks(valid.sum() * target.shape[1]).clamp(min=1)
        return self.loss_weight * ((prediction - target).abs() * valid).sum() / entries
