"""Boundary maps against each other, counted as by the Berkeley benchmark (Martin, Fowlkes and Malik, TPAMI 2004)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from scipy.ndimage import map_coordinates
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import maximum_flow
from scipy.spatial import KDTree

_SMOOTHING = np.array([1, 2, 3, 4, 5, 4, 3, 2, 1], dtype=np.float32) / 25
# A pixel counts as the strongest across a boundary if a neighbour exceeds it by less than this factor.
_TOLERANCE = 1.01
# The eight neighbours of a pixel (row, column), counter-clockwise from the right.
_NEIGHBOURS = ((0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1), (1, 0), (1, 1))


class BoundaryCounts(NamedTuple):
    """Boundary pixels of an image: per threshold how many are predicted, how many of them match, and how many of the
    truth there are."""

    matched: np.ndarray
    predicted: np.ndarray
    truth: int


def count_boundaries(
    probability: np.ndarray,
    truth: np.ndarray,
    known: np.ndarray,
    thresholds: Sequence[float],
    max_dist: float,
    border: int,
) -> BoundaryCounts:
    """Match the boundaries of an image that exceed thresholds with the true ones, pixel by pixel.

    Of the probability the non-maxima are suppressed. What reaches a threshold is thinned, as is the truth, and pixels
    that are not known are left out of both. Then as many pixels as possible are paired one to one, none of them
    farther apart than ``max_dist`` times the image's diagonal. The pairing of the benchmark's own solver is the same
    in number: it minimises the sum of the distances under a price for an unpaired pixel that outweighs the longest
    chain of detours, unless its randomly drawn outliers do not suffice, which it warns of.

    Args:
        probability: ``(H, W)`` float, in [0, 1].
        truth: ``(H, W)`` bool.
        known: ``(H, W)`` bool.
        thresholds: K increasing thresholds; a probability at one reaches it.
        max_dist: Largest distance of a pair, relative to the diagonal.
        border: See :func:`suppress_non_maxima`.

    Returns:
        Numbers of pixels; ``matched`` and ``predicted`` are ``(K,)`` int64.
    """
    height, width = truth.shape
    true_pixels = np.argwhere(thin(truth) & known)
    ridge = suppress_non_maxima(probability, border, lowest=thresholds[0])
    candidates = np.argwhere(ridge >= thresholds[0])
    pairs = _pairs_within(candidates, true_pixels, max_dist * np.hypot(height, width))
    row_of = np.zeros((height, width), dtype=np.int32)
    row_of[tuple(candidates.T)] = np.arange(len(candidates))

    matching = _Matching(pairs)

    matched, predicted = np.zeros((2, len(thresholds)), dtype=np.int64)
    num_above = None
    # From the highest threshold down, since a matching is found faster for more pixels than for fewer.
    for index in reversed(range(len(thresholds))):
        reached = ridge >= thresholds[index]
        num_reached = np.count_nonzero(reached)
        if num_reached == num_above:  # the pixels are those of the threshold above
            matched[index], predicted[index] = matched[index + 1], predicted[index + 1]
            continue
        num_above = num_reached
        rows = row_of[thin(reached) & known]
        matched[index], predicted[index] = matching.of(rows), len(rows)
    return BoundaryCounts(matched, predicted, len(true_pixels))


def suppress_non_maxima(probability: np.ndarray, border: int = 5, lowest: float = 0.0) -> np.ndarray:
    r"""Keep the probability where it is the largest across its boundary, and set it to 0 elsewhere.

    As it is done before edge detectors are benchmarked (Dollár and Zitnick, TPAMI 2015): with :math:`O` the map
    smoothed by a triangle of radius 4, the normal of a boundary is at the angle
    :math:`\arctan(-\mathrm{sign}(O_{xy})\,O_{yy} / O_{xx})`, and a pixel is kept where 1.01 times its probability
    reaches those one pixel away along the normal on both sides, interpolated linearly.

    Args:
        probability: ``(H, W)`` float.
        border: Width in pixels of the frame of the image inside which probabilities fall linearly to 0 at the outermost
            row or column, where detectors are not reliable; 0: none.
        lowest: Smaller probabilities may be set to 0 unseen.

    Returns:
        ``(H, W)`` float32.
    """
    probability = np.ascontiguousarray(probability, dtype=np.float32)
    smooth = cv2.sepFilter2D(probability, cv2.CV_32F, _SMOOTHING, _SMOOTHING, borderType=cv2.BORDER_REFLECT)
    along_y, along_x = np.gradient(smooth)
    xx = np.gradient(along_x, axis=1)
    xy, yy = np.gradient(along_x, axis=0), np.gradient(along_y, axis=0)

    rows, columns = np.nonzero((probability >= lowest) & (probability > 0))
    # A mixed derivative of exactly 0, as of a level line, has no sign; either gives the right normal then.
    rise = np.where(xy > 0, -yy, yy)[rows, columns]
    angle = np.arctan2(rise, xx[rows, columns] + 1e-5)
    step = np.stack([np.sin(angle), np.cos(angle)])
    center = np.stack([rows, columns])
    value = probability[rows, columns]
    kept = np.ones(len(value), dtype=bool)
    for sign in (-1, 1):
        neighbour = map_coordinates(probability, center + sign * step, order=1, mode='nearest')
        kept &= value * _TOLERANCE >= neighbour

    ridge = np.zeros_like(probability)
    ridge[rows[kept], columns[kept]] = value[kept]
    for axis, length in enumerate(ridge.shape):
        frame = min(border, length // 2)
        if frame:
            places = np.arange(length)
            factor = (np.minimum(places, places[::-1]) / frame).clip(max=1).astype(np.float32)
            ridge *= factor[:, None] if axis == 0 else factor
    return ridge


def thin(mask: np.ndarray) -> np.ndarray:
    """Thin a mask to lines of one pixel (Guo and Hall, CACM 1989), as :func:`skimage.morphology.thin` does.

    Only pixels with a neighbour that has gone are looked at again, which makes it fast on maps of nearly thin lines.

    Args:
        mask: ``(H, W)`` bool.

    Returns:
        ``(H, W)`` bool.
    """
    padded = np.pad(mask, 1)
    pixels = padded.reshape(-1)
    neighbours = np.array([row * padded.shape[1] + column for row, column in _NEIGHBOURS])
    queue, gone_before = np.flatnonzero(pixels), None
    for table in itertools.cycle(_DELETABLE):
        surroundings = pixels[queue[:, None] + neighbours]
        gone = queue[table[np.packbits(surroundings, axis=1)[:, 0]]]
        pixels[gone] = False
        if gone_before is None:  # the other half of a round has not seen any pixel yet
            queue = queue[pixels[queue]]
        else:
            changed = np.concatenate([gone_before, gone])
            if not len(changed):
                return padded[1:-1, 1:-1]
            queue = np.unique(changed[:, None] + neighbours)
            queue = queue[pixels[queue]]
        gone_before = gone


def _deletable() -> tuple[np.ndarray, np.ndarray]:
    """For both halves of a round, which of the 256 surroundings let a pixel go; the first neighbour is the top bit."""
    x = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).astype(bool).T
    sides, corners, next_sides = x[::2], x[1::2], np.roll(x[::2], -1, axis=0)
    runs = (~sides & (corners | next_sides)).sum(axis=0)
    thickness = np.minimum((sides | corners).sum(axis=0), (corners | next_sides).sum(axis=0))
    simple = (runs == 1) & (thickness >= 2) & (thickness <= 3)
    first = (x[1] | x[2] | ~x[7]) & x[0]
    second = (x[5] | x[6] | ~x[3]) & x[4]
    return simple & ~first, simple & ~second


_DELETABLE = _deletable()


def _pairs_within(candidates: np.ndarray, true_pixels: np.ndarray, distance: float) -> csr_matrix:
    """Which candidates ``(N, 2)`` lie within a distance of which true pixels ``(M, 2)``, as a matrix ``(N, M)``."""
    shape = len(candidates), len(true_pixels)
    if 0 in shape:
        return csr_matrix(shape, dtype=np.bool_)
    near = KDTree(candidates).sparse_distance_matrix(KDTree(true_pixels), distance, output_type='ndarray')
    return csr_matrix((np.ones(len(near), dtype=np.bool_), (near['i'], near['j'])), shape=shape)


class _Matching:
    """A maximum matching of rows and columns that is adapted as rows come and go.

    Of a matching, shortest augmenting paths make a maximum one, and they are what a flow of units finds: from a source
    to rows without a partner, on to other columns and from a column back to its own row, from columns without a
    partner to a sink. SciPy's :func:`~scipy.sparse.csgraph.maximum_bipartite_matching` takes minutes on some maps.

    Args:
        pairs: Which of N rows may be matched with which of M columns.
    """

    def __init__(self, pairs: csr_matrix) -> None:
        self._num_rows, self._num_columns = pairs.shape
        self._rows = np.repeat(np.arange(self._num_rows), np.diff(pairs.indptr))
        self._columns = pairs.indices + self._num_rows  # numbered behind the rows, as nodes of a graph
        self._partner = np.full(self._num_rows, -1)

    def of(self, rows: np.ndarray) -> int:
        """Size of a maximum matching of some rows with all columns."""
        partner, num_rows = self._partner, self._num_rows
        source, sink = num_rows + self._num_columns, num_rows + self._num_columns + 1
        chosen = np.zeros(num_rows, dtype=bool)
        chosen[rows] = True
        partner[~chosen] = -1
        single_column = np.ones(self._num_columns, dtype=bool)
        single_column[partner[partner >= 0] - num_rows] = False
        single_rows, single_columns = rows[partner[rows] < 0], num_rows + np.flatnonzero(single_column)

        used = chosen[self._rows]
        starts, ends = self._rows[used], self._columns[used]
        own = partner[starts] == ends
        starts, ends = np.where(own, ends, starts), np.where(own, starts, ends)
        starts = np.concatenate([starts, np.full(len(single_rows), source), single_columns])
        ends = np.concatenate([ends, single_rows, np.full(len(single_columns), sink)])
        graph = csr_matrix((np.ones(len(starts), np.int32), (starts, ends)), shape=(sink + 1, sink + 1))
        flow = maximum_flow(graph, source, sink).flow.tocoo()
        changed = (flow.data > 0) & (flow.row < num_rows)
        partner[flow.row[changed]] = flow.col[changed]
        return np.count_nonzero(partner >= 0)
