"""Readers of the label maps that Cityscapes has in formats of its own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mmvmt.registry import LABEL_READERS
from mmvmt.structures import TASKS, read_json

from .arrays import one_channel, whole_numbers
from .label_files import LabelFiles
from .label_reader import LabelReader

TRAIN_IDS = {
    7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10, 24: 11, 25: 12, 26: 13, 27: 14, 28: 15,
    31: 16, 32: 17, 33: 18,
}  # fmt: skip
"""The 19 classes by the ids of ``labelIds``; all others are ignored."""

PARTS = ('background', 'torso', 'head', 'arms', 'legs')
"""Classes of human_parts, as Cityscapes-Panoptic-Parts numbers the parts of persons and riders."""

_HUMANS = (24, 25)


@LABEL_READERS.register_module()
@dataclass
class CityscapesClassesReader(LabelReader):
    """Maps of the 19 classes: ``*_labelTrainIds.png`` as they are, ``*_labelIds.png`` by :data:`TRAIN_IDS`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._of_ids = LabelReader(self.task, id_map=TRAIN_IDS, unlisted=int(TASKS[self.task].ignore))

    def __call__(self, files: LabelFiles, path: str) -> np.ndarray:
        if path.endswith('_labelIds.png'):
            return self._of_ids(files, path)
        return super().__call__(files, path)


@LABEL_READERS.register_module()
@dataclass
class CityscapesDepthReader(LabelReader):
    """Depth in metres from disparity, with the file of the camera beside it.

    With p the 16-bit level of a pixel, its disparity is (p - 1) / 256 pixels where p > 0, and its depth is the baseline
    times the focal length over it. Where there is no disparity, or one of 0, depth is unknown. So is that of the sky,
    whose disparity the files leave at 0; no depth is made up for it.

    Args:
        max_depth: What is farther is unknown, in metres; None: without a bound.

    Raises:
        ValueError: ``max_depth`` is not positive.
    """

    max_depth: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_depth is not None and not self.max_depth > 0:
            raise ValueError(f'{self._name("max_depth")} must be positive, got {self.max_depth}')

    def __call__(self, files: LabelFiles, path: tuple[str, str]) -> np.ndarray:
        path, camera_path = path
        levels = whole_numbers(one_channel(self._stored(files, path), path, 'maps of disparity'), path)
        if levels.dtype == np.uint8:
            raise ValueError(f'{path} has 8 bits; maps of disparity have 16, fetch that file again')
        disparity = (levels.astype(np.float32) - 1) / 256
        known = disparity > 0
        depth = np.zeros_like(disparity)
        np.divide(_baseline_times_focal_length(camera_path), disparity, out=depth, where=known)
        if self.max_depth is not None:
            depth[depth > self.max_depth] = 0
        return files.fitted(self.task, path, depth)


@LABEL_READERS.register_module()
@dataclass
class CityscapesPartsReader(LabelReader):
    """Parts of persons and riders (:data:`PARTS`) from the files of Cityscapes-Panoptic-Parts.

    Their numbers are ids of 1 or 2 digits for the class, 4 or 5 with three more for the instance, 6 or 7 with two more
    for the part. Humans without a part are unknown, everything else is background; without any part of a human the
    whole image is unknown, as in PASCAL-Context.
    """

    def __call__(self, files: LabelFiles, path: str) -> np.ndarray:
        ids = whole_numbers(one_channel(self._stored(files, path), path, 'maps of parts'), path)
        with_part = ids >= 100_000
        classes = np.where(with_part, ids // 100_000, np.where(ids >= 1_000, ids // 1_000, ids))
        parts = np.where(np.isin(classes, _HUMANS), np.where(with_part, ids % 100, 0), -1)
        if parts.max() >= len(PARTS):
            raise ValueError(
                f'{path} has a human with the part {parts.max()}; the parts of Cityscapes-Panoptic-Parts are 1 to '
                f'{len(PARTS) - 1} ({", ".join(PARTS[1:])})'
            )
        unknown = (parts == 0) | (parts.max() <= 0)
        labels = np.where(unknown, TASKS[self.task].ignore, parts.clip(min=0)).astype(np.uint8)
        return files.fitted(self.task, path, labels)


def _baseline_times_focal_length(path: str) -> float:
    """Metres times pixels, from the file of a camera."""
    camera, numbers = read_json(path), []
    for group, name, what in (
        ('extrinsic', 'baseline', 'distance of both cameras in metres'),
        ('intrinsic', 'fx', 'focal length in pixels'),
    ):
        values = camera.get(group) if isinstance(camera, dict) else None
        number = values.get(name) if isinstance(values, dict) else None
        if not isinstance(number, (int, float)) or not 0 < number < float('inf'):
            raise ValueError(
                f'the camera file {path} has {group}.{name} = {number!r}; depth needs the {what}, a positive number. '
                f'Fetch that file again, or train on disparity'
            )
        numbers.append(number)
    return numbers[0] * numbers[1]
