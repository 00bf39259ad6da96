"""A picture and its maps as a grid of equal cells, for films: every frame of a film gets the same layout."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from mmvmt.structures import TASKS, NormalsAxes

from .drawing import TEXT_COLOR, WHITE, Map, _font, _shorten, colorize, palette_of


def draw_grid(
    image: np.ndarray,
    maps: Mapping[str, Map],
    columns: int | None = None,
    depth_range: tuple[float, float] | None = None,
    axes: NormalsAxes | None = None,
    meta: Mapping[str, Any] | None = None,
) -> np.ndarray:
    """Draw a picture and its coloured maps, each with its name above it, in cells of the picture's own size.

    Args:
        image: ``(H, W, 3)`` uint8, RGB.
        maps: ``{task: map}`` of the picture's size; maps as in :func:`mmvmt.visualization.colorize`.
        columns: Cells of a row; None: as many as there are rows, or one more.
        depth_range: Depths in metres at the ends of the colour map, see :func:`mmvmt.visualization.colorize`; fixed
            ones keep the colours of a film from flickering.
        axes: Axes of normals, as in :func:`mmvmt.visualization.colorize`.
        meta: Meta information of the data set, for its palettes.

    Returns:
        The picture, uint8 RGB: ``columns * W`` wide, and per row H and a line of text high. Both are even, as films
        need them: where they are not, a white line is added.

    Raises:
        ValueError: ``columns`` is not positive, or a map has another size than the picture or does not suit its task.
    """
    cells = [('input', image)]
    for task, label_map in maps.items():
        of_depth = depth_range if TASKS[task].kind == 'metric' else None
        cell = colorize(task, label_map, of_depth, axes, palette_of(task, meta))
        if cell.shape != image.shape:
            raise ValueError(
                f'the map of task {task!r} has {cell.shape[0]} x {cell.shape[1]} pixels, the picture has '
                f'{image.shape[0]} x {image.shape[1]}'
            )
        cells.append((task.replace('_', ' '), cell))
    if columns is None:
        columns = math.ceil(math.sqrt(len(cells)))
    if columns < 1:
        raise ValueError(f'columns must be 1 or more, got {columns}')
    columns = min(columns, len(cells))
    rows = math.ceil(len(cells) / columns)

    height, width = image.shape[:2]
    font = _font(int(np.clip(height / 14, 9, 24)))
    line = int(font.size * 1.7)
    size = columns * width, rows * (height + line)
    canvas = Image.new('RGB', tuple(edge + edge % 2 for edge in size), WHITE)
    draw = ImageDraw.Draw(canvas)
    for index, (name, cell) in enumerate(cells):
        x, y = index % columns * width, index // columns * (height + line)
        draw.text((x + width / 2, y + line / 2), _shorten(name, font, width), TEXT_COLOR, font, 'mm')
        canvas.paste(Image.fromarray(cell), (x, y + line))
    return np.asarray(canvas)
