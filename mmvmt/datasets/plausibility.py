"""What the label maps of a task hold, and whether that can be: plausible files in another encoding train in silence."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from mmengine.dist import get_world_size
from mmengine.logging import print_log
from torch.utils.data import get_worker_info

from mmvmt.structures import TASKS, Task

WINDOW = 50
"""So many maps of a task are looked at while training, per process, before they are judged."""
FEWEST = 10
"""From fewer maps of a larger data set it is not said what is unlikely: a few images without a person are nothing."""

# 8 bits put the length of a unit vector off by less than 0.01, resizing without renormalising shortens some at edges.
_LENGTH_TOLERANCE, _FAR_LENGTH = 0.1, 0.25
_FAR_DEPTH = 300
_SMALL_EDITION = 59


class Finding(NamedTuple):
    """Something about the label maps of a task that should not be.

    Args:
        text: In words.
        impossible: No training can be right on such maps; otherwise it is merely unlikely.
    """

    text: str
    impossible: bool = False


def value_names(task: str) -> list[str]:
    """Names of the channels of a task's numbers, as ranges of values are called."""
    row = TASKS[task]
    if row.kind == 'vectors':
        return list('xyz'[: row.channels])
    return ['value'] if row.channels == 1 else [f'channel {index}' for index in range(row.channels)]


@dataclass
class LabelStatistics:
    """What the maps of one task hold, summed over images."""

    read: int = 0
    classes: Counter = field(default_factory=Counter)
    totals: Counter = field(default_factory=Counter)
    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)
    resized: list[str] = field(default_factory=list)
    oddities: dict[str, list[str]] = field(default_factory=dict)
    largest: list[tuple[str, float]] = field(default_factory=list)

    def add_range(self, name: str, low: float, high: float) -> None:
        """Widen the range of a quantity."""
        old_low, old_high = self.ranges.get(name, (low, high))
        self.ranges[name] = (min(old_low, low), max(old_high, high))

    def add(self, other: LabelStatistics) -> None:
        """Add the findings of other images."""
        self.read += other.read
        self.classes += other.classes
        self.totals.update(other.totals)
        self.resized += other.resized
        self.largest += other.largest
        for what, paths in other.oddities.items():
            self.oddities.setdefault(what, []).extend(paths)
        for name, (low, high) in other.ranges.items():
            self.add_range(name, low, high)

    def note_file(self, task: str, path: str) -> None:
        """Note what is odd about the one map that was measured, by its file."""
        row = TASKS[task]
        if not self.totals['labelled_images'] and not row.needs_foreground:
            self.oddities['no labelled pixel'] = [path]
        elif self.totals['constant'] and row.kind != 'binary':
            self.oddities['a single value'] = [path]
        if self.ranges and row.kind in ('metric', 'values'):
            ends = [abs(end) for name in value_names(task) for end in self.ranges.get(name, ())]
            self.largest = [(path, max(ends))] if ends else []

    def measure(self, task: str, label: np.ndarray) -> None:
        """Add the label map of one image, as the pipeline gets it."""
        self.read += 1
        row = TASKS[task]
        if row.kind in ('classes', 'binary'):
            counts = np.bincount(label.ravel(), minlength=int(row.ignore) + 1)
            self.classes.update({int(index): int(counts[index]) for index in np.flatnonzero(counts)})
            values = np.flatnonzero(counts[: int(row.ignore)])[:, None]
            names = []
        else:
            known = row.known(label)
            values = label[known].reshape(-1, row.channels)
            names = value_names(task)
            self.totals.update(pixels=known.size, known=int(known.sum()))
        if _are_normals(row):
            self.totals.update(z=float(values[:, 2].sum(dtype=np.float64)), away=int((values[:, 2] < 0).sum()))
        if row.kind == 'metric' and len(values):
            self.totals.update(median=float(np.median(values)))
        self.totals.update(labelled_images=int(len(values) > 0))
        if len(values):
            low, high = values.min(axis=0), values.max(axis=0)
            self.totals.update(constant=int((low == high).all()))
            for name, *ends in zip(names, low, high):
                self.add_range(name, *map(float, ends))

    def measure_levels(self, levels: np.ndarray) -> None:
        """Add the grey levels of a mask, as they are stored."""
        self.add_range('level', int(levels.min()), int(levels.max()))

    def measure_lengths(self, vectors: np.ndarray, valid: np.ndarray | None) -> None:
        """Add vectors as they are stored, ``(H, W, 3)``; those that are grey have no direction and do not count."""
        lengths = np.linalg.norm(vectors if valid is None else vectors[valid], axis=-1)
        off = np.abs(lengths[lengths > _LENGTH_TOLERANCE] - 1)
        self.totals.update(
            stored=off.size, off_length=int((off > _LENGTH_TOLERANCE).sum()), far_off=int((off > _FAR_LENGTH).sum())
        )

    def measure_context(self, labels: np.ndarray) -> None:
        """Add the map of PASCAL-Context's ids behind a task."""
        self.add_range('context id', int(labels.min()), int(labels.max()))


