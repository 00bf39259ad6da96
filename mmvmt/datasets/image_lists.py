"""Files that say which images a data set has: lists of IDs, and annotation files in mmengine's format."""

from __future__ import annotations

import os.path as osp
from collections.abc import Mapping, Sequence
from typing import Any

from mmvmt.structures import read_json, read_text


def is_annotation_file(path: str) -> bool:
    """Whether a file names the paths of every sample, and is no list of IDs."""
    return path.lower().endswith('.json')


def read_ids(path: str, help_text: str) -> list[str]:
    """Read a list of IDs, one per line, in any encoding of :func:`mmvmt.structures.read_text`.

    Args:
        path: The list.
        help_text: What the error of a missing file adds.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is empty, or has an ID twice.
    """
    if not osp.isfile(path):
        raise FileNotFoundError(f'the split file {path} is missing; it lists one image ID per line ({help_text})')
    # A list that was put together from several has byte order marks inside, which no editor shows.
    lines = (line.strip('\ufeff\u200b \t') for line in read_text(path).splitlines())
    ids = [line for line in lines if line]
    if not ids:
        raise ValueError(f'the split file {path} is empty; it must list one image ID per line')
    seen = set()
    for img_id in ids:
        if img_id in seen:
            raise ValueError(f'the split file {path} lists the image ID {img_id!r} twice; remove one')
        seen.add(img_id)
    return ids


def read_annotations(path: str, help_text: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Read an annotation file in mmengine's format.

    Args:
        path: A JSON file with ``metainfo`` and ``data_list``, whose samples have ``img_path``, ``label_paths`` (by
            task) and, where one is wanted, ``img_id``.
        help_text: What the error of a missing file adds.

    Returns:
        Samples with ``img_id``, ``img_path`` and ``label_paths`` as they stand in the file, and its ``metainfo``.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no such file, a sample has no picture, or two have the same ID.
    """
    if not osp.isfile(path):
        raise FileNotFoundError(f'the annotation file {path} is missing ({help_text})')
    content = read_json(path)
    samples = content.get('data_list') if isinstance(content, dict) else None
    if not isinstance(samples, list) or not samples:
        raise ValueError(
            f"{path} has no data_list with samples; mmengine's format is {{metainfo: {{...}}, data_list: [...]}}"
        )
    found: dict[str, dict[str, Any]] = {}
    for number, sample in enumerate(samples):
        if not isinstance(sample, dict) or not isinstance(sample.get('img_path'), str):
            raise ValueError(f'{path}: sample {number} of data_list has no img_path')
        paths = sample.get('label_paths', {})
        if not isinstance(paths, Mapping):
            raise ValueError(f'{path}: label_paths of sample {number} must be paths by task, got {paths!r}')
        img_id = str(sample.get('img_id') or osp.splitext(sample['img_path'])[0])
        if img_id in found:
            raise ValueError(f'{path} has the image ID {img_id!r} twice; give each sample an img_id of its own')
        found[img_id] = dict(img_id=img_id, img_path=sample['img_path'], label_paths=dict(paths))
    return list(found.values()), content.get('metainfo', {})


def joined(root: str, sample: Mapping[str, Any], tasks: Sequence[str]) -> dict[str, Any]:
    """A sample of :func:`read_annotations` with paths relative to a folder, and those of some tasks alone."""

    def join(path: str | Sequence[str]) -> str | tuple[str, ...]:
        return osp.join(root, path) if isinstance(path, str) else tuple(osp.join(root, each) for each in path)

    paths = sample['label_paths']
    labels = {task: join(paths[task]) for task in tasks if paths.get(task)}
    return {'img_id': sample['img_id'], 'img_path': osp.join(root, sample['img_path']), 'label_paths': labels}
