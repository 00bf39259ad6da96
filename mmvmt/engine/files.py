"""Files that are never seen half written."""

from __future__ import annotations

import os
import os.path as osp
import tempfile

POINTER = 'last_checkpoint'
"""The file of a work dir that says which checkpoint of it is the newest."""

TEMPORARY_PREFIX = '.partial-'
"""How the name of a file begins that is still being written."""


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
    descriptor, temporary = tempfile.mkstemp(prefix=TEMPORARY_PREFIX, dir=folder)
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


def latest_checkpoint(work_dir: str | os.PathLike) -> str | None:
    """The newest checkpoint of a run, also after its folder was moved or copied.

    mmengine writes the whole path of the checkpoint, as it was at that time. What counts here is the file of that name
    beside the pointer, but where checkpoints have a folder of their own (``out_dir``).

    Args:
        work_dir: Folder of the run.

    Returns:
        Its path; None: the run has none.
    """
    recorded = _recorded(work_dir)
    if recorded is None:
        return None
    beside = osp.join(work_dir, osp.basename(recorded))
    folder_of_its_own = osp.exists(recorded) and not osp.exists(osp.join(osp.dirname(recorded), POINTER))
    return beside if osp.exists(beside) and not folder_of_its_own else recorded


def renew_pointer(work_dir: str | os.PathLike) -> None:
    """Let mmengine find the newest checkpoint of a run whose folder was moved or copied."""
    recorded, latest = _recorded(work_dir), latest_checkpoint(work_dir)
    if latest is None or not osp.exists(latest):
        return
    if not (osp.exists(recorded) and osp.samefile(recorded, latest)):
        write_atomically(osp.join(work_dir, POINTER), latest.encode())


def _recorded(work_dir: str | os.PathLike) -> str | None:
    try:
        with open(osp.join(work_dir, POINTER), encoding='utf-8') as file:
            return file.read().strip()
    except FileNotFoundError:
        return None