def judge(task: str, found: LabelStatistics) -> list[Finding]:
    """What is wrong with the maps of a task.

    Args:
        task: Name of the task.
        found: Of at least one map.
    """
    kind, unit, images = TASKS[task].kind, TASKS[task].unit, f'{found.read} maps' if found.read > 1 else 'one map'
    findings = []
    labelled = found.totals['labelled_images']
    if not labelled:
        findings.append(Finding(f'no pixel is labelled in {images}'))
    elif found.totals['constant'] > labelled / 2 and kind != 'binary' and set(found.classes) != {0, TASKS[task].ignore}:
        findings.append(Finding(f'{found.totals["constant"]} of {images} hold a single value'))
    if kind == 'classes' and labelled:
        findings += _judge_classes(task, found, images)
    elif kind == 'binary' and labelled:
        findings += _judge_masks(found, images)
    elif _are_normals(TASKS[task]) and labelled:
        findings += _judge_vectors(found)
    elif unit == 'm' and labelled and found.totals['median'] / labelled > _FAR_DEPTH:
        median = found.totals['median'] / labelled
        findings.append(Finding(f'the median depth is {median:.0f} on average; are these metres, or millimetres?'))
    low, high = found.ranges.get('context id', (0, 0))
    if low < high <= _SMALL_EDITION:
        findings.append(
            Finding(
                f'LabelMap holds ids up to {high} only, of the 459 of PASCAL-Context; is it the edition of 59 classes? '
                'Edges and the validity of normals need the other one'
            )
        )
    return findings


def _are_normals(task: Task) -> bool:
    """Whether vectors are normals of what is seen: in the axes of the data set's, z to the viewer."""
    return task.kind == 'vectors' and task.channels == 3 and task.motion == 'direction' and task.axes is None


def _judge_classes(task: str, found: LabelStatistics, images: str) -> Iterable[Finding]:
    ignore = TASKS[task].ignore
    if set(found.classes) == {0, ignore}:
        yield Finding(
            f'{images} hold 0 and {ignore} alone, and {ignore} is no class but ignored; are these masks? A map of '
            'classes holds their indices'
        )
    elif not found.classes[0]:
        yield Finding(f'no pixel of {images} has class 0; are the indices shifted by one?')


def _judge_masks(found: LabelStatistics, images: str) -> Iterable[Finding]:
    if found.ranges.get('level') == (0, 1) or found.ranges.get('level') == (1, 1):
        yield Finding(
            f'the masks are stored as 0 and 1 ({images}), and foreground is what exceeds half of 255: all of it would '
            'be background. Multiply them by 255, or give their labels threshold=0.5',
            impossible=True,
        )
    elif found.totals['constant'] > found.totals['labelled_images'] / 2:
        yield Finding(f'{found.totals["constant"]} of {images} are constant, background or foreground everywhere')
    elif found.classes[1] > 3 * found.classes[0]:
        share = found.classes[1] / (found.classes[0] + found.classes[1])
        yield Finding(f'{share:.0%} of all pixels are foreground; are the masks inverted?')


def _judge_vectors(found: LabelStatistics) -> Iterable[Finding]:
    stored = found.totals['stored']
    far, off = (found.totals[name] / max(1, stored) for name in ('far_off', 'off_length'))
    away = found.totals['away'] / found.totals['known']
    if far > 0.5:
        # Where such vectors point means nothing.
        yield Finding(
            f'{far:.0%} of the normals are no unit vectors by far; they are stored as 255 (n + 1) / 2 in RGB',
            impossible=True,
        )
        return
    if off > 0.1:
        yield Finding(
            f'{off:.0%} of the normals are no unit vectors: black or white pixels, or another encoding than '
            '255 (n + 1) / 2'
        )
    if away > 0.9:
        yield Finding(
            f'{away:.0%} of the normals point away from the viewer, and nothing that is seen does; is their z negated, '
            'or are the channels in another order?',
            impossible=True,
        )
    elif away > 0.1 >= off:
        yield Finding(
            f'{away:.0%} of the normals point away from the viewer, and hardly anything that is seen does; are the '
            'channels in another order?'
        )


