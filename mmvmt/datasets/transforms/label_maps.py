"""What geometry does to label maps, by the kind and the motion of their task (see :class:`mmvmt.structures.Task`).

Class indices, masks, metres and values are sampled from the nearest pixel, since a mean means nothing at a boundary.
Vectors are interpolated among known neighbours and scaled back to unit length; a pixel whose nearest source is unknown
stays unknown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import cv2
import numpy as np

from mmvmt.datasets.vectors import known_vectors, unit_vectors
from mmvmt.structures import TASKS, NormalsAxes, Task

# Opposite neighbours can cancel; a sum shorter than this has no direction.
_SHORTEST_SUM = 1e-3


def labelled_tasks(results: dict) -> Iterator[Task]:
    """The tasks whose label map is in a pipeline's results."""
    return (task for task in TASKS.values() if task.gt_key in results)


def flip_label(task: Task, label: np.ndarray) -> np.ndarray:
    """Mirror left and right; directions and displacements change the sign of x."""
    return task.mirrored(cv2.flip(label, 1))


def resize_label(task: Task, label: np.ndarray, width: int, height: int) -> np.ndarray:
    """Resize a map to ``(height, width)`` pixels. Metres are kept, since zooming in moves nothing closer; displacements
    and disparities, which count pixels, scale along."""
    # Plain INTER_NEAREST is half a pixel off the grid of INTER_LINEAR, by which the image is resized.
    nearest = cv2.INTER_NEAREST_EXACT
    if task.kind != 'vectors':
        return _rescaled(task, label, cv2.resize(label, (width, height), interpolation=nearest))
    known = cv2.resize(known_vectors(label), (width, height), interpolation=nearest)
    vectors = cv2.resize(label, (width, height), interpolation=cv2.INTER_LINEAR)
    return unit_vectors(vectors, _SHORTEST_SUM, known)


def resize_label_as_published(task: Task, label: np.ndarray, width: int, height: int) -> np.ndarray:
    """Resize a map as the public code does whose figures at the input size are published (MTLoRA, TADFormer).

    All but vectors by OpenCV's INTER_NEAREST, up to half a pixel off the grid of the image; vectors by
    bicubic interpolation over the zeros of unknown pixels, brought to unit length wherever they are not exactly zero,
    so that some unknown pixels get a direction, partly a reversed one.
    """
    if task.kind != 'vectors':
        return _rescaled(task, label, cv2.resize(label, (width, height), interpolation=cv2.INTER_NEAREST))
    return unit_vectors(cv2.resize(label, (width, height), interpolation=cv2.INTER_CUBIC), 0.0)


def rotate_label(task: Task, label: np.ndarray, matrix: np.ndarray, axes: NormalsAxes | None) -> np.ndarray:
    """Rotate a map, keeping its size; what comes from outside is unknown.

    Args:
        task: The task of the map.
        label: ``(H, W)`` or ``(H, W, C)``.
        matrix: ``(2, 3)`` affine matrix of OpenCV, from source to target pixels.
        axes: Axes of directions and displacements, which turn with the picture (about the z axis); other maps need
            none.
    """
    size = label.shape[1::-1]
    if task.kind != 'vectors':
        border = (task.ignore,) * 4
        rotated = _by_channels(
            label, lambda part: cv2.warpAffine(part, matrix, size, flags=cv2.INTER_NEAREST, borderValue=border)
        )
    else:
        known = cv2.warpAffine(known_vectors(label), matrix, size, flags=cv2.INTER_NEAREST, borderValue=0)
        rotated = unit_vectors(rotate_channels(label, matrix, (0,) * label.shape[2]), _SHORTEST_SUM, known)
    turns = task.motion in ('direction', 'displacement')
    return turn_values(rotated, axes, matrix[:, :2]) if turns else rotated


def turn_values(values: np.ndarray, axes: NormalsAxes, matrix: np.ndarray) -> np.ndarray:
    """Directions or displacements ``(H, W, 2)`` or ``(H, W, 3)`` in a picture that was turned.

    Args:
        values: Those of the picture before, at the places of their pixels now.
        axes: Where x and y point.
        matrix: ``(2, 2)``, from steps (x, y) in the picture before to steps in the picture now.
    """
    channels = values.shape[2]
    return cv2.transform(values, axes.turn(matrix)[:channels, :channels])


def rotate_channels(array: np.ndarray, matrix: np.ndarray, border: Sequence[float]) -> np.ndarray:
    """Rotate an image or a map of vectors by bilinear interpolation, keeping its size.

    Args:
        array: ``(H, W, C)``.
        matrix: As in :func:`rotate_label`.
        border: What comes from outside, per channel.
    """
    size = array.shape[1::-1]
    # Three channels at once take OpenCV longer than one after another; the numbers are the same.
    return cv2.merge(
        [
            cv2.warpAffine(channel, matrix, size, flags=cv2.INTER_LINEAR, borderValue=value)
            for channel, value in zip(cv2.split(array), border, strict=True)
        ]
    )


def counted_label(task: Task, label: np.ndarray) -> np.ndarray:
    """A map as it counts in losses and scores: unknown everywhere where it needs foreground and has none."""
    if task.needs_foreground and not ((label != 0) & task.known(label)).any():
        return np.full_like(label, task.ignore)
    return label


def pad_label(task: Task, label: np.ndarray, width: int, height: int) -> np.ndarray:
    """Pad a map at the right and at the bottom to ``(height, width)`` pixels with unknown."""
    return _by_channels(label, lambda part: pad_right_bottom(part, width, height, task.ignore))


def pad_right_bottom(
    array: np.ndarray, width: int, height: int, value: float | tuple[float, float, float]
) -> np.ndarray:
    """Pad an image or a map at the right and at the bottom to ``(height, width)`` pixels."""
    bottom, right = height - array.shape[0], width - array.shape[1]
    if not bottom and not right:
        return array
    if np.isscalar(value):
        value = (value,) * 4
    return cv2.copyMakeBorder(array, 0, bottom, 0, right, cv2.BORDER_CONSTANT, value=value)


def _rescaled(task: Task, before: np.ndarray, now: np.ndarray) -> np.ndarray:
    """Values of a map that was resized."""
    return task.rescaled(now, *(new / old for new, old in zip(now.shape[1::-1], before.shape[1::-1], strict=True)))


def _by_channels(label: np.ndarray, move: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """What OpenCV does to a map, of which it fills the border of four channels at most."""
    if label.ndim == 2 or label.shape[2] <= 4:
        return move(label)
    return cv2.merge([move(channel) for channel in cv2.split(label)])
