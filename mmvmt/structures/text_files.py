"""Text files that people and other programs have written: split lists, JSON."""

from __future__ import annotations

import codecs
import json
import os
from pathlib import Path
from typing import Any

# The marks of UTF-32 begin with those of UTF-16.
_MARKS = (
    (codecs.BOM_UTF8, 'utf-8-sig'),
    (codecs.BOM_UTF32_LE, 'utf-32'),
    (codecs.BOM_UTF32_BE, 'utf-32'),
    (codecs.BOM_UTF16_LE, 'utf-16'),
    (codecs.BOM_UTF16_BE, 'utf-16'),
)


def read_text(path: str | os.PathLike) -> str:
    """Read a text file in UTF-8, or in UTF-8, UTF-16 or UTF-32 with a byte order mark, as editors on Windows save it.

    Args:
        path: The file.

    Returns:
        The text without the mark, each line ending in ``\\n``.

    Raises:
        ValueError: It is in no such encoding.
        OSError: It cannot be read.
    """
    data = Path(path).read_bytes()
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), 'utf-8')
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(f'{path} is no text in UTF-8 ({error}); save it as UTF-8') from error
    if '\0' in text:
        raise ValueError(f'{path} holds zero bytes: UTF-16 without a byte order mark, or no text; save it as UTF-8')
    return text.replace('\r\n', '\n').replace('\r', '\n')


def read_json(path: str | os.PathLike) -> Any:
    """Read a JSON file in any encoding of :func:`read_text`.

    Raises:
        ValueError: It is no JSON, or in no such encoding.
        OSError: It cannot be read.
    """
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(f'{path} is not valid JSON: {error}') from error
