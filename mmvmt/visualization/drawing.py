"""Pictures of label maps and predictions. Pure functions: arrays in, RGB arrays out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.colors
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from mmvmt.structures import HUMAN_PARTS_PALETTE, TASKS, NormalsAxes, check_tasks, names_key, voc_palette

Map = np.ndarray | torch.Tensor


PALETTES: dict[str, np.ndarray] = {
    'semseg': np.array(voc_palette(), np.uint8),
    'human_parts': np.array(HUMAN_PARTS_PALETTE, np.uint8),
}
"""Colours of the classes of the package's own tasks, ``(classes, 3)`` uint8 RGB."""

HATCH_COLORS = np.array([(236, 236, 236), (208, 208, 208)], np.uint8)
HATCH_PERIOD = 8
PERCENTILES = (2, 98)
MIN_CELL = 128
WHITE, TEXT_COLOR, FRAME_COLOR = (255, 255, 255), (40, 40, 40), (190, 190, 190)


def palette_of(task: str, meta: Mapping[str, Any] | None = None) -> np.ndarray:
    """Colours of the classes of a task, or of 0 and 1 in binary maps, ``(n, 3)`` uint8 RGB.

    Args:
        task: Name of the task.
        meta: Meta information of a data set, whose palette comes first (``palette`` of semseg, ``<task>_palette`` of
            others); then comes that of the declaration, then :data:`PALETTES`, then PASCAL VOC's colours.
    """
    rules, key = TASKS[task], names_key(task).replace('classes', 'palette')
    of_data = (meta or {}).get(key)
    for colors in (of_data, rules.palette):
        if colors is not None and len(colors):
            return np.array(colors, np.uint8)
    if rules.kind == 'binary':
        return np.array([(0, 0, 0), WHITE], np.uint8)
    if task in PALETTES and rules.classes is None:
        return PALETTES[task]
    return np.array(voc_palette(max(256, len(rules.classes or ()))), np.uint8)


def colorize(
    task: str,
    label_map: Map,
    value_range: tuple[float, float] | None = None,
    axes: NormalsAxes | None = None,
    palette: np.ndarray | None = None,
) -> np.ndarray:
    """Colour one map of a task, truth or prediction.

    - Classes get their colours, see :func:`palette_of`.
    - Binary maps and probabilities lie between the two colours of their palette: grays, white is 1.
    - Normals are ``(n + 1) / 2`` in PASCAL_MT's axes, so that a colour means the same direction whatever axes the map
      has, and an unknown one is mid gray.
    - Metric maps get the colour map magma, near is dark.
    - Values of one channel get the colour map viridis; of two channels, and vectors in the plane, the hue of their
      direction, the more colour the longer they are; of three and more, the first three as red, green and blue.

    Unknown pixels of all but normals are hatched in light gray.

    Args:
        task: Name of the task.
        label_map: ``(H, W)``, ``(1, H, W)``, or of several channels ``(H, W, C)`` array or ``(C, H, W)``.
        value_range: Numbers that get the ends of the colours, of metric maps and values. Default: those of
            :func:`robust_range`.
        axes: Axes of normals; None: those of PASCAL_MT.
        palette: ``(n, 3)`` uint8, RGB; None: that of :func:`palette_of`.

    Returns:
        ``(H, W, 3)`` uint8, RGB.

    Raises:
        ValueError: The task is unknown, or the map has a shape or a class that the task does not have.
    """
    check_tasks([task])
    label_map = _to_array(task, label_map)
    rules, kind = TASKS[task], TASKS[task].kind
    if kind == 'classes':
        return _colorize_classes(task, label_map, palette_of(task) if palette is None else palette)
    if kind == 'binary':
        # Integers are labels, 0 and 1; floats are probabilities.
        labels = np.issubdtype(label_map.dtype, np.integer)
        zero, one = (palette_of(task) if palette is None else palette).astype(np.float32) / 255
        picture = _to_bytes(zero + label_map.astype(np.float32)[..., None].clip(0, 1) * (one - zero))
        return _hatch(picture, ~rules.known(label_map)) if labels else picture
    if kind == 'vectors' and rules.channels == 3:
        vectors = label_map if axes is None else axes.convert(label_map, NormalsAxes())
        return _to_bytes((vectors + 1) / 2)
    known = rules.known(label_map)
    low, high = value_range or robust_range([label_map], task)
    if rules.channels == 2:
        return _hatch(_colorize_directions(label_map, high), ~known)
    scaled = np.clip((np.nan_to_num(label_map) - low) / max(high - low, 1e-6), 0, 1)
    if rules.channels == 1:
        scaled = matplotlib.colormaps['magma' if kind == 'metric' else 'viridis'](scaled)
    return _hatch(_to_bytes(scaled[..., :3]), ~known)


