"""The axes of surface normals, in which data sets differ."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from mmengine.logging import print_log

_CHOICES = {'normals_x': ('left', 'right'), 'normals_y': ('up', 'down')}


@dataclass(frozen=True)
class NormalsAxes:
    """Where x and y of a normal point in the picture; z points to the viewer.

    By default those of PASCAL_MT and of NYUD's maps: x to the left, y up. A data set declares its axes as ``normals_x``
    and ``normals_y`` in its ``metainfo``; they are in the meta information of every sample and checkpoint.

    Args:
        x: ``'left'`` or ``'right'``.
        y: ``'up'`` or ``'down'``.

    Raises:
        ValueError: It is neither.
    """

    x: str = 'left'
    y: str = 'up'

    def __post_init__(self) -> None:
        for (key, choices), value in zip(_CHOICES.items(), (self.x, self.y), strict=True):
            if value not in choices:
                raise ValueError(f'{key} must be {" or ".join(map(repr, choices))}, got {value!r}')

    @classmethod
    def of(cls, meta: Mapping[str, Any] | None) -> NormalsAxes | None:
        """The axes that ``normals_x`` and ``normals_y`` of some meta information declare; None where one is absent."""
        declared = [None if meta is None else meta.get(key) for key in _CHOICES]
        return None if None in declared else cls(*declared)

    @property
    def meta(self) -> dict[str, str]:
        """The declaration: ``normals_x`` and ``normals_y``."""
        return dict(zip(_CHOICES, (self.x, self.y), strict=True))

    @property
    def signs(self) -> np.ndarray:
        """``(2,)``: of x against a pixel's column, of y against its row (which counts downwards)."""
        return np.array([1 if self.x == 'right' else -1, 1 if self.y == 'down' else -1])

    def convert(self, vectors: np.ndarray, other: NormalsAxes) -> np.ndarray:
        """Normals ``(..., 3)`` of these axes in others."""
        return vectors * np.array([*(self.signs * other.signs), 1], vectors.dtype)

    def turn(self, matrix: np.ndarray) -> np.ndarray:
        r"""How normals turn when the picture does.

        With the picture's matrix :math:`Q` and :math:`D = \mathrm{diag}` of :attr:`signs`, x and y turn by
        :math:`D Q D`: under axes that are mirrored to each other, the same turn of the picture turns the numbers in
        opposite senses.

        Args:
            matrix: ``(2, 2)``, orthogonal: where a step of one column and one of one row go.

        Returns:
            ``(3, 3)``, from normals to normals.
        """
        turn = np.eye(3)
        turn[:2, :2] = self.signs[:, None] * matrix * self.signs
        return turn

    def direction(self, name: str) -> tuple[float, float, float]:
        """The normal of a surface that faces a side of the picture.

        Args:
            name: ``'left'``, ``'right'``, ``'up'``, ``'down'`` or ``'to the viewer'``.
        """
        x, y = (float(sign) for sign in self.signs)
        return {
            'left': (-x, 0.0, 0.0),
            'right': (x, 0.0, 0.0),
            'up': (0.0, -y, 0.0),
            'down': (0.0, y, 0.0),
            'to the viewer': (0.0, 0.0, 1.0),
        }[name]

    def __str__(self) -> str:
        return f'x {self.x}, y {self.y}, z to the viewer'


def warn_of_other_axes(trained: Mapping[str, Any] | None, data: Mapping[str, Any] | None, what: str) -> None:
    """Say so in the log if weights were trained on normals with other axes than those of the data.

    Args:
        trained: Meta information of the data that the weights were trained on.
        data: Meta information of the data that they meet.
        what: What the weights are called in the message.
    """
    before, now = NormalsAxes.of(trained), NormalsAxes.of(data)
    if before is not None and now is not None and before != now:
        print_log(
            f'{what} was trained on normals with the axes {before}; those of this data set are {now}: predictions have '
            f"other signs than the data set's, and figures of normals mean nothing",
            logger='current',
            level=logging.WARNING,
        )
