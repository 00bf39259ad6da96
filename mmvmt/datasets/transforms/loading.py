"""Loading of the image and of the label maps of its tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from mmcv.transforms import BaseTransform

from mmvmt.datasets import formats
from mmvmt.datasets.edges import label_edges
from mmvmt.registry import TRANSFORMS
from mmvmt.structures import TASKS, check_tasks


@TRANSFORMS.register_module()
class LoadMultiTaskImage(BaseTransform):
    """Read the image, refusing truncated files.

    Required key: ``img_path``. Added keys: ``img`` (``(H, W, 3)`` uint8, BGR), ``ori_shape`` and ``img_shape``
    (height, width). Pixels keep the orientation they are stored in, in which the label maps were drawn.
    """

    def transform(self, results: dict) -> dict:
        """Add the image to ``results``.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is truncated or no picture.
        """
        image = formats.read_image(results['img_path'])
        results['img'] = image
        results['img_shape'] = results['ori_shape'] = image.shape[:2]
        return results


@TRANSFORMS.register_module()
class LoadMultiTaskAnnotations(BaseTransform):
    """Read the label maps of the tasks, at the size of the original image.

    Placed before the geometric transforms, the maps follow the image. Placed after them, as in a test pipeline, they
    keep the original size.

    Required keys: ``tasks``, ``label_paths``, ``ori_shape``. Added keys: ``gt_<task>``. If the data set set
    ``drop_unlabelled`` and no map has a labelled pixel, the sample is dropped (the transform returns None).

    Args:
        tasks: Tasks to read; None: those of the sample, ``results['tasks']``.
    """

    def __init__(self, tasks: Iterable[str] | None = None) -> None:
        self.tasks = None if tasks is None else check_tasks(tasks, _READERS)

    def transform(self, results: dict) -> dict | None:
        """Add the label maps to ``results``.

        Raises:
            FileNotFoundError: A file is missing.
            ValueError: A file is damaged, holds labels out of range, or has another size than the image.
            KeyError: A task has no reader or no path.
        """
        files = _LabelFiles(results['ori_shape'])
        tasks = self.tasks or results['tasks']
        for name in tasks:
            if name not in _READERS or name not in results['label_paths']:
                raise KeyError(
                    f'no label file for task {name!r} of image {results["img_id"]!r}; the data set gives '
                    f'{", ".join(results["label_paths"])}'
                )
            results[TASKS[name].gt_key] = _READERS[name](files, results['label_paths'][name])
        if results.get('drop_unlabelled', False) and not any(
            (results[TASKS[name].gt_key] != TASKS[name].ignore).any() for name in tasks
        ):
            return None
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}(tasks={self.tasks})'


class _LabelFiles:
    """The label files of one image: checks sizes, and reads the context labels that two tasks share only once."""

    def __init__(self, shape: tuple[int, int]) -> None:
        self.shape = tuple(shape)
        self._context_labels: dict[str, np.ndarray] = {}

    def semseg(self, path: str) -> np.ndarray:
        return self._checked(path, formats.read_semseg(path))

    def human_parts(self, path: str) -> np.ndarray:
        return formats.read_human_parts(path, self.shape)

    def saliency(self, path: str) -> np.ndarray:
        return self._checked(path, formats.read_saliency(path))

    def normals(self, paths: tuple[str, str]) -> np.ndarray:
        path, context_path = paths
        normals = self._checked(path, formats.read_normals(path))
        normals[~formats.normals_validity(self.context_labels(context_path))] = TASKS['normals'].ignore
        return normals

    def edge(self, path: str) -> np.ndarray:
        return label_edges(self.context_labels(path))

    def context_labels(self, path: str) -> np.ndarray:
        if path not in self._context_labels:
            self._context_labels[path] = self._checked(path, formats.read_context_labels(path))
        return self._context_labels[path]

    def _checked(self, path: str, label: np.ndarray) -> np.ndarray:
        if label.shape[:2] != self.shape:
            raise ValueError(formats.size_mismatch(path, label.shape[:2], self.shape))
        return label


_READERS: dict[str, Callable[[_LabelFiles, str | tuple[str, str]], np.ndarray]] = {
    'semseg': _LabelFiles.semseg,
    'human_parts': _LabelFiles.human_parts,
    'saliency': _LabelFiles.saliency,
    'normals': _LabelFiles.normals,
    'edge': _LabelFiles.edge,
}
