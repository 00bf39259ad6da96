"""Files of label maps as arrays, whatever format they are stored in, and what the numbers in them stand for.

What another container holds without doubt is read: class maps and masks as palette, grey or bilevel pictures with 8 or
16 bits, or in three equal channels; whole numbers in floating point.
"""

from __future__ import annotations

import io
import os.path as osp
import zipfile
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from . import files

# Formats of numbers, which Pillow does not know.
_FLOAT_PICTURES = ('.exr', '.hdr', '.pfm')
# Tag of a TIFF.
_BITS_PER_SAMPLE = 258


class StoredMap(NamedTuple):
    """A map as its file holds it.

    Args:
        values: ``(H, W)`` or ``(H, W, C)``; channels of pictures in the order red, green, blue.
        palette: ``(256, 3)`` uint8, the colours of the indices that ``values`` holds then; None for other files.
        is_picture: Whether whole numbers are levels, of which the largest that the type holds is white.
        mode: Pillow's name for the channels of a picture.
    """

    values: np.ndarray
    palette: np.ndarray | None = None
    is_picture: bool = True
    mode: str = ''


def read_map(path: str, key: str | None = None) -> StoredMap:
    """Read a map from a picture (PNG, TIFF, ... with 8 or 16 bits or floating-point numbers, OpenEXR where OpenCV has
    it), a NumPy file or a MATLAB 5 file.

    Args:
        path: The file; its ending says what it is: ``.npy``, ``.npz``, ``.mat``, else a picture.
        key: Name of the array in an ``.npz`` or ``.mat`` file. None: the only one that it has.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is damaged or of another kind, or has no such array.
    """
    ending = osp.splitext(path)[1].lower()
    if ending == '.npy':
        return StoredMap(_of_numbers(_read_npy(path), path), is_picture=False)
    if ending == '.npz':
        return StoredMap(_of_numbers(_read_npz(path, key), path), is_picture=False)
    if ending == '.mat':
        return StoredMap(_of_numbers(files.read_mat(path, key), path), is_picture=False)
    data = files.read_bytes(path)
    if ending in _FLOAT_PICTURES or _is_deep_png(data):
        return StoredMap(_decode_by_opencv(path, data))
    try:
        picture = files.decode_picture(path, content=data)
    except ValueError as error:
        # Pillow has no mode for several channels of 16 bits or of floating-point numbers, as TIFFs have them.
        if not isinstance(error.__cause__, UnidentifiedImageError):
            raise
        return StoredMap(_decode_by_opencv(path, data))
    if picture.format == 'TIFF' and len(bits := picture.tag_v2.get(_BITS_PER_SAMPLE, ())) > 1 and max(bits) > 8:
        # Pillow cuts these down to 8 bits.
        return StoredMap(_decode_by_opencv(path, data))
    return _of_picture(picture, path)


def one_channel(stored: StoredMap, path: str, what: str) -> np.ndarray:
    """The one channel of a map, ``(H, W)``: also of three equal ones.

    Raises:
        ValueError: It has several.
    """
    values = stored.values
    if values.ndim == 2:
        return values
    if values.shape[2] == 1 or (values.shape[2] == 3 and (values == values[..., :1]).all()):
        return values[..., 0].copy()
    if not stored.mode:
        raise ValueError(f'{path} holds an array {values.shape}; {what} have one channel, (height, width)')
    raise ValueError(
        f'{path} is a picture of mode {stored.mode!r}, in colours; {what} must be palette or grey-level PNGs, which '
        'hold indices or levels and not the colours that classes are painted in'
    )


def whole_numbers(values: np.ndarray, path: str) -> np.ndarray:
    """Numbers as integers, whatever type they are stored in.

    Raises:
        ValueError: They are no whole numbers.
    """
    if values.dtype.kind in 'ui' and values.dtype.itemsize < 8:
        return values
    if values.dtype.kind == 'b':
        return values.view(np.uint8)
    # NaN is none, and a cast of what is too large is another number.
    with np.errstate(invalid='ignore'):
        whole = values.astype(np.int32)
    if not np.array_equal(whole, values):
        raise ValueError(f'{path} holds {values.dtype} that are no indices; a map of classes holds whole numbers')
    return whole


def check_classes(labels: np.ndarray, path: str, task: str, num_classes: int, ignore: int) -> None:
    """Refuse a map of classes with an index that is none.

    Args:
        labels: ``(H, W)`` integers.
        path: Its file.
        task: Name of the task.
        num_classes: Number of classes, background included.
        ignore: Index of unknown pixels.

    Raises:
        ValueError: It holds one.
    """
    # A comparison of whole maps is cheap; locating the pixel is left to the failing case.
    wrong = (labels >= num_classes) & (labels != ignore)
    if labels.dtype.kind == 'i':
        wrong |= labels < 0
    if not wrong.any():
        return
    y, x = np.argwhere(wrong)[0]
    shifted = 'Are they shifted by one? ' if set(labels[wrong].tolist()) == {num_classes} else ''
    raise ValueError(
        f'{path} holds the class {labels[y, x]} at pixel (x={x}, y={y}); {task} classes are 0 to {num_classes - 1}, '
        f'and {ignore} where ignored. {shifted}If the files have more, give the data set '
        f'num_classes=dict({task}=N), and head and metric the same'
    )


