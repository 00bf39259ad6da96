"""The evaluator of many tasks: checks the protocol, joins the metrics, computes Delta_m, prints one table."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.dist import all_gather_object, is_main_process
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.logging import print_log
from mmengine.structures import BaseDataElement

from mmvmt.registry import EVALUATOR
from mmvmt.structures import TASKS, TaskDeclarations, check_tasks, declare_tasks

from .metrics import IoUMetric, RunningMetric
from .metrics.base import image_name
from .references import delta_m, describe, differs, load_references, reference_protocols, relative_changes

PROTOCOLS = {
    # name: meta key of the size that prediction and truth must have, test_cfg.resolution, place of the annotations
    'mti': ('ori_shape', 'original', 'after'),
    'mtlora': ('img_shape', 'input', 'before'),
}

TRUTHS = ('aligned', 'published')
"""How protocol ``'mtlora'`` has its label maps resized."""

TABLE_WIDTH = 110


@EVALUATOR.register_module()
class MultiTaskEvaluator(Evaluator):
    """Evaluates several tasks under a named protocol.

    The protocol says at which resolution prediction and truth are compared, and every sample is checked for it:

    - ``'mti'``: at the original size of the image;
    - ``'mtlora'``: at the input size of the network, where the truth is resized on the grid of the image
      (``'aligned'``) or as published figures have it (``'published'``), by
      :class:`~mmvmt.datasets.transforms.MultiTaskResize`.

    With ``references`` of the same protocol the results also hold ``delta/<task>``, the signed relative change of the
    task's main figure against a single-task model in percent, and ``delta_m``, their mean: positive is better. A task
    without a main figure is left out, and so is one whose reference is None.

    Args:
        metrics: ``{task: config of its metric}``, or one metric or a list of metrics, each a config or built; None:
            those that ``tasks`` have by default (a config has to say ``metrics=None``: by this key mmengine knows an
            evaluator). A config of a metric without a type changes the task's default.
        protocol: ``'mti'`` or ``'mtlora'``.
        references: The main figure of the single-task model of each task, such as
            ``dict(semseg=67.21, normals=17.97, edge=None)``, or the path of a JSON file with such a dictionary or with
            ``{'metrics': {'semseg/mIoU': 67.21, ...}}``. None: there is none for that task.
        truth: ``'aligned'`` or ``'published'``: the truth of protocol ``'mtlora'``.
        references_protocol: What the figures in ``references`` were measured under, such as
            ``dict(protocol='mtlora', truth='published', size=(448, 448))``; None: the same as here. A results file says
            it itself. Under another protocol than this one there is no Delta_m, and the log says how to get one.
        tasks: Declarations of tasks, see :func:`~mmvmt.structures.declare_tasks`; None: all tasks are known.

    Raises:
        ValueError: The protocol, the truth or a task is unknown, two metrics have the same type and prefix, or the
            references lack a task or hold a value that is no positive number.
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
        metrics: Mapping | BaseMetric | Sequence | None = None,
        protocol: str = 'mti',
        references: Mapping[str, float] | str | Path | None = None,
        truth: str = 'aligned',
        references_protocol: Mapping[str, Any] | None = None,
        tasks: TaskDeclarations | None = None,
    ) -> None:
        _check_protocol(protocol, truth)
        if references_protocol is not None:
            _check_references_protocol(references_protocol)
        names = () if tasks is None else declare_tasks(tasks)
        if metrics is None:
            metrics = {task: {} for task in names if TASKS[task].metric is not None}
            if not metrics:
                raise ValueError(f'metrics is None, and no metric is declared with the tasks {list(names)}')
        if isinstance(metrics, Mapping) and 'type' not in metrics:
            metrics = _name_tasks(metrics)
        super().__init__(metrics)
        self.protocol = protocol
        self.truth = truth
        self._sizes: set[tuple[int, int]] = set()
        self._seen_sizes: set[tuple[int, int]] = set()
        self._check_prefixes()

        scored = {metric.prefix for metric in self.metrics if getattr(metric, 'scores', True)}
        self.compared_tasks = [name for name, task in TASKS.items() if name in scored and task.main_metric]
        self.references: dict[str, float] | None = None
        self.reference_protocols: dict[str, Mapping[str, Any] | None] = {}
        if references is not None:
            self.references = load_references(references, self.compared_tasks)
            self.reference_protocols = reference_protocols(references, list(self.references), references_protocol)

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
        self._meet_sizes()
        unscored = [task for task in self.compared_tasks if not math.isfinite(results.get(_main_key(task), 0.0))]
        if unscored:
            raise ValueError(
                f'no result for task {", ".join(unscored)}: its metric gives no number. Check its label files, or take '
                'the task out of the evaluator'
            )
        if self.references and not self.foreign_references():
            main_figures = {task: _main_figure(task, results) for task in self.references}
            changes = relative_changes(main_figures, self.references)
            results.update({f'delta/{task}': change for task, change in changes.items()})
            results['delta_m'] = delta_m(main_figures, self.references)
        if is_main_process():
            print_log(self._format_report(results, size), 'current')
        return results

    def protocol_record(self) -> dict[str, Any]:
        """What the last evaluation was made under: ``protocol`` and, of ``'mtlora'``, ``truth`` and ``size``.

        ``size`` (height, width) in pixels is left out where images differed in it.
        """
        if self.protocol == 'mti':
            return dict(protocol='mti')
        record = dict(protocol=self.protocol, truth=self.truth)
        return record | (dict(size=next(iter(self._sizes))) if len(self._sizes) == 1 else {})

    def _meet_sizes(self) -> None:
        """Take the sizes of all ranks together, and start anew with the next evaluation."""
        self._sizes = set().union(*all_gather_object(self._seen_sizes))
        self._seen_sizes = set()

    def foreign_references(self) -> list[str]:
        """Tasks whose reference was measured under another protocol than this one, as the last evaluation had it."""
        ours = self.protocol_record()
        return [task for task, theirs in self.reference_protocols.items() if differs(theirs, ours)]

    def _explain_foreign(self, foreign: Sequence[str]) -> list[str]:
        """Why there is no Delta_m, and how to get one."""
        if not foreign:
            return []
        theirs = {describe(self.reference_protocols[task]): None for task in foreign}
        return [
            f'No Delta_m: the references of {", ".join(foreign)} were measured under {", ".join(theirs)}, and this is '
            f'{describe(self.protocol_record())}.',
            'For your own, test a single-task model of each task under this protocol (tools/test.py '
            'configs/baselines/swin_t_single_TASK_pascal.py CHECKPOINT --out DIR)',
            'and name its results: --cfg-options test_evaluator.references.TASK=DIR/metrics.json.',
        ]

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
        if self.protocol == 'mtlora':
            self._seen_sizes.add(size)
            truth = sample.get('truth', 'aligned')
            if truth != self.truth:
                raise ValueError(
                    f"image {image_name(sample)}: its truth is {truth!r}, and the evaluator's is {self.truth!r}; set "
                    f"dict(type='mmvmt.MultiTaskResize', truth={self.truth!r}, ...) in the test pipeline, or "
                    f'truth={truth!r} in the evaluator'
                )
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
        foreign = self.foreign_references()
        compared = bool(self.references) and not foreign
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
                known = main is not None and prefix in self.references
                row += [_number(self.references[prefix]), f'{results[f"delta/{prefix}"]:+.2f}'] if known else ['', '']
                if not known:
                    lacking = 'main figure' if main is None else 'reference'
                    notes.append(f'{prefix} has no {lacking} and does not enter Delta_m.')
            rows.append([*row, '  '.join(f'{name} {_number(value)}' for name, value in figures.items())])
        if 'delta_m' in results:
            rows.append(['Delta_m', '', '', '', '', f'{results["delta_m"]:+.2f}', ''])

        place = {
            'mti': "the image's original size",
            'mtlora': f"the network's input size, with the {self.truth} truth",
        }[self.protocol]
        lines = [f'Evaluation of {size} images, protocol {self.protocol}: compared at {place}']
        lines += _align(header, rows, right=range(3, len(header) - 1))
        lines += notes
        lines += self._explain_foreign(foreign)
        for metric in self.metrics:
            lines += _format_class_iou(metric)
        return '\n'.join(['', *lines])


