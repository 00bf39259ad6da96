"""Which axes the normals of a data set have, read off the maps themselves."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping

import cv2
import numpy as np

from mmvmt.structures import IGNORE_INDEX, NormalsAxes

from .vectors import known_vectors

_SMALLEST_OBJECT = 100
_FEWEST = 8
# In standard errors of the mean.
_SIGNIFICANT = 3.0


def axes_evidence(normals: np.ndarray, objects: np.ndarray) -> Counter:
    """What one image says about the axes of its normals.

    Objects are convex by and large: their left side faces left and their upper side up. So within an object x falls
    with the column if it points to the left, and y falls with the row if it points up. What else is in the lower third
    of an image is mostly floor, which faces up.

    Args:
        normals: ``(H, W, 3)`` float32, the zero vector where unknown.
        objects: ``(H, W)`` uint8: nonzero on objects, different values on objects that must not be taken together; 0
            and 255 elsewhere.

    Returns:
        Sums over observations for each axis: their number ``n_x``, their values ``x`` and their squares ``xx``, and the
        same for y. Values are correlations of x with the column and of y with the row, or minus the mean y of a floor.
        May be added up over images.
    """
    sums = Counter()
    known = known_vectors(normals)
    lower = np.s_[-(len(normals) // 3) :]
    floor = normals[lower][(known[lower] > 0) & (objects[lower] == 0)]
    if len(floor) >= _SMALLEST_OBJECT:
        _observe(sums, 'y', -float(floor[:, 1].mean()))
    inside = known * (objects != IGNORE_INDEX)
    for value in np.unique(objects[inside > 0]):
        if value == 0:
            continue
        mask = (objects == value).view(np.uint8) & inside
        count, labels, stats, _ = cv2.connectedComponentsWithStats(mask)
        for component in range(1, count):
            if stats[component, cv2.CC_STAT_AREA] < _SMALLEST_OBJECT:
                continue
            rows, columns = np.nonzero(labels == component)
            vectors = normals[rows, columns]
            _observe(sums, 'x', _correlation(vectors[:, 0], columns))
            _observe(sums, 'y', _correlation(vectors[:, 1], rows))
    return sums


def estimate_axes(evidence: Mapping[str, float]) -> dict[str, str]:
    """The axes that the evidence of many images points to.

    Args:
        evidence: Sums of :func:`axes_evidence`.

    Returns:
        ``normals_x`` and ``normals_y``; an axis is left out where there is too little to see, or it disagrees.
    """
    estimate = {}
    for key, name, falling, rising in (('normals_x', 'x', 'left', 'right'), ('normals_y', 'y', 'up', 'down')):
        number = evidence.get(f'n_{name}', 0)
        if number < _FEWEST:
            continue
        mean = evidence[name] / number
        error = math.sqrt(max(evidence[name * 2] / number - mean**2, 1e-6) / number)
        if abs(mean) > _SIGNIFICANT * error:
            estimate[key] = falling if mean < 0 else rising
    return estimate


def contradictions(evidence: Mapping[str, float], declared: NormalsAxes) -> dict[str, str]:
    """The axes of the estimate that differ from the declared ones."""
    return {key: value for key, value in estimate_axes(evidence).items() if declared.meta[key] != value}


def _observe(sums: Counter, axis: str, value: float) -> None:
    sums.update({f'n_{axis}': 1, axis: value, axis * 2: value * value})


def _correlation(values: np.ndarray, places: np.ndarray) -> float:
    values, places = values - values.mean(), places - places.mean()
    scale = math.sqrt(float((values**2).sum()) * float((places**2).sum()))
    return float((values * places).sum()) / scale if scale > 1e-6 else 0.0