def robust_range(maps: Sequence[Map], task: str = 'depth') -> tuple[float, float]:
    """The numbers of some maps that get the ends of the colours, see :func:`colorize`.

    Args:
        maps: Maps of the task.
        task: A task with metric maps, values, or vectors of two channels.

    Returns:
        The 2nd and the 98th percentile of what is known, or 0 and 1 if nothing is; of two channels 0 and the 98th
        percentile of the lengths, of unit vectors 1; of three and more, 0 and 1 where these percentiles lie between.
    """
    rules, arrays = TASKS[task], [_to_array(task, label_map) for label_map in maps]
    if rules.kind == 'vectors':
        return 0.0, 1.0
    known = np.concatenate([array[rules.known(array)] for array in arrays])
    if rules.channels == 2:
        known = np.linalg.norm(known, axis=1)
    if known.size == 0:
        return 0.0, 1.0
    low, high = map(float, np.percentile(known if known.ndim == 1 else known[:, :3], PERCENTILES))
    if rules.channels == 2 or (rules.channels > 2 and low >= 0 and high <= 1):
        return 0.0, high if rules.channels == 2 else 1.0
    return low, high


def draw_multi_task(
    image: np.ndarray,
    rows: Mapping[str, Mapping[str, Map]],
    title: str | None = None,
    axes: NormalsAxes | None = None,
    meta: Mapping[str, Any] | None = None,
) -> np.ndarray:
    """Draw an image and the maps of its tasks in one labelled picture.

    The first column is the image, then comes one column per task, in the order in which the rows name them. All maps
    are brought to the image's size (nearest neighbour); a small picture is enlarged by a whole factor, so that the
    labels fit. A row that lacks a task leaves a blank.

    Args:
        image: ``(H, W, 3)`` uint8, RGB.
        rows: ``{name of the row: {task: map}}``, such as ``{'truth': {...}, 'prediction': {...}}``; maps as in
            :func:`colorize`. All maps of a task share one range of numbers, and so can be compared.
        title: A line above everything.
        axes: Axes of normals, as in :func:`colorize`.
        meta: Meta information of the data set, for its palettes.

    Returns:
        The picture, ``(H', W', 3)`` uint8, RGB.

    Raises:
        ValueError: The image is no ``(H, W, 3)`` uint8 array, or a map does not suit its task.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f'image must be (H, W, 3) uint8, got {image.shape} {image.dtype}')
    tasks = list(dict.fromkeys(task for maps in rows.values() for task in maps))
    factor = -(-MIN_CELL // min(image.shape[:2]))
    height, width = image.shape[0] * factor, image.shape[1] * factor

    if tasks:
        check_tasks(tasks)
    ranged = [task for task in tasks if TASKS[task].kind in ('metric', 'values')]
    ranges = {task: robust_range([maps[task] for maps in rows.values() if task in maps], task) for task in ranged}
    cells = {('', 'input'): image}
    for name, maps in rows.items():
        for task, label_map in maps.items():
            cells[name, task] = colorize(task, label_map, ranges.get(task), axes, palette_of(task, meta))

    font = _font(int(np.clip(width / 11, 11, 26)))
    line = int(font.size * 1.7)
    gap = max(4, width // 40)
    names = list(rows) or ['']
    left = line if any(names) else gap
    top = gap + line * (2 if title else 1)
    columns = ['input', *tasks]
    canvas = Image.new('RGB', (left + len(columns) * (width + gap), top + len(names) * (height + gap)), WHITE)
    draw = ImageDraw.Draw(canvas)

    if title:
        draw.text((left, gap + line / 2), _shorten(title, font, canvas.width - left - gap), TEXT_COLOR, font, 'lm')
    for column, label in enumerate(columns):
        x = left + column * (width + gap)
        label = _shorten(label.replace('_', ' '), font, width)
        draw.text((x + width / 2, top - line / 2), label, TEXT_COLOR, font, 'mm')
        for row, name in enumerate(names):
            y = top + row * (height + gap)
            cell = cells.get(('', 'input') if column == 0 and row == 0 else (name, columns[column]))
            if cell is not None:
                canvas.paste(Image.fromarray(cell).resize((width, height), Image.Resampling.NEAREST), (x, y))
            elif column > 0:
                draw.rectangle((x, y, x + width - 1, y + height - 1), outline=FRAME_COLOR)
    for row, name in enumerate(names):
        if not name:
            continue
        label = Image.new('RGB', (height, line), WHITE)
        text = _shorten(name, font, height)
        ImageDraw.Draw(label).text((height / 2, line / 2), text, TEXT_COLOR, font, 'mm')
        canvas.paste(label.rotate(90, expand=True), (0, top + row * (height + gap)))
    return np.asarray(canvas)


def _to_array(task: str, label_map: Map) -> np.ndarray:
    is_tensor = isinstance(label_map, torch.Tensor)
    array = label_map.detach().cpu().numpy() if is_tensor else np.asarray(label_map)
    channels = TASKS[task].channels
    if channels > 1:
        # Tensors have channels first; arrays of a pipeline have them last, unless only the first axis can be channels.
        if array.ndim == 3 and array.shape[0] == channels and (is_tensor or array.shape[2] != channels):
            array = array.transpose(1, 2, 0)
        suits = array.ndim == 3 and array.shape[2] == channels
    else:
        if array.ndim == 3 and array.shape[0] == 1:
            array = array[0]
        suits = array.ndim == 2
    if not suits:
        wanted = f'({channels}, H, W) or (H, W, {channels})' if channels > 1 else '(H, W) or (1, H, W)'
        raise ValueError(f'a map of task {task!r} must be {wanted}, got {tuple(label_map.shape)}')
    return array


def _to_bytes(values: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)


def _colorize_classes(task: str, label_map: np.ndarray, palette: np.ndarray) -> np.ndarray:
    ignored = ~TASKS[task].known(label_map)
    labels = np.where(ignored, 0, label_map)
    if labels.min() < 0 or labels.max() >= len(palette):
        raise ValueError(
            f'a map of task {task!r} holds class {int(labels.max())}; there are colours for 0 to {len(palette) - 1}'
        )
    return _hatch(palette[labels], ignored)


def _colorize_directions(vectors: np.ndarray, longest: float) -> np.ndarray:
    """Vectors ``(H, W, 2)`` as the hue of their direction, white where they are short."""
    x, y = np.moveaxis(np.nan_to_num(vectors.astype(np.float32)), 2, 0)
    hue = np.arctan2(y, x) / (2 * np.pi) % 1
    saturation = np.clip(np.hypot(x, y) / max(longest, 1e-6), 0, 1)
    return _to_bytes(matplotlib.colors.hsv_to_rgb(np.stack([hue, saturation, np.ones_like(hue)], axis=2)))


def _hatch(picture: np.ndarray, where: np.ndarray) -> np.ndarray:
    rows, columns = np.nonzero(where)
    stripe = (rows + columns) // (HATCH_PERIOD // 2) % 2
    picture[rows, columns] = HATCH_COLORS[stripe]
    return picture


def _font(size: int) -> ImageFont.FreeTypeFont:
    # The font that comes with matplotlib: the same on every machine, and nothing to download.
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / 'fonts' / 'ttf' / 'DejaVuSans.ttf'), size)


def _shorten(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f'{text}…') > width:
        text = text[:-1]
    return f'{text}…'
