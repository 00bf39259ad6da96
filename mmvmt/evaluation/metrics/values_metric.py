"""Maps of numbers without a rule: errors over the known pixels of the whole set."""

from __future__ import annotations

import torch
from torch import Tensor

from mmvmt.registry import METRICS
from mmvmt.structures import TASKS

from .base import RunningMetric, State, check_finite


@METRICS.register_module()
class ValuesMetric(RunningMetric):
    r"""Errors of values over the known pixels of the whole set, those without NaN in the truth.

    With prediction :math:`v` and truth :math:`g`, and means over pixels and channels, the results are, in the unit of
    the values,

    - ``rmse``: :math:`\sqrt{mean (v - g)^2}`;
    - ``mae``: :math:`mean\,|v - g|`;
    - ``epe``, of displacements (optical flow): the end-point error, the mean length of :math:`v - g`.

    Args:
        task: Name of the task.
        prefix: First part of the result keys. Default: the name of the task.
    """

    kind = 'values'

    def __init__(self, task: str, prefix: str | None = None) -> None:
        super().__init__(task, prefix)
        self._is_displacement = TASKS[task].motion == 'displacement'

    def init_state(self) -> State:
        """Return sums over pixels and channels."""
        sums = {name: torch.zeros((), dtype=torch.float64) for name in ('squared', 'absolute', 'lengths')}
        return {**sums, 'entries': torch.zeros((), dtype=torch.int64), 'pixels': torch.zeros((), dtype=torch.int64)}

    def update(self, state: State, pred: Tensor, gt: Tensor) -> None:
        """Add one image; both maps ``(C, H, W)``."""
        check_finite(pred)
        known = self.known(gt)
        error = pred[:, known].double() - gt[:, known].double()
        state['squared'] += error.square().sum()
        state['absolute'] += error.abs().sum()
        state['lengths'] += error.square().sum(0).sqrt().sum()
        state['entries'] += error.numel()
        state['pixels'] += error.shape[1]

    def compute(self, state: State) -> dict[str, float]:
        """Return the figures.

        Raises:
            ValueError: No pixel of the set is known.
        """
        entries, pixels = int(state['entries']), int(state['pixels'])
        if entries == 0:
            raise ValueError(f'{self.task}: no valid pixel in the whole set; check the label files of the task')
        figures = {'rmse': (state['squared'] / entries).sqrt(), 'mae': state['absolute'] / entries}
        figures |= {'epe': state['lengths'] / pixels} if self._is_displacement else {}
        return {name: value.item() for name, value in figures.items()}
