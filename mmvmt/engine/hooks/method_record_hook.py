"""What a checkpoint says of the method and the tasks that made it."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import find_latest_checkpoint

from mmvmt.engine.adapter_file import ADAPTER_KEY, check_manifest
from mmvmt.models import MultiTaskEncoderDecoder
from mmvmt.models.checkpoint import state_dict_of
from mmvmt.models.identity import METHOD_KEY, TASKS_KEY, check_method_record, fill_frozen_in, model_record
from mmvmt.models.model_checkpoint import check_segmentor_encoder, named_as
from mmvmt.models.weight_checks import check_structure, check_tensors
from mmvmt.models.wrappers import plain_name, unwrapped
from mmvmt.registry import HOOKS
from mmvmt.structures import meet_declarations, warn_of_other_axes


@HOOKS.register_module()
class MethodRecordHook(Hook):
    """Writes the plugins of the encoder into every checkpoint, and refuses one of other plugins or of odd weights.

    Options such as an adapter's activation or scale change no weight's shape: without this record, weights would load
    into a model that computes something else. A checkpoint without a record loads as far as its weights fit. The
    declarations of the model's tasks are written and compared in the same way.

    Normals mean something else under other axes: the log says so if a checkpoint was trained on others than those of
    the data set that it is tested or trained on.

    A checkpoint from which the frozen weights were left out gets them back from the model, whose encoder must be the
    same, see ``save_frozen`` of :class:`~mmvmt.engine.AtomicCheckpointHook`; so does an adapter file that ``load_from``
    names.
    """

    # Before hooks that read the weights of a checkpoint, as EMAHook does.
    priority = 'VERY_HIGH'

    def __init__(self) -> None:
        self._trained_on: dict[str, Any] | None = None

    def before_save_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """Note the plugins; names of weights are those of the bare model, whatever of it is compiled or sharded."""
        checkpoint['meta'] |= model_record(runner.model)
        weights = checkpoint.get('state_dict', {})
        if any(plain_name(name) != name for name in weights):
            checkpoint['state_dict'] = {plain_name(name): value for name, value in weights.items()}

    def after_load_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """Check the weights, compare records, and give the checkpoint its frozen weights back.

        Raises:
            ValueError: The checkpoint is none, holds what no weight can be, or was trained with other plugins, other
                options of them, another encoder, or tasks of another kind by the same names.
        """
        model = unwrapped(runner.model)
        source = getattr(runner, '_load_from', None) or find_latest_checkpoint(runner.work_dir)
        what = 'the checkpoint' if source is None else f'checkpoint {source!r}'
        check_structure(checkpoint, what)
        if getattr(runner, '_resume', False) and 'message_hub' not in checkpoint:
            raise ValueError(
                f'{what} holds weights alone, and no state of a training to go on from; start from it with '
                f'load_from, without resume'
            )
        weights = state_dict_of(checkpoint)
        meta = checkpoint.get('meta') or {}
        checkpoint['meta'], checkpoint['state_dict'] = meta, weights
        self._trained_on = meta.get('dataset_meta') or (meta.get(ADAPTER_KEY) or {}).get('dataset_meta')
        if ADAPTER_KEY in meta:
            check_manifest(meta[ADAPTER_KEY], model, what)
        check_method_record(meta.get(METHOD_KEY), model, what)
        meet_declarations(meta.get(TASKS_KEY), what)
        fill_frozen_in(model, checkpoint)
        checkpoint['state_dict'] = named_as(model, weights)
        own = model.state_dict()
        check_tensors(checkpoint['state_dict'], what, own)
        averages = checkpoint.get('ema_state_dict') or {}
        check_tensors(averages, f'ema_state_dict of {what}', {f'module.{name}': value for name, value in own.items()})
        if not isinstance(model, MultiTaskEncoderDecoder):
            check_segmentor_encoder(model, checkpoint['state_dict'], what)

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
