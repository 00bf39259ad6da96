"""Writes rendered scenes in the PASCAL_MT layout."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from scipy.io import savemat

from mmvmt.structures import NormalsAxes, read_json

from .classes import VOC_CLASSES
from .render import Sample, check_size, render_scene

MANIFEST = 'synthetic.json'
VERSION = 1
"""Of what a seed looks like; a change of the renderer that changes pictures raises it."""

_JPEG_QUALITY = 92
_MAT_TEXT = 116
_TRAIN, _VAL = 0, 1
_LAYOUT = 'PASCAL_MT'
_FOLDERS = (
    'JPEGImages',
    'ImageSets',
    'semseg',
    'human_parts',
    'normals_distill',
    'sal_distill',
    'pascal-context',
    'depth',
)
_OBJECT_DTYPE = [('class', object), ('class_ind', object), ('mask', object), ('parts', object)]
_PART_DTYPE = [('part_name', object), ('mask', object)]


@dataclass
class Report:
    """What a writer did.

    Args:
        written: Images rendered and written.
        skipped: Images that were complete already.
        seconds: Wall-clock time.
        images_per_core_second: Images per second of processor time, 0 if none was written.
    """

    written: int
    skipped: int
    seconds: float
    images_per_core_second: float


def image_id(index: int) -> str:
    """ID of the image with the given number, from 1."""
    return f'synth_{index:06d}'


def available_jobs() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def write_pascal_mt(
    out: str | Path,
    train: int,
    val: int,
    size: int | Sequence[int] = 160,
    seed: int = 0,
    jobs: int | None = None,
    *,
    overwrite: bool = False,
    progress: bool = True,
) -> Report:
    """Render scenes and write them in the PASCAL_MT layout, with a folder ``depth`` besides.

    Files are written whole or not at all, split lists last: the same call again continues where it was stopped. What is
    written depends on neither the number of jobs nor interruptions.

    Args:
        out: Folder; new, empty, or written by the same call before.
        train: Images of the train split, at least 1.
        val: Images of the val split, at least 1.
        size: Pixels of a square's side, or (height, width), at least 32.
        seed: Non-negative integer; every image's own seed derives from it, the split and the image's number there.
        jobs: Processes; None: one per processor.
        overwrite: Replace what another call has written into ``out``.
        progress: Show a progress bar on standard error.

    Returns:
        What was written.

    Raises:
        ValueError: An argument is out of range.
        FileExistsError: ``out`` holds something else.
    """
    height, width = check_size(size)
    _check_counts(dict(train=train, val=val), seed, jobs)
    out = Path(out)
    arguments = dict(layout=_LAYOUT, train=train, val=val, size=[height, width], seed=seed, **NormalsAxes().meta)
    folders = [part.parent for part in _pascal_mt_files(Path(), 'ID').values()]
    _claim(out, arguments, overwrite)
    for folder in folders:
        (out / folder).mkdir(parents=True, exist_ok=True)
    items = [(_TRAIN, index, image_id(index + 1)) for index in range(train)]
    items += [(_VAL, index, image_id(train + index + 1)) for index in range(val)]
    write = partial(_write_scene, str(out), (height, width), seed)
    report = _run(write, items, jobs, progress)
    lists = out / 'ImageSets/Context'
    lists.mkdir(parents=True, exist_ok=True)
    for split, name in ((_TRAIN, 'train'), (_VAL, 'val')):
        ids = [identifier for member, _, identifier in items if member == split]
        _replace(lists / f'{name}.txt', ''.join(f'{identifier}\n' for identifier in ids).encode())
    return report


def encode_scene(sample: Sample, identifier: str) -> dict[str, bytes]:
    """The files of one image of the PASCAL_MT layout.

    Args:
        sample: A rendered scene.
        identifier: ID of the image.

    Returns:
        Contents by ``'image'``, ``'semseg'``, ``'human_parts'``, ``'normals'``, ``'saliency'``, ``'context'`` and
        ``'depth'``, which is no part of PASCAL_MT: float32 metres as a NumPy file, 0 where unknown.
    """
    normals = np.round((sample.normals + 1) * 127.5).astype(np.uint8)
    return {
        'image': _jpeg(sample.img),
        'semseg': _encode('.png', sample.semseg),
        'human_parts': _mat('anno', _annotation(sample, identifier)),
        'normals': _encode('.png', normals[..., ::-1]),
        'saliency': _encode('.png', sample.saliency * np.uint8(255)),
        'context': _mat('LabelMap', sample.label_map),
        'depth': _npy(sample.depth.astype(np.float32)),
    }


def _pascal_mt_files(out: Path, identifier: str) -> dict[str, Path]:
    """Where the files of one image go."""
    return {
        'image': out / 'JPEGImages' / f'{identifier}.jpg',
        'semseg': out / 'semseg/VOC12' / f'{identifier}.png',
        'human_parts': out / 'human_parts' / f'{identifier}.mat',
        'normals': out / 'normals_distill' / f'{identifier}.png',
        'saliency': out / 'sal_distill' / f'{identifier}.png',
        'context': out / 'pascal-context/trainval' / f'{identifier}.mat',
        'depth': out / 'depth' / f'{identifier}.npy',
    }


def _annotation(sample: Sample, identifier: str) -> np.ndarray:
    """The nested struct ``anno``: every object with class, class index, mask and parts."""
    objects = np.empty((1, len(sample.objects)), _OBJECT_DTYPE)
    for index, item in enumerate(sample.objects):
        # MATLAB's [], which is what the original files hold for objects without parts.
        parts = np.zeros((0, 0), np.uint8)
        if item.parts:
            parts = np.empty((1, len(item.parts)), _PART_DTYPE)
            for part, (name, mask) in enumerate(item.parts.items()):
                parts[0, part] = (name, mask.astype(np.uint8))
        class_id = np.uint8(item.class_id)
        objects[0, index] = (VOC_CLASSES[item.class_id], class_id, item.mask.astype(np.uint8), parts)
    annotation = np.empty((1, 1), [('imname', object), ('objects', object)])
    annotation[0, 0] = (identifier, objects)
    return annotation


def _write_scene(out: str, size: tuple[int, int], seed: int, item: tuple[int, int, str]) -> bool:
    """Write one image of the PASCAL_MT layout; False if it was complete."""
    split, index, identifier = item
    files = _pascal_mt_files(Path(out), identifier)
    if all(path.exists() for path in files.values()):
        return False
    contents = encode_scene(render_scene((seed, split, index), size), identifier)
    for name, path in files.items():
        _replace(path, contents[name])
    return True


def _write_chunk(write: Callable[[tuple], bool], items: list[tuple]) -> tuple[int, int, float]:
    """Write some images; returns their number, how many were new, and the processor seconds."""
    start = time.process_time()
    written = sum(write(item) for item in items)
    return len(items), written, time.process_time() - start


def _run(write: Callable[[tuple], bool], items: list[tuple], jobs: int | None, progress: bool) -> Report:
    jobs = available_jobs() if jobs is None else jobs
    length = max(1, min(32, len(items) // (jobs * 4)))
    chunks = [items[start : start + length] for start in range(0, len(items), length)]
    start, written, busy = time.perf_counter(), 0, 0.0
    columns = (TextColumn('{task.description}'), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not progress) as bar:
        task = bar.add_task('Rendering scenes', total=len(items))

        def count(result: tuple[int, int, float]) -> None:
            nonlocal written, busy
            bar.advance(task, result[0])
            written += result[1]
            busy += result[2]

        if jobs == 1 or len(chunks) == 1:
            for chunk in chunks:
                count(_write_chunk(write, chunk))
        else:
            context = multiprocessing.get_context('spawn')
            with ProcessPoolExecutor(min(jobs, len(chunks)), mp_context=context) as pool:
                futures = [pool.submit(_write_chunk, write, chunk) for chunk in chunks]
                try:
                    for future in as_completed(futures):
                        count(future.result())
                except BaseException:
                    # Nothing that waits may start after a failure or Ctrl-C.
                    pool.shutdown(wait=False, cancel_futures=True)
                    raise
    rate = written / busy if written and busy > 0 else 0.0
    return Report(written, len(items) - written, time.perf_counter() - start, rate)


def _check_counts(counts: dict[str, int], seed: int, jobs: int | None) -> None:
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f'{name} is {count}; it must be at least 1')
    if seed < 0:
        raise ValueError(f'seed is {seed}; it must not be negative')
    if jobs is not None and jobs < 1:
        raise ValueError(f'jobs is {jobs}; it must be at least 1')


def _claim(out: Path, arguments: dict, overwrite: bool) -> None:
    """Make sure that ``out`` is ours to write these arguments' files into, and say so in its manifest."""
    manifest, wanted = out / MANIFEST, dict(version=VERSION, **arguments)
    if out.exists() and not out.is_dir():
        raise FileExistsError(f'{out} is not a folder; choose another one')
    if manifest.exists():
        present = _read_manifest(manifest)
        if present == wanted:
            return
        if not overwrite:
            keys = [key for key in {**present, **wanted} if present.get(key) != wanted.get(key)]
            changes = ', '.join(f'{key} {present.get(key)} instead of {wanted.get(key)}' for key in keys)
            raise FileExistsError(
                f'{out} holds another rendered data set ({changes}); choose another folder or pass --overwrite'
            )
        for folder in _FOLDERS:
            if (out / folder).exists():
                shutil.rmtree(out / folder)
        manifest.unlink()
    elif out.exists() and any(out.iterdir()):
        raise FileExistsError(
            f'{out} is not empty and holds no {MANIFEST}, so it is not overwritten; choose another folder'
        )
    out.mkdir(parents=True, exist_ok=True)
    _replace(manifest, (json.dumps(wanted, indent=2) + '\n').encode())


