"""Readers of the files of PASCAL-Context's multi-task edition: one function per kind of file, from path to label map.

All are strict: a file that is missing, cut short or holds something else raises an error that names it. Files decode
with Pillow, which refuses truncated streams in every release, while OpenCV 4 returns the missing half as grey.
"""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError
from scipy.io import loadmat

from mmvmt.structures import IGNORE_INDEX

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
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes a photo upright, by the orientation in its EXIF data."""
_PNG_END = b'IEND\xaeB`\x82'
# Codes whose vector is shorter than this are grey: 8 bits leave them no direction.
_SHORTEST_NORMAL = 0.1


def read_image(path: str, upright: bool = False) -> np.ndarray:
    """Read a picture, in the orientation its pixels are stored in, which is the one its label maps were drawn in.

    Args:
        path: A file in any format that Pillow reads. Of grey levels with 16 bits the upper 8 are taken; what is
            transparent gets the colours that are stored beneath.
        upright: Turn a photo as viewers show it, by the orientation in its EXIF data.

    Returns:
        ``(H, W, 3)`` uint8 in BGR order.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is truncated or no picture, or its grey levels have no known range.
    """
    picture = _decode(path)
    turn = _turn(picture) if upright else None
    return _bgr(picture if turn is None else picture.transpose(turn), path)


def read_reduced_image(
    path: str, smallest: Callable[[int, int], tuple[int, int]], upright: bool = False
) -> tuple[np.ndarray, tuple[int, int], int]:
    """Read a picture that will be made smaller anyway: a JPEG at a half, a quarter or an eighth, if that suffices.

    The codec then computes fewer pixels; each covers ``reduction`` x ``reduction`` pixels of the file. Where that does
    not divide a size, the last pixel reaches over the edge of the picture.

    Args:
        path: A file in any format that Pillow reads.
        smallest: Gives the height and width that are needed, from those of the file.
        upright: As in :func:`read_image`; a photo that has to be turned is not reduced.

    Returns:
        ``(ceil(H / reduction), ceil(W / reduction), 3)`` uint8 in BGR order; height H and width W of the picture in the
        file; ``reduction``: 1, 2, 4 or 8.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is truncated or no picture, or its grey levels have no known range.
    """
    shape, reduction = (0, 0), 1

    def reduce(picture: Image.Image) -> None:
        nonlocal shape, reduction
        shape = picture.height, picture.width
        if picture.format == 'JPEG' and not (upright and _turn(picture) is not None):
            height, width = smallest(*shape)
            drafted = picture.draft(picture.mode, (width, height))
            if drafted is not None:
                (_, _, reduced_width, _) = drafted[1]
                reduction = round(shape[1] / reduced_width)

    picture = _decode(path, reduce)
    turn = _turn(picture) if upright else None
    if turn is not None:
        picture = picture.transpose(turn)
        shape = picture.height, picture.width
    return _bgr(picture, path), shape, reduction


def read_semseg(path: str, num_classes: int = 21) -> np.ndarray:
    """Read a map of class indices from a palette or grey-level PNG.

    Args:
        path: ``semseg/*/ID.png``.
        num_classes: Number of classes; larger indices other than 255 are an error.

    Returns:
        ``(H, W)`` uint8, 255 where ignored.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is truncated, in colour, or holds an index that is no class.
    """
    labels = _read_indices(path)
    # A comparison of whole maps is cheap; locating the pixel is left to the failing case.
    wrong = (labels >= num_classes) & (labels != IGNORE_INDEX)
    if wrong.any():
        y, x = np.argwhere(wrong)[0]
        raise ValueError(
            f'{path} holds the class {labels[y, x]} at pixel (x={x}, y={y}); semseg classes are 0 to '
            f'{num_classes - 1}, and {IGNORE_INDEX} where ignored. If the files have more, give the data set '
            f'num_classes=dict(semseg=N), and head and metric the same'
        )
    return labels


def read_saliency(path: str) -> np.ndarray:
    """Read a saliency mask: foreground where the grey level exceeds half of 255.

    Args:
        path: ``sal_distill/ID.png``.

    Returns:
        ``(H, W)`` uint8, 0 or 1.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is truncated or no grey-level picture.
    """
    picture = _decode(path)
    if picture.mode not in ('L', '1'):
        raise ValueError(f'{path} is a picture of mode {picture.mode!r}; a saliency mask must be a grey-level PNG')
    return (np.asarray(picture.convert('L')) > 127).astype(np.uint8)


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
    picture = _decode(path)
    if picture.mode != 'RGB':
        raise ValueError(f'{path} is a picture of mode {picture.mode!r}; normals must be an RGB PNG')
    if valid is not None and valid.shape != (picture.height, picture.width):
        raise ValueError(size_mismatch(path, (picture.height, picture.width), valid.shape))
    normals = np.asarray(picture).astype(np.float32)
    normals *= 2 / 255
    normals -= 1
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
    labels = _read_mat(path, 'LabelMap')
    largest = max(pascal_context_classes().values())
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
    every part are background. An image without any part of a person is 255 everywhere: it counts in neither loss nor
    score.

    Args:
        path: ``human_parts/ID.mat`` with the variable ``anno``.
        shape: Height and width of the image, in pixels.

    Returns:
        ``(H, W)`` uint8.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged, has no ``anno``, a part of unknown name, or masks of another size.
    """
    anno = _read_mat(path, 'anno')
    # MATLAB stores masks column by column, and so does this map until it is complete.
    columns = np.zeros(shape[::-1], dtype=np.uint8)
    has_parts = False
    try:
        for person in _fields(anno.ravel()[0][1]):
            if int(np.asarray(person[1]).ravel()[0]) != PERSON:
                continue
            for part in _fields(person[3]):
                name, mask = str(np.asarray(part[0]).ravel()[0]), np.asarray(part[1])
                if name not in _PART_CLASS:
                    raise ValueError(f'{path} has a person with a part named {name!r}; known: {sorted(_PART_CLASS)}')
                if mask.shape != tuple(shape):
                    raise ValueError(size_mismatch(path, mask.shape, shape, f'mask of part {name!r}'))
                # OpenCV writes through a mask many times faster than NumPy.
                inside = np.ascontiguousarray(mask.T != 0).view(np.uint8)
                cv2.copyTo(np.full_like(columns, _PART_CLASS[name]), inside, columns)
                has_parts = True
    except (IndexError, TypeError) as error:
        raise ValueError(
            f'anno in {path} is not nested as anno[0][0][1][0]: objects of (class, class index, mask, parts) with '
            f'parts of (name, mask): {error}'
        ) from error
    if not has_parts:
        columns[:] = IGNORE_INDEX
    return cv2.transpose(columns)


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
    data = _read_bytes(path)
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
        )
    depth = depth.astype(np.float32)
    if not np.isfinite(depth).all() or depth.min() < 0:
        raise ValueError(f'{path} holds negative or infinite depths or NaN; metres are positive, 0 where unknown')
    return depth


def size_mismatch(path: str, got: tuple[int, ...], expected: tuple[int, ...], what: str = 'label map') -> str:
    """Message for a label that does not fit its image; both sizes are given as height x width."""
    return (
        f'size mismatch: the {what} in {path} has {" x ".join(map(str, got))} pixels (height x width), the image has '
        f'{" x ".join(map(str, expected))}; fetch that file again'
    )


def _fields(array: Any) -> np.ndarray:
    """The elements of a MATLAB struct array; MATLAB writes an absent one as an empty matrix."""
    return np.asarray(array).ravel()


def _read_bytes(path: str) -> bytes:
    if not os.path.isfile(path):
        raise FileNotFoundError(f'missing file {path}; check the data set with tools/dataset/check_dataset.py')
    with open(path, 'rb') as file:
        return file.read()


def _turn(picture: Image.Image) -> Image.Transpose | None:
    """What makes a photo upright; None where it is, and where its EXIF data are damaged, as viewers have it."""
    try:
        return _TURNS.get(picture.getexif().get(ExifTags.Base.Orientation))
    except (OSError, SyntaxError, ValueError, struct.error):
        return None


def _bgr(picture: Image.Image, path: str) -> np.ndarray:
    # Pillow itself would cut all levels above 255 off.
    if picture.mode.startswith('I;16'):
        return cv2.cvtColor((np.asarray(picture) >> 8).astype(np.uint8), cv2.COLOR_GRAY2BGR)
    if picture.mode in ('I', 'F'):
        raise ValueError(
            f'{path} holds grey levels of 32 bits (mode {picture.mode!r}), whose range is not known; save it with 8 or '
            f'16 bits per channel'
        )
    pixels = np.asarray(picture if picture.mode == 'RGB' else picture.convert('RGB'))
    return cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)


def _decode(path: str, prepare: Callable[[Image.Image], None] | None = None) -> Image.Image:
    """Decode a picture whole; ``prepare`` sees it when only its head is read."""
    data = _read_bytes(path)
    try:
        picture = Image.open(io.BytesIO(data))
        if prepare is not None:
            prepare(picture)
        picture.load()
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        # Pillow's own words name a memory address here.
        reason = 'unknown format' if isinstance(error, UnidentifiedImageError) else error
        raise ValueError(
            f'cannot decode {path} ({len(data)} bytes): {reason}; it is truncated or no picture, fetch that file again'
        ) from error
    # Pillow is content once all pixels are there; a PNG without its end was cut while it was written.
    if picture.format == 'PNG' and _PNG_END not in data:
        raise ValueError(f'cannot decode {path} ({len(data)} bytes): PNG truncated before its end, fetch it again')
    return picture


def _read_indices(path: str) -> np.ndarray:
    picture = _decode(path)
    if picture.mode not in ('P', 'L'):
        raise ValueError(f'{path} is a picture of mode {picture.mode!r}; class maps must be palette or grey-level PNGs')
    # A copy, because the pixels of a decoded picture are read-only.
    return np.array(picture)


def _read_mat(path: str, variable: str) -> np.ndarray:
    data = _read_bytes(path)
    try:
        variables = loadmat(io.BytesIO(data), variable_names=[variable])
    # SciPy's reader meets damage with whatever its next operation raises: ValueError, TypeError, zlib.error, ...
    except Exception as error:
        raise ValueError(
            f'cannot read {path} ({len(data)} bytes) as a MATLAB file: {error}; it is truncated or no MATLAB 5 file, '
            'fetch that file again'
        ) from error
    if variable not in variables:
        raise ValueError(f'{path} has no variable {variable!r}; fetch that file again')
    return variables[variable]
