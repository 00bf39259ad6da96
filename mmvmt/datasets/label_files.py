"""What the readers of label maps share while the maps of one image are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mmvmt.structures import TASKS, Task

from . import formats
from .cache import LabelCache
from .plausibility import LabelStatistics
from .transforms.label_maps import resize_label


class LabelFiles:
    """The label files of one image: makes sizes fit, keeps what is decoded, and what several tasks need.

    Args:
        results: As :class:`mmvmt.datasets.transforms.LoadMultiTaskImage` leaves them; without ``ori_shape`` maps keep
            the size of their files.
        noted: By task, where to note what its maps hold, before and after decoding; tasks may be absent.
    """

    def __init__(self, results: dict, noted: Mapping[str, LabelStatistics] | None = None) -> None:
        self.shape: tuple[int, int] | None = tuple(results['ori_shape']) if 'ori_shape' in results else None
        self.num_classes: Mapping[str, int] = results.get('num_classes', {})
        self.strict: bool = results.get('strict', False)
        self.noted = noted or {}
        self.resized: dict[str, str] = {}
        self.shared: dict[Any, np.ndarray] = {}
        self._orientation, self._upright = results.get('orientation', 1), results.get('upright', False)
        cache_dir = results.get('cache_dir')
        self._cache = None if cache_dir is None else LabelCache(cache_dir)

    def cached(self, kind: str, path: str, read: Callable[[], np.ndarray]) -> np.ndarray:
        """What ``read`` makes of a file, from the cache of the data set if there is one, see :class:`LabelCache`."""
        return read() if self._cache is None else self._cache.load(kind, path, self.shape, read)

    def fitted(self, name: str, path: str, label: np.ndarray, rule: Task | None = None) -> np.ndarray:
        """A map at the size of the image, resized by the rule of a task, by default of its own.

        Args:
            name: The task that the map is read for.
            path: Its file.
            label: ``(H, W)`` or ``(H, W, C)``.
            rule: The task whose maps are resized as this one has to be.

        Raises:
            ValueError: The map is turned by 90 degrees against its image, or of another size with ``strict``.
        """
        shape = label.shape[:2]
        if self.shape in (None, shape):
            return label
        same, turned = _same_proportions(shape, self.shape), _same_proportions(shape, self.shape[::-1])
        if turned and not same:
            raise ValueError(self._turned(path))
        if self.strict:
            raise ValueError(
                f'{formats.size_mismatch(path, shape, self.shape)}, or leave out strict, which refuses to resize it'
            )
        sizes = f'{" x ".join(map(str, shape))} pixels (height x width) for {" x ".join(map(str, self.shape))}'
        if not same:
            sizes += ', of other proportions: is it of another image?'
        self.resized.setdefault(name, f'{path}, {sizes}')
        height, width = self.shape
        return resize_label(rule or TASKS[name], label, width, height)

    def _turned(self, path: str) -> str:
        height, width = self.shape
        message = f'the label map in {path} is turned by 90 degrees against its image of {height} x {width} pixels'
        if self._orientation < 5:
            return f'{message} (height x width); turn it, or fetch that file again'
        message = (
            f'{message} (height x width), a photo with the EXIF orientation {self._orientation}: it was drawn over '
        )
        if self._upright:
            return f'{message}the pixels as they are stored; load such photos by LoadMultiTaskImage(upright=False)'
        return f'{message}what viewers show; load such photos by LoadMultiTaskImage(upright=True)'


def _same_proportions(shape: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether two sizes have the same ratio of sides, up to the rounding of one of them to whole pixels."""
    return abs(shape[0] * other[1] - shape[1] * other[0]) <= max(*shape, *other)
