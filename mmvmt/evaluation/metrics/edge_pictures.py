"""Edges as pictures, for a boundary benchmark outside that reads them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mmcv
import torch
from torch import Tensor

from mmvmt.registry import METRICS

from .base import RunningMetric, State, check_finite, image_name


@METRICS.register_module()
class EdgePictures(RunningMetric):
    """Writes the edge probability of every image as an 8-bit PNG, ``<out_dir>/<img_id>.png``: 255 is probability 1.

    For those who score edges by a toolbox of their own; :class:`EdgeMetric` scores them here. Needs no truth. Every
    rank writes the images that it sees. Result: ``pictures``, their number.

    Args:
        out_dir: Folder to write to; made when the first picture is written.
        task: ``'edge'``.
        prefix: First part of the result keys. Default: the name of the task.
    """

    kind = 'binary'
    scores = False

    def __init__(self, out_dir: str, task: str = 'edge', prefix: str | None = None) -> None:
        super().__init__(task, prefix)
        self.out_dir = Path(out_dir)

    def init_state(self) -> State:
        """Return the number of pictures."""
        return {'pictures': torch.zeros((), dtype=torch.int64)}

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Write the pictures of a batch.

        Raises:
            ValueError: A prediction is missing or no probability, or a sample has no ``img_id``.
            OSError: A picture cannot be written.
        """
        for sample in data_samples:
            pred = self._get_map(sample, 'pred')
            if 'img_id' not in sample:
                raise ValueError(
                    f"{self.task} of image {image_name(sample)}: the sample has no 'img_id', after which the picture "
                    'is named; pack that meta key in the test pipeline'
                )
            try:
                check_finite(pred)
                if pred.min() < 0 or pred.max() > 1:
                    raise ValueError(f'the prediction ranges from {pred.min():.4g} to {pred.max():.4g}, not in [0, 1]')
            except ValueError as error:
                raise ValueError(f'{self.task} of image {image_name(sample)}: {error}') from error
            path = self.out_dir / f'{sample["img_id"]}.png'
            picture = (pred[0].float() * 255).round().byte().cpu().numpy()
            if not mmcv.imwrite(picture, str(path)):
                raise OSError(f'could not write {path}; check that there is space and that the folder is writable')
            self.update(self._state_on(pred.device), pred, pred)
            self._num_samples += 1

    def update(self, state: State, pred: Tensor, gt: Tensor) -> None:
        """Count one picture."""
        state['pictures'] += 1

    def compute(self, state: State) -> dict[str, float]:
        """Return ``pictures``, their number."""
        return {'pictures': int(state['pictures'])}
