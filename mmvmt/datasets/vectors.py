"""Arithmetic on maps of vectors, by OpenCV: on arrays whose last axis is short, NumPy takes several times as long."""

from __future__ import annotations

import cv2
import numpy as np

_STRIP_PIXELS = 2**14


def known_vectors(vectors: np.ndarray) -> np.ndarray:
    """Where a map of vectors is known.

    Args:
        vectors: ``(H, W, n)`` float32, the zero vector where unknown.

    Returns:
        ``(H, W)`` uint8, 0 or 1.
    """
    return (_squared_lengths(vectors) > 0).view(np.uint8)


def unit_vectors(vectors: np.ndarray, shortest: float, known: np.ndarray | None = None) -> np.ndarray:
    """Scale vectors to unit length, in place.

    Args:
        vectors: ``(H, W, n)`` float32, contiguous.
        shortest: Vectors that are not longer have no direction.
        known: ``(H, W)`` uint8; vectors where it is 0 count as unknown. None: all are known.

    Returns:
        ``vectors``; the zero vector where unknown or without direction.
    """
    # In strips, whose intermediate maps are small: fresh memory for large ones takes longer than the arithmetic.
    rows = max(1, _STRIP_PIXELS // vectors.shape[1])
    for top in range(0, len(vectors), rows):
        strip = vectors[top : top + rows]
        length = cv2.sqrt(_squared_lengths(strip))
        valid = (length > shortest).view(np.uint8)
        if known is not None:
            valid &= known[top : top + rows]
        # A masked copy of all quotients, infinities among them, takes a fraction of a masked division.
        with np.errstate(divide='ignore'):
            factor = cv2.copyTo(np.divide(1, length), valid)
        cv2.multiply(strip, cv2.merge([factor] * vectors.shape[2]), dst=strip)
    return vectors


def _squared_lengths(vectors: np.ndarray) -> np.ndarray:
    return cv2.transform(cv2.multiply(vectors, vectors), np.ones((1, vectors.shape[2]), np.float32))
