"""What counts as a picture: files, folders, patterns, and pictures in memory as their libraries have them."""

from __future__ import annotations

import glob
import os
import os.path as osp
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import cv2
import numpy as np
import torch
from PIL import Image

from mmvmt.datasets.images import read_image

IMAGE_SUFFIXES = ('.bmp', '.jpeg', '.jpg', '.png', '.tif', '.tiff', '.webp')
"""Files of a folder that count as pictures, in small or capital letters."""

ImageInput = str | os.PathLike | np.ndarray | torch.Tensor | Image.Image | bytes | BinaryIO


class UnreadableImagesError(ValueError):
    """Some of several pictures could not be read; all others were computed.

    Args:
        failures: By path, what is wrong with the file.
    """

    def __init__(self, failures: Mapping[str, str]) -> None:
        self.failures = dict(failures)
        self.maps: dict[str, dict[str, np.ndarray]] = {}
        """What was computed of the others, as :meth:`MultiTaskInferencer.__call__` would have returned it."""
        super().__init__(
            f'{unreadable(self.failures)}. Everything else was computed; remove these files, or leave them out by '
            f"on_unreadable='skip'"
        )


@dataclass(frozen=True)
class Picture:
    """One picture of a call.

    Args:
        name: A name of its own within the call.
        path: Its file.
        source: The picture, where it has no file: an array ``(H, W, 3)`` uint8 in BGR order, a PIL image, or the bytes
            of a file.
    """

    name: str
    path: str | None = None
    source: np.ndarray | Image.Image | bytes | None = None

    def decode(self) -> np.ndarray:
        """A picture in memory, upright, ``(H, W, 3)`` uint8 in BGR order.

        Raises:
            ValueError: It is damaged, too large, or no picture.
        """
        return self.source if isinstance(self.source, np.ndarray) else read_image(self.name, True, self.source)


def is_single(inputs: Any) -> bool:
    """Whether the inputs of a call are one picture, and no folder, pattern or list of them."""
    if isinstance(inputs, (str, os.PathLike)):
        return not osp.isdir(inputs) and not _is_pattern(inputs)
    return _is_picture(inputs)


def list_pictures(inputs: ImageInput | Iterable[ImageInput]) -> list[Picture]:
    """The pictures of a call, each with a name of its own.

    Args:
        inputs: A picture, a folder, a pattern, or any number of these; an array or tensor with four dimensions is as
            many pictures as its first one has entries.

    Raises:
        FileNotFoundError: A folder holds no picture, or a pattern matches none.
        TypeError: An input is nothing that holds a picture.
        ValueError: There is none, one is named twice, or an array or tensor has another shape or type.
    """
    one = isinstance(inputs, (str, os.PathLike)) or _is_picture(inputs)
    if not one and not isinstance(inputs, Iterable):
        raise TypeError(_no_picture(0, inputs))
    listed = [inputs] if one else list(inputs)
    if not listed:
        raise ValueError('there is no picture: the list of inputs is empty')
    entries: list[str | np.ndarray | Image.Image | bytes] = []
    for position, entry in enumerate(listed):
        if isinstance(entry, (str, os.PathLike)):
            entries.extend(_files(os.fspath(entry)))
        elif isinstance(entry, np.ndarray):
            entries.append(_from_array(entry, position))
        elif isinstance(entry, torch.Tensor):
            entries.append(_from_tensor(entry, position))
        elif isinstance(entry, Image.Image):
            entries.append(entry)
        elif isinstance(entry, (bytes, bytearray, memoryview)):
            entries.append(bytes(entry))
        elif hasattr(entry, 'read'):
            entries.append(entry.read())
        else:
            raise TypeError(_no_picture(position, entry))
    paths = [entry for entry in entries if isinstance(entry, str)]
    root = osp.commonpath([osp.dirname(osp.abspath(path)) for path in paths]) if paths else ''
    relative = [osp.relpath(osp.abspath(path), root) for path in paths]
    stems = Counter(osp.splitext(path)[0] for path in relative)
    # Two pictures that differ in their suffix alone keep it, or one's maps would replace the other's.
    names = iter(path if stems[osp.splitext(path)[0]] > 1 else osp.splitext(path)[0] for path in relative)
    pictures = [
        Picture(next(names), path=entry) if isinstance(entry, str) else Picture(f'array_{position}', source=entry)
        for position, entry in enumerate(entries)
    ]
    twice = [name for name, count in Counter(picture.name for picture in pictures).items() if count > 1]
    if twice:
        raise ValueError(f'picture {twice[0]!r} is named twice; name every picture once')
    return pictures


def _is_picture(inputs: Any) -> bool:
    """Whether this is one picture in memory."""
    if isinstance(inputs, (np.ndarray, torch.Tensor)):
        return inputs.ndim != 4
    return isinstance(inputs, (Image.Image, bytes, bytearray, memoryview)) or hasattr(inputs, 'read')


def _is_pattern(path: str | os.PathLike) -> bool:
    return glob.has_magic(os.fspath(path)) and not osp.exists(path)


def _files(path: str) -> list[str]:
    if osp.isdir(path):
        found = [osp.join(path, name) for name in os.listdir(path) if name.lower().endswith(IMAGE_SUFFIXES)]
        what = f'folder {path!r} holds no picture ({", ".join(IMAGE_SUFFIXES)})'
    elif _is_pattern(path):
        found = glob.glob(path, recursive=True)
        what = f'pattern {path!r} matches no file'
    else:
        return [path]
    found = sorted(name for name in found if osp.isfile(name))
    if not found:
        raise FileNotFoundError(what)
    return found


def _from_array(array: np.ndarray, position: int) -> np.ndarray:
    pixels = array[..., None] if array.ndim == 2 else array
    if array.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] not in (1, 3, 4) or 0 in pixels.shape:
        raise ValueError(
            f'input {position} must be a picture (H, W, 3) uint8 in BGR order, or (H, W) in grey levels, '
            f'got {array.shape} {array.dtype}'
        )
    # As in files, what is transparent has the colours that are stored.
    return cv2.cvtColor(pixels, cv2.COLOR_GRAY2BGR) if pixels.shape[2] == 1 else np.ascontiguousarray(pixels[..., :3])


def _from_tensor(tensor: torch.Tensor, position: int) -> np.ndarray:
    pixels = tensor[None] if tensor.ndim == 2 else tensor
    if tensor.dtype != torch.uint8 or pixels.ndim != 3 or pixels.shape[0] not in (1, 3, 4) or 0 in pixels.shape:
        raise ValueError(
            f'input {position} must be a picture (3, H, W) uint8 in RGB order, as torchvision reads it, or (1, H, W) '
            f'in grey levels, got {tuple(tensor.shape)} {tensor.dtype}'
        )
    array = pixels[:3].permute(1, 2, 0).cpu().numpy()
    return np.ascontiguousarray(np.repeat(array, 3, axis=2) if array.shape[2] == 1 else array[..., ::-1])


def _no_picture(position: int, entry: Any) -> str:
    return (
        f'input {position} must be a path, an array, a tensor, a PIL image, or a file or its bytes, '
        f'got {type(entry).__name__}'
    )


def unreadable(failures: Mapping[str, str]) -> str:
    """Say which pictures cannot be read, by path or name, and why."""
    return '\n  '.join([f'{len(failures)} of the pictures cannot be read:', *failures.values()]).rstrip()
