"""Surface normals and other unit vectors: the angle between prediction and truth."""

from __future__ import annotations

import torch
from torch import Tensor

from mmvmt.registry import METRICS

from .base import RunningMetric, State, check_finite

ANGLES = (11.25, 22.5, 30)
"""Angles, in degrees, within which pixels are counted."""

BINS_PER_DEGREE = 100
"""Resolution of the histogram behind the median: bins of 0.01 degree, so the median is off by at most 0.005 degree."""


@METRICS.register_module()
class NormalsMetric(RunningMetric):
    r"""Angular error over the valid pixels of the whole set.

    The error of a pixel is :math:`\arccos` of the dot product of the two unit vectors, clamped to [-1, 1]. Results:

    - ``mean``, ``median`` and ``rmse``, the root of the mean squared error, in degrees. The median comes from a
      histogram with bins of 0.01 degree;
    - ``within_11.25``, ``within_22.5``, ``within_30``: pixels with an error below that many degrees, in percent.

    A pixel is valid where the truth is not the zero vector. Both vectors are brought to unit length first; a predicted
    zero vector has no direction and counts as 90 degrees.

    Args:
        task: ``'normals'``, or another task with vectors.
        prefix: First part of the result keys. Default: the name of the task.
    """

    kind = 'vectors'

    def __init__(self, task: str = 'normals', prefix: str | None = None) -> None:
        super().__init__(task, prefix)

    def init_state(self) -> State:
        """Return sums over pixels: of errors, squared errors, pixels, pixels below each angle, and the histogram."""
        return {
            'error': torch.zeros((), dtype=torch.float64),
            'squared_error': torch.zeros((), dtype=torch.float64),
            'pixels': torch.zeros((), dtype=torch.int64),
            'within': torch.zeros(len(ANGLES), dtype=torch.int64),
            'histogram': torch.zeros(180 * BINS_PER_DEGREE, dtype=torch.int64),
        }

    def update(self, state: State, pred: Tensor, gt: Tensor) -> None:
        """Add one image; both maps ``(C, H, W)``."""
        check_finite(pred)
        valid = self.known(gt)
        # In double precision: arccos in single precision is off by up to 0.02 degrees near 0.
        pred, gt = pred.double(), gt.double()
        lengths = pred.square().sum(0).sqrt() * gt.square().sum(0).sqrt()
        cosine = (pred * gt).sum(0) / lengths.clamp(min=torch.finfo(lengths.dtype).tiny)
        error = cosine[valid].clamp(-1, 1).arccos().rad2deg()

        state['error'] += error.sum()
        state['squared_error'] += error.square().sum()
        state['pixels'] += error.numel()
        state['within'] += torch.stack([(error < angle).sum() for angle in ANGLES])
        num_bins = state['histogram'].numel()
        bins = (error * BINS_PER_DEGREE).long().clamp(max=num_bins - 1)
        state['histogram'] += torch.bincount(bins, minlength=num_bins)

    def compute(self, state: State) -> dict[str, float]:
        """Return the figures, in degrees and percent.

        Raises:
            ValueError: No pixel of the set is valid.
        """
        pixels = int(state['pixels'])
        if pixels == 0:
            raise ValueError(f'{self.task}: no valid pixel in the whole set; check the label files of the task')
        # With an even number of pixels the median is the mean of the two in the middle.
        middle = torch.tensor([(pixels - 1) // 2, pixels // 2])
        bins = torch.searchsorted(state['histogram'].cumsum(0), middle, right=True)
        figures = {
            'mean': state['error'] / pixels,
            'median': ((bins + 0.5) / BINS_PER_DEGREE).mean(),
            'rmse': (state['squared_error'] / pixels).sqrt(),
        }
        within = {f'within_{angle}': 100 * count / pixels for angle, count in zip(ANGLES, state['within'])}
        return {name: value.item() for name, value in {**figures, **within}.items()}
