"""Loading of the image and of the label maps of its tasks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import cv2
import numpy as np
from mmcv.transforms import BaseTransform

from mmvmt.datasets.images import read_photo
from mmvmt.datasets.label_files import LabelFiles
from mmvmt.datasets.label_reader import LabelReader
from mmvmt.datasets.plausibility import LabelStatistics, LabelWatch
from mmvmt.registry import TRANSFORMS
from mmvmt.structures import TASKS, check_tasks

from .geometric import MultiTaskResize
from .label_maps import resize_label


@TRANSFORMS.register_module()
class LoadMultiTaskImage(BaseTransform):
    """Read the image, refusing truncated files.

    Required key: ``img_path``. Added keys: ``img`` (``(H, W, 3)`` uint8, BGR), ``ori_shape`` and ``img_shape``
    (height, width), ``upright``, and ``orientation``, the number in the photo's EXIF data. Pixels keep the orientation
    they are stored in, unless ``upright`` is set: label maps must have been drawn over the same.

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
            maps, and for label maps that were drawn over what a viewer shows.

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
        smallest = self.resize.target_size if self.reduced_decoding else None
        image, shape, reduction, orientation = read_photo(results['img_path'], self.upright, smallest)
        results['upright'], results['orientation'] = self.upright, orientation
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

    A map of another size than its image is resized to it, by the rule of its kind, and counted in one warning per
    task; with ``strict`` in the sample, as ``PASCALContextMT(strict=True)`` gives it, it is refused. A map that is
    turned by 90 degrees against its image is always refused.

    Where the data set has a ``cache_dir``, what is decoded from ``.mat`` files is kept there and read instead of them.

    An image without a label of a task (whose path is None) gets a map that is unknown everywhere.

    Required keys: ``tasks``, ``label_paths``, ``ori_shape``; where ``label_readers`` has none for a task, the one that
    its kind has by default reads it. Added keys: ``gt_<task>``. If the data set set
    ``drop_unlabelled`` and no map has a labelled pixel, the sample is dropped (the transform returns None). Where it
    set ``num_classes`` (by task), a class map with a larger index is refused.

    Args:
        tasks: Tasks to read; None: those of the sample, ``results['tasks']``.
        resize: Resize the maps to the size that ``LoadMultiTaskImage(scale=...)`` gave the image; no transform that
            moves pixels may stand between the two.
        judge: Look at the first maps of each task, warn once of what is unlikely, such as nothing labelled, and refuse
            what cannot be, such as normals that point away, see :mod:`mmvmt.datasets.plausibility`.
    """

    def __init__(self, tasks: Iterable[str] | None = None, resize: bool = False, judge: bool = True) -> None:
        self.tasks = None if tasks is None else check_tasks(tasks, TASKS)
        self.resize = resize
        self.judge = judge
        self._watch = LabelWatch()

    def transform(self, results: dict) -> dict | None:
        """Add the label maps to ``results``.

        Raises:
            FileNotFoundError: A file is missing.
            ValueError: A file is damaged, holds labels out of range, or has another size than the image with
                ``strict``; or the first maps of a task hold what cannot be.
            KeyError: A task has no reader or no path, or ``resize`` is set and the image was not resized.
        """
        if self.resize and 'scale' not in results:
            raise KeyError(
                'LoadMultiTaskAnnotations(resize=True) follows the size of the image, but the image has the size of '
                'its file; give LoadMultiTaskImage a scale, or place MultiTaskResize behind both'
            )
        tasks = self.tasks or results['tasks']
        labelled = [task for task in tasks if results['label_paths'].get(task) is not None]
        noted = self._watch.statistics(labelled) if self.judge else {}
        for task, text in load_labels(results, tasks, noted).items():
            self._watch.warn_resized(task, text, counted=self.judge)
        if self.judge:
            self._watch.add(noted, results.get('num_samples'))
            if results.get('orientation', 1) != 1 and not results.get('upright', False):
                self._watch.warn_turned(results['img_path'], results['orientation'])
        if results.get('drop_unlabelled', False) and not any(
            TASKS[name].known(results[TASKS[name].gt_key]).any() for name in tasks
        ):
            return None
        if self.resize:
            height, width = results['img_shape']
            for name in tasks:
                key = TASKS[name].gt_key
                results[key] = resize_label(TASKS[name], results[key], width, height)
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}(tasks={self.tasks}, resize={self.resize}, judge={self.judge})'


def _resize_reduced(image: np.ndarray, shape: tuple[int, int], reduction: int, size: tuple[int, int]) -> np.ndarray:
    """Resize a picture that was read at ``1 / reduction`` of ``shape`` to ``size``, as if it had its full size."""
    (height, width), (new_height, new_width) = shape, size
    if reduction == 1:
        return cv2.resize(image, (new_width, new_height), interpolation=cv2.INTER_LINEAR)
    # By factors, not by sizes: the last pixel may reach over the edge, so that the picture covers more than ``shape``.
    factors = dict(fx=new_width * reduction / width, fy=new_height * reduction / height)
    resized = cv2.resize(image, None, **factors, interpolation=cv2.INTER_LINEAR)
    return np.ascontiguousarray(resized[:new_height, :new_width])


def load_labels(
    results: dict, tasks: Iterable[str], noted: Mapping[str, LabelStatistics] | None = None
) -> dict[str, str]:
    """Read the label maps of an image into ``results``, at the size of the original image.

    Args:
        results: As :class:`LoadMultiTaskImage` leaves them.
        tasks: Tasks to read.
        noted: By task, where to note what its maps hold, before and after decoding; tasks may be absent.

    Returns:
        By task, the name and the size of a map that was resized.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: A file is damaged, holds labels out of range, or has another size than the image with ``strict``.
        KeyError: The data set gives no path of a task. A path of None means that the image has no label.
    """
    files = LabelFiles(results, noted)
    readers = results.get('label_readers', {})
    for name in tasks:
        if name not in results['label_paths']:
            raise KeyError(
                f'no label file for task {name!r} of image {results["img_id"]!r}; the data set gives '
                f'{", ".join(results["label_paths"])}'
            )
        path = results['label_paths'][name]
        if path is None:
            results[TASKS[name].gt_key] = TASKS[name].unknown_map(*files.shape)
            continue
        read = readers.get(name) or LabelReader(name)
        label = results[TASKS[name].gt_key] = read(files, path)
        if name in files.noted:
            files.noted[name].measure(name, label)
            files.noted[name].resized += [files.resized[name]] if name in files.resized else []
    return files.resized
