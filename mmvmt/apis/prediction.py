"""The maps of one picture, drawn and saved."""

from __future__ import annotations

import os
import os.path as osp
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from mmvmt.datasets.images import read_image
from mmvmt.structures import TASKS, MultiTaskDataSample, save_predictions
from mmvmt.visualization import MultiTaskVisualizer

PICTURES = 'pictures'
"""Folder of the labelled pictures, beside those of the tasks."""


@dataclass(frozen=True)
class ImagePrediction:
    """The maps of one picture.

    Args:
        name: Name of the picture within the call, without suffix; may hold folders.
        sample: The sample, with ``pred`` at the size of the picture.
        path: File of the picture; None if it came from memory.
        array: ``(H, W, 3)`` uint8, BGR; None if the file has to be read again.
        dataset_meta: Meta information of the data that the model was trained on, for its palettes.
    """

    name: str
    sample: MultiTaskDataSample
    path: str | None = None
    array: np.ndarray | None = None
    dataset_meta: Mapping[str, Any] | None = None

    @property
    def image(self) -> np.ndarray:
        """The picture, upright, ``(H, W, 3)`` uint8 in BGR order."""
        return read_image(self.path, upright=True) if self.array is None else self.array

    @property
    def maps(self) -> dict[str, np.ndarray]:
        """By task: classes ``(H, W)`` uint8 (of more than 255 int32); probabilities ``(H, W)``, unit vectors ``(3, H,
        W)``, depth in metres ``(H, W)`` and values ``(C, H, W)``, of one channel ``(H, W)``, float32."""
        fields = {task: self.sample.pred.get(task).cpu().numpy() for task in TASKS if task in self.sample.pred}
        return {task: field[0] if len(field) == 1 else field for task, field in fields.items()}

    def draw(self) -> np.ndarray:
        """The picture and its coloured maps side by side, with labels: ``(H', W', 3)`` uint8, RGB."""
        image = cv2.cvtColor(self.image, cv2.COLOR_BGR2RGB)
        return MultiTaskVisualizer.draw_datasample(
            image, self.sample, draw_gt=False, title=self.name, meta=self.dataset_meta
        )

    def save(self, out_dir: str | os.PathLike) -> list[str]:
        """Write maps and picture.

        Args:
            out_dir: Folder. Maps go to ``out_dir/TASK/NAME.png`` in the formats of PASCAL_MT (depth: ``.npy``), the
                labelled picture to ``out_dir/pictures/NAME.png``.

        Returns:
            The paths written.

        Raises:
            OSError: A file cannot be written.
        """
        paths = save_predictions(self.sample, os.fspath(out_dir))
        path = osp.join(out_dir, PICTURES, f'{self.name}.png')
        os.makedirs(osp.dirname(path), exist_ok=True)
        if not cv2.imwrite(path, cv2.cvtColor(self.draw(), cv2.COLOR_RGB2BGR)):
            raise OSError(f'could not write {path}; check the folder and the free space')
        return [*paths, path]
