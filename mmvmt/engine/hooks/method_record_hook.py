"""What a checkpoint says of the method that made it."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import Hook

from mmvmt.models.identity import METHOD_KEY, check_method_record, fill_frozen_in, method_record
from mmvmt.registry import HOOKS
from mmvmt.structures import warn_of_other_axes


@HOOKS.register_module()
class MethodRecordHook(Hook):
    """Writes the plugins of the encoder into every checkpoint, and refuses one of other plugins.

    Options such as an adapter's activation or scale change no weight's shape: without this record, weights would load
    into a model that computes something else. A checkpoint without a record loads as far as its weights fit.

    Normals mean something else under other axes: the log says so if a checkpoint was trained on others than those of
    the data set that it is tested or trained on.

    A checkpoint from which the frozen weights were left out gets them back from the model, whose encoder must be the
    same, see ``save_frozen`` of :class:`~mmvmt.engine.AtomicCheckpointHook`.
    """

    # Before hooks that read the weights of a checkpoint, as EMAHook does.
    priority = 'VERY_HIGH'

    def __init__(self) -> None:
        self._trained_on: dict[str, Any] | None = None

    def before_save_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        checkpoint['meta'][METHOD_KEY] = method_record(runner.model)

    def after_load_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """Compare records, and give the checkpoint its frozen weights back.

        Raises:
            ValueError: The checkpoint was trained with other plugins, other options of them, or another encoder.
        """
        self._trained_on = checkpoint.get('meta', {}).get('dataset_meta')
        check_method_record(checkpoint.get('meta', {}).get(METHOD_KEY), runner.model, 'the checkpoint')
        fill_frozen_in(runner.model, checkpoint)

    def before_train_epoch(self, runner: Any) -> None:
        """Compare the axes of normals."""
        self._compare_axes(runner.train_dataloader)

    def before_val_epoch(self, runner: Any) -> None:
        """Compare the axes of normals."""
        self._compare_axes(runner.val_dataloader)

    def before_test_epoch(self, runner: Any) -> None:
        """Compare the axes of normals."""
        self._compare_axes(runner.test_dataloader)

    def _compare_axes(self, dataloader: Any) -> None:
        warn_of_other_axes(self._trained_on, getattr(dataloader.dataset, 'metainfo', None), 'the checkpoint')
        self._trained_on = None  # said once
