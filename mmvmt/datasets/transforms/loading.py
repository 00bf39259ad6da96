"""Loading of the image and of the label maps of its tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import cv2
import numpy as np
from mmcv.transforms import BaseTransform

from mmvmt.datasets import formats
from mmvmt.datasets.cache import LabelCache
from mmvmt.datasets.edges import label_edges
from mmvmt.registry import TRANSFORMS
from mmvmt.structures import IGNORE_INDEX, TASKS, check_tasks

from .geometric import MultiTaskResize
from .label_maps import resize_label


@TRANSFORMS.register_module()
class LoadMultiTaskImage(BaseTransform):
    """Read the image, refusing truncated files.

    Required key: ``img_path``. Added keys: ``img`` (``(H, W, 3)`` uint8, BGR), ``ori_shape`` and ``img_shape``
    (height, width). Pixels keep the orientation they are stored in, in which the label maps were drawn, unless
    ``upright`` is set.

    With ``scale`` the image is resized at once, as by :class:`MultiTaskResize` behind this transform, and the keys that
    it adds are added. ``ori_shape`` stays the size of the file. Label maps follow with ``resize=True`` in
    :class:`LoadMultiTaskAnnotations`.

    Args:
        scale: Target size (width, height) in pixels, or one number for both; None: the size of the file.
        keep_ratio: As in :class:`MultiTaskResize`.
        reduced_decoding: Let a JPEG that is at least twice as large as its target in both directions be decoded at a
            half, a quarter or an eighth, which its codec does faster, before it is resized. The geometry is the same
            to fractions of a pixel. The colours differ where the picture has finer detail than the target can show:
            means of pixels stand in place of single ones.
        upright: Turn photos as viewers show them, by the orientation in their EXIF data; for pictures without label
            maps.

    Raises:
        ValueError: ``keep_ratio`` or ``reduced_decoding`` is given without ``scale``, or ``scale`` is no size.
    """

    def __init__(
        self,
        scale: int | tuple[int, int] | None = None,
        keep_ratio: bool = False,
        reduced_decoding: bool = False,
        upright: bool = False,
    ) -> None:
        if scale is None and (keep_ratio or reduced_decoding):
            raise ValueError(
                f'keep_ratio={keep_ratio} and reduced_decoding={reduced_decoding} need the size of the result: '
                'give scale too'
            )
        self.resize = None if scale is None else MultiTaskResize(scale, keep_ratio)
        self.reduced_decoding = reduced_decoding
        self.upright = upright

    def transform(self, results: dict) -> dict:
        """Add the image to ``results``.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is truncated or no picture.
        """
        path = results['img_path']
        if self.reduced_decoding:
            image, shape, reduction = formats.read_reduced_image(path, self.resize.target_size, self.upright)
        else:
            image, reduction = formats.read_image(path, self.upright), 1
            shape = image.shape[:2]
        results['ori_shape'] = results['img_shape'] = shape
        if self.resize is not None:
            size = self.resize.target_size(*shape)
            image = _resize_reduced(image, shape, reduction, size)
            self.resize.record(results, shape, size)
        results['img'] = image
        return results

    def __repr__(self) -> str:
        return (
            f'{type(self).__name__}(resize={self.resize}, reduced_decoding={self.reduced_decoding}, '
            f'upright={self.upright})'
        )


@TRANSFORMS.register_module()
class LoadMultiTaskAnnotations(BaseTransform):
    """Read the label maps of the tasks, at the size of the original image.

    Placed before the geometric transforms, the maps follow the image. Placed after them, as in a test pipeline, they
    keep the original size.

    Where the data set has a ``cache_dir``, what is decoded from ``.mat`` files is kept there and read instead of them.

    Required keys: ``tasks``, ``label_paths``, ``ori_shape``. Added keys: ``gt_<task>``. If the data set set
    ``drop_unlabelled`` and no map has a labelled pixel, the sample is dropped (the transform returns None). Where it
    set ``num_classes`` (by task), a class map with a larger index is refused.

    Args:
        tasks: Tasks to read; None: those of the sample, ``results['tasks']``.
        resize: Resize the maps to the size that ``LoadMultiTaskImage(scale=...)`` gave the image; no transform that
            moves pixels may stand between the two.
    """

    def __init__(self, tasks: Iterable[str] | None = None, resize: bool = False) -> None:
        self.tasks = None if tasks is None else check_tasks(tasks, _READERS)
        self.resize = resize

    def transform(self, results: dict) -> dict | None:
        """Add the label maps to ``results``.

        Raises:
            FileNotFoundError: A file is missing.
            ValueError: A file is damaged, holds labels out of range, or has another size than the image.
            KeyError: A task has no reader or no path, or ``resize`` is set and the image was not resized.
        """
        if self.resize and 'scale' not in results:
            raise KeyError(
                'LoadMultiTaskAnnotations(resize=True) follows the size of the image, but the image has the size of '
                'its file; give LoadMultiTaskImage a scale, or place MultiTaskResize behind both'
            )
        cache_dir = results.get('cache_dir')
        cache = None if cache_dir is None else LabelCache(cache_dir)
        files = _LabelFiles(results['ori_shape'], cache, results.get('num_classes', {}))
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
        if self.resize:
            height, width = results['img_shape']
            for name in tasks:
                key = TASKS[name].gt_key
                results[key] = resize_label(TASKS[name], results[key], width, height)
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}(tasks={self.tasks}, resize={self.resize})'


def _resize_reduced(image: np.ndarray, shape: tuple[int, int], reduction: int, size: tuple[int, int]) -> np.ndarray:
    """Resize a picture that was read at ``1 / reduction`` of ``shape`` to ``size``, as if it had its full size."""
    (height, width), (new_height, new_width) = shape, size
    if reduction == 1:
        return cv2.resize(image, (new_width, new_height), interpolation=cv2.INTER_LINEAR)
    # By factors, not by sizes: the last pixel may reach over the edge, so that the picture covers more than ``shape``.
    factors = dict(fx=new_width * reduction / width, fy=new_height * reduction / height)
    resized = cv2.resize(image, None, **factors, interpolation=cv2.INTER_LINEAR)
    return np.ascontiguousarray(resized[:new_height, :new_width])


class _LabelFiles:
    """The label files of one image: checks sizes, and reads the context labels that two tasks share only once."""

    def __init__(self, shape: tuple[int, int], cache: LabelCache | None, num_classes: Mapping[str, int]) -> None:
        self.shape = tuple(shape)
        self.cache = cache
        self.num_classes = num_classes
        self._context_labels: dict[str, np.ndarray] = {}

    def semseg(self, path: str) -> np.ndarray:
        return self._checked(path, formats.read_semseg(path, self.num_classes.get('semseg', IGNORE_INDEX)))

    def human_parts(self, path: str) -> np.ndarray:
        return self._cached('human_parts', path, lambda: formats.read_human_parts(path, self.shape))

    def saliency(self, path: str) -> np.ndarray:
        return self._checked(path, formats.read_saliency(path))

    def normals(self, paths: tuple[str, str]) -> np.ndarray:
        path, context_path = paths
        return formats.read_normals(path, formats.normals_validity(self.context_labels(context_path)))

    def edge(self, path: str) -> np.ndarray:
        return self._cached('edge', path, lambda: label_edges(self.context_labels(path)))

    def depth(self, path: str) -> np.ndarray:
        return self._checked(path, formats.read_depth(path))

    def context_labels(self, path: str) -> np.ndarray:
        if path not in self._context_labels:
            self._context_labels[path] = self._cached(
                'context_labels', path, lambda: self._checked(path, formats.read_context_labels(path))
            )
        return self._context_labels[path]

    def _cached(self, kind: str, path: str, read: Callable[[], np.ndarray]) -> np.ndarray:
        return read() if self.cache is None else self.cache.load(kind, path, self.shape, read)

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
    'depth': _LabelFiles.depth,
}
