"""Check data before training: layout, split sizes, every file of every task, ranges of values; and what they suggest.

Takes a folder of a known layout, or a config, whose data sets may be any. Exit code 0 if all is usable, 1 if not.
Nothing is written into the folder.
"""

import argparse
import copy
import itertools
import os
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from mmengine.config import Config, DictAction
from mmengine.registry import init_default_scope
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from mmvmt.datasets import MultiTaskDataset, PublishedDataset
from mmvmt.datasets.axes import contradictions, estimate_axes
from mmvmt.datasets.integrity import FileReport, check_sample, describe_layout, start_process
from mmvmt.datasets.patterns import folder_of
from mmvmt.datasets.plausibility import describe_resized, judge
from mmvmt.datasets.proposals import propose
from mmvmt.engine.run_config import read_config
from mmvmt.registry import DATASETS, class_of
from mmvmt.structures import TASKS, NormalsAxes, check_tasks, declarations, names_key

LISTED = 10
SAMPLES_PER_JOB = 100
LOADERS = ('train', 'val', 'test')


def _summary(name: str, report: FileReport) -> str:
    """The values of one kind of file, in words."""
    if not report.read:
        return 'nothing read'
    if name == 'image':
        (top, bottom), (left, right) = report.ranges['height'], report.ranges['width']
        return f'{top} to {bottom} pixels high, {left} to {right} wide'
    task = TASKS[name]
    if task.kind in ('vectors', 'metric', 'values'):
        known = report.totals['known']
        if not known:
            return 'no valid pixel'
        unit = f' {task.unit}' if task.unit else ''
        ranges = ', '.join(
            ('' if name == 'value' else f'{name} ') + f'{low:.2f} to {high:.2f}{unit}'
            for name, (low, high) in report.ranges.items()
            if name != 'context id'
        )
        mean = f'; mean z {report.totals["z"] / known:.2f}' if 'z' in report.totals else ''
        return f'{ranges}{mean}; valid on {known / report.totals["pixels"]:.1%} of pixels'
    total = report.classes.total()
    ignored = report.classes[task.ignore]
    seen = sorted(index for index in report.classes if index != task.ignore)
    if task.kind == 'binary':
        return f'{report.classes[1] / max(1, total - ignored):.1%} of pixels are 1'
    span = f'{len(seen)} classes from {seen[0]} to {seen[-1]}' if seen else 'no class'
    return (
        f'{span}; {ignored / total:.1%} ignored; labelled in {report.totals["labelled_images"]} of {report.read} images'
    )