def describe_resized(found: LabelStatistics) -> str:
    """The maps of another size than their image, in words."""
    return (
        f'{len(found.resized)} of {found.read} maps have another size than their image and are resized to it, such as '
        f'{found.resized[0]}'
    )


class LabelWatch:
    """Looks at the first maps of each task while training, and judges them once.

    A process judges after :data:`WINDOW` maps, or after its share of the data set if that is smaller; afterwards
    nothing is measured, and nothing costs time. Of the workers of a data loader, each refuses what cannot be and the
    first says what is unlikely. All know what was said, those of later epochs too. Of tasks that are declared later
    than the watch is made nothing is said.
    """

    def __init__(self) -> None:
        self._found: dict[str, LabelStatistics] = {}
        self._done: set[str] = set()
        keys = ('photos', *((what, task) for what in ('judged', 'resized') for task in TASKS))
        self._places = {key: place for place, key in enumerate(keys)}
        # Shared memory, which workers inherit.
        self._said = torch.zeros(len(keys), dtype=torch.uint8).share_memory_()

    def statistics(self, tasks: Iterable[str]) -> dict[str, LabelStatistics]:
        """Where the next maps of those tasks that are still looked at have to be noted."""
        return {
            task: LabelStatistics() for task in tasks if task not in self._done and not self._is_said(('judged', task))
        }

    def add(self, noted: Mapping[str, LabelStatistics], num_samples: int | None) -> None:
        """Take note of an image's maps, and judge when there are enough.

        Args:
            noted: What :meth:`statistics` gave, filled.
            num_samples: Size of the data set, if it is known.

        Raises:
            ValueError: Maps hold what cannot be.
        """
        worker, size = get_worker_info(), num_samples or WINDOW
        share = -(-size // (get_world_size() * (worker.num_workers if worker else 1)))
        for task, statistics in noted.items():
            found = self._found.setdefault(task, LabelStatistics())
            found.add(statistics)
            if found.read < min(WINDOW, share):
                continue
            self._done.add(task)
            findings = judge(task, found)
            if (worker is None or worker.id == 0) and self._say(('judged', task)):
                if found.resized and self._say(('resized', task)):
                    _warn(f'{task}: {describe_resized(found)}')
                for finding in findings if found.read >= min(FEWEST, size) else ():
                    if not finding.impossible:
                        _warn(f'{task}: {finding.text}')
            impossible = [finding.text for finding in findings if finding.impossible]
            if impossible:
                raise ValueError(f'{task}: {"; ".join(impossible)}. {_CHECK}')

    def warn_resized(self, task: str, text: str, counted: bool) -> None:
        """Name a map of another size than its image, unless such maps are still ``counted`` or were named before."""
        if (self._is_said(('judged', task)) or not counted) and self._say(('resized', task)):
            _warn(f'{task}: map of another size than its image, resized to it: {text}; further ones are not named')

    def warn_turned(self, path: str, orientation: int) -> None:
        """Name the first photo that is not stored upright."""
        if self._say('photos'):
            _warn(
                f'the photo {path} is stored with the EXIF orientation {orientation}, and its label maps are taken to '
                'have the same; if they were drawn upright, load photos by LoadMultiTaskImage(upright=True). Further '
                'ones are not named'
            )

    def _is_said(self, key: str | tuple[str, str]) -> bool:
        return key not in self._places or bool(self._said[self._places[key]])

    def _say(self, key: str | tuple[str, str]) -> bool:
        """Whether nobody has said it, who then must not say it again."""
        first = not self._is_said(key)
        if first:
            self._said[self._places[key]] = 1
        return first


_CHECK = 'tools/dataset/check_dataset.py looks at all files'


def _warn(text: str) -> None:
    print_log(f'{text}. {_CHECK}', logger='current', level=logging.WARNING)
