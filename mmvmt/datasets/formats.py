"""Readers of the label files that PASCAL-Context's multi-task edition has alone, from path to label map.

All are strict: a file that is missing, cut short or holds something else raises an error that names it.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from mmvmt.structures import IGNORE_INDEX

from .files import decode_picture, read_mat
from .pascal_context_classes import normals_valid_ids, pascal_context_classes
from .vectors import unit_vectors

PERSON = 15
"""Class index of a person in the files of the part annotations."""

PART_GROUPS: dict[str, tuple[str, ...]] = {
    'head': ('hair', 'head', 'lear', 'rear', 'leye', 'reye', 'lebrow', 'rebrow', 'nose', 'mouth'),
    'torso': ('torso', 'neck'),
    'upper arms': ('luarm', 'ruarm'),
    'lower arms': ('llarm', 'rlarm', 'lhand', 'rhand'),
    'upper legs': ('luleg', 'ruleg'),
    'lower legs': ('llleg', 'rlleg', 'lfoot', 'rfoot'),
}
"""Parts of a person in the files, merged into the classes 1 to 6; 0 is the background."""

_PART_CLASS = {part: index for index, parts in enumerate(PART_GROUPS.values(), 1) for part in parts}
SHORTEST_NORMAL = 0.1
"""Codes whose vector is shorter are grey: 8 bits leave them no direction."""


def read_normals(path: str, valid: np.ndarray | None = None) -> np.ndarray:
    """Read surface normals ``n = 2 x / 255 - 1`` and scale them to unit length.

    Args:
        path: ``normals_distill/ID.png``, an RGB picture.
        valid: ``(H, W)`` bool, see :func:`normals_validity`; None: valid everywhere.

    Returns:
        ``(H, W, 3)`` float32, in the axes of the file (see :class:`mmvmt.structures.NormalsAxes`); the zero vector
        where the code is grey and where it is not valid.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is truncated, no RGB picture, or of another size than ``valid``.
    """
    codes = read_normal_codes(path)
    if valid is not None and valid.shape != codes.shape[:2]:
        raise ValueError(size_mismatch(path, codes.shape[:2], valid.shape, other='the map of where it is valid'))
    return unit_normals(decode_normals(codes), valid)


def read_normal_codes(path: str) -> np.ndarray:
    """Read the picture of a map of normals.

    Returns:
        ``(H, W, 3)`` uint8, RGB.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is truncated or no RGB picture.
    """
    picture = decode_picture(path)
    if picture.mode == 'RGBA' and picture.getextrema()[3] == (255, 255):
        picture = picture.convert('RGB')
    if picture.mode != 'RGB':
        raise ValueError(f'{path} is a picture of mode {picture.mode!r}; normals must be an RGB PNG')
    return np.asarray(picture)


def decode_normals(codes: np.ndarray) -> np.ndarray:
    """The vectors of codes ``(H, W, 3)`` uint8: ``(H, W, 3)`` float32, as long as they were stored."""
    normals = codes.astype(np.float32)
    normals *= 2 / 255
    normals -= 1
    return normals


def unit_normals(normals: np.ndarray, valid: np.ndarray | None = None) -> np.ndarray:
    """Scale decoded normals to unit length, in place; the zero vector where too short to have a direction and where not
    ``valid``, ``(H, W)`` bool."""
    return unit_vectors(normals, SHORTEST_NORMAL, None if valid is None else valid.view(np.uint8))


def read_context_labels(path: str) -> np.ndarray:
    """Read the map of the 459 PASCAL-Context classes.

    Args:
        path: ``pascal-context/trainval/ID.mat`` with the variable ``LabelMap``.

    Returns:
        ``(H, W)`` uint16 ids; 0 where unlabelled.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged, has no ``LabelMap``, or holds an id outside the list.
    """
    labels = read_mat(path, 'LabelMap')
    largest = max(pascal_context_classes().values())
    if labels.dtype.kind == 'f' and np.array_equal(labels, np.rint(labels)):
        # MATLAB computes in double precision, and saves so unless told otherwise.
        labels = labels.astype(np.int64)
    if labels.ndim != 2 or labels.size == 0 or labels.dtype.kind not in 'ui':
        raise ValueError(f'LabelMap in {path} is {labels.dtype} of shape {labels.shape}; expected a map of integers')
    if labels.min() < 0 or labels.max() > largest:
        raise ValueError(
            f'LabelMap in {path} holds values from {labels.min()} to {labels.max()}; ids go from 0 to {largest}'
        )
    # MATLAB's columns become rows, as in all other maps.
    return cv2.transpose(np.ascontiguousarray(labels.T, dtype=np.uint16))


def normals_validity(context_labels: np.ndarray) -> np.ndarray:
    """Where normals are valid, by the rule of the benchmark.

    Args:
        context_labels: ``(H, W)`` uint16 ids from :func:`read_context_labels`.

    Returns:
        ``(H, W)`` bool.
    """
    valid = np.zeros(max(pascal_context_classes().values()) + 1, dtype=bool)
    valid[list(normals_valid_ids())] = True
    return valid.take(context_labels)


def read_human_parts(path: str, shape: tuple[int, int]) -> np.ndarray:
    """Read the parts of all persons and merge them into seven classes (:data:`PART_GROUPS`).

    Left and right count as one class. Where parts overlap, the later one in the file wins. Pixels of persons outside
    every part are background. Persons and parts whose masks are empty count as absent. An image without any part of a
    person is 255 everywhere: it counts in neither loss nor score.

    Args:
        path: ``human_parts/ID.mat`` with the variable ``anno``.
        shape: Height and width of the image, in pixels.

    Returns:
        ``(H, W)`` uint8, of the size of the masks in the file; of ``shape`` where there is none.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged, has no ``anno``, a part of unknown name, a person by another class index, or
            masks of different sizes.
    """
    anno = read_mat(path, 'anno')
    # MATLAB stores masks column by column, and so does this map until it is complete.
    columns = None
    try:
        for person in _fields(anno.ravel()[0][1]):
            name, index = _text(person[0]), int(np.asarray(person[1]).ravel()[0])
            if name == 'person' and index != PERSON:
                raise ValueError(f'{path} has a person with the class index {index}; it must be {PERSON}')
            if index != PERSON or not np.any(person[2]):
                continue
            for part in _fields(person[3]):
                name, mask = _text(part[0]), np.asarray(part[1])
                if name not in _PART_CLASS:
                    raise ValueError(f'{path} has a person with a part named {name!r}; known: {sorted(_PART_CLASS)}')
                if not mask.any():
                    continue
                if columns is None:
                    columns = np.zeros(mask.shape[::-1], dtype=np.uint8)
                if mask.shape != columns.shape[::-1]:
                    what = f'mask of part {name!r}'
                    raise ValueError(size_mismatch(path, mask.shape, columns.shape[::-1], what, 'another part'))
                # OpenCV writes through a mask many times faster than NumPy.
                inside = np.ascontiguousarray(mask.T != 0).view(np.uint8)
                cv2.copyTo(np.full_like(columns, _PART_CLASS[name]), inside, columns)
    except (IndexError, TypeError) as error:
        raise ValueError(
            f'anno in {path} is not nested as anno[0][0][1][0]: objects of (class, class index, mask, parts) with '
            f'parts of (name, mask): {error}'
        ) from error
    return np.full(shape, IGNORE_INDEX, dtype=np.uint8) if columns is None else cv2.transpose(columns)


def size_mismatch(
    path: str, got: tuple[int, ...], expected: tuple[int, ...], what: str = 'label map', other: str = 'the image'
) -> str:
    """Message for a label that does not fit; both sizes are given as height x width."""
    return (
        f'size mismatch: the {what} in {path} has {" x ".join(map(str, got))} pixels (height x width), {other} has '
        f'{" x ".join(map(str, expected))}; fetch that file again'
    )


def _fields(array: Any) -> np.ndarray:
    """The elements of a MATLAB struct array; MATLAB writes an absent one as an empty matrix."""
    return np.asarray(array).ravel()


def _text(array: Any) -> str:
    return str(np.asarray(array).ravel()[0])
