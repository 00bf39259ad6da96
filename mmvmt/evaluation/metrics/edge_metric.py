"""Edges: F-measure of boundary pixels that match one to one, and average precision."""

from __future__ import annotations

import itertools
import multiprocessing
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor

import cv2
import numpy as np
import torch
from torch import Tensor

from mmvmt.evaluation.boundaries import BoundaryCounts, count_boundaries
from mmvmt.registry import METRICS
from mmvmt.structures import TASKS

from .base import RunningMetric, State, check_finite

# Images that wait for a worker, per worker: none of them idles, and memory stays bounded.
_QUEUE = 2


@METRICS.register_module()
class EdgeMetric(RunningMetric):
    r"""Boundary F-measure and average precision by the rules of the Berkeley benchmark, in percent.

    Per image and threshold, boundary pixels of prediction and truth are counted and matched by
    :func:`mmvmt.evaluation.boundaries.count_boundaries`. With precision :math:`P`, the share of the predicted pixels
    that match, recall :math:`R`, the share of the true ones, and :math:`F = 2 P R / (P + R)`,

    - ``odsF`` is the largest F over thresholds of the counts of all images (optimal data set scale);
    - ``oisF`` is the F of the counts that each image has at its own best threshold (optimal image scale);
    - ``AP`` is the precision at the recalls 0, 0.01, ..., 1, interpolated linearly between thresholds and summed, over
      100. Recalls that no threshold reaches add nothing, and the AP of predictions without grades, one point of a
      curve, is 0.

    Unknown pixels count neither in prediction nor in truth. The prediction is a probability already.

    Args:
        task: ``'edge'``, or another task with binary maps.
        thresholds: Their number K, evenly spaced at 1 / (K + 1), ..., K / (K + 1), or increasing numbers in (0, 1].
        max_dist: Largest distance of matching pixels, relative to the image's diagonal. Published figures are for
            0.0075 on PASCAL-Context and for 0.011 on NYUD-v2.
        border: Width in pixels of the frame inside which predictions fade, see
            :func:`mmvmt.evaluation.boundaries.suppress_non_maxima`.
        num_workers: Processes that match images beside the model; 0: the images are matched in turn.
        prefix: First part of the result keys. Default: the name of the task.

    Raises:
        ValueError: Thresholds are empty, not increasing or outside (0, 1], or a number is negative.
    """

    kind = 'binary'

    def __init__(
        self,
        task: str = 'edge',
        thresholds: int | Sequence[float] = 99,
        max_dist: float = 0.0075,
        border: int = 5,
        num_workers: int = 0,
        prefix: str | None = None,
    ) -> None:
        self._pool: ProcessPoolExecutor | None = None
        self._pending: deque[Future[BoundaryCounts]] = deque()
        super().__init__(task, prefix)
        if isinstance(thresholds, int):
            thresholds = [step / (thresholds + 1) for step in range(1, thresholds + 1)]
        thresholds = tuple(thresholds)
        increasing = all(low < high for low, high in itertools.pairwise(thresholds))
        if not thresholds or not increasing or not 0 < thresholds[0] <= thresholds[-1] <= 1:
            raise ValueError(f'thresholds must be a number of them or increasing numbers in (0, 1], got {thresholds}')
        for name, value in dict(max_dist=max_dist, border=border, num_workers=num_workers).items():
            if value < 0:
                raise ValueError(f'{name} must not be negative, got {value}')
        self.thresholds = thresholds
        self.max_dist = max_dist
        self.border = border
        self.num_workers = num_workers

    def init_state(self) -> State:
        """Return numbers of pixels per threshold, and those at each image's best one; the number of images."""
        counts = {name: torch.zeros(len(self.thresholds), dtype=torch.int64) for name in ('matched', 'predicted')}
        sums = {name: torch.zeros((), dtype=torch.int64) for name in ('truth', 'images')}
        return {**counts, **sums, 'best': torch.zeros(2, dtype=torch.int64)}

    def update(self, state: State, pred: Tensor, gt: Tensor) -> None:
        """Add one image: ``pred`` ``(1, H, W)`` probabilities, ``gt`` ``(1, H, W)`` with 0, 1 and 255."""
        check_finite(pred)
        low, high = pred.min().item(), pred.max().item()
        if low < 0 or high > 1:
            raise ValueError(f'the prediction ranges from {low:.4g} to {high:.4g} and must be a probability')
        task = TASKS[self.task]
        truth, known = gt[0].cpu().numpy(), task.known(gt).cpu().numpy()
        if not known.any():
            return
        if truth[known].max() > 1:
            raise ValueError(f'the truth holds {truth[known].max()}; it must hold 0, 1 or {task.ignore}')
        maps = pred[0].float().cpu().numpy(), known & (truth == 1), known
        if not self.num_workers:
            self._add(state, count_boundaries(*maps, self.thresholds, self.max_dist, self.border))
            return
        if self._pool is None:
            # Not forked: this process may have threads of OpenCV, which a fork waits for in vain.
            context = multiprocessing.get_context('spawn')
            self._pool = ProcessPoolExecutor(self.num_workers, context, cv2.setNumThreads, (1,))
        if len(self._pending) == _QUEUE * self.num_workers:
            self._add(state, self._pending.popleft().result())
        self._pending.append(self._pool.submit(count_boundaries, *maps, self.thresholds, self.max_dist, self.border))

    def evaluate(self, size: int) -> dict[str, float]:
        """Wait for the workers, and go on as :meth:`RunningMetric.evaluate`."""
        while self._pending:
            self._add(self._state, self._pending.popleft().result())
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None
        return super().evaluate(size)

    def compute(self, state: State) -> dict[str, float]:
        """Return ``odsF``, ``oisF`` and ``AP`` in percent.

        Raises:
            ValueError: No image has a labelled pixel.
        """
        if state['images'] == 0:
            raise ValueError(f'{self.task}: no valid pixel in the whole set; check the label files of the task')
        matched, predicted, truth = (state[name].numpy() for name in ('matched', 'predicted', 'truth'))
        best_matched, best_predicted = state['best'].numpy()
        return {
            'odsF': 100 * float(_f_measure(matched, predicted, truth).max()),
            'oisF': 100 * float(_f_measure(best_matched, best_predicted, truth)),
            'AP': 100 * _average_precision(matched, predicted, truth),
        }

    @staticmethod
    def _add(state: State, counts: BoundaryCounts) -> None:
        best = _f_measure(counts.matched, counts.predicted, counts.truth).argmax()
        at_best = np.array([counts.matched[best], counts.predicted[best]])
        added = dict(matched=counts.matched, predicted=counts.predicted, truth=counts.truth, images=1, best=at_best)
        for name, value in added.items():
            state[name] += torch.as_tensor(value, device=state[name].device)


def _f_measure(matched: np.ndarray, predicted: np.ndarray, truth: np.ndarray | int) -> np.ndarray:
    """``2 P R / (P + R)``, which is twice the matches over all pixels; 0 where there is none."""
    return 2 * matched / np.maximum(predicted + truth, 1)


def _average_precision(matched: np.ndarray, predicted: np.ndarray, truth: np.ndarray) -> float:
    """The sum over recalls 0, 0.01, ..., 1 of the interpolated precision, over 100; see :class:`EdgeMetric`."""
    recall = matched / np.maximum(truth, 1)
    precision = np.where(predicted > 0, matched / np.maximum(predicted, 1), 1.0)
    # Of thresholds with the same recall the lowest counts.
    recall, first = np.unique(recall, return_index=True)
    if len(recall) == 1:
        return 0.0
    return float(np.interp(np.arange(101) / 100, recall, precision[first], left=0.0, right=0.0).sum() / 100)
