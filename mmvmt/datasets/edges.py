"""Semantic edges of a label map."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np

# Bit k - 1 of a neighbourhood code stands for neighbour k: 1 is east, then counter-clockwise up to 8, south-east.
_NEIGHBOUR_WEIGHTS = np.array([[8, 4, 2], [16, 0, 1], [32, 64, 128]], dtype=np.float32)


def label_edges(labels: np.ndarray) -> np.ndarray:
    """Thin edges between the regions of a label map: thinned ``|Laplacian| > 0``.

    Args:
        labels: ``(H, W)`` uint8, uint16 or float32 region ids.

    Returns:
        ``(H, W)`` uint8, 1 on an edge.
    """
    # float32 holds every uint16 id and the Laplacian of such ids exactly.
    laplacian = cv2.Laplacian(labels.astype(np.float32, copy=False), cv2.CV_32F)
    return thin((laplacian != 0).view(np.uint8))


def thin(mask: np.ndarray) -> np.ndarray:
    """Thin a binary mask to lines one pixel wide, keeping its connectivity (Guo and Hall 1989; Lam, Lee, Suen 1992).

    Passes alternate between two conditions on the eight neighbours, which peel opposite sides, until no pixel changes.

    Args:
        mask: ``(H, W)`` uint8, 0 or 1. Pixels outside count as 0.

    Returns:
        ``(H, W)`` uint8, 0 or 1.
    """
    keep_tables = _keep_tables()
    mask = mask.copy()
    while True:
        before = np.count_nonzero(mask)
        for keep in keep_tables:
            # Weights up to 128 and sums up to 255 are exact in uint8.
            code = cv2.filter2D(mask, cv2.CV_8U, _NEIGHBOUR_WEIGHTS, borderType=cv2.BORDER_CONSTANT)
            mask &= cv2.LUT(code, keep)
        if np.count_nonzero(mask) == before:
            return mask


@lru_cache(maxsize=1)
def _keep_tables() -> tuple[np.ndarray, np.ndarray]:
    """For each of both passes: 0 for neighbourhood codes whose centre goes, 1 for those whose centre stays."""
    bits = (np.arange(256)[:, None] >> np.arange(8)) & 1
    x = {k: bits[:, (k - 1) % 8].astype(bool) for k in range(1, 10)}  # x[9] is x[1] again
    crossings = sum((~x[k] & (x[k + 1] | x[k + 2])).astype(int) for k in (1, 3, 5, 7))
    pairs_odd = sum((x[k] | x[k + 1]).astype(int) for k in (1, 3, 5, 7))
    pairs_even = sum((x[k] | x[k + 1]).astype(int) for k in (2, 4, 6, 8))
    pairs = np.minimum(pairs_odd, pairs_even)
    removable = (crossings == 1) & (pairs >= 2) & (pairs <= 3)
    first = removable & ~((x[2] | x[3] | ~x[8]) & x[1])
    second = removable & ~((x[6] | x[7] | ~x[4]) & x[5])
    return tuple((~gone).astype(np.uint8) for gone in (first, second))
