"""What a model would score that ignores the image: the floor that every result stands above, or does not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.structures import PixelData
from torch import Tensor

from mmvmt.registry import DATASETS, EVALUATOR
from mmvmt.structures import TASKS, MultiTaskDataSample


def best_constant(task: str, labels: Iterable[Tensor]) -> Tensor:
    """The best constant prediction for some labels.

    Args:
        task: Name of the task.
        labels: Label maps ``(C, H, W)``, as in ``sample.gt``; iterated over once or twice.

    Returns:
        ``(C, 1, 1)``: the most frequent class; 1 for binary maps, since a lower value is empty at some threshold; the
        normalised mean vector; or the mean number.

    Raises:
        ValueError: No pixel is labelled.
    """
    rules = TASKS[task]
    if rules.kind == 'binary':
        return torch.ones(1, 1, 1)
    unlabelled = ValueError(f'no pixel is labelled for task {task!r}')
    if rules.kind == 'classes':
        counts = sum(torch.bincount(label[:, rules.known(label)][0].long(), minlength=rules.ignore) for label in labels)
        if not counts.any():
            raise unlabelled
        return counts.argmax().to(torch.from_numpy(np.empty(0, rules.dtype)).dtype).view(1, 1, 1)
    total, pixels = 0, 0
    for label in labels:
        known = label[:, rules.known(label)]
        total, pixels = total + known.double().sum(dim=1), pixels + known.shape[1]
    if not pixels:
        raise unlabelled
    mean = (total / pixels).float()
    return (F.normalize(mean, dim=0) if rules.kind == 'vectors' else mean).view(-1, 1, 1)


def constant_predictions(samples: Sequence[MultiTaskDataSample]) -> Iterator[MultiTaskDataSample]:
    """Copies of samples whose ``pred`` is, for every task, the best constant over their own labels.

    Args:
        samples: Samples with ``gt``. They are read one at a time and several times over, so the sequence may load each
            when it is asked for.
    """
    tasks = samples[0].gt.keys()
    constants = {task: best_constant(task, _Labels(samples, task)) for task in tasks}
    for sample in samples:
        twin = sample.clone()
        maps = {task: value.expand(-1, *sample.gt.shape).contiguous() for task, value in constants.items()}
        twin.pred = PixelData(**maps)
        yield twin


class ValidationSamples(Sequence):
    """The validation set of a config as packed samples, each read when it is asked for.

    Args:
        cfg: The config.
    """

    def __init__(self, cfg: Config) -> None:
        init_default_scope('mmvmt')
        self._dataset = DATASETS.build(cfg.val_dataloader.dataset)

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> MultiTaskDataSample:
        if not 0 <= index < len(self):
            raise IndexError(f'sample {index} of {len(self)}')
        return self._dataset[index]['data_samples']


def score_constant_predictor(cfg: Config) -> dict[str, float]:
    """Metrics of the best constant prediction per task on the validation set of a config, by its evaluator."""
    samples = ValidationSamples(cfg)
    evaluator = EVALUATOR.build(cfg.val_evaluator)
    evaluator.dataset_meta = {}
    for sample in constant_predictions(samples):
        evaluator.process([sample])
    return evaluator.evaluate(len(samples))


class _Labels:
    """The labels of one task, read anew in every iteration."""

    def __init__(self, samples: Sequence[MultiTaskDataSample], task: str) -> None:
        self._samples, self._task = samples, task

    def __iter__(self) -> Iterator[Tensor]:
        return (sample.gt.get(self._task) for sample in self._samples)
