"""What a perfect prediction scores under protocol mtlora, on the aligned and on the published truth of a folder in the
PASCAL_MT layout: the floor that published figures at the input size hold."""

import argparse
import json
import sys
from pathlib import Path

import cv2
import numpy as np
import torch
from mmengine.registry import init_default_scope
from mmengine.structures import PixelData
from rich.console import Console
from rich.table import Table

import mmvmt  # noqa: F401  makes the scope known
from mmvmt.datasets.formats import read_normals
from mmvmt.evaluation import IoUMetric, MultiTaskEvaluator, NormalsMetric, SaliencyMetric
from mmvmt.registry import DATASETS
from mmvmt.structures import IGNORE_INDEX, MultiTaskDataSample

TASKS = ('semseg', 'human_parts', 'saliency', 'normals')
TRUTHS = ('aligned', 'published')


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('data_root', help='folder in the PASCAL_MT layout')
    parser.add_argument('--split', default='val', help='split to score (default: val)')
    parser.add_argument(
        '--size', type=int, nargs='+', default=[448], metavar='N', help='height and width at the input (default: 448)'
    )
    parser.add_argument('--json', action='store_true', help='print JSON as the last line: figures by truth')
    args = parser.parse_args(argv)
    if len(args.size) > 2 or min(args.size) < 1:
        parser.error(f'--size takes one or two positive numbers of pixels, got {args.size}')
    return args


def dataset_of(root: str, split: str, size: tuple[int, int], truth: str) -> torch.utils.data.Dataset:
    """The split at an input size (height, width), with one of the truths."""
    pipeline = [
        dict(type='mmvmt.LoadMultiTaskImage'),
        dict(type='mmvmt.LoadMultiTaskAnnotations'),
        dict(type='mmvmt.MultiTaskResize', scale=size[::-1], truth=truth),
        dict(type='mmvmt.PackMultiTaskInputs'),
    ]
    cfg = dict(type='mmvmt.PASCALContextMT', data_root=root, split=split, tasks=list(TASKS), pipeline=pipeline)
    return DATASETS.build(cfg | dict(test_mode=True))


def perfect(aligned: MultiTaskDataSample, normals_path: str) -> PixelData:
    """The truth on the grid of the image, known everywhere: unknown labels are 0, unknown normals face the viewer.

    Args:
        aligned: A sample with the aligned truth.
        normals_path: Its file of normals, which has them at pixels too where they do not count.
    """
    maps = {task: aligned.gt.get(task).clone() for task in TASKS[:3]}
    for label in maps.values():
        label[label == IGNORE_INDEX] = 0
    maps['saliency'] = maps['saliency'].float()
    normals = read_normals(normals_path)
    normals[~normals.any(-1)] = (0, 0, 1)
    normals = cv2.resize(normals, aligned.gt.shape[::-1], interpolation=cv2.INTER_LINEAR)
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True).clip(1e-6)
    return PixelData(**maps, normals=torch.from_numpy(normals.transpose(2, 0, 1).copy()))


def score(root: str, split: str, size: tuple[int, int], truth: str) -> dict[str, float]:
    """Figures of the perfect prediction; ``known``: pixels whose normals count, in percent."""
    aligned, dataset = (dataset_of(root, split, size, of) for of in ('aligned', truth))
    metrics = [IoUMetric('semseg', 21), IoUMetric('human_parts', 7), SaliencyMetric(), NormalsMetric()]
    evaluator = MultiTaskEvaluator(metrics, protocol='mtlora', truth=truth)
    known = []
    for index in range(len(dataset)):
        sample = dataset[index]['data_samples']
        path, _ = dataset.get_data_info(index)['label_paths']['normals']
        sample.pred = perfect(aligned[index]['data_samples'], path)
        evaluator.process([sample])
        known.append((sample.gt.normals != 0).any(0).float().mean().item())
    return evaluator.evaluate(len(dataset)) | {'known': 100 * float(np.mean(known))}


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    if not Path(args.data_root).is_dir():
        raise SystemExit(f'folder {args.data_root} does not exist')
    init_default_scope('mmvmt')
    size = (args.size[0], args.size[-1])
    figures = {truth: score(args.data_root, args.split, size, truth) for truth in TRUTHS}
    table = Table(title=f'A perfect prediction at {size[0]} x {size[1]} pixels')
    columns = {f'{task} mIoU': f'{task}/mIoU' for task in TASKS[:3]} | {'normals mean': 'normals/mean'}
    columns |= {'normals known %': 'known'}
    for name in ('truth', *columns):
        table.add_column(name, justify='left' if name == 'truth' else 'right')
    for truth, values in figures.items():
        table.add_row(truth, *(f'{values[key]:.2f}' for key in columns.values()))
    (Console() if sys.stdout.isatty() else Console(width=120)).print(table)
    if args.json:
        print(json.dumps(figures))
    return 0


if __name__ == '__main__':
    sys.exit(main())