def grey_levels(stored: StoredMap, path: str) -> np.ndarray:
    """The grey levels of a mask.

    Args:
        stored: A grey-level or bilevel picture, or a palette of greys. A palette of colours stands for indices: they
            must be 0 and 1, or 0 and 255.
        path: Its file.

    Returns:
        ``(H, W)`` uint8; of 16 bits the upper 8.

    Raises:
        ValueError: It is in colour.
    """
    if stored.palette is not None:
        return _palette_levels(stored.values, stored.palette, path)
    levels = one_channel(stored, path, 'masks')
    if levels.dtype.kind == 'b':
        return levels * np.uint8(255)
    return levels if levels.dtype == np.uint8 else (levels >> 8).astype(np.uint8)


def _of_picture(picture: Image.Image, path: str) -> StoredMap:
    # A copy, because the pixels of a decoded picture are read-only.
    values, palette, mode = np.array(picture), None, picture.mode
    if mode == 'P':
        palette = np.zeros((256, 3), dtype=np.uint8)
        colors = np.array(picture.getpalette('RGB'), dtype=np.uint8).reshape(-1, 3)
        palette[: len(colors)] = colors
    elif mode == '1':
        # Pillow's truth values are bytes of 255.
        values = np.array(picture.convert('L')) > 0
    elif mode == 'LA':
        values = values[..., 0].copy()
    elif mode == 'RGBA' and (values[..., 3] == 255).all():
        values = values[..., :3].copy()
    elif mode.startswith('I;16') or (mode == 'I' and picture.format == 'PNG'):
        # Some releases of Pillow read 16 bits into 32.
        values = values.astype(np.uint16)
    elif mode not in ('1', 'L', 'I', 'F', 'RGB', 'RGBA'):
        raise ValueError(f'{path} is a picture of mode {mode!r}; label maps are grey levels, a palette or RGB')
    return StoredMap(values, palette, is_picture=mode not in ('I', 'F') or values.dtype == np.uint16, mode=mode)


def _is_deep_png(data: bytes) -> bool:
    """Whether a PNG has 16 bits in several channels, of which Pillow drops the lower 8."""
    return data[:8] == b'\x89PNG\r\n\x1a\n' and len(data) > 25 and data[24] == 16 and data[25] in (2, 4, 6)


def _decode_by_opencv(path: str, data: bytes) -> np.ndarray:
    values = files.decode_by_opencv(path, data, cv2.IMREAD_UNCHANGED)
    if values.ndim == 3 and values.shape[2] == 4 and (values[..., 3] == values[..., 3].max()).all():
        values = values[..., :3]
    if values.ndim == 3 and values.shape[2] in (3, 4):
        values = values[..., [2, 1, 0, 3][: values.shape[2]]]
    return np.ascontiguousarray(values)


def _read_npy(path: str) -> np.ndarray:
    data = files.read_bytes(path)
    try:
        return np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
    except ValueError as error:
        raise ValueError(
            f'cannot read {path} ({len(data)} bytes) as a NumPy file: {error}; it is truncated or of another kind, '
            'fetch that file again'
        ) from error


def _read_npz(path: str, key: str | None) -> np.ndarray:
    data = files.read_bytes(path)
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            return archive[files.only_key(path, archive.files, key)]
    except (zipfile.BadZipFile, ValueError, OSError, EOFError) as error:
        if isinstance(error, files.NoSuchArrayError):
            raise
        raise ValueError(
            f'cannot read {path} ({len(data)} bytes) as an .npz file: {error}; it is truncated or of another kind, '
            'fetch that file again'
        ) from error


def _of_numbers(array: np.ndarray, path: str) -> np.ndarray:
    """An array that can be a map."""
    if array.dtype.kind not in 'buif' or array.ndim not in (2, 3) or not array.size:
        raise ValueError(
            f'{path} holds {array.dtype} of shape {array.shape}; a label map is (height, width) or (height, width, '
            'channels) of numbers'
        )
    if array.dtype.byteorder == '>':
        array = array.astype(array.dtype.newbyteorder('='))
    return np.ascontiguousarray(array)


def _palette_levels(indices: np.ndarray, palette: np.ndarray, path: str) -> np.ndarray:
    """The grey levels that a palette gives to indices."""
    used = np.unique(indices)
    if (palette[used] == palette[used, :1]).all():
        return palette[:, 0].take(indices)
    if set(used.tolist()) <= {0, 1}:
        return indices * np.uint8(255)
    if set(used.tolist()) <= {0, 255}:
        return indices
    raise ValueError(
        f'{path} is a palette of colours with the indices {used.tolist()[:10]}: which of them are foreground is not '
        'known; save the mask in grey levels, or say by threshold or id_map which'
    )
