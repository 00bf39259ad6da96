"""The evaluator of many tasks: checks the protocol, joins the metrics, computes Delta_m, prints one table."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.logging import print_log
from mmengine.structures import BaseDataElement

from mmvmt.registry import EVALUATOR
from mmvmt.structures import TASKS, check_tasks, read_json

from .metrics import IoUMetric, RunningMetric
from .metrics.base import image_name

PROTOCOLS = {
    # name: meta key of the size that prediction and truth must have, test_cfg.resolution, place of the annotations
    'mti': ('ori_shape', 'original', 'after'),
    'mtlora': ('img_shape', 'input', 'before'),
}

TABLE_WIDTH = 110


@EVALUATOR.register_module()
class MultiTaskEvaluator(Evaluator):
    """Evaluates several tasks under a named protocol.

    The protocol says at which resolution prediction and truth are compared, and every sample is checked for it:

    - ``'mti'``: at the original size of the image;
    - ``'mtlora'``: at the input size of the network.

    With ``references`` the results also hold ``delta/<task>``, the signed relative change of the task's main figure
    against a single-task model in percent, and ``delta_m``, their mean: positive is better. A task without a main
    figure (edge) is left out.

    Args:
        metrics: ``{task: config of its metric}``, or one metric or a list of metrics, each a config or built.
        protocol: ``'mti'`` or ``'mtlora'``.
        references: The main figure of the single-task model of each task, such as
            ``dict(semseg=67.21, normals=17.97)``, or the path of a JSON file with such a dictionary or with
            ``{'metrics': {'semseg/mIoU': 67.21, ...}}``.

    Raises:
        ValueError: The protocol or a task is unknown, two metrics have the same type and prefix, or the references
            lack a task or hold a value that is no positive number.
        FileNotFoundError: The file of references does not exist.

    Examples:
        >>> val_evaluator = dict(
        ...     type='mmvmt.MultiTaskEvaluator',
        ...     metrics=dict(
        ...         semseg=dict(type='mmvmt.IoUMetric', num_classes=21),
        ...         normals=dict(type='mmvmt.NormalsMetric')),
        ...     protocol='mti',
        ...     references=dict(semseg=67.21, normals=17.97))
    """

    def __init__(
        self,
        metrics: Mapping | BaseMetric | Sequence,
        protocol: str = 'mti',
        references: Mapping[str, float] | str | Path | None = None,
    ) -> None:
        if protocol not in PROTOCOLS:
            raise ValueError(f'unknown protocol {protocol!r}; known protocols are {", ".join(PROTOCOLS)}')
        if isinstance(metrics, Mapping) and 'type' not in metrics:
            metrics = _name_tasks(metrics)
        super().__init__(metrics)
        self.protocol = protocol
        self._check_prefixes()

        tasks = {metric.prefix for metric in self.metrics if metric.prefix in TASKS}
        self.compared_tasks = [task for task in TASKS if task in tasks and TASKS[task].main_metric]
        self.references: dict[str, float] | None = None
        if references is not None:
            self.references = load_references(references, self.compared_tasks)

    def process(self, data_samples: Sequence[BaseDataElement | dict], data_batch: Any = None) -> None:
        """Check the protocol and hand a batch to every metric.

        Args:
            data_samples: Predictions and truth, one element per image.
            data_batch: The batch from the loader, handed on.

        Raises:
            ValueError: A map has another size than the protocol asks for.
        """
        samples = [sample.to_dict() if isinstance(sample, BaseDataElement) else sample for sample in data_samples]
        for sample in samples:
            self._check_resolution(sample)
        super().process(samples, data_batch)

    def evaluate(self, size: int) -> dict[str, float]:
        """Join the results of all metrics, compare them with the references, and log one table.

        Args:
            size: Number of samples in the data set.

        Returns:
            ``{'<task>/<figure>': value}``, and with references ``delta/<task>`` and ``delta_m``, in percent.

        Raises:
            ValueError: Two metrics give the same key, or a task has no result.
            KeyError: The main figure of a task is not among the results.
        """
        results = super().evaluate(size)
        unscored = [task for task in self.compared_tasks if not math.isfinite(results.get(_main_key(task), 0.0))]
        if unscored:
            raise ValueError(
                f'no result for task {", ".join(unscored)}: its metric gives no number. Check its label files, or take '
                'the task out of the evaluator'
            )
        if self.references is not None and self.compared_tasks:
            main_figures = {task: _main_figure(task, results) for task in self.compared_tasks}
            changes = relative_changes(main_figures, self.references)
            results.update({f'delta/{task}': change for task, change in changes.items()})
            results['delta_m'] = delta_m(main_figures, self.references)
        if is_main_process():
            print_log(self._format_report(results, size), 'current')
        return results

    def _check_prefixes(self) -> None:
        seen = set()
        for metric in self.metrics:
            key = (metric.prefix, type(metric))
            if isinstance(metric, RunningMetric) and key in seen:
                raise ValueError(
                    f'two metrics of type {type(metric).__name__} have the prefix {metric.prefix!r} and would give the '
                    "same keys; drop one or give it another prefix='...'"
                )
            seen.add(key)

    def _check_resolution(self, sample: dict) -> None:
        size_key, resolution, place = PROTOCOLS[self.protocol]
        if size_key not in sample:
            raise ValueError(
                f"image {image_name(sample)}: protocol {self.protocol!r} needs the meta key '{size_key}'; pack "
                'it in the test pipeline'
            )
        size = tuple(sample[size_key][:2])
        remedies = {
            'pred': f"set model.test_cfg=dict(resolution='{resolution}')",
            'gt': f'put LoadMultiTaskAnnotations {place} the resize in the test pipeline',
        }
        for metric in self.metrics:
            if not isinstance(metric, RunningMetric):
                continue
            for side, remedy in remedies.items():
                label_map = sample.get(side, {}).get(metric.task)
                if label_map is not None and tuple(label_map.shape[-2:]) != size:
                    what = 'prediction' if side == 'pred' else 'truth'
                    raise ValueError(
                        f'{metric.task} of image {image_name(sample)}: the {what} is {tuple(label_map.shape[-2:])}, '
                        f"and protocol {self.protocol!r} compares at the sample's {size_key} {size}; {remedy}"
                    )

    def _format_report(self, results: Mapping[str, float], size: int) -> str:
        header = ['task', 'main figure', 'better', 'value']
        compared = self.references is not None
        if compared:
            header += ['reference', 'change %']
        header.append('further figures')

        rows, notes = [], []
        for prefix in dict.fromkeys(metric.prefix for metric in self.metrics if metric.prefix):
            figures = {
                key.removeprefix(f'{prefix}/'): value for key, value in results.items() if key.startswith(f'{prefix}/')
            }
            task = TASKS.get(prefix)
            main = task.main_metric if task and task.main_metric in figures else None
            row = [prefix, '', '', '']
            if main:
                row = [prefix, main, 'higher' if task.higher_is_better else 'lower', _number(figures.pop(main))]
            if compared:
                known = main is not None and prefix in self.compared_tasks
                row += [_number(self.references[prefix]), f'{results[f"delta/{prefix}"]:+.2f}'] if known else ['', '']
                if not known:
                    notes.append(f'{prefix} has no main figure and does not enter Delta_m.')
            rows.append([*row, '  '.join(f'{name} {_number(value)}' for name, value in figures.items())])
        if 'delta_m' in results:
            rows.append(['Delta_m', '', '', '', '', f'{results["delta_m"]:+.2f}', ''])

        place = {'mti': "the image's original size", 'mtlora': "the network's input size"}[self.protocol]
        lines = [f'Evaluation of {size} images, protocol {self.protocol}: compared at {place}']
        lines += _align(header, rows, right=range(3, len(header) - 1))
        lines += notes
        for metric in self.metrics:
            lines += _format_class_iou(metric)
        return '\n'.join(['', *lines])


def relative_changes(results: Mapping[str, float], references: Mapping[str, float]) -> dict[str, float]:
    """Signed relative change of each task against its reference, in percent; positive is better.

    For a figure that is better higher, ``100 * (result - reference) / reference``; for one that is better lower, the
    same with the other sign.

    Args:
        results: ``{task: main figure}``.
        references: ``{task: main figure of the single-task model}``; may hold further tasks.

    Returns:
        ``{task: change}`` for each task in ``results``.

    Raises:
        ValueError: ``results`` is empty, a task is unknown or has no main figure, or a reference is missing or no
            positive number.
    """
    changes = {}
    for task in check_tasks(results):
        if TASKS[task].main_metric is None:
            raise ValueError(f'task {task!r} has no main figure and cannot enter Delta_m; leave it out')
        reference = _check_reference(task, references)
        sign = 1 if TASKS[task].higher_is_better else -1
        changes[task] = sign * 100 * (results[task] - reference) / reference
    return changes


def main_figures(metrics: Mapping[str, float]) -> dict[str, float]:
    """``{task: main figure}`` of what an evaluator returns.

    Args:
        metrics: ``{'semseg/mIoU': 68.0, ...}``; tasks without their main figure are left out.
    """
    keys = {name: f'{name}/{task.main_metric}' for name, task in TASKS.items()}
    return {name: metrics[key] for name, key in keys.items() if key in metrics}


def delta_m(results: Mapping[str, float], references: Mapping[str, float]) -> float:
    """Delta_m: the mean over tasks of :func:`relative_changes`, in percent.

    Args:
        results: ``{task: main figure}``, such as ``{'semseg': 68.0, 'normals': 17.5}``.
        references: ``{task: main figure of the single-task model}``; may hold further tasks.

    Raises:
        ValueError: As in :func:`relative_changes`.
    """
    changes = relative_changes(results, references)
    return sum(changes.values()) / len(changes)


def load_references(references: Mapping[str, float] | str | Path, tasks: Sequence[str]) -> dict[str, float]:
    """Read the single-task figures of some tasks.

    Args:
        references: ``{task: main figure}``, or the path of a JSON file that holds such a dictionary or
            ``{'metrics': {'<task>/<main figure>': value}}``, as tools/test.py --out writes it. A dictionary may
            name such a file per task instead of a value.
        tasks: Tasks that need a reference.

    Returns:
        ``{task: main figure}`` of the given tasks.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file is no JSON dictionary, or a task's value is missing or no positive number.
    """
    source = 'references'
    if isinstance(references, Mapping):
        files = {task: path for task, path in references.items() if isinstance(path, (str, Path))}
        references = dict(references) | {task: load_references(path, [task])[task] for task, path in files.items()}
    if isinstance(references, (str, Path)):
        path = Path(references)
        if not path.is_file():
            raise FileNotFoundError(f'file of references {path} does not exist; give a results file or a dictionary')
        source = f'references file {path}'
        references = read_json(path)
        if not isinstance(references, dict):
            raise ValueError(f'{source} must hold a dictionary, got {type(references).__name__}')
        figures = references.get('metrics')
        if isinstance(figures, dict):
            keys = {task: f'{task}/{TASKS[task].main_metric}' for task in tasks}
            references = {task: figures[key] for task, key in keys.items() if key in figures}
    return {task: _check_reference(task, references, source) for task in tasks}


def _check_reference(task: str, references: Mapping[str, float], source: str = 'references') -> float:
    if task not in references:
        raise ValueError(
            f'{source}: no value for task {task!r} ({TASKS[task].main_metric}); there are values for '
            f'{sorted(references) or "no task"}: add it, or do not evaluate the task'
        )
    value = references[task]
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or value <= 0:
        raise ValueError(f'{source}: the value for task {task!r} must be a positive number, got {value!r}')
    return float(value)


def _name_tasks(metrics: Mapping[str, Mapping]) -> list[dict]:
    configs = []
    for task in check_tasks(metrics):
        config = dict(metrics[task])
        if config.setdefault('task', task) != task:
            raise ValueError(f'metrics[{task!r}] is a metric of task {config["task"]!r}; the two names must agree')
        configs.append(config)
    return configs


def _main_key(task: str) -> str:
    return f'{task}/{TASKS[task].main_metric}'


def _main_figure(task: str, results: Mapping[str, float]) -> float:
    key = _main_key(task)
    if key not in results:
        raise KeyError(
            f'Delta_m needs {key!r}, and the results are {sorted(results)}; give the task the metric that computes it'
        )
    return results[key]


def _number(value: float) -> str:
    if isinstance(value, int):
        return str(value)
    return f'{value:.2f}' if abs(value) >= 10 else f'{value:.3f}'


def _align(header: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int]) -> list[str]:
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    lines = [
        '  '.join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths))
        ).rstrip()
        for row in (header, *rows)
    ]
    return [lines[0], '-' * max(map(len, lines)), *lines[1:]]


def _format_class_iou(metric: BaseMetric) -> list[str]:
    if not isinstance(metric, IoUMetric):
        return []
    absent = {'left_out': 'left out', 'zero': 'scored zero'}[metric.absent_class]
    cells = [f'{name} {"-" if math.isnan(value) else _number(value)}' for name, value in metric.class_iou.items()]
    indent = '    '
    return [
        f'IoU of the classes of {metric.prefix} (absent classes are {absent}):',
        *textwrap.wrap(', '.join(cells), TABLE_WIDTH, initial_indent=indent, subsequent_indent=indent),
    ]
