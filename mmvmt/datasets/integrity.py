"""Whether the files of a data folder can be used, found out with the loaders that training uses."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mmvmt.structures import TASKS

from .axes import axes_evidence
from .pascal_context_mt import PASCALContextMT
from .transforms import LoadMultiTaskAnnotations, LoadMultiTaskImage


@dataclass
class FileReport:
    """What was found in the files of one kind, the images or a task, summed over samples."""

    files: int = 0
    read: int = 0
    missing: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    classes: Counter = field(default_factory=Counter)
    totals: Counter = field(default_factory=Counter)
    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)

    def add_range(self, name: str, low: float, high: float) -> None:
        """Widen the range of a quantity."""
        old_low, old_high = self.ranges.get(name, (low, high))
        self.ranges[name] = (min(old_low, low), max(old_high, high))

    def add(self, other: FileReport) -> None:
        """Add the findings of other samples."""
        self.files += other.files
        self.read += other.read
        self.missing += other.missing
        self.unreadable += other.unreadable
        self.classes += other.classes
        self.totals.update(other.totals)
        for name, (low, high) in other.ranges.items():
            self.add_range(name, low, high)


def describe_layout(root: Path) -> tuple[bool, str]:
    """Name the layout of a folder.

    Returns:
        Whether the folder can be used, and a line saying what it is.
    """
    if not root.is_dir():
        return False, f'{root} is no folder'
    names = {entry.name for entry in root.iterdir()}
    if 'JPEGImages' in names and (root / 'ImageSets/Context').is_dir():
        line = 'PASCAL_MT: PASCAL-Context for several tasks, in the layout of ASTMT'
        if (root / 'synthetic.json').is_file():
            line = 'synthetic scenes in the layout of PASCAL_MT; synthetic.json says how they were made'
        semseg = next((name for name in PASCALContextMT.FOLDERS['semseg'] if (root / name).is_dir()), None)
        return True, f'{line} ({f"semseg from {semseg}" if semseg else "without semseg"})'
    if {'images', 'gt_sets'} <= names:
        return False, f'looks like NYUD-v2 ({_nyud_edition(root)}), not supported yet'
    if {'JPEGImages', 'SegmentationClassContext'} <= names:
        return False, "looks like mmsegmentation's PASCAL Context (59 classes), another benchmark without these tasks"
    inner = next((name for name in sorted(names) if (root / name / 'ImageSets/Context').is_dir()), None)
    if inner is not None:
        return False, f'the PASCAL_MT folder is {root / inner}; give that one'
    return False, f'no known layout in {root}; PASCAL_MT has JPEGImages and ImageSets/Context at its top'


def _nyud_edition(root: Path) -> str:
    def has(folder: str, extension: str) -> bool:
        return next((root / folder).glob(f'*{extension}'), None) is not None

    if has('images', '.png'):
        return 'edition of InvPT and ATRC'
    if has('normals', '.npy') or has('segmentation', '.png'):
        return 'edition of MTI-Net and MTLoRA'
    return 'edition of ASTMT'


def check_sample(info: dict, deep: bool) -> dict[str, FileReport]:
    """Check the files of one image with the loaders that training uses.

    Args:
        info: An entry of the data set's list.
        deep: Decode the files; otherwise only look whether they exist.

    Returns:
        A report for ``'image'`` and for each task.
    """
    reports = {name: FileReport(files=1) for name in ('image', *info['tasks'])}
    reports['image'].missing = _missing(info['img_path'])
    for task in info['tasks']:
        reports[task].missing = _missing(info['label_paths'][task])
    if not deep or reports['image'].missing:
        return reports
    try:
        results = LoadMultiTaskImage().transform(dict(info))
    except ValueError as error:
        # Sizes of label maps cannot be judged without the image; they are decoded once it is repaired.
        reports['image'].unreadable.append(str(error))
        return reports
    height, width = results['ori_shape']
    reports['image'].read = 1
    reports['image'].add_range('height', height, height)
    reports['image'].add_range('width', width, width)

    present = [task for task in info['tasks'] if not reports[task].missing]
    # All at once shares files between tasks; one by one finds the task to blame.
    if present and _load(results, present):
        for task in present:
            reports[task].unreadable += _load(results, [task])
    for task in present:
        if not reports[task].unreadable:
            reports[task].read = 1
            _measure(reports[task], task, results[TASKS[task].gt_key])
    if 'normals' in reports and reports['normals'].read:
        normals = results['gt_normals']
        masks = (results[key] for key in ('gt_semseg', 'gt_saliency', 'gt_human_parts') if key in results)
        objects = next(
            (mask for mask in masks if mask.shape == normals.shape[:2]), np.zeros(normals.shape[:2], np.uint8)
        )
        reports['normals'].totals.update(axes_evidence(normals, objects))
    return reports


def _missing(paths: str | Sequence[str]) -> list[str]:
    paths = [paths] if isinstance(paths, str) else paths
    return [f'missing file {path}' for path in paths if not os.path.isfile(path)]


def _load(results: dict, tasks: list[str]) -> list[str]:
    """Load label maps into ``results``; the error, if there is one."""
    try:
        LoadMultiTaskAnnotations(tasks).transform(results)
    except ValueError as error:
        return [str(error)]
    return []


def _measure(report: FileReport, task: str, label: np.ndarray) -> None:
    kind = TASKS[task].kind
    if kind == 'vectors':
        known = label.any(axis=2)
        report.totals.update(pixels=known.size, known=int(known.sum()), z=float(label[..., 2].sum()))
        for axis, name in enumerate('xyz'):
            if known.any():
                values = label[..., axis][known]
                report.add_range(name, float(values.min()), float(values.max()))
        return
    if kind == 'metric':
        known = label[label > 0]
        report.totals.update(pixels=label.size, known=known.size)
        if known.size:
            report.add_range('metres', float(known.min()), float(known.max()))
        return
    counts = np.bincount(label.ravel(), minlength=256)
    report.classes.update({index: int(counts[index]) for index in np.flatnonzero(counts)})
    report.totals.update(labelled_images=int(counts[: TASKS[task].ignore].any()))
