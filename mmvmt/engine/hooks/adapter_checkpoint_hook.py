"""An adapter file as the outcome of a training."""

from __future__ import annotations

import os.path as osp
from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.logging import print_log

from mmvmt.engine.adapter_file import save_adapter
from mmvmt.models.identity import encoder_of
from mmvmt.models.wrappers import unwrapped
from mmvmt.registry import HOOKS
from mmvmt.structures import NormalsAxes


@HOOKS.register_module()
class AdapterCheckpointHook(Hook):
    """Writes what was trained as an adapter file into the work dir, at the end and if wanted in between.

    The file has the weights that a checkpoint would have at this moment, averaged ones where a hook such as EMAHook
    averages, and the metrics of the last validation. A method that freezes nothing has no adapter file.

    Args:
        interval: Iterations between two files, each of which replaces the one before; None: only at the end.
        half: ``'float16'`` or ``'bfloat16'`` to store matrices in half precision.
        filename: Name in the work dir.

    Raises:
        ValueError: ``interval`` is below 1.
    """

    # Behind every hook that exchanges weights around a validation.
    priority = 'LOWEST'

    def __init__(
        self, interval: int | None = None, half: str | None = None, filename: str = 'adapter.safetensors'
    ) -> None:
        if interval is not None and interval < 1:
            raise ValueError(f'interval must be 1 or more, or None, got {interval}')
        self.interval = interval
        self.half = half
        self.filename = filename
        self._metrics: dict[str, float] = {}
        self._trained = False

    def before_train(self, runner: Any) -> None:
        """Forget what another training has left."""
        self._metrics, self._trained = {}, False

    def after_val_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        """Keep the figures for the next file."""
        self._metrics = dict(metrics or {})

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Write at the interval."""
        self._trained = True
        if self.interval is not None and self.every_n_train_iters(runner, self.interval):
            self._write(runner, runner.iter + 1)

    def after_train(self, runner: Any) -> None:
        """Write the outcome. A run that was resumed at its end keeps the file that it has."""
        if self._trained or not osp.isfile(osp.join(runner.work_dir, self.filename)):
            self._write(runner, runner.iter)

    def _write(self, runner: Any, iteration: int) -> None:
        if not is_main_process():
            return
        if not encoder_of(runner.model).frozen_parameters():
            print_log('no adapter file: the method freezes nothing of the encoder', logger='current')
            return
        model = unwrapped(runner.model)
        # What other hooks make of a checkpoint, they make of this one.
        checkpoint = dict(meta={}, state_dict=model.state_dict())
        runner.call_hook('before_save_checkpoint', checkpoint=checkpoint)
        path = osp.join(runner.work_dir, self.filename)
        save_adapter(
            model,
            path,
            half=self.half,
            metrics=self._metrics,
            iteration=iteration,
            weights=checkpoint['state_dict'],
            axes=NormalsAxes.of(getattr(runner.train_dataloader.dataset, 'metainfo', None)),
        )
        print_log(f'adapter file: {path}, {osp.getsize(path) / 2**20:.1f} MiB', logger='current')
