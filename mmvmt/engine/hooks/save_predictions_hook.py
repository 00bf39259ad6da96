"""Predicted maps as files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmengine.hooks import Hook

from mmvmt.registry import HOOKS
from mmvmt.structures import MultiTaskDataSample, save_predictions


@HOOKS.register_module()
class SavePredictionsHook(Hook):
    """Writes the maps of every tested image, see :func:`mmvmt.structures.save_predictions`.

    Args:
        out_dir: Folder.
    """

    def __init__(self, out_dir: str) -> None:
        self.out_dir = out_dir

    def after_test_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Sequence[MultiTaskDataSample] | None = None
    ) -> None:
        for sample in outputs or ():
            save_predictions(sample, self.out_dir)
