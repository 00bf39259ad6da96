"""Pictures of label maps and predictions. Pure functions: arrays in, RGB arrays out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from mmvmt.structures import HUMAN_PARTS_PALETTE, IGNORE_INDEX, TASKS, NormalsAxes, check_tasks, voc_palette

Map = np.ndarray | torch.Tensor


PALETTES: dict[str, np.ndarray] = {
    'semseg': np.array(voc_palette(), np.uint8),
    'human_parts': np.array(HUMAN_PARTS_PALETTE, np.uint8),
}
"""Colour of each class, ``(classes, 3)`` uint8 RGB."""

HATCH_COLORS = np.array([(236, 236, 236), (208, 208, 208)], np.uint8)
HATCH_PERIOD = 8
DEPTH_PERCENTILES = (2, 98)
MIN_CELL = 128
WHITE, TEXT_COLOR, FRAME_COLOR = (255, 255, 255), (40, 40, 40), (190, 190, 190)


def colorize(
    task: str, label_map: Map, depth_range: tuple[float, float] | None = None, axes: NormalsAxes | None = None
) -> np.ndarray:
    """Colour one map of a task, truth or prediction.

    Classes get the colours of :data:`PALETTES`; binary maps and probabilities grays, white is 1; normals
    ``(n + 1) / 2`` in PASCAL_MT's axes, so that a colour means the same direction whatever axes the map has, and an
    unknown one is mid gray; depth the colour map magma, near is dark. Unknown pixels of all
    but normals are hatched in light gray.

    Args:
        task: Name of the task.
        label_map: ``(H, W)``, ``(1, H, W)``, or for normals ``(H, W, 3)`` array or ``(3, H, W)``.
        depth_range: Depths in metres that get the ends of the colour map. Default: the 2nd and 98th percentile.
        axes: Axes of normals; None: those of PASCAL_MT.

    Returns:
        ``(H, W, 3)`` uint8, RGB.

    Raises:
        ValueError: The task is unknown, or the map has a shape or a class that the task does not have.
    """
    check_tasks([task])
    label_map = _to_array(task, label_map)
    kind = TASKS[task].kind
    if kind == 'classes':
        return _colorize_classes(task, label_map)
    if kind == 'binary':
        # Integers are labels, 0 and 1; floats are probabilities.
        labels = np.issubdtype(label_map.dtype, np.integer)
        gray = _to_bytes(label_map.astype(np.float32))
        picture = np.repeat(gray[..., None], 3, axis=2)
        return _hatch(picture, label_map == IGNORE_INDEX) if labels else picture
    if kind == 'vectors':
        vectors = label_map if axes is None else axes.convert(label_map, NormalsAxes())
        return _to_bytes((vectors + 1) / 2)
    known = label_map > 0
    low, high = depth_range or robust_range([label_map])
    scaled = np.clip((label_map - low) / max(high - low, 1e-6), 0, 1)
    picture = _to_bytes(matplotlib.colormaps['magma'](scaled)[..., :3])
    return _hatch(picture, ~known)


def robust_range(depth_maps: Sequence[Map]) -> tuple[float, float]:
    """Return the 2nd and the 98th percentile of the known depths, in metres, or 0 and 1 if there are none."""
    depths = [_to_array('depth', depth) for depth in depth_maps]
    known = np.concatenate([depth[depth > 0] for depth in depths])
    if known.size == 0:
        return 0.0, 1.0
    low, high = np.percentile(known, DEPTH_PERCENTILES)
    return float(low), float(high)


def draw_multi_task(
    image: np.ndarray,
    rows: Mapping[str, Mapping[str, Map]],
    title: str | None = None,
    axes: NormalsAxes | None = None,
) -> np.ndarray:
    """Draw an image and the maps of its tasks in one labelled picture.

    The first column is the image, then comes one column per task, in the order in which the rows name them. All maps
    are brought to the image's size (nearest neighbour); a small picture is enlarged by a whole factor, so that the
    labels fit. A row that lacks a task leaves a blank.

    Args:
        image: ``(H, W, 3)`` uint8, RGB.
        rows: ``{name of the row: {task: map}}``, such as ``{'truth': {...}, 'prediction': {...}}``; maps as in
            :func:`colorize`. All depth maps share one range, and so can be compared.
        title: A line above everything.
        axes: Axes of normals, as in :func:`colorize`.

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

    depths = [maps['depth'] for maps in rows.values() if 'depth' in maps]
    depth_range = robust_range(depths) if depths else None
    cells = {('', 'input'): image}
    for name, maps in rows.items():
        for task, label_map in maps.items():
            cells[name, task] = colorize(task, label_map, depth_range, axes)

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
    if TASKS[task].channels == 3:
        # Tensors have channels first; arrays of a pipeline have them last, unless only the first axis can be channels.
        if array.ndim == 3 and array.shape[0] == 3 and (is_tensor or array.shape[2] != 3):
            array = array.transpose(1, 2, 0)
        suits = array.ndim == 3 and array.shape[2] == 3
    else:
        if array.ndim == 3 and array.shape[0] == 1:
            array = array[0]
        suits = array.ndim == 2
    if not suits:
        wanted = '(3, H, W) or (H, W, 3)' if TASKS[task].channels == 3 else '(H, W) or (1, H, W)'
        raise ValueError(f'a map of task {task!r} must be {wanted}, got {tuple(label_map.shape)}')
    return array


def _to_bytes(values: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)


def _colorize_classes(task: str, label_map: np.ndarray) -> np.ndarray:
    palette = PALETTES[task]
    ignored = label_map == IGNORE_INDEX
    labels = np.where(ignored, 0, label_map)
    if labels.min() < 0 or labels.max() >= len(palette):
        raise ValueError(
            f'a map of task {task!r} holds class {int(labels.max())}; there are colours for 0 to {len(palette) - 1}'
        )
    return _hatch(palette[labels], ignored)


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
