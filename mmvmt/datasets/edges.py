"""Semantic edges of a label map."""

from __future__ import annotations

import cv2
import numpy as np
from skimage.morphology import thin


def label_edges(labels: np.ndarray) -> np.ndarray:
    """Thin edges between the regions of a label map: thinned ``|Laplacian| > 0``.

    Args:
        labels: ``(H, W)`` uint8, uint16 or float32 region ids.

    Returns:
        ``(H, W)`` uint8, 1 on an edge.
    """
    # float32 holds every uint16 id and the Laplacian of such ids exactly.
    laplacian = cv2.Laplacian(labels.astype(np.float32, copy=False), cv2.CV_32F)
    return thin(laplacian != 0).astype(np.uint8)
