"""Reading of single label maps, by the reader that data sets use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mmvmt.datasets import LabelReader
from mmvmt.datasets.label_files import LabelFiles


def read_label(task: str, path: str | Path, num_classes: int | None = None, **options: Any) -> np.ndarray:
    """The map in a file, at its own size; ``options`` as of the reader."""
    classes = {} if num_classes is None else {task: num_classes}
    return LabelReader(task, **options)(LabelFiles(dict(num_classes=classes)), str(path))
