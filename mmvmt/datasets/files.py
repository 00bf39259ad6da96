"""Files of a data folder as they are: bytes, decoded pictures, variables of MATLAB. A damaged one is named.

Pictures decode with Pillow, which refuses truncated streams in every release, while OpenCV 4 returns the missing half
as grey.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError
from scipy.io import loadmat

_PNG_BEGIN, _PNG_END = b'\x89PNG\r\n\x1a\n', b'IEND\xaeB`\x82'


class NoSuchArrayError(ValueError):
    """A file has no array of a name, or several where one was expected."""


def read_bytes(path: str) -> bytes:
    """The content of a file.

    Raises:
        FileNotFoundError: There is no such file.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f'missing file {path}; check the data set with tools/dataset/check_dataset.py')
    with open(path, 'rb') as file:
        return file.read()


def decode_picture(
    path: str,
    prepare: Callable[[Image.Image], None] | None = None,
    content: bytes | Image.Image | None = None,
) -> Image.Image:
    """Decode a picture whole.

    Args:
        path: A file in any format that Pillow reads.
        prepare: Sees the picture when only its head is read.
        content: The bytes of the file, or what Pillow opened; ``path`` is then only its name.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is truncated or no picture.
    """
    data = read_bytes(path) if content is None else content
    size = f' ({len(data)} bytes)' if isinstance(data, bytes) else ''
    try:
        picture = Image.open(io.BytesIO(data)) if isinstance(data, bytes) else data
        if prepare is not None:
            prepare(picture)
        picture.load()
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        # Pillow's own words name a memory address here.
        reason = 'unknown format' if isinstance(error, UnidentifiedImageError) else error
        raise ValueError(
            f'cannot decode {path}{size}: {reason}; it is truncated or no picture, fetch that file again'
        ) from error
    if picture.format == 'PNG' and isinstance(data, bytes):
        check_png_end(path, data)
    return picture


def decode_by_opencv(path: str, data: bytes, flags: int) -> np.ndarray:
    """Decode a picture in a format that Pillow does not know.

    Args:
        path: The file, for the error.
        data: Its bytes.
        flags: OpenCV's, such as ``cv2.IMREAD_UNCHANGED``.

    Returns:
        ``(H, W)`` or ``(H, W, C)``, with OpenCV's order of channels.

    Raises:
        ValueError: OpenCV cannot decode it.
    """
    check_png_end(path, data)
    reason = 'unknown format'
    try:
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data else None
    except cv2.error as error:
        picture, reason = None, str(error).strip()
    if picture is None:
        # Some releases of OpenCV have this codec switched off, others have none.
        exr = ' (OpenEXR needs an OpenCV that has it, and OPENCV_IO_ENABLE_OPENEXR=1)' if path.endswith('.exr') else ''
        raise ValueError(
            f'cannot decode {path} ({len(data)} bytes): {reason}, neither by Pillow nor by OpenCV{exr}; it is '
            'truncated or no picture, fetch that file again'
        )
    return picture


def check_png_end(path: str, data: bytes) -> None:
    """Refuse a PNG that was cut while it was written: decoders are content once all pixels are there.

    Raises:
        ValueError: It is one.
    """
    if data.startswith(_PNG_BEGIN) and _PNG_END not in data:
        raise ValueError(f'cannot decode {path} ({len(data)} bytes): PNG truncated before its end, fetch it again')


def only_key(path: str, names: Sequence[str], key: str | None) -> str:
    """The name of an array in a file of several.

    Args:
        path: The file, for the error.
        names: What it has.
        key: The name that is wanted; None: the only one.

    Raises:
        NoSuchArrayError: It has no such array, or there is more than one to choose from.
    """
    if key is None and len(names) == 1:
        return names[0]
    if key not in names:
        wanted = 'several arrays, or none' if key is None else f'no variable {key!r}'
        raise NoSuchArrayError(
            f'{path} has {wanted}; it has {sorted(names)}: name one as key, or fetch that file again'
        )
    return key


def read_mat(path: str, variable: str | None) -> np.ndarray:
    """A variable of a MATLAB 5 file.

    Args:
        path: The file.
        variable: Its name; None: the only one.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged or of another kind, or has no such variable.
    """
    data = read_bytes(path)
    try:
        variables = loadmat(io.BytesIO(data), variable_names=None if variable is None else [variable])
    # SciPy's reader meets damage with whatever its next operation raises: ValueError, TypeError, zlib.error, ...
    except Exception as error:
        raise ValueError(
            f'cannot read {path} ({len(data)} bytes) as a MATLAB file: {error}; it is truncated or no MATLAB 5 file, '
            'fetch that file again'
        ) from error
    names = [name for name in variables if not name.startswith('__')]
    return variables[only_key(path, names, variable)]
