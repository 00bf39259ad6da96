"""How the file of a label map becomes the map: one reader for every kind of task and every format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from mmvmt.registry import LABEL_READERS
from mmvmt.structures import TASKS, Task

from . import formats
from .arrays import StoredMap, check_classes, grey_levels, one_channel, read_map, whole_numbers
from .label_files import LabelFiles
from .vectors import unit_vectors

_IDS = 2**16
# A map of metres that are all whole numbers and that large has none: nothing measures only full ones.
_LARGEST_WHOLE_DEPTH = 100
# Raw vectors that are not longer have no direction; of codes 8 bits leave those of `formats.SHORTEST_NORMAL` none.
_SHORTEST_RAW = 1e-6
_ENCODINGS = {'2x/255-1': 255, '2x/65535-1': 65535, 'raw': None}
_INVALID_NAMES = {'nan': np.nan, 'inf': np.inf, '-inf': -np.inf}


@LABEL_READERS.register_module()
@dataclass
class LabelReader:
    """Reads the label maps of one task.

    Whatever the kind, a map is read from a picture that Pillow or OpenCV knows (PNG and TIFF with 8 or 16 bits or
    floating-point numbers, OpenEXR where OpenCV has it), from ``.npy``, ``.npz`` or ``.mat`` (MATLAB 5).

    Args:
        task: Name of the task.
        path: Pattern of the file with ``{id}`` in place of the image's ID, relative to the data folder; or several,
            which are tried in order for each image. None: an annotation file names the paths.
        beside: Patterns of further files that a reader of your own needs.
        missing: ``'error'``, or ``'ignore'``: an image without the file is unlabelled in this task.
        key: Name of the array in an ``.npz`` or ``.mat`` file; None: the only one.
        channels_first: Arrays are ``(C, H, W)``.
        invalid: Stored values that mean unknown, besides what the kind of the task has for it; ``'nan'``, ``'inf'`` and
            ``'-inf'`` may be among them. Of vectors: the value that all channels have.
        reduce_zero_label: Classes: 0 is unknown, and the others are less by one, as in mmsegmentation.
        id_map: Classes and masks: new ids by stored ones. Ids that it does not name stay, unless ``unlisted`` is given.
        unlisted: The id in place of those that ``id_map`` does not name.
        threshold: Masks: foreground is what exceeds it. Default: half of white in pictures, 0.5 in arrays.
        encoding: Vectors: ``'2x/255-1'``, ``'2x/65535-1'`` or ``'raw'``. Default: ``'raw'`` for floating-point numbers,
            for whole ones what their type says.
        scale: Numbers: the factor from stored to real values. Whole numbers of a metric task need it.
        offset: Numbers: what is added after ``scale``.
        unit: Numbers: the unit of the values that come out; it must be the task's.

    Raises:
        ValueError: A pattern has no ``{id}``, an option does not fit the kind of the task, or its value is wrong.
    """

    task: str
    path: str | Sequence[str] | None = None
    beside: Sequence[str] = ()
    missing: str = 'error'
    key: str | None = None
    channels_first: bool = False
    invalid: Sequence[float | str] = ()
    reduce_zero_label: bool = False
    id_map: Mapping[int, int] | None = None
    unlisted: int | None = None
    threshold: float | None = None
    encoding: str | None = None
    scale: float | None = None
    offset: float = 0.0
    unit: str | None = None

    OPTIONS: ClassVar[Mapping[str, tuple[str, ...]]] = {
        'classes': ('reduce_zero_label', 'id_map', 'unlisted'),
        'binary': ('threshold', 'id_map', 'unlisted'),
        'vectors': ('encoding', 'channels_first'),
        'metric': ('scale', 'offset', 'unit'),
        'values': ('scale', 'offset', 'unit', 'channels_first'),
    }
    """The options that the kinds of tasks have of their own."""

    def __post_init__(self) -> None:
        self.beside, self.invalid = tuple(self.beside), _as_numbers(self._name('invalid'), self.invalid)
        for pattern in (*self.patterns, *self.beside):
            if '{id}' not in pattern:
                raise ValueError(
                    f'{self._name("path")} is {pattern!r}, which names the same file for every image; write {{id}} '
                    "where an image's ID stands"
                )
        if self.missing not in ('error', 'ignore'):
            raise ValueError(f"{self._name('missing')} must be 'error' or 'ignore', got {self.missing!r}")
        others = {name for names in self.OPTIONS.values() for name in names} - set(self.OPTIONS[self._kind])
        for option in fields(self):
            if option.name in others and getattr(self, option.name) != option.default:
                raise ValueError(
                    f'{self._name(option.name)} does not fit task {self.task!r}, whose maps are of kind '
                    f'{self._kind!r}; those have {", ".join(self.OPTIONS[self._kind])}'
                )
        if self.id_map is not None:
            self.id_map = {int(old): int(new) for old, new in self.id_map.items()}
        elif self.unlisted is not None:
            raise ValueError(f'{self._name("unlisted")} needs id_map: it stands for the ids that are not named there')
        if self.id_map is not None and self.threshold is not None:
            raise ValueError(f'{self._name("threshold")} and id_map both say what is foreground; give one of them')
        if self.encoding not in (None, *_ENCODINGS):
            raise ValueError(f'{self._name("encoding")} must be one of {list(_ENCODINGS)}, got {self.encoding!r}')
        unit = TASKS[self.task].unit
        if self.unit is not None and unit is not None and self.unit != unit:
            raise ValueError(
                f'{self._name("unit")} is {self.unit!r}, but the unit of task {self.task!r} is {unit!r}; choose a '
                'scale that leads there'
            )

    @property
    def patterns(self) -> tuple[str, ...]:
        """The patterns of the file, in the order in which they are tried."""
        if self.path is None:
            return ()
        return (self.path,) if isinstance(self.path, str) else tuple(self.path)

    def __call__(self, files: LabelFiles, path: Any) -> np.ndarray:
        """Read a map.

        Args:
            files: Of the image.
            path: The file; with ``beside`` a tuple of it and of theirs.

        Returns:
            The map at the size of the image, as :class:`mmvmt.structures.Task` describes it.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It is damaged, or holds what the task has no meaning for.
        """
        stored = self._stored(files, path)
        label = getattr(self, f'_{self._kind}')(files, stored, path)
        return files.fitted(self.task, path, label.copy() if label is stored.values else label)

    @property
    def _kind(self) -> str:
        return TASKS[self.task].kind

    def _name(self, option: str) -> str:
        return f'labels.{self.task}.{option}'

    def _stored(self, files: LabelFiles, path: str) -> StoredMap:
        place = (path, self.key)
        if place not in files.shared:
            if path.lower().endswith(('.mat', '.npz')):
                name = 'array' if self.key is None else f'array-{self.key}'
                values = files.cached(name, path, lambda: read_map(path, self.key).values)
                files.shared[place] = StoredMap(values, is_picture=False)
            else:
                files.shared[place] = read_map(path, self.key)
        return files.shared[place]

    def _classes(self, files: LabelFiles, stored: StoredMap, path: str) -> np.ndarray:
        task = TASKS[self.task]
        indices = whole_numbers(one_channel(stored, path, 'class maps'), path)
        labels = self._with_new_ids(indices, task, path)
        number = files.num_classes.get(self.task, task.ignore)
        check_classes(labels, path, self.task, number, task.ignore)
        return labels.astype(task.dtype, copy=False)

    def _binary(self, files: LabelFiles, stored: StoredMap, path: str) -> np.ndarray:
        task = TASKS[self.task]
        if self.id_map is not None:
            indices = whole_numbers(one_channel(stored, path, 'masks'), path)
            labels = self._with_new_ids(indices, task, path)
            check_classes(labels, path, self.task, 2, task.ignore)
            return labels.astype(np.uint8, copy=False)
        unknown = self._invalid_in(stored.values)
        if self.threshold is None and stored.is_picture and stored.values.dtype.kind != 'f':
            levels = grey_levels(stored, path)
            if self.task in files.noted:
                files.noted[self.task].measure_levels(levels)
            mask = (levels > 127).astype(np.uint8)
        else:
            values = one_channel(stored, path, 'masks')
            mask = (values > (0.5 if self.threshold is None else self.threshold)).astype(np.uint8)
            if values.dtype.kind == 'f':
                unknown = np.isnan(values) if unknown is None else unknown | np.isnan(values)
        if unknown is not None:
            mask[unknown if unknown.ndim == 2 else unknown.all(axis=2)] = task.ignore
        return mask

    def _vectors(self, files: LabelFiles, stored: StoredMap, path: str) -> np.ndarray:
        values = self._channels(stored, path)
        encoding, whole = self.encoding, values.dtype.kind in 'ui'
        if encoding is None:
            encoding = f'2x/{np.iinfo(values.dtype).max}-1' if whole else 'raw'
        if encoding not in _ENCODINGS:
            raise ValueError(f'{path} holds {values.dtype}; say by {self._name("encoding")} what these vectors mean')
        unknown, largest = self._invalid_in(values), _ENCODINGS[encoding]
        vectors = values.astype(np.float32)
        if largest is not None:
            vectors *= 2 / largest
            vectors -= 1
        elif not np.isfinite(vectors).all():
            vectors[~np.isfinite(vectors).all(axis=2)] = 0
        if self.task in files.noted:
            files.noted[self.task].measure_lengths(vectors, None)
        if unknown is not None:
            vectors[unknown.all(axis=2)] = 0
        return unit_vectors(vectors, _SHORTEST_RAW if largest is None else formats.SHORTEST_NORMAL)

    def _metric(self, files: LabelFiles, stored: StoredMap, path: str) -> np.ndarray:
        stored = stored._replace(values=one_channel(stored, path, f'maps of {self.task}'))
        if self.scale is None and stored.values.dtype.kind != 'f':
            raise ValueError(
                f'{path} holds whole numbers ({stored.values.dtype}), and {self._name("scale")} does not say what they '
                'mean: scale=1/1000 makes metres of millimetres, scale=1 takes them as they are'
            )
        values, unknown = self._scaled(stored), self._invalid_in(stored.values)
        if unknown is not None:
            values[unknown] = 0
        if not np.isfinite(values).all() or values.min() < 0:
            raise ValueError(
                f'{path} holds negative or infinite values or NaN; those of {self.task!r} are positive, 0 where '
                f"unknown. If they mean unknown, say so: {self._name('invalid')}=['nan', 'inf', -1]"
            )
        # Without a factor stored numbers are taken for metres.
        if self.scale is None and values.max() > _LARGEST_WHOLE_DEPTH and np.array_equal(values, np.rint(values)):
            known = values[values > 0]
            raise ValueError(
                f'{path} holds whole numbers alone, from {known.min():.0f} to {known.max():.0f}: are these '
                f'millimetres? Then {self._name("scale")} has to be 1/1000, and 1 if they are right'
            )
        return values

    def _values(self, files: LabelFiles, stored: StoredMap, path: str) -> np.ndarray:
        stored = stored._replace(values=self._channels(stored, path))
        values, unknown = self._scaled(stored), self._invalid_in(stored.values)
        if unknown is not None:
            values[unknown] = np.nan
        if np.isinf(values).any():
            raise ValueError(f"{path} holds infinite values; if they mean unknown, {self._name('invalid')}=['inf']")
        unknown = np.isnan(values)
        if values.ndim == 3 and unknown.any():
            values[unknown.any(axis=2)] = np.nan
        return values

    def _scaled(self, stored: StoredMap) -> np.ndarray:
        values = stored.values.astype(np.float64 if self.scale is not None else np.float32)
        if self.scale is not None:
            values *= self.scale
        values += self.offset
        return values.astype(np.float32, copy=False)

    def _channels(self, stored: StoredMap, path: str) -> np.ndarray:
        """A map with as many channels as the task has: ``(H, W, C)``, or ``(H, W)`` for a single one."""
        values, number = stored.values, TASKS[self.task].channels
        if values.ndim == 3 and self.channels_first:
            values = values.transpose(1, 2, 0)
        if values.ndim == 3 and values.shape[2] == 1:
            values = values[..., 0]
        found = values.shape[2] if values.ndim == 3 else 1
        if found != number or stored.palette is not None:
            what = f'is a picture of mode {stored.mode!r}' if stored.mode else f'holds an array {values.shape}'
            raise ValueError(
                f'{path} {what}, with {found} channels; maps of task {self.task!r} have {number} (height, width, '
                f'channels). Arrays of (channels, height, width) need {self._name("channels_first")}=True'
            )
        return np.ascontiguousarray(values)

    def _invalid_in(self, values: np.ndarray) -> np.ndarray | None:
        """Where stored values mean unknown; None without any such value."""
        if not self.invalid:
            return None
        numbers = [number for number in self.invalid if not np.isnan(number)]
        unknown = np.isin(values, numbers)
        if len(numbers) < len(self.invalid) and values.dtype.kind == 'f':
            unknown |= np.isnan(values)
        return unknown

    def _with_new_ids(self, indices: np.ndarray, task: Task, path: str) -> np.ndarray:
        unknown = self._invalid_in(indices)
        if self.id_map is None and not self.reduce_zero_label:
            if unknown is None:
                return indices
            return np.where(unknown, np.array(task.ignore, np.promote_types(indices.dtype, np.uint8)), indices)
        if unknown is not None:
            indices = np.where(unknown, 0, indices)
        if indices.min() < 0 or indices.max() >= _IDS:
            raise ValueError(f'{path} holds ids from {indices.min()} to {indices.max()}; they go from 0 to {_IDS - 1}')
        labels = self._new_ids.take(indices)
        if unknown is not None:
            labels[unknown] = task.ignore
        return labels

    @cached_property
    def _new_ids(self) -> np.ndarray:
        """The id in place of every one that a file can hold."""
        ignore, ids = TASKS[self.task].ignore, np.arange(_IDS, dtype=np.int32)
        if self.reduce_zero_label:
            ids = np.where((ids == 0) | (ids == ignore), ignore, ids - 1)
        if self.id_map is None:
            return ids
        new = ids.copy() if self.unlisted is None else np.where(ids == ignore, ignore, self.unlisted)
        for old, to in self.id_map.items():
            new[ids == old] = to
        return new.astype(np.int32)


def _as_numbers(name: str, values: Any) -> tuple[float, ...]:
    values = (values,) if isinstance(values, (int, float, str)) else tuple(values)
    try:
        return tuple(_INVALID_NAMES[value] if isinstance(value, str) else value for value in values)
    except KeyError as error:
        raise ValueError(f'{name} must be numbers, or among {list(_INVALID_NAMES)}; got {error}') from error
