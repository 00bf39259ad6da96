"""Single-task figures that results are compared with, the protocol that they were measured under, and Delta_m."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmvmt.structures import TASKS, check_tasks, read_json


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


def main_figures(metrics: Mapping[str, float]) -> dict[str, float]:
    """``{task: main figure}`` of what an evaluator returns.

    Args:
        metrics: ``{'semseg/mIoU': 68.0, ...}``; tasks without their main figure are left out.
    """
    keys = {name: f'{name}/{task.main_metric}' for name, task in TASKS.items()}
    return {name: metrics[key] for name, key in keys.items() if key in metrics}


def load_references(references: Mapping[str, float] | str | Path, tasks: Sequence[str]) -> dict[str, float]:
    """Read the single-task figures of some tasks.

    Args:
        references: ``{task: main figure}``, or the path of a JSON file that holds such a dictionary or
            ``{'metrics': {'<task>/<main figure>': value}}``, as tools/test.py --out writes it. A dictionary may
            name such a file per task instead of a value, or None: there is no reference for that task.
        tasks: Tasks that need a reference.

    Returns:
        ``{task: main figure}`` of those of the given tasks that have one.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file is no JSON dictionary, or a task's value is missing or no positive number.
    """
    source = 'references'
    if isinstance(references, Mapping):
        tasks = [task for task in tasks if task not in references or references[task] is not None]
        files = {task: path for task, path in references.items() if isinstance(path, (str, Path))}
        references = dict(references) | {task: load_references(path, [task])[task] for task, path in files.items()}
    else:
        source = f'references file {references}'
        references = _read(references)
        figures = references.get('metrics')
        if isinstance(figures, dict):
            keys = {task: f'{task}/{TASKS[task].main_metric}' for task in tasks}
            references = {task: figures[key] for task, key in keys.items() if key in figures}
    return {task: _check_reference(task, references, source) for task in tasks}


def reference_protocols(
    references: Mapping[str, float] | str | Path, tasks: Sequence[str], of_figures: Mapping[str, Any] | None
) -> dict[str, Mapping[str, Any] | None]:
    """The protocol that each reference was measured under.

    Args:
        references: As in :func:`load_references`.
        tasks: Tasks with a reference.
        of_figures: That of figures that stand in the config.

    Returns:
        For each task what the results file says, or ``of_figures``; None where nothing says it.
    """
    if isinstance(references, Mapping):
        given = {task: references[task] for task in tasks}
    else:
        given = dict.fromkeys(tasks, references)
    return {
        task: _read(source).get('protocol') if isinstance(source, (str, Path)) else of_figures
        for task, source in given.items()
    }


def differs(theirs: Mapping[str, Any] | None, ours: Mapping[str, Any]) -> bool:
    """Whether figures were measured under another protocol than ours; what nobody says is taken to be the same."""
    theirs = _comparable(theirs or {})
    return any(key not in ours or value != ours[key] for key, value in theirs.items())


def describe(protocol: Mapping[str, Any]) -> str:
    """A protocol in words, such as ``mtlora with the published truth at 448 x 448 pixels``."""
    protocol = _comparable(protocol)
    text = protocol['protocol']
    if 'truth' in protocol:
        text += f' with the {protocol["truth"]} truth'
    if 'size' in protocol:
        text += f' at {" x ".join(str(edge) for edge in protocol["size"])} pixels'
    return text


def _comparable(protocol: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, (list, tuple)) else value for key, value in protocol.items()}


def _read(path: str | Path) -> dict[str, Any]:
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f'file of references {path} does not exist; give a results file or a dictionary')
    content = read_json(path)
    if not isinstance(content, dict):
        raise ValueError(f'references file {path} must hold a dictionary, got {type(content).__name__}')
    return content


def _check_reference(task: str, references: Mapping[str, float], source: str = 'references') -> float:
    if task not in references:
        raise ValueError(
            f'{source}: no value for task {task!r} ({TASKS[task].main_metric}); there are values for '
            f'{sorted(references) or "no task"}: add it, or None if there is none, or do not evaluate the task'
        )
    value = references[task]
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or value <= 0:
        raise ValueError(f'{source}: the value for task {task!r} must be a positive number, got {value!r}')
    return float(value)
