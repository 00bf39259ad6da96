"""Whether the files of a data folder can be used, found out with the loaders that training uses."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from mmvmt.structures import meet_declarations

from .axes import axes_evidence
from .cityscapes_mt import CityscapesMT
from .nyud_v2_mt import NYUDv2MT
from .pascal_context_mt import PASCALContextMT
from .patterns import folder_of
from .plausibility import LabelStatistics
from .published import PublishedDataset
from .synthetic_mt import MANIFEST, SyntheticMT
from .transforms import LoadMultiTaskImage
from .transforms.loading import load_labels


@dataclass
class FileReport(LabelStatistics):
    """What was found in the files of one kind, the images or a task, summed over samples."""

    files: int = 0
    unlabelled: int = 0
    missing: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    folders: Counter = field(default_factory=Counter)

    def add(self, other: FileReport) -> None:
        """Add the findings of other samples."""
        super().add(other)
        self.files += other.files
        self.unlabelled += other.unlabelled
        self.missing += other.missing
        self.unreadable += other.unreadable
        self.folders += other.folders


def describe_layout(root: Path) -> tuple[type[PublishedDataset] | None, str]:
    """Name the layout of a folder.

    Returns:
        The data set class that reads it, None if there is none; and a line saying what it is.
    """
    if not root.is_dir():
        return None, f'{root} is no folder'
    names = {entry.name for entry in root.iterdir()}
    if 'JPEGImages' in names and (root / 'ImageSets/Context').is_dir():
        dataset, line = PASCALContextMT, 'PASCAL_MT: PASCAL-Context for several tasks, in the layout of ASTMT'
        if (root / MANIFEST).is_file():
            dataset = SyntheticMT
            line = f'synthetic scenes in the layout of PASCAL_MT; {MANIFEST} says how they were made'
        semseg = [name for name in map(folder_of, PASCALContextMT.LABELS['semseg']) if (root / name).is_dir()]
        origin = f'semseg from {", else ".join(semseg)}' if semseg else 'without semseg'
        return dataset, f'{line} ({origin})'
    if {'images', 'gt_sets'} <= names:
        return NYUDv2MT, f'NYUD-v2, {_nyud_edition(root)}'
    if 'leftImg8bit' in names:
        return CityscapesMT, 'Cityscapes'
    if {'JPEGImages', 'SegmentationClassContext'} <= names:
        return None, "looks like mmsegmentation's PASCAL Context (59 classes), another benchmark without these tasks"
    for name in sorted(names):
        for inside, layout in (
            ('ImageSets/Context', 'PASCAL_MT'),
            ('gt_sets', 'NYUD-v2'),
            ('leftImg8bit', 'Cityscapes'),
        ):
            if (root / name / inside).is_dir():
                return None, f'the {layout} folder is {root / name}; give that one'
    return None, (
        f'no known layout in {root}; PASCAL_MT has JPEGImages and ImageSets/Context at its top, NYUD-v2 images and '
        'gt_sets, Cityscapes leftImg8bit'
    )


def _nyud_edition(root: Path) -> str:
    def has(folder: str, extension: str) -> bool:
        return next((root / folder).glob(f'*{extension}'), None) is not None

    if has('images', '.png'):
        return 'edition of InvPT and ATRC'
    if has('normals', '.npy') or has('segmentation', '.png'):
        return 'edition of MTI-Net and MTLoRA'
    return 'edition of ASTMT'


def start_process(tasks: Mapping[str, Mapping]) -> None:
    """Prepare a process that checks samples beside others.

    Args:
        tasks: Declarations of the tasks, see :func:`mmvmt.structures.declarations`.
    """
    meet_declarations(tasks, 'the data set')
    # More threads would fight over the cores.
    cv2.setNumThreads(1)


def check_sample(info: dict, deep: bool, upright: bool = False) -> dict[str, FileReport]:
    """Check the files of one image with the loaders that training uses.

    Args:
        info: An entry of the data set's list.
        deep: Decode the files; otherwise only look whether they exist.
        upright: Turn photos upright, as ``LoadMultiTaskImage(upright=True)`` does.

    Returns:
        A report for ``'image'`` and for each task.
    """
    reports = {name: FileReport(files=1) for name in ('image', *info['tasks'])}
    image = reports['image']
    image.missing = _missing(info['img_path'])
    for task in info['tasks']:
        if info['label_paths'][task] is None:
            reports[task].unlabelled += 1
            continue
        paths = _paths(info['label_paths'][task])
        reports[task].missing = _missing(*paths)
        if not reports[task].missing:
            reports[task].folders[os.path.dirname(paths[0])] += 1
    if not deep or image.missing:
        return reports
    try:
        results = LoadMultiTaskImage(upright=upright).transform(dict(info))
    except ValueError as error:
        # Sizes of label maps cannot be judged without the image; they are decoded once it is repaired.
        image.unreadable.append(str(error))
        return reports
    image.read = 1
    image.totals.update(turned=int(results['orientation'] != 1))
    for name, edge in zip(('height', 'width'), results['ori_shape']):
        image.add_range(name, edge, edge)

    present = [task for task in info['tasks'] if not reports[task].missing and not reports[task].unlabelled]
    # All at once shares files between tasks; one by one finds the task to blame.
    if _load(results, present, reports) is not None:
        for task in present:
            error = _load(results, [task], reports)
            reports[task].unreadable += [] if error is None else [error]
    if 'normals' in reports and reports['normals'].read:
        normals = results['gt_normals']
        masks = (results[key] for key in ('gt_semseg', 'gt_saliency', 'gt_human_parts') if key in results)
        objects = next(
            (mask for mask in masks if mask.shape == normals.shape[:2]), np.zeros(normals.shape[:2], np.uint8)
        )
        reports['normals'].totals.update(axes_evidence(normals, objects))
    return reports


def _paths(paths: str | Sequence[str]) -> Sequence[str]:
    return [paths] if isinstance(paths, str) else paths


def _missing(*paths: str) -> list[str]:
    return [f'missing file {path}' for path in paths if not os.path.isfile(path)]


def _load(results: dict, tasks: list[str], reports: dict[str, FileReport]) -> str | None:
    """Read label maps and note what they hold; what is wrong with one, and then nothing is noted."""
    noted = {task: LabelStatistics() for task in tasks}
    try:
        load_labels(results, tasks, noted)
    except ValueError as error:
        return str(error)
    for task, statistics in noted.items():
        statistics.note_file(task, _paths(results['label_paths'][task])[0])
        LabelStatistics.add(reports[task], statistics)
    return None
