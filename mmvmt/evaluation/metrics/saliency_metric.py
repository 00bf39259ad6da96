"""Saliency: IoU and F-measure, each at its best threshold."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from mmvmt.registry import METRICS
from mmvmt.structures import IGNORE_INDEX

from .base import RunningMetric, State, check_finite

DEFAULT_THRESHOLDS = tuple(round(0.2 + 0.05 * step, 2) for step in range(15))
"""0.2, 0.25, ..., 0.9."""

POOLED_THRESHOLDS = tuple(round(0.05 * step, 2) for step in range(1, 20))
"""0.05, 0.1, ..., 0.95: those of ``maxF_pooled``."""

POOLED_BETA2 = 0.3
"""Weight of precision in ``maxF_pooled``."""


@METRICS.register_module()
class SaliencyMetric(RunningMetric):
    r"""Best mean IoU and best F-measure over thresholds, in percent.

    A pixel is predicted salient where its probability is greater than the threshold. Per image and threshold,

    - IoU is :math:`TP / (TP + FP + FN)`, and 1 where prediction and truth are both empty;
    - precision is :math:`P = TP / (TP + FP)` and recall :math:`R = TP / (TP + FN)`, and 0 where the denominator is 0.

    All three are averaged over images, and then

    - ``mIoU`` is the largest mean IoU over thresholds;
    - ``maxF`` is the largest :math:`(1 + \beta^2) P R / (\beta^2 P + R)` of mean precision and mean recall.

    ``maxF_pooled`` is another figure by a similar name, the one in the tables of InvPT and TaskPrompter: TP, FP and FN
    of all images are added up first, and P and R are formed once, at 19 thresholds from 0.05 to 0.95, with salient
    where the probability is at the threshold or greater, and :math:`\beta^2 = 0.3`.

    An image without a labelled pixel does not count. The prediction is a probability already: no sigmoid is applied
    here, and values outside [0, 1] are an error, not clipped.

    Args:
        task: ``'saliency'``, or another task with binary maps.
        thresholds: Increasing thresholds in [0, 1). Default: 15 from 0.2 to 0.9.
        beta2: :math:`\beta^2`, the weight of precision against recall. 1 is the harmonic mean :math:`2 P R / (P + R)`;
            work on salient object detection alone commonly takes 0.3, which favours precision.
        pooled_sigmoid: Whether ``maxF_pooled`` is of the sigmoid of the probabilities, which is what those two score.
            It squeezes them into 0.5 to 0.73, so that few of the thresholds tell pixels apart.
        prefix: First part of the result keys. Default: the name of the task.

    Raises:
        ValueError: Thresholds are empty, not increasing or outside [0, 1), or ``beta2`` is not positive.
    """

    kind = 'binary'

    def __init__(
        self,
        task: str = 'saliency',
        thresholds: Sequence[float] = DEFAULT_THRESHOLDS,
        beta2: float = 1.0,
        pooled_sigmoid: bool = False,
        prefix: str | None = None,
    ) -> None:
        super().__init__(task, prefix)
        thresholds = tuple(thresholds)
        increasing = all(low < high for low, high in itertools.pairwise(thresholds))
        if not thresholds or not increasing or not 0 <= thresholds[0] <= thresholds[-1] < 1:
            raise ValueError(f'thresholds must be increasing numbers in [0, 1), got {list(thresholds)}')
        if not beta2 > 0:
            raise ValueError(f'beta2 must be positive, got {beta2}')
        if not isinstance(pooled_sigmoid, bool):
            raise ValueError(f'pooled_sigmoid must be True or False, got {pooled_sigmoid!r}')
        self.thresholds = thresholds
        self.beta2 = beta2
        self.pooled_sigmoid = pooled_sigmoid

    def init_state(self) -> State:
        """Return sums over images, one entry per threshold; the number of images; and pixels by truth and bin."""
        sums = {name: torch.zeros(len(self.thresholds), dtype=torch.float64) for name in ('iou', 'precision', 'recall')}
        pooled = torch.zeros(2, len(POOLED_THRESHOLDS) + 1, dtype=torch.int64)
        return {**sums, 'images': torch.zeros((), dtype=torch.int64), 'pooled': pooled}

    def update(self, state: State, pred: Tensor, gt: Tensor) -> None:
        """Add one image: ``pred`` ``(1, H, W)`` probabilities, ``gt`` ``(1, H, W)`` with 0, 1 and 255."""
        check_finite(pred)
        low, high = pred.min().item(), pred.max().item()
        if low < 0 or high > 1:
            raise ValueError(
                f'the prediction ranges from {low:.4g} to {high:.4g} and must be a probability; the head applies the '
                'sigmoid, once'
            )
        valid = self.known(gt)
        gt, pred = gt[0, valid].long(), pred[0, valid].float()
        if gt.numel() == 0:
            return
        if gt.max() > 1:
            raise ValueError(f'the truth holds {int(gt.max())}; it must hold 0, 1 or {IGNORE_INDEX}')

        # One pass for all thresholds: bin b holds the pixels whose probability exceeds exactly the b lowest thresholds,
        # so the pixels above threshold k are those of the bins after k.
        edges = torch.tensor(self.thresholds, device=pred.device)
        bins = torch.bucketize(pred, edges)
        num_bins = len(self.thresholds) + 1
        counts = torch.bincount(gt * num_bins + bins, minlength=2 * num_bins).view(2, num_bins).double()
        above = counts.flip(1).cumsum(1).flip(1)[:, 1:]
        false_positives, true_positives = above[0], above[1]
        positives, predicted = counts[1].sum(), false_positives + true_positives
        union = positives + false_positives

        state['iou'] += torch.where(union > 0, true_positives / union.clamp(min=1), 1.0)
        # Without a denominator there is no true positive either: clamping it to 1 gives the 0 that is wanted.
        state['precision'] += true_positives / predicted.clamp(min=1)
        state['recall'] += true_positives / positives.clamp(min=1)
        state['images'] += 1

        # At a threshold counts, so bin b holds the pixels that reach exactly the b lowest thresholds.
        pooled = pred.sigmoid() if self.pooled_sigmoid else pred
        edges = torch.tensor(POOLED_THRESHOLDS, device=pred.device)
        bins, num_bins = torch.bucketize(pooled, edges, right=True), len(POOLED_THRESHOLDS) + 1
        state['pooled'] += torch.bincount(gt * num_bins + bins, minlength=2 * num_bins).view(2, num_bins)

    def compute(self, state: State) -> dict[str, float]:
        """Return ``mIoU``, ``maxF`` and ``maxF_pooled`` in percent.

        Raises:
            ValueError: No image has a labelled pixel.
        """
        if state['images'] == 0:
            raise ValueError(f'{self.task}: no valid pixel in the whole set; check the label files of the task')
        iou, precision, recall = (state[name] / state['images'] for name in ('iou', 'precision', 'recall'))
        reached = state['pooled'].double().flip(1).cumsum(1).flip(1)
        predicted, positives = reached.sum(0)[1:], reached[1, 0]
        pooled_precision, pooled_recall = (
            reached[1, 1:] / predicted.clamp(min=1),
            reached[1, 1:] / positives.clamp(min=1),
        )
        return {
            'mIoU': 100 * iou.max().item(),
            'maxF': 100 * _f_measure(precision, recall, self.beta2).max().item(),
            'maxF_pooled': 100 * _f_measure(pooled_precision, pooled_recall, POOLED_BETA2).max().item(),
        }


def _f_measure(precision: Tensor, recall: Tensor, beta2: float) -> Tensor:
    """``(1 + beta2) P R / (beta2 P + R)``, 0 where both are 0."""
    weighted = beta2 * precision + recall
    return torch.where(
        weighted > 0, (1 + beta2) * precision * recall / weighted.clamp(min=torch.finfo(weighted.dtype).tiny), 0.0
    )
