"""How many classes the class maps of a data set have: its meta information is the one place that says so."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from .palettes import voc_palette
from .tasks import TASKS, check_tasks, declarations


def names_key(task: str) -> str:
    """Key of the names of a task's classes in a data set's meta information; mmseg's ``classes`` are semseg's."""
    return 'classes' if task == 'semseg' else f'{task}_classes'


def task_metainfo(tasks: Iterable[str]) -> dict[str, Any]:
    """What a data set says of its tasks in its meta information.

    Args:
        tasks: Names of known tasks.

    Returns:
        ``tasks``; ``task_declarations``, see :func:`mmvmt.structures.declarations`; and the names and colours of
        classes that tasks are declared with, under the keys that :func:`names_key` gives.
    """
    tasks = tuple(tasks)
    meta: dict[str, Any] = {'tasks': tasks, 'task_declarations': declarations(tasks)}
    for task in map(TASKS.get, tasks):
        names = names_key(task.name)
        if task.classes is not None:
            meta[names] = task.classes
            meta[names.replace('classes', 'palette')] = list(task.palette or voc_palette(len(task.classes)))
    return meta


def declared_classes(metainfo: Mapping[str, Any]) -> dict[str, int]:
    """Number of classes of every task that the meta information of a data set names classes for."""
    tasks = [task.name for task in TASKS.values() if task.kind == 'classes']
    return {task: len(metainfo[names_key(task)]) for task in tasks if names_key(task) in metainfo}


def with_classes(metainfo: Mapping[str, Any], given: Collection[str], counts: Mapping[str, int]) -> dict[str, Any]:
    """Meta information in which names, colours and numbers of classes agree.

    Args:
        metainfo: The meta information of a data set.
        given: Keys of it that a user gave; the others are defaults, which yield to ``counts``.
        counts: Number of classes, background included, by task.

    Returns:
        The same with as many names and colours as there are classes.

    Raises:
        ValueError: A task has no classes, a number is out of range, or names or colours that were given are not as
            many.
    """
    metainfo = dict(metainfo)
    if counts:
        check_tasks(counts, [task.name for task in TASKS.values() if task.kind == 'classes'])
    for task, declared in {**declared_classes(metainfo), **counts}.items():
        most = TASKS[task].ignore
        if not 2 <= declared <= most:
            raise ValueError(f'num_classes of task {task!r} must be between 2 and {most}, got {declared}')
        names = names_key(task)
        defaults = {
            names: tuple(f'class {index}' for index in range(declared)),
            names.replace('classes', 'palette'): voc_palette(declared),
        }
        for key, default in defaults.items():
            if len(metainfo.get(key, ())) == declared:
                continue
            if key in given:
                raise ValueError(
                    f'task {task!r} has {declared} classes, but metainfo.{key} has {len(metainfo[key])} entries; '
                    f'make them agree, or leave {key} out'
                )
            metainfo[key] = default
    return metainfo
