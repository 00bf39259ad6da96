"""What a checkpoint says of the method that made it."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import Hook

from mmvmt.models.identity import METHOD_KEY, check_method_record, fill_frozen_in, method_record
from mmvmt.registry import HOOKS


@HOOKS.register_module()
class MethodRecordHook(Hook):
    """Writes the plugins of the encoder into every checkpoint, and refuses one of other plugins.

    Options such as an adapter's activation or scale change no weight's shape: without this record, weights would load
    into a model that computes something else. A checkpoint without a record loads as far as its weights fit.

    A checkpoint from which the frozen weights were left out gets them back from the model, whose encoder must be the
    same, see ``save_frozen`` of :class:`~mmvmt.engine.AtomicCheckpointHook`.
    """

    # Before hooks that read the weights of a checkpoint, as EMAHook does.
    priority = 'VERY_HIGH'

    def before_save_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        checkpoint['meta'][METHOD_KEY] = method_record(runner.model)

    def after_load_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """Compare records, and give the checkpoint its frozen weights back.

        Raises:
            ValueError: The checkpoint was trained with other plugins, other options of them, or another encoder.
        """
        check_method_record(checkpoint.get('meta', {}).get(METHOD_KEY), runner.model, 'the checkpoint')
        fill_frozen_in(runner.model, checkpoint)