def _check_protocol(protocol: str, truth: str) -> None:
    if protocol not in PROTOCOLS:
        raise ValueError(f'unknown protocol {protocol!r}; known protocols are {", ".join(PROTOCOLS)}')
    if truth not in TRUTHS:
        raise ValueError(f'unknown truth {truth!r}; known are {", ".join(TRUTHS)}')
    if protocol == 'mti' and truth != 'aligned':
        raise ValueError(f"truth={truth!r} belongs to protocol 'mtlora'; protocol 'mti' does not resize the truth")


def _check_references_protocol(protocol: Mapping[str, Any]) -> None:
    unknown = sorted(set(protocol) - {'protocol', 'truth', 'size'})
    if unknown or 'protocol' not in protocol:
        raise ValueError(
            f'references_protocol needs protocol and takes truth and size besides, got {dict(protocol)}; for example '
            "dict(protocol='mtlora', truth='published', size=(448, 448))"
        )
    _check_protocol(protocol['protocol'], protocol.get('truth', 'aligned'))


def _name_tasks(metrics: Mapping[str, Mapping]) -> list[dict]:
    configs = []
    for task in check_tasks(metrics):
        config = dict(metrics[task])
        if 'type' not in config:
            if TASKS[task].metric is None:
                raise ValueError(f'task {task!r} has no metric by default; give metrics.{task} a type')
            config = dict(TASKS[task].metric) | config
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
