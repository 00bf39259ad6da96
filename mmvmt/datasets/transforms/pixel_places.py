"""A map that holds the place of every pixel, and what the map says once somebody has moved it."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from mmvmt.structures import NormalsAxes, Task

from .label_maps import turn_values

# Places begin above all values that a transform may fill in, such as 255.
_FIRST = 1000
_MARK_BITS = 8
_POINTS = 2000
_TOLERANCE = 1.0
_SHEAR = 0.02


def pixel_places(height: int, width: int) -> np.ndarray:
    """The map, ``(H, W)`` float64, which every function of OpenCV takes; read-only.

    A value is the index of the pixel, behind a mark that follows no rule: means of several values have another one.
    """
    pixels = height * width
    return _values(1 << max(pixels - 1, 0).bit_length())[:pixels].reshape(height, width)


@lru_cache(maxsize=4)
def _values(number: int) -> np.ndarray:
    """The values of the first pixels, which do not depend on the size of a map."""
    index = np.arange(number)
    # No linear function of the index, which means of neighbours would keep; that it overflows does not matter.
    mark = (index * index * 2654435761 >> 16) % 2**_MARK_BITS
    values = (_FIRST + (index << _MARK_BITS) + mark).astype(np.float64)
    values.flags.writeable = False
    return values


def decode_places(places: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Which pixel each pixel of a moved map was.

    Args:
        places: ``(H', W')``, the moved map.
        size: Height and width of the map before.

    Returns:
        ``(H', W')`` int64, -1 where something was filled in.

    Raises:
        ValueError: The map holds what no pixel was: values were converted, or interpolated.
    """
    if not isinstance(places, np.ndarray) or places.dtype != np.float64 or places.ndim != 2:
        found = getattr(places, 'dtype', type(places).__name__)
        raise ValueError(f'they are converted (from float64 to {found})')
    filled = places < _FIRST
    pristine = pixel_places(*size).ravel()
    source = np.where(places <= pristine[-1], places, _FIRST).astype(np.int64) - _FIRST >> _MARK_BITS
    source[filled] = 0
    if not (filled | (pristine[source] == places)).all():
        raise ValueError('they are interpolated, which gives classes that are nowhere')
    source[filled] = -1
    return source


class PictureMotion(NamedTuple):
    """How a picture was moved.

    Args:
        source: ``(H', W')`` int64, which pixel each pixel was, -1 where it was none.
        size: Height and width before.
        matrix: ``(2, 3)``, from places (x, y) after to places before; None where the motion is no affine one.
    """

    source: np.ndarray
    size: tuple[int, int]
    matrix: np.ndarray | None

    @classmethod
    def of(cls, source: np.ndarray, size: tuple[int, int]) -> PictureMotion:
        """The motion behind a map of sources; its matrix by least squares."""
        y, x = np.nonzero(source >= 0)
        step = max(1, len(y) // _POINTS)
        y, x = y[::step], x[::step]
        if len(y) < 3:
            return cls(source, size, None)
        before = np.stack(np.divmod(source[y, x], size[1])[::-1], axis=1)
        after = np.stack([x, y, np.ones_like(x)], axis=1)
        matrix, _, rank, _ = np.linalg.lstsq(after, before, rcond=None)
        error = np.sqrt(((after @ matrix - before) ** 2).sum(axis=1).mean())
        return cls(source, size, matrix.T if rank == 3 and error <= _TOLERANCE else None)

    @property
    def keeps_whole_picture(self) -> bool:
        """Whether the picture was at most resized."""
        if self.matrix is None or (self.source < 0).any():
            return False
        factors = [before / after for before, after in zip(self.size[::-1], self.source.shape[::-1], strict=True)]
        # From a pixel's edge to the other's; places are centres, half a pixel inside.
        expected = np.array([[factors[0], 0, (factors[0] - 1) / 2], [0, factors[1], (factors[1] - 1) / 2]])
        bottom, right = (edge - 1 for edge in self.source.shape)
        corners = np.array([[0, 0, 1], [right, 0, 1], [0, bottom, 1]])
        distance = np.abs(corners @ (self.matrix - expected).T).max()
        return bool(distance <= _TOLERANCE + max(factors) / 2)

    def carry(self, task: Task, label: np.ndarray, axes: NormalsAxes | None) -> np.ndarray:
        """Move a label map of :attr:`size` in the same way.

        Args:
            task: The task of the map.
            label: ``(H, W)`` or ``(H, W, C)``.
            axes: Axes of directions and displacements.

        Returns:
            ``(H', W')`` or ``(H', W', C)``, from the nearest pixels, unknown where there was none.

        Raises:
            ValueError: Values turn or scale with the picture, and it is not known how.
        """
        known = self.source >= 0
        flat = label.reshape(-1, *label.shape[2:])
        moved = flat[np.where(known, self.source, 0)]
        moved[~known] = task.ignore
        if task.motion == 'none':
            return moved
        if task.motion == 'disparity':
            return task.rescaled(moved, *np.linalg.norm(self._forward(), axis=0))
        matrix = self._turn() if task.motion == 'direction' else self._forward()
        if np.array_equal(matrix, np.eye(2)):
            return moved
        if axes is None:
            # Mirroring is the same in all axes.
            if not np.array_equal(np.abs(matrix), np.eye(2)):
                raise ValueError('normals_x and normals_y do not say where the axes of the normals point')
            axes = NormalsAxes()
        return turn_values(moved, axes, matrix)

    def _forward(self) -> np.ndarray:
        """``(2, 2)``, from steps (x, y) before to steps after; whole numbers where it is next to them."""
        if self.matrix is None:
            raise ValueError('it is bent, and what happens to the values is another thing everywhere')
        forward = np.linalg.inv(self.matrix[:, :2])
        return forward.round() if np.abs(forward - forward.round()).max() < 1e-3 else forward

    def _turn(self) -> np.ndarray:
        """The orthogonal part of the motion, ``(2, 2)``, from before to after."""
        forward = self._forward()
        # A turn before or behind a scaling along the axes leaves them at right angles on one of both sides.
        angles = [abs(square[0, 1]) / np.trace(square) for square in (forward @ forward.T, forward.T @ forward)]
        if min(angles) > _SHEAR:
            raise ValueError('it is sheared, and vectors have no turn of their own')
        left, _, right = np.linalg.svd(forward)
        turn = left @ right
        return turn.round() if np.abs(turn - turn.round()).max() < 1e-3 else turn
