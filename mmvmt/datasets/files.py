"""Files of a data folder as they are: bytes, decoded pictures, variables of MATLAB. A damaged one is named.

Pictures decode with Pillow, which refuses truncated streams in every release, while OpenCV 4 returns the missing half
as grey.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable

import numpy as np
from PIL import Image, UnidentifiedImageError
from scipy.io import loadmat

_PNG_END = b'IEND\xaeB`\x82'


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
    # Pillow is content once all pixels are there; a PNG without its end was cut while it was written.
    if picture.format == 'PNG' and isinstance(data, bytes) and _PNG_END not in data:
        raise ValueError(f'cannot decode {path}{size}: PNG truncated before its end, fetch it again')
    return picture


def read_mat(path: str, variable: str) -> np.ndarray:
    """A variable of a MATLAB 5 file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged or of another kind, or has no such variable.
    """
    data = read_bytes(path)
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
