"""Readers of the label files of PASCAL-Context's multi-task edition: one function per kind, from path to label map.

All are strict: a file that is missing, cut short or holds something else raises an error that names it. What another
container holds without doubt is read: class maps and masks as palette, grey or bilevel pictures with 8 or 16 bits, or
in three equal channels; whole numbers in floating point.
"""

from __future__ import annotations

import io
from typing import Any

import cv2
import numpy as np
from PIL import Image

from mmvmt.structures import IGNORE_INDEX

from .files import decode_picture, read_bytes, read_mat
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
# Codes whose vector is shorter than this are grey: 8 bits leave them no direction.
_SHORTEST_NORMAL = 0.1
# Depths that are all whole numbers and that large are no metres: nothing measures only full ones.
_LARGEST_WHOLE_DEPTH = 100


def read_semseg(path: str, num_classes: int = 21) -> np.ndarray:
    """Read a map of class indices.

    Args:
        path: ``semseg/*/ID.png``.
        num_classes: Number of classes; larger indices other than 255 are an error.

    Returns:
        ``(H, W)`` uint8, 255 where ignored.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is truncated, painted in colours, or holds an index that is no class.
    """
    picture = decode_picture(path)
    # A copy, because the pixels of a decoded picture are read-only.
    labels = np.array(picture) if picture.mode == 'P' else _grey_levels(picture, path, 'class maps')
    if labels.max() > IGNORE_INDEX:
        raise ValueError(f'{path} holds the class {labels.max()}; a map of classes goes up to {IGNORE_INDEX}')
    labels = labels.astype(np.uint8, copy=False)
    # A comparison of whole maps is cheap; locating the pixel is left to the failing case.
    wrong = (labels >= num_classes) & (labels != IGNORE_INDEX)
    if wrong.any():
        y, x = np.argwhere(wrong)[0]
        shifted = 'Are they shifted by one? ' if set(labels[wrong]) == {num_classes} else ''
        raise ValueError(
            f'{path} holds the class {labels[y, x]} at pixel (x={x}, y={y}); semseg classes are 0 to '
            f'{num_classes - 1}, and {IGNORE_INDEX} where ignored. {shifted}If the files have more, give the data set '
            f'num_classes=dict(semseg=N), and head and metric the same'
        )
    return labels


def read_saliency(path: str) -> np.ndarray:
    """Read a saliency mask: foreground where the grey level exceeds half of 255.

    Args:
        path: ``sal_distill/ID.png``, see :func:`read_levels`.

    Returns:
        ``(H, W)`` uint8, 0 or 1.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is truncated or no grey-level picture.
    """
    return saliency_mask(read_levels(path))


def read_levels(path: str) -> np.ndarray:
    """Read the grey levels of a mask.

    Args:
        path: A grey-level or bilevel PNG, or a palette of greys. A palette of colours stands for indices: they must be
            0 and 1, or 0 and 255.

    Returns:
        ``(H, W)`` uint8; of 16 bits the upper 8.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is truncated or in colour.
    """
    picture = decode_picture(path)
    if picture.mode == 'P':
        return _palette_levels(picture, path)
    if picture.mode == '1':
        return np.asarray(picture.convert('L'))
    levels = _grey_levels(picture, path, 'masks')
    return levels if levels.dtype == np.uint8 else (levels >> 8).astype(np.uint8)


def saliency_mask(levels: np.ndarray) -> np.ndarray:
    """Foreground of grey levels ``(H, W)`` uint8, where they exceed half of 255: ``(H, W)`` uint8, 0 or 1."""
    return (levels > 127).astype(np.uint8)


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
    return unit_vectors(normals, _SHORTEST_NORMAL, None if valid is None else valid.view(np.uint8))


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


def read_depth(path: str) -> np.ndarray:
    """Read a depth map, in the format that MTI-Net's edition of NYUD-v2 has.

    Args:
        path: ``depth/ID.npy``.

    Returns:
        ``(H, W)`` float32 metres, 0 where unknown.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged, or no map of finite metres from 0 on.
    """
    data = read_bytes(path)
    try:
        depth = np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
    except ValueError as error:
        raise ValueError(
            f'cannot read {path} ({len(data)} bytes) as a NumPy file: {error}; it is truncated or of another kind, '
            'fetch that file again'
        ) from error
    if depth.ndim != 2 or depth.size == 0 or depth.dtype.kind != 'f':
        raise ValueError(
            f'{path} holds {depth.dtype} of shape {depth.shape}; expected a map of metres, floating-point numbers'
            + ('. Millimetres? Divide them by 1000' if depth.dtype.kind in 'ui' else '')
        )
    depth = depth.astype(np.float32)
    if not np.isfinite(depth).all() or depth.min() < 0:
        raise ValueError(f'{path} holds negative or infinite depths or NaN; metres are positive, 0 where unknown')
    if depth.max() > _LARGEST_WHOLE_DEPTH and np.array_equal(depth, np.rint(depth)):
        known = depth[depth > 0]
        raise ValueError(
            f'{path} holds whole numbers alone, from {known.min():.0f} to {known.max():.0f}: these are no metres. '
            'Millimetres? Divide them by 1000'
        )
    return depth


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


def _grey_levels(picture: Image.Image, path: str, what: str) -> np.ndarray:
    """The one channel of a picture, ``(H, W)`` with 8 or 16 bits; 0 and 1 of a bilevel one."""
    # Releases of Pillow differ in the mode of 16 bits.
    if picture.mode in ('L', '1', 'I') or picture.mode.startswith('I;16'):
        levels = np.array(picture)
        return levels.astype(np.uint8 if levels.dtype.itemsize == 1 else np.int32, copy=False)
    channels = np.asarray(picture)
    if picture.mode == 'LA':
        return channels[..., 0].copy()
    if picture.mode == 'RGB' and (channels == channels[..., :1]).all():
        return channels[..., 0].copy()
    raise ValueError(
        f'{path} is a picture of mode {picture.mode!r}, in colours; {what} must be palette or grey-level PNGs, which '
        'hold indices or levels and not the colours that classes are painted in'
    )


def _palette_levels(picture: Image.Image, path: str) -> np.ndarray:
    """The grey levels that a palette gives to indices."""
    indices = np.asarray(picture)
    used = np.unique(indices)
    colors = np.zeros((256, 3), dtype=np.uint8)
    palette = np.array(picture.getpalette('RGB'), dtype=np.uint8).reshape(-1, 3)
    colors[: len(palette)] = palette
    if (colors[used] == colors[used, :1]).all():
        return colors[:, 0].take(indices)
    if set(used.tolist()) <= {0, 1}:
        return indices * np.uint8(255)
    if set(used.tolist()) <= {0, 255}:
        return np.array(indices)
    raise ValueError(
        f'{path} is a palette of colours with the indices {used.tolist()[:10]}: which of them are salient is not '
        'known; save the mask in grey levels'
    )
