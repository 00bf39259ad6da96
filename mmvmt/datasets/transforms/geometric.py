"""Geometric transforms of the image and of all label maps present; those that are absent are nobody's business."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import cv2
import numpy as np
from mmcv.transforms import BaseTransform
from mmcv.transforms.utils import cache_randomness

from mmvmt.registry import TRANSFORMS

from .label_maps import (
    flip_label,
    labelled_tasks,
    pad_label,
    pad_right_bottom,
    resize_label,
    resize_label_as_published,
    rotate_channels,
    rotate_label,
)

MEAN_COLOR = (104, 116, 124)
"""ImageNet's mean colour in BGR order: next to zero once the image is normalised."""


_TRUTHS = {'aligned': resize_label, 'published': resize_label_as_published}
"""How a label map is resized, by the name of the truth."""


@TRANSFORMS.register_module()
class MultiTaskRandomFlip(BaseTransform):
    """Mirror left and right with a given probability. Directions and displacements change the sign of x.

    Modified keys: ``img``, ``gt_*``. Added keys: ``flip``, ``flip_direction``.

    Args:
        prob: Probability of a flip.
    """

    def __init__(self, prob: float = 0.5) -> None:
        self.prob = _probability(prob)

    @cache_randomness
    def _draw(self) -> bool:
        return random.random() < self.prob

    def transform(self, results: dict) -> dict:
        """Flip or leave the sample."""
        results['flip'] = self._draw()
        results['flip_direction'] = 'horizontal' if results['flip'] else None
        if results['flip']:
            results['img'] = cv2.flip(results['img'], 1)
            for task in labelled_tasks(results):
                results[task.gt_key] = flip_label(task, results[task.gt_key])
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}(prob={self.prob})'


@TRANSFORMS.register_module()
class MultiTaskRandomRotate(BaseTransform):
    """Rotate about the centre of the image, keeping its size. Directions (about the z axis) and displacements turn
    along, in their own axes.

    Required keys, where there are vectors whose task does not declare its axes: ``normals_x``, ``normals_y``, see
    :class:`mmvmt.structures.NormalsAxes`.
    What comes from outside the image is unknown in the label maps and ``pad_val`` in the image.

    Modified keys: ``img``, ``gt_*``. Added key: ``rotation`` (degrees, counter-clockwise).

    Args:
        degree: The angle is drawn uniformly from ``(-degree, degree)``, or from the range given, in degrees,
            counter-clockwise.
        prob: Probability of a rotation.
        pad_val: Colour from outside the image, BGR.
    """

    def __init__(
        self,
        degree: float | tuple[float, float] = 20.0,
        prob: float = 1.0,
        pad_val: Sequence[float] = MEAN_COLOR,
    ) -> None:
        self.degree = (-float(degree), float(degree)) if np.isscalar(degree) else tuple(map(float, degree))
        if len(self.degree) != 2 or self.degree[0] > self.degree[1]:
            raise ValueError(f'degree must be a number >= 0 or a range (low, high), got {degree}')
        self.prob = _probability(prob)
        self.pad_val = _color(pad_val)

    @cache_randomness
    def _draw(self) -> float:
        return random.uniform(*self.degree) if random.random() < self.prob else 0.0

    def transform(self, results: dict) -> dict:
        """Rotate or leave the sample.

        Raises:
            KeyError: There are vectors whose axes nobody has declared.
        """
        angle = results['rotation'] = self._draw()
        if angle == 0:
            return results
        axes = {task: task.axes_in(results) for task in labelled_tasks(results)}
        for task in axes:
            if axes[task] is None and task.motion in ('direction', 'displacement'):
                raise KeyError(
                    f'image {results.get("img_id")!r} has {task.name}, but normals_x and normals_y do not say where '
                    f'their axes point, and so which way they turn; the data set declares them in its samples, as '
                    f"PASCALContextMT's metainfo=dict(normals_x='left', normals_y='up') does"
                )
        height, width = results['img'].shape[:2]
        matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), angle, 1.0)
        results['img'] = rotate_channels(results['img'], matrix, self.pad_val)
        for task in axes:
            results[task.gt_key] = rotate_label(task, results[task.gt_key], matrix, axes[task])
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}(degree={self.degree}, prob={self.prob}, pad_val={self.pad_val})'


