"""Transforms of other packages in a multi-task pipeline: label maps follow the picture, or the transform is refused.

Transforms of mmseg move the maps that ``results['seg_fields']`` names, those of mmcv ``results['gt_seg_map']``. Both
are given a map that holds for every pixel its own place; from what they make of it, all label maps are gathered, each
by the rule of its kind. Whether a transform moves the picture in the way that it moves this map cannot be seen in a
photo, but in a pattern: each transform is tried on patterns, with the first sample that it gets.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import cv2
import mmcv.transforms
import numpy as np
import torch
from mmcv.transforms import BaseTransform
from PIL import Image

from mmvmt.datasets.seeding import seeded_rng
from mmvmt.structures import TASKS, Task

from .formatting import PackMultiTaskInputs
from .geometric import (
    MultiTaskPad,
    MultiTaskRandomFlip,
    MultiTaskRandomRotate,
    MultiTaskRandomScaleCrop,
    MultiTaskResize,
)
from .label_maps import labelled_tasks
from .pixel_places import PictureMotion, decode_places, pixel_places

PHOTOMETRIC = (
    'mmcv.Normalize',
    'mmcv.RandomGrayscale',
    'mmseg.AdjustGamma',
    'mmseg.CLAHE',
    'mmseg.PhotoMetricDistortion',
    'mmseg.RGB2Gray',
    'mmseg.Rerange',
)
"""Transforms that are known to move nothing, by package and class: they run as they are."""

_SEVERAL = (mmcv.transforms.TestTimeAug, mmcv.transforms.MultiScaleFlipAug)
_PLACES = 'gt_pixel_places'
_OURS = {
    'flip': MultiTaskRandomFlip,
    'rot': MultiTaskRandomRotate,
    'crop|cut|shift|translat|affine': MultiTaskRandomScaleCrop,
    'resiz|scal|zoom': MultiTaskResize,
    'pad': MultiTaskPad,
}
_TRIALS = 32
_BLOCK, _FEWEST_BLOCKS = 4, 16
# Correlation of a picture with what its maps show: next to 0 when it was moved, far above when its colours changed.
_AGREEMENT = 0.3


def follow_picture(pipeline: Any, inference: bool = False) -> Any:
    """Let label maps follow the pictures through a pipeline, whoever moves them.

    Transforms that do not belong to this package, and are not known to leave the geometry alone, are replaced by
    :class:`FollowedTransform` in place; so are all that stand between the picture's loading and
    ``LoadMultiTaskAnnotations``.

    Args:
        pipeline: A ``Compose`` of mmengine or mmcv, or a list. Any other function is left as it is.
        inference: Whether maps are computed for the pictures instead of loaded: then all transforms are replaced.

    Returns:
        ``pipeline``.
    """
    # Imported here: loading itself needs the transforms of this folder.
    from .loading import LoadMultiTaskAnnotations, LoadMultiTaskImage

    transforms = getattr(pipeline, 'transforms', pipeline)
    if not isinstance(transforms, list):
        return pipeline
    loads = [place for place, transform in enumerate(transforms) if isinstance(transform, LoadMultiTaskAnnotations)]
    for place, transform in enumerate(transforms):
        whole = inference or (bool(loads) and place < loads[0])
        left = isinstance(transform, (LoadMultiTaskImage, PackMultiTaskInputs, FollowedTransform, *_SEVERAL))
        if not left and _name(transform) not in PHOTOMETRIC and (whole or not _is_ours(transform)):
            transforms[place] = FollowedTransform(transform, whole)
    return pipeline


class FollowedTransform(BaseTransform):
    """Runs a transform and makes the label maps follow the picture.

    All maps are taken from the nearest pixel, and are unknown where the transform fills in something; directions turn
    with the picture besides, displacements turn and scale, disparities scale. A transform that treats ``gt_<task>``
    itself is left to do so.

    Args:
        wrapped: The transform.
        whole: Whether maps of the whole picture are loaded or computed later: then it may only be resized as a whole,
            or padded as ``padding_size`` says.
    """

    def __init__(self, wrapped: Callable[[dict], dict | None], whole: bool = False) -> None:
        self.wrapped = wrapped
        self.whole = whole
        self._tried = False
        self._shows_classes = _chooses_by_classes(wrapped)

    def transform(self, results: dict) -> dict | None:
        """Run the transform.

        Raises:
            ValueError: It moves the picture, and the label maps do not follow and cannot be made to.
        """
        if results.get('img') is None or not (self.whole or any(labelled_tasks(results))):
            return self.wrapped(results)
        if not self._tried:
            self._try(results)
            self._tried = True
        return self._run(self.wrapped, results)[0]

    def __repr__(self) -> str:
        return repr(self.wrapped)

    def _run(self, transform: Callable[[dict], dict | None], results: dict) -> tuple[dict | None, bool]:
        """Results, and whether label maps had to be moved."""
        size = _plane(results['img']).shape
        before = {task: results[task.gt_key] for task in labelled_tasks(results)}
        theirs = {key: results[key] for key in ('gt_seg_map', 'seg_fields') if key in results}
        segments = theirs.get('gt_seg_map')
        if segments is None and self._shows_classes:
            segments = results.get(TASKS['semseg'].gt_key)
        pristine = pixel_places(*size)
        results[_PLACES] = pristine.copy()
        results['gt_seg_map'] = pristine.copy() if segments is None else segments
        results['seg_fields'] = [*theirs.get('seg_fields', ('gt_seg_map',)), _PLACES]
        try:
            results = transform(results)
        except Exception as error:
            error.add_note(
                f'{_name(self.wrapped)} got the places of pixels ({pristine.dtype}) as gt_seg_map and seg_fields'
            )
            raise
        if results is None:
            return None, False
        places = results.pop(_PLACES, pristine)
        seen = results.pop('gt_seg_map', pristine if segments is None else segments)
        results.pop('seg_fields', None)
        results |= {key: results.get(key, value) for key, value in theirs.items()}
        by_fields = not _same(places, pristine)
        if segments is None:
            by_segments = not _same(seen, pristine)
            places = seen if by_segments and not by_fields else places
        else:
            by_segments = not _same(seen, segments)
            if by_segments and not by_fields:
                raise self._refusal(results, 'moves gt_seg_map, but not all maps of seg_fields')
            if 'gt_seg_map' in theirs:
                results['gt_seg_map'] = seen
        if by_fields or by_segments:
            if by_fields and by_segments and segments is None and not _same(places, seen):
                raise self._refusal(results, 'moves maps of seg_fields in different ways')
            self._carry(results, before, places, size)
        elif _plane(results['img']).shape != size:
            self._check_sizes(results, before, size)
        return results, by_fields or by_segments

    def _carry(self, results: dict, before: dict[Task, np.ndarray], places: np.ndarray, size: tuple[int, int]) -> None:
        """Move the label maps as the map of places was moved."""
        if results.get('swap_seg_labels'):
            raise self._refusal(results, 'exchanges labels (swap_seg_labels), which it cannot do in all label maps')
        try:
            source = decode_places(places, size)
        except ValueError as error:
            raise self._refusal(
                results, f'treats label maps in a way that label maps do not survive: {error}'
            ) from error
        if source.shape != _plane(results['img']).shape:
            raise self._refusal(results, 'gives the picture another size than the label maps')
        motion = PictureMotion.of(source, size)
        if self.whole:
            if not motion.keeps_whole_picture:
                raise self._refusal(results)
            return
        handled = [task.name for task, label in before.items() if results.get(task.gt_key) is not label]
        if handled:
            raise self._refusal(results, f'moves gt_seg_map and changes the label map of {", ".join(handled)} too')
        for task, label in before.items():
            if label.shape[:2] != size:
                raise self._refusal(
                    results,
                    f'moves the picture of {size[0]} x {size[1]} pixels (height x width), while the label map of '
                    f'{task.name} has {label.shape[0]} x {label.shape[1]}',
                )
            try:
                results[task.gt_key] = motion.carry(task, label, task.axes_in(results))
            except ValueError as error:
                raise self._refusal(results, f'moves the picture so that {task.name} cannot follow: {error}') from error

    def _check_sizes(self, results: dict, before: dict[Task, np.ndarray], size: tuple[int, int]) -> None:
        """Refuse a new size of the picture that label maps of its former size do not have."""
        new = _plane(results['img']).shape
        for task, label in before.items():
            if label.shape[:2] == size and results.get(task.gt_key, label).shape[:2] != new:
                raise self._refusal(
                    results,
                    f'makes a picture of {new[0]} x {new[1]} pixels (height x width) of {size[0]} x {size[1]}, and '
                    f'leaves its label maps as they are',
                )

    def _try(self, results: dict) -> None:
        """Run the transform on patterns in place of picture and maps, and see that they stay the same pattern."""
        try:
            transform = copy.deepcopy(self.wrapped)
        # What holds a file or a lock cannot be copied; a trial of the transform itself leaves its results as they are.
        except (TypeError, RuntimeError):
            transform = self.wrapped
        pattern = _pattern(*_plane(results['img']).shape)
        for seed in range(_TRIALS):
            shown = {task.gt_key: _map_like(task, results[task.gt_key], pattern) for task in labelled_tasks(results)}
            shown['img'] = _picture_like(results['img'], pattern)
            trial = shown | {key: copy.deepcopy(value) for key, value in results.items() if key not in shown}
            with seeded_rng(seed):
                trial, carried = self._run(transform, trial)
            if trial is not None:
                self._check_agreement(trial, pattern, [key for key in shown if key != 'img'], carried)

    def _check_agreement(self, trial: dict, pattern: np.ndarray, keys: list[str], carried: bool) -> None:
        """See that the picture shows what the label maps show, or the pattern where there are none yet."""
        picture = _plane(trial['img'])
        _, right, _, bottom = trial.get('padding_size', (0, 0, 0, 0)) if self.whole else (0, 0, 0, 0)
        picture = picture[: picture.shape[0] - bottom, : picture.shape[1] - right]
        stays = _agree(picture, pattern, np.ones_like(pattern))
        # What a transform writes into the maps of a picture that stays where it is, is its own affair.
        if stays and not carried:
            return
        maps = [_pattern_of(task, trial[task.gt_key]) for task in labelled_tasks(trial) if task.gt_key in keys]
        if (self.whole and not stays) or not all(_agree(picture, *shown) for shown in maps):
            raise self._refusal(trial)

    def _refusal(self, results: dict, what: str = '') -> ValueError:
        name = _name(self.wrapped)
        ours = [cls for words, cls in _OURS.items() if re.search(words, name, re.IGNORECASE)] or list(_OURS.values())
        names = ' or '.join(f'mmvmt.{cls.__name__}' for cls in ours)
        if not self.whole:
            what = what or 'moves the picture, but not its label maps'
            remedy = f'use {names}, which moves picture and label maps, each by the rule of its kind'
        else:
            what = what or 'moves the picture, while maps are loaded or computed for the whole of it'
            remedy = f'place {"it" if _is_ours(self.wrapped) else names} behind LoadMultiTaskAnnotations'
            if MultiTaskPad in ours:
                remedy = 'use mmvmt.MultiTaskPad, which notes what it adds'
            remedy += '; for inference leave it out'
        return ValueError(f'{name} {what} (image {results.get("img_id")!r}); {remedy}')


def _chooses_by_classes(transform: Any) -> bool:
    """Whether a transform looks at the classes of ``gt_seg_map``, as mmseg's crops do, itself or one inside of it."""
    inner = getattr(transform, 'transforms', None)
    several = inner if isinstance(inner, (list, tuple)) else [] if inner is None else [inner]
    return getattr(transform, 'cat_max_ratio', 1) < 1 or any(map(_chooses_by_classes, several))


