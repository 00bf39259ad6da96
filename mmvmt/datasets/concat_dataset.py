"""Several data sets as one, whose tasks may differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from mmengine.dataset import ConcatDataset as _ConcatDataset

from mmvmt.registry import DATASETS
from mmvmt.structures import TASKS, NormalsAxes, names_key


@DATASETS.register_module()
class ConcatDataset(_ConcatDataset):
    """mmengine's ``ConcatDataset`` for data sets whose tasks differ.

    The meta information is the union: the tasks of all, the classes of a task from whichever data set has it. A sample
    of a data set without a task has a label map of it that is unknown everywhere, so that batches mix all of them.

    Args:
        datasets: Data sets or their configs: :class:`MultiTaskDataset` and what derives from it, such as
            :class:`FromMMSeg`, in ``RepeatDataset`` or other wrappers too.
        lazy_init: Leave the folders alone until ``full_init()``.
        ignore_keys: Keys of the meta information that may differ; that of the first data set counts.

    Raises:
        ValueError: The data sets contradict each other, or there is none.
        TypeError: A data set does not know the tasks of the others, and cannot be told.
    """

    def __init__(
        self, datasets: Sequence[Any], lazy_init: bool = False, ignore_keys: str | Sequence[str] | None = None
    ) -> None:
        if not datasets:
            raise ValueError('ConcatDataset needs at least one data set, got none')
        self.datasets = [DATASETS.build(each) if isinstance(each, dict) else each for each in datasets]
        self.ignore_keys = [ignore_keys] if isinstance(ignore_keys, str) else list(ignore_keys or ())
        self._merge()
        self._fully_initialized = False
        if not lazy_init:
            self.full_init()

    def full_init(self) -> None:
        """Load the lists of all data sets."""
        super().full_init()
        # Annotation files add to what is known of classes.
        self._merge()

    def index_of(self, img_id: str) -> int:
        """Position of the first image with an ID.

        Raises:
            KeyError: No data set lists the ID.
        """
        begin = 0
        for dataset in self.datasets:
            try:
                return begin + dataset.index_of(img_id)
            except KeyError:
                begin += len(dataset)
        raise KeyError(f'image ID {img_id!r} is in none of the {len(self.datasets)} data sets')

    def _merge(self) -> None:
        self._metainfo = merged_metainfo([dataset.metainfo for dataset in self.datasets], self.ignore_keys)
        for dataset in self.datasets:
            inner = dataset
            while not hasattr(inner, 'join') and hasattr(inner, 'dataset'):
                inner = inner.dataset
            if hasattr(inner, 'join'):
                inner.join(self._metainfo)
            elif set(self._metainfo['tasks']) - set(dataset.metainfo.get('tasks', ())):
                raise TypeError(
                    f'{type(inner).__name__} does not know the tasks {self._metainfo["tasks"]} of the data sets beside '
                    "it; wrap it as dict(type='mmvmt.FromMMSeg', task=..., dataset=...), or derive it from "
                    'MultiTaskDataset'
                )

    def join(self, metainfo: Mapping[str, Any]) -> None:
        """Pass on to all data sets what a larger whole knows, see :meth:`MultiTaskDataset.join`."""
        for dataset in self.datasets:
            inner = dataset
            while not hasattr(inner, 'join'):
                inner = inner.dataset
            inner.join(metainfo)


def merged_metainfo(metas: Sequence[Mapping[str, Any]], ignore_keys: Sequence[str] = ()) -> dict[str, Any]:
    """The meta information of several data sets as one.

    Args:
        metas: Of each. Of classes and axes only those of its own tasks count.
        ignore_keys: Keys that may differ; the first counts.

    Raises:
        ValueError: Two of them contradict each other.
    """
    merged: dict[str, Any] = {}
    origin: dict[str, int] = {}
    for number, meta in enumerate(metas):
        for key, value in _of_its_tasks(meta).items():
            if key in merged and key not in ignore_keys and _plain(merged[key]) != _plain(value):
                raise ValueError(
                    f'data sets {origin[key]} and {number} (from 0) of ConcatDataset contradict each other in '
                    f'metainfo.{key}: {merged[key]!r} and {value!r}; make them agree, or name the key in ignore_keys'
                )
            merged.setdefault(key, value)
            origin.setdefault(key, number)
    merged['tasks'] = tuple(dict.fromkeys(task for meta in metas for task in meta.get('tasks', ())))
    merged['task_declarations'] = {k: v for meta in metas for k, v in meta.get('task_declarations', {}).items()}
    merged['dataset_type'] = ' + '.join(dict.fromkeys(str(meta.get('dataset_type', 'unknown')) for meta in metas))
    return merged


def _of_its_tasks(meta: Mapping[str, Any]) -> dict[str, Any]:
    """What meta information says besides the tasks, without the classes and axes of tasks that it has not."""
    tasks = [TASKS[task] for task in meta.get('tasks', ())]
    foreign = {'tasks', 'task_declarations', 'dataset_type'}
    for task in TASKS.values():
        if task not in tasks:
            foreign |= {names_key(task.name), names_key(task.name).replace('classes', 'palette')}
    if all(task.axes_in({}) is not None or task.kind != 'vectors' for task in tasks):
        foreign |= set(NormalsAxes().meta)
    return {key: value for key, value in meta.items() if key not in foreign}


def _plain(value: Any) -> Any:
    """Lists as tuples, arrays as lists: what differs in type alone agrees."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    return tuple(map(_plain, value)) if isinstance(value, (list, tuple)) else value
