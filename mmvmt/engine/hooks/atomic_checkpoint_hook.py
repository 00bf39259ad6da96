"""Checkpoints that survive a kill at any moment."""

from __future__ import annotations

import os
import os.path as osp
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from mmengine.dist import is_main_process
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import CheckpointHook

from mmvmt.engine.files import POINTER, TEMPORARY_PREFIX, renew_pointer, write_atomically
from mmvmt.models.identity import encoder_of, leave_frozen_out
from mmvmt.registry import HOOKS


class AtomicLocalBackend(LocalBackend):
    """mmengine's local storage with atomic writes."""

    def put(self, obj: bytes, filepath: str) -> None:
        """Write bytes."""
        write_atomically(os.fspath(filepath), obj)

    def put_text(self, obj: str, filepath: str, encoding: str = 'utf-8') -> None:
        """Write text."""
        write_atomically(os.fspath(filepath), obj.encode(encoding))


register_backend('mmvmt_atomic_local', AtomicLocalBackend, force=True)


class _RemovalsLater:
    """A storage backend that only notes what is to be removed."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self.pending: list[Callable[[], None]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def remove(self, path: str) -> None:
        self.pending.append(lambda: self._backend.remove(path))

    def rmtree(self, path: str) -> None:
        self.pending.append(lambda: self._backend.rmtree(path))


@HOOKS.register_module()
class AtomicCheckpointHook(CheckpointHook):
    """mmengine's ``CheckpointHook`` that writes atomically and removes old files only once the new one is there.

    Args: as ``CheckpointHook``, and
        save_frozen: Whether checkpoints hold the frozen weights of the encoder too. Without them they are a fraction of
            the size; to resume or test, the encoder comes from ``model.backbone.init_cfg``, and
            :class:`~mmvmt.engine.MethodRecordHook` makes sure that it is the same.

    With ``backend_args`` of one's own (a remote storage), writing is as atomic as that storage.
    """

    def __init__(self, *args: Any, save_frozen: bool = True, **kwargs: Any) -> None:
        kwargs.setdefault('backend_args', dict(backend='mmvmt_atomic_local'))
        super().__init__(*args, **kwargs)
        self.save_frozen = save_frozen

    def before_run(self, runner: Any) -> None:
        """Correct the pointer to the newest checkpoint of a folder that was moved, before the run is resumed."""
        renew_pointer(runner.work_dir)

    def before_train(self, runner: Any) -> None:
        """See where the best checkpoints are, and remove what a killed write has left.

        Raises:
            ValueError: ``save_frozen`` is off and there would be no encoder to resume with.
        """
        super().before_train(runner)
        if not self.save_frozen and not (encoder := encoder_of(runner.model)).is_pretrained:
            raise ValueError(
                f'save_frozen=False leaves the frozen weights out of checkpoints, but model.backbone.init_cfg is '
                f'{encoder.init_cfg}: nothing could give them back. Name the encoder file there, or leave save_frozen '
                f'out'
            )
        if self.save_best is not None:
            self._find_best(runner)
        if is_main_process() and osp.isdir(self.out_dir):
            for name in os.listdir(self.out_dir):
                if name.startswith(TEMPORARY_PREFIX):
                    os.unlink(osp.join(self.out_dir, name))

    def before_save_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """Leave frozen weights out, behind every hook that still needs them, as EMAHook does."""
        if not self.save_frozen:
            leave_frozen_out(runner.model, checkpoint)

    def _find_best(self, runner: Any) -> None:
        """Look for the best checkpoints in this run's folder. If it was copied since, the recorded paths are those of
        the other run, whose file a better checkpoint would remove."""
        several = len(self.key_indicators) > 1
        for indicator in self.key_indicators:
            recorded = self.best_ckpt_path_dict[indicator] if several else self.best_ckpt_path
            if recorded is None:
                continue
            path = self.file_backend.join_path(self.out_dir, osp.basename(recorded))
            best = path if self.file_backend.exists(path) else None
            if several:
                self.best_ckpt_path_dict[indicator] = best
            else:
                self.best_ckpt_path = best
            runner.message_hub.update_info(f'best_ckpt_{indicator}' if several else 'best_ckpt', best)

    @contextmanager
    def _removing_afterwards(self) -> Iterator[None]:
        backend = self.file_backend
        later = _RemovalsLater(backend)
        self.file_backend = later
        try:
            yield
        finally:
            self.file_backend = backend
        for remove in later.pending:
            remove()

    def _save_checkpoint_with_step(self, runner: Any, step: int, meta: dict) -> None:
        # The base class removes outdated files first and rewrites ``last_checkpoint`` in place; killed in between, a
        # run could not be resumed. Here: new file, then the pointer, then removal.
        outdated = None
        if self.max_keep_ckpts > 0 and not (self.keep_ckpt_ids and self.keep_ckpt_ids[-1] == step):
            if len(self.keep_ckpt_ids) == self.max_keep_ckpts:
                outdated = self.keep_ckpt_ids.popleft()
            self.keep_ckpt_ids.append(step)
            runner.message_hub.update_info('keep_ckpt_ids', list(self.keep_ckpt_ids))
        filename = self.filename_tmpl.format(step)
        self.last_ckpt = self.file_backend.join_path(self.out_dir, filename)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        runner.save_checkpoint(
            self.out_dir,
            filename,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=self.by_epoch,
            backend_args=self.backend_args,
            **self.args,
        )
        if not is_main_process():
            return
        write_atomically(osp.join(runner.work_dir, POINTER), self.last_ckpt.encode())
        if outdated is not None:
            path = self.file_backend.join_path(self.out_dir, self.filename_tmpl.format(outdated))
            if self.file_backend.isfile(path):
                self.file_backend.remove(path)
            elif self.file_backend.isdir(path):
                self.file_backend.rmtree(path)

    def _save_best_checkpoint(self, runner: Any, metrics: dict) -> None:
        with self._removing_afterwards():
            super()._save_best_checkpoint(runner, metrics)
