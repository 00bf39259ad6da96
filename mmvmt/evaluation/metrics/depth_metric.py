"""Depth and other metric maps: errors over the valid pixels of the whole set."""

from __future__ import annotations

import torch
from torch import Tensor

from mmvmt.registry import METRICS

from .base import RunningMetric, State, check_finite

NUM_DELTAS = 3
DELTA_BASE = 1.25


@METRICS.register_module()
class DepthMetric(RunningMetric):
    r"""Errors of depth over the valid pixels of the whole set, that is where the truth is greater than 0.

    With prediction :math:`d`, truth :math:`g`, both in the unit of the task (metres), and means over pixels, the
    results are

    - ``rmse``: :math:`\sqrt{mean (d - g)^2}`, in that unit;
    - ``log_rmse``: :math:`\sqrt{mean (\ln d - \ln g)^2}`;
    - ``abs_rel``: :math:`mean\,|d - g| / g`;
    - ``delta1``, ``delta2``, ``delta3``: pixels with :math:`\max(d / g, g / d) < 1.25^k`, in percent.

    The logarithm and the ratios need a positive prediction: there, and only there, it is raised to ``min_depth``.

    Args:
        task: ``'depth'``, or another task with metric maps.
        min_depth: Smallest predicted value in logarithm and ratios, in the unit of the task.
        prefix: First part of the result keys. Default: the name of the task.

    Raises:
        ValueError: ``min_depth`` is not positive.
    """

    kind = 'metric'

    def __init__(self, task: str = 'depth', min_depth: float = 1e-3, prefix: str | None = None) -> None:
        super().__init__(task, prefix)
        if not min_depth > 0:
            raise ValueError(f'min_depth must be positive, got {min_depth}')
        self.min_depth = min_depth

    def init_state(self) -> State:
        """Return sums over pixels."""
        sums = {name: torch.zeros((), dtype=torch.float64) for name in ('squared', 'log_squared', 'relative')}
        return {
            **sums,
            'deltas': torch.zeros(NUM_DELTAS, dtype=torch.int64),
            'pixels': torch.zeros((), dtype=torch.int64),
        }

    def update(self, state: State, pred: Tensor, gt: Tensor) -> None:
        """Add one image; both maps ``(1, H, W)``."""
        check_finite(pred)
        valid = self.known(gt)
        pred, gt = pred[0, valid].double(), gt[0, valid].double()
        positive = pred.clamp(min=self.min_depth)
        ratio = torch.maximum(positive / gt, gt / positive)

        state['squared'] += (pred - gt).square().sum()
        state['log_squared'] += (positive.log() - gt.log()).square().sum()
        state['relative'] += ((pred - gt).abs() / gt).sum()
        state['deltas'] += torch.stack([(ratio < DELTA_BASE**power).sum() for power in range(1, NUM_DELTAS + 1)])
        state['pixels'] += gt.numel()

    def compute(self, state: State) -> dict[str, float]:
        """Return the figures.

        Raises:
            ValueError: No pixel of the set is valid.
        """
        pixels = int(state['pixels'])
        if pixels == 0:
            raise ValueError(f'{self.task}: no valid pixel in the whole set; check the label files of the task')
        figures = {
            'rmse': (state['squared'] / pixels).sqrt(),
            'log_rmse': (state['log_squared'] / pixels).sqrt(),
            'abs_rel': state['relative'] / pixels,
        }
        deltas = {f'delta{power}': 100 * count / pixels for power, count in enumerate(state['deltas'], start=1)}
        return {name: value.item() for name, value in {**figures, **deltas}.items()}