@TRANSFORMS.register_module()
class MultiTaskResize(BaseTransform):
    """Resize the image bilinearly and every label map present by the rule of its kind and motion.

    Depth keeps its metres; displacements and disparities scale along. Modified keys: ``img``, ``img_shape``, ``gt_*``.
    Added keys: ``scale`` and ``scale_factor`` (both width first), ``keep_ratio``, and ``truth`` where it is
    ``'published'``.

    Args:
        scale: Target size (width, height) in pixels, or one number for both.
        keep_ratio: Instead of exactly ``scale``, the largest size of the same ratio whose longer edge fits the longer
            and whose shorter edge fits the shorter number of ``scale``.
        truth: ``'aligned'``, label maps on the grid of the image; or ``'published'``, as published figures at the input
            size have them, see :func:`resize_label_as_published`: for a test pipeline alone.
    """

    def __init__(self, scale: int | tuple[int, int], keep_ratio: bool = False, truth: str = 'aligned') -> None:
        if truth not in _TRUTHS:
            raise ValueError(f'truth must be one of {", ".join(_TRUTHS)}, got {truth!r}')
        self.scale = _size(scale, 'scale')
        self.keep_ratio = keep_ratio
        self.truth = truth

    def transform(self, results: dict) -> dict:
        """Resize the sample."""
        height, width = results['img'].shape[:2]
        new_height, new_width = self.target_size(height, width)
        results['img'] = cv2.resize(results['img'], (new_width, new_height), interpolation=cv2.INTER_LINEAR)
        for task in labelled_tasks(results):
            results[task.gt_key] = _TRUTHS[self.truth](task, results[task.gt_key], new_width, new_height)
        if self.truth != 'aligned':
            results['truth'] = self.truth
        self.record(results, (height, width), (new_height, new_width))
        return results

    def target_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width that a picture of ``height`` x ``width`` pixels gets."""
        new_width, new_height = self.scale
        if self.keep_ratio:
            factor = min(max(self.scale) / max(height, width), min(self.scale) / min(height, width))
            new_width, new_height = (max(1, round(edge * factor)) for edge in (width, height))
        return new_height, new_width

    def record(self, results: dict, old: tuple[int, int], new: tuple[int, int]) -> None:
        """Note in ``results`` that a picture of size ``old`` (height, width) has got the size ``new``."""
        results['img_shape'] = new
        results['scale'] = new[::-1]
        results['scale_factor'] = (new[1] / old[1], new[0] / old[0])
        results['keep_ratio'] = self.keep_ratio

    def __repr__(self) -> str:
        return f'{type(self).__name__}(scale={self.scale}, keep_ratio={self.keep_ratio}, truth={self.truth!r})'


@TRANSFORMS.register_module()
class MultiTaskRandomScaleCrop(BaseTransform):
    """Scale by a random factor, cut out a random window, and pad at the right and the bottom what is too small.

    Only the window is resized, which gives the same picture as resizing everything first, up to the rounding of its
    edges to whole source pixels. Depth keeps its metres; displacements and disparities scale along. Padding is unknown
    in the label maps.

    Modified keys: ``img``, ``img_shape``, ``gt_*``. Added key: ``scale_factor`` (width first).

    Args:
        crop_size: Size (height, width) of the result in pixels, or one number for both.
        scale_range: Range of the factor, relative to the incoming image.
        pad_val: Colour of the padding, BGR.
    """

    def __init__(
        self,
        crop_size: int | tuple[int, int],
        scale_range: tuple[float, float] = (0.75, 1.25),
        pad_val: Sequence[float] = MEAN_COLOR,
    ) -> None:
        self.crop_size = _size(crop_size, 'crop_size')
        self.scale_range = tuple(map(float, scale_range))
        if len(self.scale_range) != 2 or not 0 < self.scale_range[0] <= self.scale_range[1]:
            raise ValueError(f'scale_range must be (low, high) with 0 < low <= high, got {scale_range}')
        self.pad_val = _color(pad_val)

    @cache_randomness
    def _draw(self) -> tuple[float, float, float]:
        return random.uniform(*self.scale_range), random.random(), random.random()

    def transform(self, results: dict) -> dict:
        """Scale, cut and pad the sample."""
        factor, place_y, place_x = self._draw()
        height, width = results['img'].shape[:2]
        top, window_height, new_height = _window(height, self.crop_size[0], factor, place_y)
        left, window_width, new_width = _window(width, self.crop_size[1], factor, place_x)
        window = np.s_[top : top + window_height, left : left + window_width]
        crop_height, crop_width = self.crop_size
        image = cv2.resize(results['img'][window], (new_width, new_height), interpolation=cv2.INTER_LINEAR)
        results['img'] = pad_right_bottom(image, crop_width, crop_height, self.pad_val)
        for task in labelled_tasks(results):
            label = resize_label(task, results[task.gt_key][window], new_width, new_height)
            results[task.gt_key] = pad_label(task, label, crop_width, crop_height)
        results['img_shape'] = self.crop_size
        results['scale_factor'] = (new_width / window_width, new_height / window_height)
        return results

    def __repr__(self) -> str:
        return (
            f'{type(self).__name__}(crop_size={self.crop_size}, scale_range={self.scale_range}, pad_val={self.pad_val})'
        )


@TRANSFORMS.register_module()
class MultiTaskPad(BaseTransform):
    """Pad at the right and at the bottom, with unknown in the label maps.

    ``img_shape`` stays the size without padding. Modified keys: ``img``, ``gt_*``. Added keys: ``pad_shape`` (height,
    width), ``padding_size`` (left, right, top, bottom), by which predictions are cut.

    Args:
        size: Size (height, width) to pad to, in pixels, or one number for both. A larger image is an error.
        size_divisor: Pad both edges to multiples of it. Exactly one of the two must be given.
        pad_val: Colour of the padding, BGR.
    """

    def __init__(
        self,
        size: int | tuple[int, int] | None = None,
        size_divisor: int | None = None,
        pad_val: Sequence[float] = MEAN_COLOR,
    ) -> None:
        if (size is None) == (size_divisor is None):
            raise ValueError(f'give either size or size_divisor, got size={size} and size_divisor={size_divisor}')
        if size_divisor is not None and size_divisor < 1:
            raise ValueError(f'size_divisor must be at least 1, got {size_divisor}')
        self.size = None if size is None else _size(size, 'size')
        self.size_divisor = size_divisor
        self.pad_val = _color(pad_val)

    def transform(self, results: dict) -> dict:
        """Pad the sample.

        Raises:
            ValueError: The image is larger than ``size``.
        """
        height, width = results['img'].shape[:2]
        if self.size is None:
            new_height, new_width = (
                math.ceil(edge / self.size_divisor) * self.size_divisor for edge in (height, width)
            )
        else:
            new_height, new_width = self.size
        if new_height < height or new_width < width:
            raise ValueError(
                f'image {results.get("img_path")} has {height} x {width} pixels (height x width) and cannot be padded '
                f'to {new_height} x {new_width}; resize or crop it before MultiTaskPad'
            )
        results['img'] = pad_right_bottom(results['img'], new_width, new_height, self.pad_val)
        for task in labelled_tasks(results):
            results[task.gt_key] = pad_label(task, results[task.gt_key], new_width, new_height)
        results['pad_shape'] = (new_height, new_width)
        results['padding_size'] = (0, new_width - width, 0, new_height - height)
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}(size={self.size}, size_divisor={self.size_divisor}, pad_val={self.pad_val})'


def _window(length: int, crop: int, factor: float, place: float) -> tuple[int, int, int]:
    """Start and length of the window in source pixels, and its length once scaled, along one edge."""
    window = max(1, round(crop / factor))
    if window >= length:
        return 0, length, min(crop, max(1, round(length * factor)))
    return int(place * (length - window + 1)), window, crop


def _probability(prob: float) -> float:
    if not 0 <= prob <= 1:
        raise ValueError(f'prob must be between 0 and 1, got {prob}')
    return float(prob)


def _size(size: int | tuple[int, int], name: str) -> tuple[int, int]:
    pair = (size, size) if isinstance(size, int) else tuple(size)
    if len(pair) != 2 or any(not isinstance(edge, int) or edge < 1 for edge in pair):
        raise ValueError(f'{name} must be a positive number of pixels or a pair of them, got {size}')
    return pair


def _color(color: Sequence[float]) -> tuple[float, float, float]:
    if len(color) != 3:
        raise ValueError(f'pad_val must be a colour of three numbers (blue, green, red), got {color}')
    return tuple(color)
