"""A dense task: what its label maps hold, and how the rest of the package must treat them."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from mmengine.structures import PixelData
from torch import Tensor

from .normals_axes import NormalsAxes

IGNORE_INDEX = 255
"""Label of pixels that neither loss nor score counts, in binary maps and in maps of up to 255 classes."""

WIDE_IGNORE_INDEX = 65535
"""The same in maps of more classes."""

BY_KIND = 'by kind'
"""Default of a field that the kind of map decides."""

MOTIONS = ('none', 'direction', 'displacement', 'disparity')

KINDS: dict[str, dict[str, Any]] = {
    'classes': dict(ignore=IGNORE_INDEX, main_metric='mIoU', higher_is_better=True, metric='mmvmt.IoUMetric'),
    'binary': dict(ignore=IGNORE_INDEX, main_metric='mIoU', higher_is_better=True, metric='mmvmt.SaliencyMetric'),
    'vectors': dict(ignore=0, main_metric='mean', channels=3, motion='direction', metric='mmvmt.NormalsMetric'),
    'metric': dict(ignore=0, main_metric='rmse', metric='mmvmt.DepthMetric'),
    'values': dict(ignore=math.nan, main_metric='rmse', metric='mmvmt.ValuesMetric'),
}
"""What the kind decides; one channel, no motion and a main figure that is better lower where nothing is said."""

_SUITABLE_MOTIONS = {
    'classes': ('none',),
    'binary': ('none',),
    'vectors': ('none', 'direction'),
    'metric': ('none', 'disparity'),
    'values': MOTIONS,
}
_MOTION_CHANNELS = {'direction': (2, 3), 'displacement': (2,), 'disparity': (1,)}
_NAME = re.compile(r'[A-Za-z][A-Za-z0-9_-]*')
# Tasks are fields of samples and names of modules, and must not hide what these have by the same name; the last are
# keys of a pipeline's results that belong to other packages and to the tracking of pixels.
_TAKEN = {name for kind in (PixelData, torch.nn.ModuleDict, torch.nn.ParameterDict) for name in dir(kind())}
_TAKEN |= {'init_cfg', 'init_weights', 'is_init'}
_TAKEN |= {'seg_map', 'bboxes', 'bboxes_labels', 'keypoints', 'pixel_places', 'ignore_flags'}


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, (list, tuple, np.ndarray)) else value


def _plain(value: Any) -> Any:
    """Configs as JSON has them: dictionaries and lists, with the paths of classes in place of these."""
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return f'{value.__module__}.{value.__qualname__}' if isinstance(value, type) else value


@dataclasses.dataclass(frozen=True)
class Task:
    """A dense task.

    Args:
        name: Key of the task in configs, samples, results and logs.
        kind: What a label map holds:

            - ``'classes'``: ``(H, W)`` class indices, uint8 with 255 ignored; of more than 255 classes int32 with 65535
              ignored;
            - ``'binary'``: ``(H, W)`` uint8, 0 or 1, 255 ignored;
            - ``'vectors'``: ``(H, W, n)`` float32 unit vectors, n = 2 or 3, the zero vector where unknown;
            - ``'metric'``: ``(H, W)`` float32, positive numbers such as metres, 0 where unknown;
            - ``'values'``: ``(H, W, C)`` float32 numbers without a rule, ``(H, W)`` of one channel, NaN where unknown.
        channels: Channels of the map: 3 or 2 of vectors, any number of values, 1 of all others.
        classes: Names of the classes, background included, or their number; None: data set and head say it.
        palette: RGB, 0 to 255, of each class, or of 0 and 1 in binary maps.
        unit: Unit of metric maps and values, for tables and pictures, such as ``'m'`` or ``'px'``.
        motion: What flip, rotation and scaling of the picture do to the values at a pixel: ``'none'``;
            ``'direction'``, x and y turn (normals); ``'displacement'``, x and y turn and scale (optical flow in pixels
            of the picture); ``'disparity'``, values scale with the width of the picture.
        axes: Where x and y of a direction or displacement point, such as ``('right', 'down')``; None: of vectors, what
            ``normals_x`` and ``normals_y`` of the data set say, and of values to the right and down.
        loss: Config of the loss of its head by default, or a list of them; None: that of the output.
        metric: Config of its metric by default; None: it has none.
        main_metric: Key of the figure that enters Delta_m, without the task's name; None: the task has none.
        higher_is_better: Direction of ``main_metric``.
        ignore: Value of unknown pixels (padding, filled borders). Only class maps leave a choice, 255 or 65535.
        needs_foreground: A map, or what a crop leaves of it, whose labelled pixels are all 0 counts as unlabelled.
        scale: Of metric maps, whether heads learn the values (``'linear'``) or their logarithm (``'log'``).

    Raises:
        ValueError: A field is wrong, or does not suit the kind.
    """

    name: str
    kind: str
    _: dataclasses.KW_ONLY
    channels: int | None = None
    classes: tuple[str, ...] | int | None = None
    palette: tuple[tuple[int, int, int], ...] | None = None
    unit: str | None = None
    motion: str = BY_KIND
    axes: tuple[str, str] | None = None
    loss: dict[str, Any] | list[dict[str, Any]] | None = dataclasses.field(default=None, hash=False)
    metric: dict[str, Any] | None = dataclasses.field(default=BY_KIND, hash=False)  # type: ignore[assignment]
    main_metric: str | None = BY_KIND
    higher_is_better: bool | None = None
    ignore: float | None = dataclasses.field(default=None, compare=False)
    needs_foreground: bool = False
    scale: str = 'linear'

    def __post_init__(self) -> None:
        self._check_name()
        if self.kind not in KINDS:
            raise ValueError(f'task {self.name!r}: kind must be one of {", ".join(KINDS)}, got {self.kind!r}')
        rules = KINDS[self.kind]
        self._set(classes=self._class_names(), palette=_tuples(self.palette), axes=_tuples(self.axes))
        wide = self.classes is not None and len(self.classes) > IGNORE_INDEX
        defaults = dict(
            channels=(None, rules.get('channels', 1)),
            motion=(BY_KIND, rules.get('motion', 'none')),
            metric=(BY_KIND, dict(type=rules['metric'])),
            main_metric=(BY_KIND, rules['main_metric']),
            higher_is_better=(None, rules.get('higher_is_better', False)),
            ignore=(None, WIDE_IGNORE_INDEX if wide else rules['ignore']),
        )
        self._set(**{key: of_kind for key, (absent, of_kind) in defaults.items() if getattr(self, key) == absent})
        self._set(loss=_plain(self.loss), metric=_plain(self.metric))
        self._check()

    def _set(self, **fields: Any) -> None:
        for key, value in fields.items():
            object.__setattr__(self, key, value)

    def _check_name(self) -> None:
        name = self.name
        usable = isinstance(name, str) and _NAME.fullmatch(name) is not None and 'loss' not in name
        if not usable or name in _TAKEN:
            raise ValueError(
                f'{name!r} cannot be the name of a task: it must be of letters, digits, _ and -, begin with a letter, '
                f"not hold 'loss', and not be a name of PyTorch's modules or of MMEngine's samples, such as 'values'; "
                f'choose another'
            )

    def _class_names(self) -> tuple[str, ...] | None:
        """The names of classes, of which a number alone may be given."""
        classes = self.classes
        if classes is None:
            return None
        if isinstance(classes, int) and not isinstance(classes, bool):
            classes = [f'class {index}' for index in range(classes)]
        if isinstance(classes, str) or not isinstance(classes, Iterable):
            self._refuse('classes', 'a list of names or their number', classes)
        classes = tuple(map(str, classes))
        if not 2 <= len(classes) <= WIDE_IGNORE_INDEX or len(set(classes)) < len(classes):
            self._refuse('classes', f'2 to {WIDE_IGNORE_INDEX} different names, background included', classes)
        return classes

    def _check(self) -> None:
        """Refuse fields that do not suit the kind or each other."""
        kind, rules = self.kind, KINDS[self.kind]
        channels = dict(vectors=(2, 3), values=None).get(kind, (1,))
        whole = isinstance(self.channels, int) and not isinstance(self.channels, bool) and self.channels > 0
        if not whole or (channels and self.channels not in channels):
            self._refuse('channels', ' or '.join(map(str, channels or ())) or 'a positive number', self.channels)
        if self.motion not in _SUITABLE_MOTIONS[kind]:
            self._refuse('motion', ' or '.join(map(repr, _SUITABLE_MOTIONS[kind])), self.motion)
        if self.channels not in _MOTION_CHANNELS.get(self.motion, (self.channels,)):
            wanted = ' or '.join(map(str, _MOTION_CHANNELS[self.motion]))
            self._refuse('channels', f'{wanted} with motion={self.motion!r}', self.channels)
        if self.axes is not None:
            if self.motion not in ('direction', 'displacement'):
                self._refuse('axes', f'left out with motion={self.motion!r}', self.axes)
            if len(self.axes) != 2 or self.axes[0] not in ('left', 'right') or self.axes[1] not in ('up', 'down'):
                self._refuse('axes', "a pair of 'left' or 'right' and of 'up' or 'down'", self.axes)
        if self.classes is not None and kind != 'classes':
            self._refuse('classes', "left out, unless the kind is 'classes'", self.classes)
        if self.palette is not None:
            colors = 2 if kind == 'binary' else len(self.classes or self.palette)
            whole = all(len(color) == 3 and all(0 <= part <= 255 for part in color) for color in self.palette)
            if kind not in ('classes', 'binary') or len(self.palette) != colors or not whole:
                self._refuse(
                    'palette',
                    f'{colors} colours of three numbers from 0 to 255, of classes or binary maps',
                    self.palette,
                )
        if self.unit is not None and kind not in ('metric', 'values'):
            self._refuse('unit', "left out, unless the kind is 'metric' or 'values'", self.unit)
        if self.scale not in (('linear', 'log') if kind == 'metric' else ('linear',)):
            self._refuse('scale', "'linear', or 'log' of metric maps", self.scale)
        if self.needs_foreground and kind not in ('classes', 'binary'):
            self._refuse('needs_foreground', "left out, unless the kind is 'classes' or 'binary'", True)
        allowed = {rules['ignore'], WIDE_IGNORE_INDEX} if kind == 'classes' else {rules['ignore']}
        if self.classes is not None and len(self.classes) > IGNORE_INDEX:
            allowed = {WIDE_IGNORE_INDEX}
        if self.ignore not in allowed and not (math.isnan(self.ignore) and math.isnan(rules['ignore'])):
            self._refuse(
                'ignore',
                f'{" or ".join(map(str, sorted(allowed)))} (what is unknown in the files is an option of the data set)',
                self.ignore,
            )
        for key in ('loss', 'metric'):
            value = getattr(self, key)
            configs = value if isinstance(value, list) else [value]
            if value is not None and not all(isinstance(cfg, dict) and 'type' in cfg for cfg in configs):
                self._refuse(key, 'a config with a type', value)

    def _refuse(self, key: str, wanted: str, value: Any) -> None:
        raise ValueError(f'task {self.name!r} of kind {self.kind!r}: {key} must be {wanted}, got {value!r}')

    @property
    def gt_key(self) -> str:
        """Key of the label map in a pipeline's results dictionary."""
        return f'gt_{self.name}'

    @property
    def dtype(self) -> np.dtype:
        """Type of the numbers in a label map."""
        if self.kind in ('classes', 'binary'):
            return np.dtype(np.int32 if self.ignore > IGNORE_INDEX else np.uint8)
        return np.dtype(np.float32)

    @property
    def figure_unit(self) -> str:
        """Unit of the main figure: percent, degrees, or that of the values."""
        return {'classes': '%', 'binary': '%', 'vectors': '°'}.get(self.kind, self.unit or '')

    @property
    def declaration(self) -> dict[str, Any]:
        """What :func:`register_task` needs for the same task elsewhere: numbers, texts and lists of them."""
        default = Task(self.name, self.kind)
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)[2:]}
        changed = {
            key: value
            for key, value in fields.items()
            if value != getattr(default, key) and not (key == 'ignore' and math.isnan(value))
        }
        return dict(kind=self.kind) | _plain(changed)

    def known(self, label: np.ndarray | Tensor) -> np.ndarray | Tensor:
        """Which pixels of a label map are known.

        Args:
            label: Array ``(H, W)`` or ``(H, W, C)``, as in pipelines, or tensor ``(..., C, H, W)``, as in samples.

        Returns:
            Array ``(H, W)`` or tensor ``(..., H, W)`` of bool. Values are known where no channel is NaN.
        """
        if self.kind == 'metric':
            mask = label > 0
        elif self.kind == 'values':
            mask = label == label
        else:
            mask = label != self.ignore
        if not isinstance(label, Tensor):
            if mask.ndim == 2:
                return mask
            return mask.any(axis=2) if self.kind == 'vectors' else mask.all(axis=2)
        if mask.shape[-3] == 1:
            return mask.squeeze(-3)
        return mask.any(dim=-3) if self.kind == 'vectors' else mask.all(dim=-3)

    def unknown_map(self, height: int, width: int) -> np.ndarray:
        """A label map without a known pixel, ``(H, W)`` or of several channels ``(H, W, C)``."""
        shape = (height, width) if self.channels == 1 else (height, width, self.channels)
        return np.full(shape, self.ignore, self.dtype)

    def mirrored(self, values: np.ndarray | Tensor, x: bool = True, y: bool = False) -> np.ndarray | Tensor:
        """What mirroring the picture makes of the values at a pixel, in place; pixels stay where they are.

        Args:
            values: Array ``(H, W, C)`` or tensor ``(..., C, H, W)``; without motion of any shape.
            x: Whether columns are exchanged.
            y: Whether rows are.
        """
        if self.motion in ('direction', 'displacement'):
            channels_first = values.movedim(-3, 0) if isinstance(values, Tensor) else np.moveaxis(values, 2, 0)
            for channel in [index for index, mirrored in enumerate((x, y)) if mirrored]:
                channels_first[channel] *= -1
        return values

    def rescaled(self, values: np.ndarray | Tensor, width: float, height: float) -> np.ndarray | Tensor:
        """What scaling the picture makes of the values at a pixel.

        Args:
            values: Array ``(H, W)`` or ``(H, W, C)``, or tensor ``(..., C, H, W)``.
            width: Factor of the picture's width.
            height: Factor of its height.
        """
        if self.motion == 'disparity':
            return values * values.dtype.type(width) if isinstance(values, np.ndarray) else values * width
        if self.motion == 'displacement' and isinstance(values, Tensor):
            return values * values.new_tensor((width, height)).view(2, 1, 1)
        return values * np.array((width, height), values.dtype) if self.motion == 'displacement' else values

    def axes_in(self, meta: Mapping[str, Any] | None) -> NormalsAxes | None:
        """Where x and y point.

        Args:
            meta: Meta information of a data set or sample, or the results of a pipeline.

        Returns:
            The axes; None where the motion needs none, or nobody has declared those of vectors.
        """
        if self.motion not in ('direction', 'displacement'):
            return None
        if self.axes is not None:
            return NormalsAxes(*self.axes)
        return NormalsAxes.of(meta) if self.kind == 'vectors' else NormalsAxes('right', 'down')
