"""What a checkpoint says of the method that made it."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper

from mmvmt.registry import HOOKS

_KEY = 'mmvmt_method'


def _plain(value: Any) -> Any:
    """Config values as lists, dictionaries and scalars, which every loader reads."""
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, (list, tuple)) else value


@HOOKS.register_module()
class MethodRecordHook(Hook):
    """Writes the plugins of the encoder into every checkpoint, and refuses one of other plugins.

    Options such as an adapter's activation or scale change no weight's shape: without this record, weights would load
    into a model that computes something else. A checkpoint without a record loads as far as its weights fit.
    """

    def before_save_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        checkpoint['meta'][_KEY] = self._record(runner)

    def after_load_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """Compare records.

        Raises:
            ValueError: The checkpoint was trained with other plugins or other options of them.
        """
        theirs, ours = checkpoint.get('meta', {}).get(_KEY), self._record(runner)
        if theirs is not None and theirs != ours:
            raise ValueError(
                f'the checkpoint was trained with another method than this model: its plugins are {theirs}, this model '
                f'has {ours}. Use the config that the checkpoint was trained with'
            )

    @staticmethod
    def _record(runner: Any) -> list[dict]:
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        return _plain(getattr(model.backbone, 'plugins', []))
