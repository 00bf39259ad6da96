"""Decoded label maps on disk, for files that take longer to decode than to read."""

from __future__ import annotations

import hashlib
import io
import logging
import os
import os.path as osp
import uuid
import zipfile
from collections.abc import Callable, Sequence

import numpy as np
from mmengine.logging import print_log

_FORMAT = 2
"""Raise it whenever a reader makes another map of the same file: older entries are then made anew."""


def check_cache_dir(cache_dir: str, data_root: str) -> str:
    """The absolute path of a cache folder.

    Args:
        cache_dir: Where to keep decoded maps; it need not exist.
        data_root: Folder of the data, into which nothing may be written.

    Raises:
        ValueError: The cache would lie inside the data folder.
    """
    cache_dir = osp.abspath(osp.expanduser(cache_dir))
    root = osp.realpath(data_root)
    if data_root and osp.commonpath([root, osp.realpath(cache_dir)]) == root:
        raise ValueError(
            f'cache_dir {cache_dir!r} lies inside data_root {data_root!r}, into which nothing is written; '
            'choose a folder outside of it'
        )
    return cache_dir


class LabelCache:
    """Label maps that were decoded once, one compressed ``.npz`` per file.

    An entry belongs to the path of its source and is valid while the size and the modification time of the source, the
    size of the image and the readers stay the same. Any number of processes may use one folder: an entry appears whole
    or not at all, and all write the same. A damaged entry is made anew and named in the log.

    Args:
        folder: Where to keep them; made when the first is written. A process that is killed while it writes leaves a
            file ``*.partial``, which nobody reads.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def load(self, kind: str, path: str, shape: Sequence[int], read: Callable[[], np.ndarray]) -> np.ndarray:
        """The label map of a file, from the cache if it is there.

        Args:
            kind: What is made of the file; one file can have several kinds of maps.
            path: The file.
            shape: Height and width of the image, in pixels.
            read: Makes the map from the file. Its result must depend on the file and ``shape`` alone.

        Returns:
            ``(H, W)``, as ``read`` makes it. The caller may change it.

        Raises:
            OSError: An entry cannot be read or written. Errors of ``read`` pass through, and nothing is kept then.
        """
        if not osp.isfile(path):
            return read()
        # Taken before reading: a file that changes meanwhile has a stale entry at worst, never a wrong one.
        stat = os.stat(path)
        signature = f'{_FORMAT} {stat.st_size} {stat.st_mtime_ns} {" ".join(map(str, shape))}'
        entry = self.entry(kind, path)
        label = _read(entry, signature)
        if label is None:
            label = read()
            _write(entry, signature, label)
        return label

    def entry(self, kind: str, path: str) -> str:
        """Path of the entry of a file."""
        path = osp.abspath(path)
        stem = osp.splitext(osp.basename(path))[0]
        return osp.join(self.folder, kind, f'{stem}-{hashlib.sha256(os.fsencode(path)).hexdigest()[:16]}.npz')


def _read(entry: str, signature: str) -> np.ndarray | None:
    """The map of an entry; None where there is none, an outdated or a damaged one."""
    try:
        with open(entry, 'rb') as file:
            data = file.read()
    except FileNotFoundError:
        return None
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            # Read whole, which compares checksums, before anything looks into it.
            members = {name: io.BytesIO(archive.read(f'{name}.npy')) for name in ('signature', 'label')}
        if np.load(members['signature'], allow_pickle=False).item() != signature:
            return None
        return np.load(members['label'], allow_pickle=False)
    # Damage shows itself by whatever the next operation raises: BadZipFile, zlib.error, ValueError, KeyError, ...
    except Exception as error:
        print_log(f'damaged cache file {entry} ({error!r}) is made anew', logger='current', level=logging.WARNING)
        return None


def _write(entry: str, signature: str, label: np.ndarray) -> None:
    """Write an entry. It may get lost with the machine's power, so that it need not be flushed to the disk."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, signature=np.array(signature), label=label)
    partial = f'{entry}.{uuid.uuid4().hex}.partial'
    try:
        os.makedirs(osp.dirname(entry), exist_ok=True)
        with open(partial, 'xb') as file:
            file.write(buffer.getvalue())
        os.replace(partial, entry)
    except OSError as error:
        if osp.exists(partial):
            os.unlink(partial)
        raise OSError(
            f'cannot write the cache file {entry}: {error}; check the free space and the permissions, or leave out '
            'cache_dir'
        ) from error
