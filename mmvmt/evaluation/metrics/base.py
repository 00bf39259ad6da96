"""Metrics that keep running sums: memory does not grow with the data set, and ranks meet once, at the end."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from mmengine.dist import all_reduce, broadcast_object_list
from mmengine.evaluator import BaseMetric
from torch import Tensor

from mmvmt.structures import TASKS, check_tasks

State = dict[str, Tensor]


class RunningMetric(BaseMetric):
    """Base of the metrics: a subclass says what it sums, how one image adds to it, and what the sums mean.

    The sums live on the device of the predictions. :meth:`evaluate` adds them up over all ranks, so the result does not
    depend on how images were spread over ranks and batches.

    Args:
        task: Name of the task that is scored; its label maps must be of kind :attr:`kind`.
        prefix: First part of the result keys, as in ``'semseg/mIoU'``. Default: the name of the task.

    Raises:
        ValueError: The task is unknown or its label maps are of another kind.
    """

    kind: str
    """Kind of label maps that the metric scores, see :class:`mmvmt.structures.Task`."""

    scores = True
    """Whether the metric computes the main figure of its tasks."""

    def __init__(self, task: str, prefix: str | None = None) -> None:
        check_tasks([task])
        if TASKS[task].kind != self.kind:
            suitable = ', '.join(name for name, row in TASKS.items() if row.kind == self.kind)
            raise ValueError(
                f'{type(self).__name__} scores maps of kind {self.kind!r}, and those of task {task!r} are of kind '
                f'{TASKS[task].kind!r}; suitable tasks: {suitable or "none that is declared"}'
            )
        super().__init__(prefix=prefix or task)
        self.task = task
        self._reset()

    @abstractmethod
    def init_state(self) -> State:
        """Return the sums at zero, integers as int64 and others as float64, on the CPU."""

    @abstractmethod
    def update(self, state: State, pred: Tensor, gt: Tensor) -> None:
        """Add one image to the sums, in place.

        Args:
            state: The sums, on the device of ``pred``.
            pred: Prediction, ``(C, H, W)``.
            gt: Label map, ``(C, H, W)``, on the same device.

        Raises:
            ValueError: A map holds a value that it must not hold. The caller adds the task and the image.
        """

    @abstractmethod
    def compute(self, state: State) -> dict[str, float]:
        """Turn the sums over the whole set, on the CPU, into figures."""

    def compute_metrics(self, results: State) -> dict[str, float]:
        """Name under which mmengine knows :meth:`compute`."""
        return self.compute(results)

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Add a batch of samples, of any size, to the sums.

        Args:
            data_batch: Not used.
            data_samples: One dictionary per image, as :meth:`MultiTaskDataSample.to_dict` gives it.

        Raises:
            ValueError: Prediction or label map is missing, of another shape than the other, or holds a wrong value.
        """
        for sample in data_samples:
            pred, gt = self._get_map(sample, 'pred'), self._get_map(sample, 'gt')
            if pred.shape != gt.shape:
                raise ValueError(
                    f'{self.task} of image {image_name(sample)}: the prediction is {tuple(pred.shape)}, the truth '
                    f"{tuple(gt.shape)} (channels, height, width); protocol 'mti' needs both at the original size "
                    "(model.test_cfg.resolution='original', annotations loaded after the resize), 'mtlora' both at "
                    "the input size (resolution='input', annotations loaded before the resize)"
                )
            try:
                self.update(self._state_on(pred.device), pred, gt.to(pred.device))
            except ValueError as error:
                raise ValueError(f'{self.task} of image {image_name(sample)}: {error}') from error
            self._num_samples += 1

    def evaluate(self, size: int) -> dict[str, float]:
        """Add up the sums of all ranks, compute the figures, and start anew.

        Args:
            size: Number of samples in the data set.

        Returns:
            ``{'<prefix>/<figure>': value}``, the same on every rank.

        Raises:
            RuntimeError: The ranks together scored no sample, or not exactly ``size``.
        """
        # A rank that saw no sample takes part with zeros: the others wait for it.
        state = self._state_on(torch.device('cpu')) if self._state is None else self._state
        num_samples = torch.tensor(self._num_samples)
        self._reset()
        for value in (num_samples, *state.values()):
            all_reduce(value)

        total = int(num_samples)
        if total == 0:
            raise RuntimeError(f'{type(self).__name__}: no sample was scored, so task {self.task!r} has no result')
        if total != size:
            raise RuntimeError(
                f'{type(self).__name__} of task {self.task!r} scored {total} samples of a data set of {size}: samples '
                'were counted twice or lost. A sampler that pads does this; set '
                "sampler=dict(type='DefaultSampler', shuffle=False, round_up=False) in the dataloader"
            )
        # Every rank computes, so that an error stops all of them and none waits for ever; rank 0's figures count.
        figures = self.compute_metrics({name: value.cpu() for name, value in state.items()})
        shared = [{f'{self.prefix}/{name}': value for name, value in figures.items()}]
        broadcast_object_list(shared)
        return shared[0]

    def _reset(self) -> None:
        self._state: State | None = None
        self._num_samples = 0

    def _state_on(self, device: torch.device) -> State:
        if self._state is None:
            self._state = {name: value.to(device) for name, value in self.init_state().items()}
        return self._state

    def known(self, gt: Tensor) -> Tensor:
        """Pixels of a label map ``(C, H, W)`` that count, ``(H, W)`` bool."""
        return TASKS[self.task].known(gt)

    def _get_map(self, sample: dict, side: str) -> Tensor:
        maps = sample.get(side, {})
        if self.task not in maps:
            what, remedy = {
                'pred': ('prediction', 'give the model a head for the task, or take the metric out of the evaluator'),
                'gt': ('truth', 'load the annotations of the task in the test pipeline'),
            }[side]
            raise ValueError(
                f'{self.task} of image {image_name(sample)}: no {what} among {sorted(maps) or "none at all"}; {remedy}'
            )
        return maps[self.task]


def image_name(sample: dict) -> str:
    """Name an image in a message: its id, else its path."""
    return repr(sample.get('img_id', sample.get('img_path')))


def check_finite(pred: Tensor) -> None:
    """Refuse a prediction that holds NaN or infinity: it would silently spoil the sums of the whole set.

    Raises:
        ValueError: It does.
    """
    num_bad = int((~torch.isfinite(pred)).sum())
    if num_bad:
        raise ValueError(f'the prediction holds NaN or infinity at {num_bad} of {pred.numel()} entries')
