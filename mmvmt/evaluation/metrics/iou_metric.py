"""Intersection over union of class maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor

from mmvmt.registry import METRICS
from mmvmt.structures import TASKS, declared_classes, names_key

from .base import RunningMetric, State


@METRICS.register_module()
class IoUMetric(RunningMetric):
    r"""Mean intersection over union, in percent.

    With the pixels of the whole set counted together, :math:`IoU_c = TP_c / (TP_c + FP_c + FN_c)`; the mean runs over
    all classes, background included. Result: ``mIoU``; IoU per class is kept in :attr:`class_iou`, for the table.

    A set without a single labelled pixel has no mean: that is an error.

    Args:
        task: ``'semseg'``, ``'human_parts'``, or another task with classes.
        num_classes: Number of classes, background included; None: as many as the task is declared with.
        ignore_index: Label that is not counted; None: that of the task.
        absent_class: What becomes of a class that is neither in the truth nor in a prediction: ``'left_out'`` of the
            mean, or ``'zero'``, as published tables of the field have it.
        class_names: Names for the table. Default: those of the data set's meta information (``classes`` of semseg,
            ``<task>_classes`` of others), or those that the task is declared with, or the indices.
        prefix: First part of the result keys. Default: the name of the task.

    Raises:
        ValueError: An argument is out of range.
    """

    kind = 'classes'

    def __init__(
        self,
        task: str,
        num_classes: int | None = None,
        ignore_index: int | None = None,
        absent_class: str = 'left_out',
        class_names: Sequence[str] | None = None,
        prefix: str | None = None,
    ) -> None:
        super().__init__(task, prefix)
        declared = TASKS[task].classes
        if num_classes is None and declared is None:
            raise ValueError(f'IoUMetric needs num_classes: task {task!r} is not declared with its classes')
        num_classes = len(declared) if num_classes is None else num_classes
        ignore_index = int(TASKS[task].ignore) if ignore_index is None else ignore_index
        if declared is not None and num_classes != len(declared):
            raise ValueError(
                f'num_classes of the IoUMetric of task {task!r} is {num_classes}, but the task is declared with '
                f'{len(declared)} classes; leave num_classes out'
            )
        if num_classes < 2:
            raise ValueError(f'num_classes must be 2 or more, background included, got {num_classes}')
        if 0 <= ignore_index < num_classes:
            raise ValueError(f'ignore_index {ignore_index} is one of the {num_classes} classes')
        if absent_class not in ('left_out', 'zero'):
            raise ValueError(f"absent_class must be 'left_out' or 'zero', got {absent_class!r}")
        if class_names is not None and len(class_names) != num_classes:
            raise ValueError(f'class_names has {len(class_names)} names for {num_classes} classes of task {task!r}')
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.absent_class = absent_class
        self._class_names, self._declared_names = class_names, declared
        self.class_iou: dict[str, float] = {}
        """IoU of each class in the last evaluation, in percent; NaN: absent and left out."""
        self._absent_logged: list[str] = []

    @property
    def dataset_meta(self) -> Mapping[str, Any] | None:
        """Meta information of the data set, which loops set before the run.

        Raises:
            ValueError: The data set has another number of classes.
        """
        return self._dataset_meta

    @dataset_meta.setter
    def dataset_meta(self, metainfo: Mapping[str, Any] | None) -> None:
        declared = declared_classes(metainfo or {}).get(self.task, self.num_classes)
        if declared != self.num_classes:
            raise ValueError(
                f'num_classes of the IoUMetric of task {self.task!r} is {self.num_classes}, but the data set has '
                f'{declared} classes; make them agree there or by num_classes=dict({self.task}={self.num_classes}) of '
                f'the data set'
            )
        self._dataset_meta = metainfo

    @property
    def class_names(self) -> list[str]:
        """Names of the classes, for the table."""
        of_data = (self.dataset_meta or {}).get(names_key(self.task), self._declared_names or range(self.num_classes))
        names = self._class_names or of_data
        return [str(name) for name in names]

    def init_state(self) -> State:
        """Return pixels by class: of the truth, predicted as it, and both."""
        return {name: torch.zeros(self.num_classes, dtype=torch.int64) for name in ('truth', 'predicted', 'hits')}

    def update(self, state: State, pred: Tensor, gt: Tensor) -> None:
        """Add one image; both maps ``(1, H, W)``, integer."""
        valid = gt != self.ignore_index
        gt, pred = gt[valid].long(), pred[valid].long()
        self._check_range('truth', gt, f'; {self.ignore_index} is ignored')
        self._check_range('prediction', pred)
        for name, labels in (('truth', gt), ('predicted', pred), ('hits', gt[gt == pred])):
            state[name] += torch.bincount(labels, minlength=self.num_classes)

    def compute(self, state: State) -> dict[str, float]:
        """Return ``mIoU`` in percent.

        Raises:
            ValueError: No pixel of the set is labelled.
        """
        truth, predicted, hits = (state[name].double() for name in ('truth', 'predicted', 'hits'))
        if not truth.any():
            raise ValueError(f'{self.task}: no labelled pixel in the whole set; check the label files of the task')
        union = truth + predicted - hits
        iou = 100 * hits / union
        if self.absent_class == 'zero':
            iou = iou.nan_to_num(0.0)
        self._log_absent([name for name, count in zip(self.class_names, union.tolist()) if count == 0])
        self.class_iou = dict(zip(self.class_names, iou.tolist()))
        return {'mIoU': iou.nanmean().item()}

    def _log_absent(self, names: list[str]) -> None:
        if names and names != self._absent_logged:
            verdict = 'left out of the mean' if self.absent_class == 'left_out' else 'scored zero'
            print_log(
                f'{self.task}: classes neither in the truth nor in a prediction, {verdict}: {", ".join(names)}',
                'current',
            )
        self._absent_logged = names

    def _check_range(self, what: str, labels: Tensor, hint: str = '') -> None:
        outside = labels[(labels < 0) | (labels >= self.num_classes)]
        if outside.numel():
            raise ValueError(
                f'the {what} holds class {int(outside[0])}, and the classes are 0 to {self.num_classes - 1}{hint}; '
                'check num_classes and the label files'
            )