def _read_manifest(path: Path) -> dict:
    try:
        manifest = read_json(path)
    except ValueError as error:
        raise FileExistsError(f'{path} is not readable ({error}); choose another folder') from error
    if not isinstance(manifest, dict) or manifest.get('layout') != _LAYOUT:
        raise FileExistsError(f'{path} does not name the layout {_LAYOUT}; choose another folder')
    return manifest


def _replace(path: Path, content: bytes) -> None:
    """Write a file so that it is never seen half written."""
    partial_path = path.with_name(f'{path.name}.{os.getpid()}.part')
    partial_path.write_bytes(content)
    os.replace(partial_path, path)


def _encode(extension: str, image: np.ndarray, *options: int) -> bytes:
    done, content = cv2.imencode(extension, image, options)
    if not done:
        raise RuntimeError(f'OpenCV could not encode an image of shape {image.shape} as {extension}')
    return content.tobytes()


def _jpeg(image: np.ndarray) -> bytes:
    return _encode('.jpg', np.ascontiguousarray(image[..., ::-1]), cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY)


def _npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()


def _mat(name: str, value: np.ndarray) -> bytes:
    stream = io.BytesIO()
    savemat(stream, {name: value}, do_compression=True)
    # The text of the header holds the time of writing: without it, equal contents are equal files.
    return b'MATLAB 5.0 MAT-file, rendered by mmvmt'.ljust(_MAT_TEXT) + stream.getvalue()[_MAT_TEXT:]