def _is_ours(transform: Any) -> bool:
    return _name(transform).split('.')[0] == __name__.split('.')[0]


def _name(transform: Any) -> str:
    """Package and class of a transform, or the name of a function."""
    package = type(transform).__module__.split('.')[0]
    name = getattr(transform, '__name__', type(transform).__name__)
    return f'{package}.{name}' if package not in ('__main__', 'builtins') else name


@lru_cache(maxsize=8)
def _pattern(height: int, width: int) -> np.ndarray:
    """Random blocks of 0 and 1, ``(H, W)`` uint8, which look like no moved copy of themselves."""
    side = min(_BLOCK, max(1, min(height, width) // _FEWEST_BLOCKS))
    blocks = np.random.default_rng(0).integers(0, 2, (-(-height // side), -(-width // side)), dtype=np.uint8)
    return np.ascontiguousarray(np.kron(blocks, np.ones((side, side), np.uint8))[:height, :width])


def _picture_like(picture: Any, pattern: np.ndarray) -> Any:
    """The pattern in dark and bright grey, of the type of a picture."""
    grey = np.where(pattern, 192, 64).astype(np.uint8)
    if isinstance(picture, Image.Image):
        return Image.fromarray(grey).convert(picture.mode)
    if isinstance(picture, torch.Tensor):
        return torch.from_numpy(grey).to(picture.dtype).expand(picture.shape).clone()
    grey = grey.astype(picture.dtype)
    return grey if picture.ndim == 2 else np.repeat(grey[..., None], picture.shape[2], axis=2)


def _plane(picture: Any) -> np.ndarray:
    """One channel of a picture, ``(H, W)``."""
    if isinstance(picture, torch.Tensor):
        return picture.detach().cpu().numpy().reshape(-1, *picture.shape[-2:])[0]
    array = np.asarray(picture)
    return array if array.ndim == 2 else array[..., 0]


def _map_like(task: Task, label: np.ndarray, pattern: np.ndarray) -> np.ndarray:
    """The pattern as a label map: classes 0 and 1, numbers 1 and 2, or vectors in two directions.

    Normals stand at two angles to the viewer, which no motion of the picture changes.
    """
    pattern = cv2.resize(pattern, label.shape[1::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    if task.kind == 'vectors':
        first, second = ((1, 0), (0, 1)) if task.channels == 2 else ((0, 0, 1), (0.6, 0, 0.8))
        return np.where(pattern[..., None] > 0, first, second).astype(label.dtype)
    shown = pattern.astype(label.dtype) + (task.kind in ('metric', 'values'))
    return shown if label.ndim == 2 else np.repeat(shown[..., None], label.shape[2], axis=2)


def _pattern_of(task: Task, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The pattern that a label map shows, or its inverse, and where it is known."""
    known = task.known(label)
    if task.kind == 'vectors' and task.channels == 3:
        shown = label[..., 2] > 0.9
    elif task.kind == 'vectors':
        # Two directions at a right angle: along the first one, or not.
        shown = np.abs(label @ label[known][0]) > 0.7 if known.any() else known
    elif task.kind in ('metric', 'values'):
        # Values may scale and turn, all by the same factor.
        size = np.abs(label) if label.ndim == 2 else np.linalg.norm(label, axis=2)
        shown = size > (size[known].min() + size[known].max()) / 2 if known.any() else known
    else:
        shown = label > 0
    return shown.view(np.uint8), known.view(np.uint8)


def _agree(picture: np.ndarray, shown: np.ndarray, known: np.ndarray) -> bool:
    """Whether a picture shows a pattern where it is known; either may be resized, and brightness mean anything."""
    size = picture.shape[::-1]
    shown, known = (cv2.resize(plane, size, interpolation=cv2.INTER_NEAREST_EXACT) for plane in (shown, known))
    if not known.any():
        return True
    first, second = (values[known > 0].astype(np.float64) for values in (picture, shown))
    first, second = first - first.mean(), second - second.mean()
    scale = np.sqrt((first**2).sum() * (second**2).sum())
    # A single grey tells nothing.
    return bool(scale < 1e-9 or abs((first * second).sum()) >= _AGREEMENT * scale)


def _same(first: Any, second: np.ndarray) -> bool:
    return first is second or np.array_equal(first, second)