def _check_split(
    split: str,
    dataset: MultiTaskDataset,
    tasks: list[str],
    jobs: int,
    sample: int | None,
    upright: bool,
    console: Console,
) -> dict[str, FileReport]:
    size = len(dataset)
    deep = np.ones(size, dtype=bool)
    if sample is not None and sample < size:
        deep[:] = False
        deep[np.linspace(0, size - 1, sample).round().astype(int)] = True
    # Beside other data sets in a config, samples have their tasks too.
    infos = [dataset.get_data_info(index) | dict(tasks=tuple(tasks)) for index in range(size)]
    reports = {name: FileReport() for name in ('image', *tasks)}
    columns = (TextColumn('{task.description}'), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task(f'reading {split}', total=size)
        for found in _map(jobs, infos, deep.tolist(), upright):
            for name, report in found.items():
                reports[name].add(report)
            progress.advance(bar)
    return reports


def _map(jobs: int, infos: list[dict], deep: list[bool], upright: bool) -> Iterator[dict[str, FileReport]]:
    check = partial(check_sample, upright=upright)
    # A process takes seconds to start.
    jobs = min(jobs, -(-len(infos) // SAMPLES_PER_JOB))
    if jobs == 1:
        yield from map(check, infos, deep)
        return
    # A fork of a process that runs threads, as the progress bar does, can hang: start clean ones.
    # Each gets one thread, since more would fight over the cores.
    pool = ProcessPoolExecutor(
        jobs, get_context('spawn'), initializer=start_process, initargs=(declarations(infos[0]['tasks']),)
    )
    with pool:
        yield from pool.map(check, infos, deep, chunksize=8)


def _print_folders(console: Console, split: str, dataset: MultiTaskDataset, reports: dict[str, FileReport]) -> None:
    """Where the labels come from, of tasks that have several folders."""
    for task in dataset.tasks:
        if task in reports and len(set(map(folder_of, dataset.readers[task].patterns))) > 1:
            found = Counter()
            for folder, number in reports[task].folders.items():
                inside = os.path.relpath(folder, dataset.data_root)
                bases = [folder_of(pattern) for pattern in dataset.readers[task].patterns]
                found[max((base for base in bases if inside.startswith(base)), key=len, default=inside)] += number
            counts = (f'{number:,} from {folder}' for folder, number in sorted(found.items()))
            console.print(f'{task}, {split}: {", ".join(counts) or "no file"}', soft_wrap=True)


def _print_reports(console: Console, split: str, reports: dict[str, FileReport], list_all: bool) -> int:
    """Print a table and the damage of one split.

    Returns:
        Number of files that are missing or unreadable.
    """
    table = Table(title=f'split {split}', title_justify='left')
    for column in ('', 'samples', 'missing', 'read', 'unreadable'):
        table.add_column(column, justify='left' if not column else 'right')
    table.add_column('values', overflow='fold')
    for name, report in reports.items():
        numbers = (report.files, len(report.missing), report.read, len(report.unreadable))
        constant = report.totals['constant']
        note = f'; {constant} of {report.read} hold a single value' if constant else ''
        note += (
            f'; {report.files - report.unlabelled} of {report.files} images have a label' if report.unlabelled else ''
        )
        table.add_row(name, *map(str, numbers), _summary(name, report) + note)
    console.print(table)
    damaged = 0
    for name, report in reports.items():
        problems = report.missing + report.unreadable
        damaged += len(problems)
        shown = problems if list_all else problems[:LISTED]
        if problems:
            console.print(f'{name}, {split}: {_problems(len(problems))}', style='bold')
        for line in shown:
            console.print(f'  {line}', soft_wrap=True)
        if len(shown) < len(problems):
            console.print(f'  ... and {len(problems) - len(shown)} more; --list-all names them')
    return damaged


def _print_axes(console: Console, split: str, dataset: MultiTaskDataset, report: FileReport) -> None:
    """Say where the normals' axes point by declaration, and warn where the maps say otherwise."""
    declared = NormalsAxes.of(dataset.metainfo)
    if declared is None:
        estimate = ', '.join(f'{key}={value!r}' for key, value in estimate_axes(report.totals).items())
        console.print(
            f'{split}: axes of normals are not declared, which a rotation needs: metainfo=dict(normals_x=..., '
            f'normals_y=...) of the data set; by the maps: {estimate or "no telling"}',
            soft_wrap=True,
        )
        return
    console.print(f'{split}: axes of normals as declared: {declared}', soft_wrap=True)
    for key, value in contradictions(report.totals, declared).items():
        console.print(
            f'warning, {split}: the normals of this split look as if {key} were {value!r}: objects face left '
            f"on their left side, floors face up; if pictures of browse_dataset.py agree, declare it by the data set's "
            f'metainfo=dict({key}={value!r})',
            soft_wrap=True,
        )


def _print_proposal(console: Console, split: str, dataset: MultiTaskDataset, reports: dict[str, FileReport]) -> None:
    """What the label maps suggest for the config."""
    for task in dataset.tasks:
        if task in reports and (reports[task].read or reports[task].unlabelled):
            names = dataset.metainfo.get(names_key(task))
            for line in propose(task, reports[task], reports[task].unlabelled, names):
                console.print(f'proposal, {task}, {split}: {line}', soft_wrap=True)


def _print_findings(
    console: Console, split: str, reports: dict[str, FileReport], upright: bool, strict: bool, list_all: bool
) -> int:
    """Print what was done to labels, what is unlikely and what cannot be.

    Returns:
        Number of findings that make a folder unusable: what cannot be, and if ``strict`` also what is unlikely.
    """
    refused = 0
    for name, report in reports.items():
        if report.resized:
            console.print(f'{name}, {split}: {describe_resized(report)}', soft_wrap=True)
            for line in report.resized if list_all else ():
                console.print(f'  {line}', soft_wrap=True)
        for finding in judge(name, report) if name in TASKS and report.read else ():
            refusal = finding.impossible or strict
            refused += refusal
            console.print(f'{"refused" if refusal else "warning"}, {name}, {split}: {finding.text}', soft_wrap=True)
    turned = reports['image'].totals['turned']
    if turned:
        treated = 'turned upright' if upright else 'read as stored, like their label maps'
        remedy = '' if upright else '; if those were drawn upright, check with --upright and load as it says'
        console.print(
            f'image, {split}: photos that are not stored upright, by their EXIF data: {turned}; {treated}{remedy}'
        )
    return refused


def _problems(number: int) -> str:
    return '1 problem' if number == 1 else f'{number} problems'


def _size_note(dataset: PublishedDataset) -> str:
    split, size, published = dataset.split, len(dataset), dataset.SIZES[dataset.split]
    if published is None:
        return f'{split}: {size:,} images'
    if size == published:
        return f'{split}: {size:,} images, as published'
    return f'{split}: {size:,} images; the published split has {published:,}'


def folder_splits(args: argparse.Namespace, console: Console) -> Iterator[tuple[str, MultiTaskDataset | Exception]]:
    """The splits of a folder with a known layout."""
    layout_class, layout = describe_layout(args.data)
    console.print(f'layout: {layout}', soft_wrap=True)
    tasks = args.tasks
    if layout_class and tasks is None:
        folders = layout_class.label_folders()
        tasks = [task for task, names in folders.items() if any((args.data / name).is_dir() for name in names)]
        absent = [task for task in folders if task not in tasks]
        if absent:
            console.print(f'no folder, hence not checked: {", ".join(absent)}')
        if not tasks:
            console.print(f'no folder of any task: {", ".join(name for names in folders.values() for name in names)}')
    counts = None if args.num_classes is None else dict(semseg=args.num_classes)
    for split in (args.split or layout_class.SIZES) if layout_class and tasks else ():
        try:
            dataset = layout_class(
                str(args.data), split=split, tasks=tasks, test_mode=True, num_classes=counts, strict=args.strict
            )
        except (FileNotFoundError, ValueError) as error:
            yield split, error
            continue
        console.print(_size_note(dataset))
        yield split, dataset


def config_splits(args: argparse.Namespace, console: Console) -> Iterator[tuple[str, MultiTaskDataset | Exception]]:
    """The data sets of a config's data loaders; several of one loader by their numbers."""
    cfg = read_config(str(args.data), args.cfg_options, args.data_root)
    init_default_scope(cfg.get('default_scope', 'mmvmt'))
    seen = []
    for loader in args.split or LOADERS:
        if cfg.get(f'{loader}_dataloader') is None:
            continue
        described = cfg[f'{loader}_dataloader'].dataset
        if described in seen:
            continue
        seen.append(copy.deepcopy(described))
        _prepare(described, args.strict)
        try:
            parts = _parts(DATASETS.build(described))
        except (FileNotFoundError, ValueError, TypeError) as error:
            yield loader, error
            continue
        for number, part in enumerate(parts):
            split = loader if len(parts) == 1 else f'{loader}[{number}]'
            if not isinstance(part, MultiTaskDataset):
                console.print(f'{split}: {type(part).__name__} has one task only and is not checked')
                continue
            console.print(f'{split}: {type(part).__name__}, {len(part):,} images, tasks {", ".join(part.tasks)}')
            yield split, part


def _prepare(described: Config, strict: bool) -> None:
    """Let the data sets of a config keep every sample, and refuse what they would resize if ``strict``."""
    for part in described.get('datasets', ()):
        _prepare(part, strict)
    kind = class_of(DATASETS, described['type'])
    if isinstance(kind, type) and issubclass(kind, MultiTaskDataset):
        described.update(test_mode=True, pipeline=[], **(dict(strict=True) if strict else {}))
    elif isinstance(described.get('dataset'), dict):
        _prepare(described['dataset'], strict)


def _parts(dataset: object) -> list:
    """The data sets inside of wrappers."""
    if hasattr(dataset, 'datasets'):
        return [part for each in dataset.datasets for part in _parts(each)]
    return _parts(dataset.dataset) if hasattr(dataset, 'dataset') else [dataset]


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('data', type=Path, help='the data folder, or a config')
    parser.add_argument(
        '--tasks', nargs='+', metavar='TASK', help='tasks to check (default: all, of a folder those that have a folder)'
    )
    parser.add_argument(
        '--split', nargs='+', choices=LOADERS, help='splits to check (default: all; of a folder train and val)'
    )
    parser.add_argument(
        '--num-classes',
        type=int,
        metavar='N',
        help='number of semseg classes in a folder (default: as the benchmark has)',
    )
    parser.add_argument('--data-root', help='with a config: folder of every data set')
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, help='with a config: override entries, as key=value pairs'
    )
    parser.add_argument('--jobs', type=int, default=os.cpu_count() or 1, help='processes (default: one per core)')
    parser.add_argument(
        '--sample',
        type=int,
        metavar='N',
        help='decode N images of each split only; that all files exist is still checked',
    )
    parser.add_argument(
        '--strict',
        action='store_true',
        help='refuse label maps of another size than their image, as the data set does with strict=True, and whatever '
        'is warned of otherwise',
    )
    parser.add_argument(
        '--upright', action='store_true', help='turn photos upright, as LoadMultiTaskImage(upright=True) does'
    )
    parser.add_argument(
        '--list-all', action='store_true', help=f'name every problem, not the first {LISTED} of each kind'
    )
    args = parser.parse_args(argv)
    if args.jobs < 1:
        parser.error(f'--jobs must be at least 1, got {args.jobs}')
    if args.sample is not None and args.sample < 1:
        parser.error(f'--sample must be at least 1, got {args.sample}')
    args.is_config = args.data.is_file()
    if not args.is_config:
        if args.data_root is not None or args.cfg_options is not None:
            parser.error('--data-root and --cfg-options go with a config')
        if 'test' in (args.split or ()):
            parser.error('--split: a folder has train and val; test is a data loader of a config')
        layout_class = describe_layout(args.data)[0]
        if args.tasks is not None and layout_class is not None:
            try:
                check_tasks(args.tasks, layout_class.label_folders())
            except ValueError as error:
                parser.error(f'--tasks: {error}')
    elif args.num_classes is not None:
        parser.error('--num-classes goes with a folder; in a config it is an option of the data set')
    return args


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    console = Console(markup=False, highlight=False)
    damaged, ids, checked = 0, {}, []
    for split, dataset in config_splits(args, console) if args.is_config else folder_splits(args, console):
        if isinstance(dataset, Exception):
            console.print(f'{split}: {dataset}', soft_wrap=True)
            damaged += 1
            continue
        ids[split] = {dataset.get_data_info(index)['img_path'] for index in range(len(dataset))}
        tasks = [task for task in dataset.tasks if task in (args.tasks or dataset.tasks)]
        reports = _check_split(split, dataset, tasks, args.jobs, args.sample, args.upright, console)
        _print_folders(console, split, dataset, reports)
        damaged += _print_reports(console, split, reports, args.list_all)
        if 'normals' in reports:
            _print_axes(console, split, dataset, reports['normals'])
        damaged += _print_findings(console, split, reports, args.upright, args.strict, args.list_all)
        checked.append((split, dataset, reports))
    for first, second in itertools.combinations(ids, 2):
        shared = ids[first] & ids[second]
        if shared and first.partition('[')[0] != second.partition('[')[0]:
            which = f'{first} and {second}' if len(ids) > 2 else 'both splits'
            console.print(f'warning: {len(shared)} images are in {which}, such as {Path(min(shared)).stem}')
    for split, dataset, reports in checked[:1] if not args.is_config else checked:
        if split.startswith('train') or len(checked) == 1:
            _print_proposal(console, split, dataset, reports)
    if not checked and not damaged:
        console.print('unusable')
        return 1
    console.print(f'unusable: {_problems(damaged)}' if damaged else 'usable')
    return 1 if damaged else 0


if __name__ == '__main__':
    sys.exit(main())
