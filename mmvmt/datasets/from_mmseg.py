"""Data sets of mmsegmentation as providers of one task."""

from __future__ import annotations

import copy
import os.path as osp
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mmvmt.registry import DATASETS, LABEL_READERS, TRANSFORMS
from mmvmt.structures import TASKS, TaskDeclarations, declare_tasks, names_key

from .arrays import check_classes
from .label_files import LabelFiles
from .label_reader import LabelReader
from .multi_task_dataset import MultiTaskDataset


@LABEL_READERS.register_module()
@dataclass
class MMSegReader(LabelReader):
    """Reads label maps as mmsegmentation does, by one of its transforms.

    Args:
        task: Name of the task.
        loading: Config of the transform, such as ``dict(type='mmseg.LoadAnnotations')``.
        info: What the data set says of every sample, such as ``label_map`` and ``reduce_zero_label``.
        ignore_index: What is unknown in the maps.
    """

    loading: Mapping[str, Any] = field(default_factory=lambda: dict(type='mmseg.LoadAnnotations'))
    info: Mapping[str, Any] = field(default_factory=dict)
    ignore_index: int = 255

    def __call__(self, files: LabelFiles, path: str) -> np.ndarray:
        if not osp.isfile(path):
            raise FileNotFoundError(f'missing file {path}; check the data set with tools/dataset/check_dataset.py')
        results = copy.deepcopy(dict(self.info)) | dict(seg_map_path=path, seg_fields=[])
        try:
            labels = TRANSFORMS.build(dict(self.loading))(results)['gt_seg_map']
        # Decoders meet damage with whatever the next operation raises: OSError, SyntaxError, AttributeError, ...
        except Exception as error:
            raise ValueError(f'{self.loading["type"]} cannot read {path}: {error!r}') from error
        task = TASKS[self.task]
        if self.ignore_index != task.ignore:
            labels = np.where(labels == self.ignore_index, task.ignore, labels)
        number = 2 if task.kind == 'binary' else files.num_classes.get(self.task, task.ignore)
        check_classes(labels, path, self.task, number, task.ignore)
        return files.fitted(self.task, path, labels.astype(task.dtype, copy=False))


@DATASETS.register_module()
class FromMMSeg(MultiTaskDataset):
    """A data set of mmsegmentation, of its own or of a user's, whose label maps are those of one task::

        dict(
            type='mmvmt.FromMMSeg',
            task='semseg',
            dataset=dict(type='mmseg.CityscapesDataset', data_root='data/cityscapes', data_prefix=dict(...)),
            pipeline=train_pipeline,
        )

    Which files there are, classes, palette, ``label_map`` and ``reduce_zero_label`` are that data set's; the pipeline
    is one of ours, in which :class:`mmvmt.datasets.transforms.LoadMultiTaskAnnotations` reads maps as
    ``mmseg.LoadAnnotations`` does.

    Args:
        task: Name of the task, of classes or binary.
        dataset: The data set or its config; a pipeline in it is not used.
        tasks: Declarations, see :func:`mmvmt.structures.declare_tasks`; of the tasks, ``task`` alone is read.
        loading: Config of another transform that reads label maps, such as
            ``dict(type='mmseg.LoadBiomedicalAnnotation')``.
        missing: ``'error'``, or ``'ignore'``: an image without a label map is unlabelled.
        metainfo: Additions to the meta information.
        kwargs: As of :class:`MultiTaskDataset`: pipeline, test_mode, indices, strict, ...

    Raises:
        ValueError: The task has no maps of classes.
    """

    METAINFO = {'dataset_type': 'mmseg'}

    def __init__(
        self,
        task: str,
        dataset: Mapping[str, Any] | Any,
        tasks: TaskDeclarations | None = None,
        loading: Mapping[str, Any] | None = None,
        missing: str = 'error',
        pipeline: Sequence[dict | Callable] = (),
        test_mode: bool = False,
        metainfo: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        declare_tasks((task,) if tasks is None else tasks)
        declare_tasks((task,))
        if TASKS[task].kind not in ('classes', 'binary'):
            raise ValueError(
                f"mmsegmentation's data sets have maps of classes, and those of task {task!r} are of kind "
                f'{TASKS[task].kind!r}'
            )
        if isinstance(dataset, Mapping):
            dataset = DATASETS.build({'test_mode': test_mode, **dataset, 'pipeline': [], 'lazy_init': True})
        self._source = dataset
        reader = dict(type='MMSegReader', missing=missing, ignore_index=dataset.ignore_index)
        if loading is not None:
            reader['loading'] = loading
        super().__init__(
            dataset.data_root or '',
            (task,),
            labels={task: reader},
            pipeline=pipeline,
            test_mode=test_mode,
            metainfo={**self._names(task), **(metainfo or {})},
            **kwargs,
        )

    def _names(self, task: str) -> dict[str, Any]:
        """Names and colours of the classes, under the keys that the task has for them."""
        meta, names = self._source.metainfo, names_key(task)
        if TASKS[task].kind != 'classes' or not meta.get('classes'):
            return {}
        return {names: tuple(meta['classes']), names.replace('classes', 'palette'): list(meta['palette'])}

    def load_data_list(self) -> list[dict]:
        """The samples of the other data set."""
        self._source.full_init()
        (task,) = self.tasks
        root = self._source.data_prefix.get('img_path') or self.data_root
        entries = []
        for index in range(len(self._source)):
            info = self._source.get_data_info(index)
            img_path, label_path = info.pop('img_path'), info.pop('seg_map_path', None)
            img_id = osp.splitext(osp.relpath(img_path, root) if root else img_path)[0]
            paths = {} if label_path is None else {task: label_path}
            entries.append({'img_id': img_id, 'img_path': img_path, 'label_paths': paths})
            self.readers[task].info = {key: value for key, value in info.items() if key != 'sample_idx'}
        self._patterns = {task: []}
        return self._with_labels(entries)
