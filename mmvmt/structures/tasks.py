"""The table of tasks: transforms, padding, packing, losses, evaluation and drawing read what they do from it.

A new task is one declaration: of a user in a config (:func:`declare_tasks`), or a row here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from .task import KINDS, Task

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task('semseg', 'classes'),
        Task('human_parts', 'classes', needs_foreground=True),
        Task('saliency', 'binary'),
        Task('normals', 'vectors'),
        Task('edge', 'binary', metric=dict(type='mmvmt.EdgeMetric'), main_metric='odsF'),
        Task('depth', 'metric', unit='m'),
    )
}
"""The table of tasks: those of the package, and those that were declared in this process."""

TaskDeclarations = Iterable[str] | Mapping[str, Mapping[str, Any] | None]
"""What an argument ``tasks`` takes: names of known tasks, or ``{name: declaration}``."""

_BUILT_IN = dict(TASKS)


def register_task(name: str, **fields: Any) -> Task:
    """Put a task into the table, or find it there.

    A task of the package may be declared too, with more than the package says of it, such as its classes; what is not
    given stays as it is.

    Args:
        name: Name of the task.
        **fields: Of :class:`Task`; none for a task that is known.

    Returns:
        The task.

    Raises:
        ValueError: A field is wrong; the task is unknown and nothing is declared; or it is known with other fields.
    """
    known, built_in = TASKS.get(name), _BUILT_IN.get(name)
    if not fields:
        check_tasks((name,))
        return known
    fields = dict(fields)
    if 'kind' not in fields and built_in is None:
        raise ValueError(f'task {name!r} is declared without its kind, one of {", ".join(KINDS)}: {fields}')
    unknown = sorted(set(fields) - {field.name for field in dataclasses.fields(Task)[1:]})
    if unknown:
        options = ', '.join(field.name for field in dataclasses.fields(Task)[1:])
        raise ValueError(f'task {name!r} is declared with {", ".join(unknown)}; a task has {options}')
    if built_in is not None and fields.setdefault('kind', built_in.kind) == built_in.kind:
        fields = built_in.declaration | fields
    task = Task(name, **fields)
    if known is None or (known is built_in and task.kind == built_in.kind):
        TASKS[name] = task
    elif task.declaration != known.declaration:
        raise ValueError(
            f'task {name!r} is declared as {task.declaration}, but it is known already as {known.declaration}; give '
            f'one of the two another name, or make them agree'
        )
    return TASKS[name]


def declare_tasks(tasks: TaskDeclarations) -> tuple[str, ...]:
    """Register the tasks that a config names or declares; every ``tasks`` argument takes either form.

    Args:
        tasks: Names of known tasks, or ``{name: declaration}``, such as ``dict(semseg=None,
            lanes=dict(kind='binary'))``, where None or an empty declaration stands for a known task.

    Returns:
        The names, in their order.

    Raises:
        ValueError: A task is unknown, listed twice, or declared wrongly, or there is none.
        TypeError: ``tasks`` is a single string, or a declaration is no dictionary.
    """
    if isinstance(tasks, Mapping):
        for name, fields in tasks.items():
            if fields is not None and not isinstance(fields, Mapping):
                raise TypeError(
                    f"task {name!r} must be declared by a dictionary such as dict(kind='binary'), got {fields!r}"
                )
            register_task(name, **(fields or {}))
    return check_tasks(tasks)


def declarations(tasks: Iterable[str]) -> dict[str, dict[str, Any]]:
    """What makes some tasks known elsewhere, in data, files and other processes: of all but the package's own."""
    return {name: TASKS[name].declaration for name in tasks if TASKS[name] is not _BUILT_IN.get(name)}


def meet_declarations(recorded: Mapping[str, Mapping[str, Any]] | None, what: str) -> None:
    """Make the tasks known that a file or data set brings along, and refuse those that are other tasks here.

    What a label map holds has to agree: kind, channels, number of classes. Colours, figures and losses may differ.

    Args:
        recorded: What :func:`declarations` gave; None: nothing.
        what: Where it comes from, for the error.

    Raises:
        ValueError: A task has another kind, or other channels or classes, than the one that is known by its name; or
            the record is damaged.
    """
    if recorded is not None and not isinstance(recorded, Mapping):
        raise ValueError(f'{what} is damaged: its declarations of tasks are {type(recorded).__name__}')
    for name, fields in (recorded or {}).items():
        try:
            task = Task(name, **fields)
        except (TypeError, ValueError) as error:
            raise ValueError(f'{what} declares task {name!r} in a way that is not understood: {error}') from error
        known = TASKS.get(name)
        if known is None or (known is _BUILT_IN.get(name) and task.kind == known.kind):
            TASKS[name] = task
            continue
        both = task.classes is not None and known.classes is not None
        theirs, ours = (
            f'kind {each.kind!r}, {each.channels} channels' + (f', {len(each.classes)} classes' if both else '')
            for each in (task, known)
        )
        if theirs != ours:
            raise ValueError(
                f'{what} has another task {name!r} ({theirs}) than this process ({ours}); rename one of the two'
            )


def check_tasks(tasks: Iterable[str], known: Iterable[str] | None = None) -> tuple[str, ...]:
    """Validate a list of task names and return it as a tuple in the given order.

    Args:
        tasks: Names to check.
        known: Names that are allowed; None: all of :data:`TASKS`.

    Raises:
        ValueError: A name is unknown or listed twice, or the list is empty.
        TypeError: ``tasks`` is a single string.
    """
    if isinstance(tasks, str):
        raise TypeError(f"tasks must be a list of names, got the string {tasks!r}; write ['{tasks}']")
    tasks, allowed = tuple(tasks), tuple(TASKS if known is None else known)
    if not tasks:
        raise ValueError(f'tasks is empty; name at least one of {", ".join(allowed)}')
    for position, task in enumerate(tasks):
        if task not in allowed:
            remedy = '' if known is not None else f"; declare your own, as tasks=dict({task}=dict(kind='binary')) does"
            raise ValueError(f'unknown task {task!r}; known tasks are {", ".join(allowed)}{remedy}')
        if task in tasks[:position]:
            raise ValueError(f'task {task!r} is listed twice in {list(tasks)}; list each task once')
    return tasks
