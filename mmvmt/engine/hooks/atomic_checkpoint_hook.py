"""Checkpoints that survive a kill at any moment."""

from __future__ import annotations

import os
import os.path as osp
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from mmengine.dist import is_main_process
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import CheckpointHook

from mmvmt.registry import HOOKS

_TEMPORARY = '.partial-'


def _umask() -> int:
    # The only way to read it is to set it.
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_atomically(path: str, data: bytes) -> None:
    """Write a file so that at any moment either the old content or the whole new one is there.

    Args:
        path: Target.
        data: Content.
    """
    folder = osp.dirname(osp.abspath(path))
    os.makedirs(folder, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=_TEMPORARY, dir=folder)
    try:
        with os.fdopen(descriptor, 'wb') as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


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

    Args: as ``CheckpointHook``. With ``backend_args`` of one's own (a remote storage), writing is as atomic as that
    storage.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault('backend_args', dict(backend='mmvmt_atomic_local'))
        super().__init__(*args, **kwargs)

    def before_train(self, runner: Any) -> None:
        super().before_train(runner)
        if is_main_process() and osp.isdir(self.out_dir):
            for name in os.listdir(self.out_dir):
                if name.startswith(_TEMPORARY):
                    os.unlink(osp.join(self.out_dir, name))

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
        write_atomically(osp.join(runner.work_dir, 'last_checkpoint'), self.last_ckpt.encode())
        if outdated is not None:
            path = self.file_backend.join_path(self.out_dir, self.filename_tmpl.format(outdated))
            if self.file_backend.isfile(path):
                self.file_backend.remove(path)
            elif self.file_backend.isdir(path):
                self.file_backend.rmtree(path)

    def _save_best_checkpoint(self, runner: Any, metrics: dict) -> None:
        with self._removing_afterwards():
            super()._save_best_checkpoint(runner, metrics)
