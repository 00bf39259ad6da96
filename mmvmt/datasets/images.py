"""Reading of pictures: their orientation, their grey levels, and JPEGs at a fraction of their size."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from .files import decode_by_opencv, decode_picture, read_bytes

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
_BACK = _TURNS | {6: _TURNS[8], 8: _TURNS[6]}
"""What brings an upright photo back to how it is stored."""


class Photo(NamedTuple):
    """A picture that was read.

    Args:
        pixels: ``(ceil(H / reduction), ceil(W / reduction), 3)`` uint8 in BGR order.
        shape: Height H and width W of the whole picture, in pixels, as it stands.
        reduction: 1, 2, 4 or 8.
        orientation: Of the pixels in the file, by EXIF's numbers; 1 is upright.
    """

    pixels: np.ndarray
    shape: tuple[int, int]
    reduction: int
    orientation: int


def read_image(path: str, upright: bool = False, content: bytes | Image.Image | None = None) -> np.ndarray:
    """Read a picture, in the orientation its pixels are stored in, which is the one its label maps were drawn in.

    Args:
        path: A file in any format that Pillow or OpenCV reads. Of grey levels with 16 bits the upper 8 are taken; what
            is transparent gets the colours that are stored beneath.
        upright: Turn a photo as viewers show it, by the orientation in its EXIF data.
        content: The bytes of the file, or what Pillow opened; ``path`` is then only its name.

    Returns:
        ``(H, W, 3)`` uint8 in BGR order.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is truncated or no picture, or its grey levels have no known range.
    """
    return read_photo(path, upright, content=content).pixels


def read_photo(
    path: str,
    upright: bool = False,
    smallest: Callable[[int, int], tuple[int, int]] | None = None,
    content: bytes | Image.Image | None = None,
) -> Photo:
    """Read a picture, and what is known of it.

    One that will be made smaller anyway is decoded at a half, a quarter or an eighth, if it is a JPEG and that
    suffices: the codec then computes fewer pixels, each of which covers ``reduction`` x ``reduction`` pixels of the
    file. Where that does not divide a size, the last pixel reaches over the edge of the picture.

    Args:
        path: As in :func:`read_image`.
        upright: As in :func:`read_image`; a photo that has to be turned is not reduced.
        smallest: Gives the height and width that are needed, from those of the file. None: all pixels.
        content: As in :func:`read_image`.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is truncated or no picture, or its grey levels have no known range.
    """
    orientation, shape, reduction = 1, (0, 0), 1

    def prepare(picture: Image.Image) -> None:
        nonlocal orientation, shape, reduction
        orientation = _orientation(picture)
        if smallest is not None and picture.format == 'JPEG' and not (upright and orientation != 1):
            shape = picture.height, picture.width
            height, width = smallest(*shape)
            drafted = picture.draft(picture.mode, (width, height))
            if drafted is not None:
                (_, _, reduced_width, _) = drafted[1]
                reduction = round(shape[1] / reduced_width)

    try:
        decoded = decode_picture(path, prepare, content)
    except ValueError as error:
        if not isinstance(error.__cause__, UnidentifiedImageError) or not isinstance(content, (bytes, type(None))):
            raise
        pixels = decode_by_opencv(path, read_bytes(path) if content is None else content, cv2.IMREAD_COLOR)
        return Photo(pixels, pixels.shape[:2], 1, 1)
    picture = _turned(decoded, orientation, upright)
    if reduction == 1:
        shape = picture.height, picture.width
    return Photo(_bgr(picture, path), shape, reduction, orientation)


def _orientation(picture: Image.Image) -> int:
    """EXIF's number; 1 where it is absent, and where the EXIF data are damaged, as viewers have it."""
    try:
        orientation = picture.getexif().get(ExifTags.Base.Orientation)
    except (OSError, SyntaxError, ValueError, struct.error):
        return 1
    return orientation if orientation in _TURNS else 1


def _turned(picture: Image.Image, orientation: int, upright: bool) -> Image.Image:
    """A decoded picture, upright or as it is stored."""
    # Pillow has turned a TIFF by itself, and has then taken the orientation out.
    is_upright = orientation == 1 or _orientation(picture) == 1
    if orientation == 1 or is_upright == upright:
        return picture
    return picture.transpose((_TURNS if upright else _BACK)[orientation])


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
