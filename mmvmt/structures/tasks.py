"""The dense tasks: what a label map of each task holds, and how the rest of the package must treat it.

This table is the one place that knows. Transforms, padding, packing, evaluation and drawing read it, so a new task of a
known kind is one more row.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

IGNORE_INDEX = 255
"""Label of pixels that neither loss nor score counts, in class and binary maps."""


@dataclass(frozen=True)
class Task:
    """A dense task.

    Args:
        name: Key of the task in configs, samples, results and logs.
        kind: What a label map holds:

            - ``'classes'``: ``(H, W)`` uint8 class indices, 255 ignored;
            - ``'binary'``: ``(H, W)`` uint8, 0 or 1, 255 ignored;
            - ``'vectors'``: ``(H, W, 3)`` float32 unit vectors, the zero vector where unknown;
            - ``'metric'``: ``(H, W)`` float32 metres, 0 where unknown.
        ignore: Value of unknown pixels (padding, filled borders).
        main_metric: Key of the figure that enters Delta_m, without the task's name; None: the task has none.
        higher_is_better: Direction of ``main_metric``.
        needs_foreground: A map, or what a crop leaves of it, whose labelled pixels are all 0 counts as unlabelled.
    """

    name: str
    kind: str
    ignore: int
    main_metric: str | None
    higher_is_better: bool = True
    needs_foreground: bool = False

    @property
    def channels(self) -> int:
        """Channels of the label map."""
        return 3 if self.kind == 'vectors' else 1

    @property
    def gt_key(self) -> str:
        """Key of the label map in a pipeline's results dictionary."""
        return f'gt_{self.name}'


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task('semseg', 'classes', IGNORE_INDEX, 'mIoU'),
        Task('human_parts', 'classes', IGNORE_INDEX, 'mIoU', needs_foreground=True),
        Task('saliency', 'binary', IGNORE_INDEX, 'mIoU'),
        Task('normals', 'vectors', 0, 'mean', higher_is_better=False),
        Task('edge', 'binary', IGNORE_INDEX, None),
        Task('depth', 'metric', 0, 'rmse', higher_is_better=False),
    )
}
"""The table of tasks."""


def check_tasks(tasks: Iterable[str], known: Iterable[str] = tuple(TASKS)) -> tuple[str, ...]:
    """Validate a list of task names and return it as a tuple in the given order.

    Args:
        tasks: Names to check.
        known: Names that are allowed.

    Raises:
        ValueError: A name is unknown or listed twice, or the list is empty.
        TypeError: ``tasks`` is a single string.
    """
    if isinstance(tasks, str):
        raise TypeError(f"tasks must be a list of names, got the string {tasks!r}; write ['{tasks}']")
    tasks, known = tuple(tasks), tuple(known)
    if not tasks:
        raise ValueError(f'tasks is empty; name at least one of {", ".join(known)}')
    for position, task in enumerate(tasks):
        if task not in known:
            raise ValueError(f'unknown task {task!r}; known tasks are {", ".join(known)}')
        if task in tasks[:position]:
            raise ValueError(f'task {task!r} is listed twice in {list(tasks)}; list each task once')
    return tasks
