"""Patterns of paths: ``{id}`` stands for the ID of an image."""

from __future__ import annotations

import os
import os.path as osp
import re
from collections.abc import Iterator, Sequence

PLACE = '{id}'
_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp', '.ppm', '.pgm', '.jp2', '.gif')
PICTURE_SUFFIXES = (*_SUFFIXES, *(suffix.upper() for suffix in _SUFFIXES))
"""Endings of a picture, in the order in which they are looked for."""


def path_of(root: str, pattern: str, img_id: str) -> str:
    """The path that a pattern gives to an image, absolute or relative to a folder."""
    return osp.join(root, pattern.replace(PLACE, img_id))


def folder_of(pattern: str) -> str:
    """The folder that all files of a pattern are in."""
    return osp.dirname(pattern.partition(PLACE)[0])


def split_suffix(pattern: str) -> tuple[str, str]:
    """A pattern of pictures without its ending, and the ending; empty where it has none."""
    stem, suffix = osp.splitext(pattern)
    if suffix.lower() in PICTURE_SUFFIXES:
        return stem, suffix
    return (stem, '') if suffix == '.*' else (pattern, '')


def find_picture(root: str, pattern: str, img_id: str) -> str:
    """The picture of an image, whose ending may be another one than that of the pattern.

    Returns:
        The first file that exists, else the path that the pattern gives.
    """
    first = path_of(root, pattern, img_id)
    if osp.isfile(first):
        return first
    stem = path_of(root, split_suffix(pattern)[0], img_id)
    return next((stem + suffix for suffix in PICTURE_SUFFIXES if osp.isfile(stem + suffix)), first)


def find_ids(root: str, pattern: str, labels: Sequence[str]) -> tuple[list[str], int]:
    """The IDs of the pictures in a folder and those below it.

    Args:
        root: The folder that the patterns are relative to.
        pattern: Of the pictures. With an ending, only those count that have it, in small or capital letters.
        labels: Patterns of label maps, which are no pictures even where they lie among them.

    Returns:
        The IDs in alphabetical order, and the number of pictures that the pattern fits but for their ending.

    Raises:
        ValueError: Two pictures have the same ID.
    """
    stem, wanted = split_suffix(pattern)
    alike = {'.jpeg': '.jpg', '.tiff': '.tif'}
    wanted = alike.get(wanted.lower(), wanted.lower())
    maps = [_expression(label) for label in labels]
    fits, found, others = _expression(stem), {}, 0
    for path in sorted(_files(osp.join(root, folder_of(pattern)))):
        name = osp.relpath(path, root) if not osp.isabs(pattern) else path
        name = name.replace(os.sep, '/')
        match = fits.fullmatch(osp.splitext(name)[0])
        suffix = osp.splitext(name)[1].lower()
        if match is None or suffix not in PICTURE_SUFFIXES or any(expression.fullmatch(name) for expression in maps):
            continue
        if wanted and alike.get(suffix, suffix) != wanted:
            others += 1
            continue
        img_id = match['id']
        if img_id in found:
            raise ValueError(f'{found[img_id]} and {path} have the same ID {img_id!r}; rename one of them')
        found[img_id] = path
    return sorted(found), others


def _expression(pattern: str) -> re.Pattern:
    escaped = re.escape(pattern).replace(re.escape(PLACE), '(?P<id>.+)', 1)
    return re.compile(escaped.replace(re.escape(PLACE), '(?P=id)'))


def _files(folder: str) -> Iterator[str]:
    for inside, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith('.')]
        yield from (osp.join(inside, name) for name in names if not name.startswith('.'))
