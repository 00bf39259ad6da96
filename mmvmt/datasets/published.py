"""Published data sets, whose folders and splits are known."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mmvmt.structures import TaskDeclarations

from .multi_task_dataset import Entry, MultiTaskDataset


class PublishedDataset(MultiTaskDataset):
    """Base of published data sets: a subclass names its folders, and its splits with their sizes.

    In patterns and in the path of the list ``{split}`` stands for the split.

    Args:
        data_root: The unpacked folder.
        split: One of :attr:`SIZES`.
        tasks: Some of :attr:`LABELS`, and those that ``labels`` adds. None: :attr:`DEFAULT_TASKS`.
        ann_file: List of IDs, one per line, absolute or relative to ``data_root``. Empty: :attr:`LIST`.
        pipeline: Transforms, see :class:`MultiTaskDataset`.
        kwargs: As of :class:`MultiTaskDataset`.

    Raises:
        ValueError: The split is unknown, or as of :class:`MultiTaskDataset`.
        FileNotFoundError: The folder, the list, or a folder of an enabled task is missing.
    """

    IMAGES: str
    LIST = ''
    """List of the IDs of a split, relative to the data folder; empty: all pictures of the folder."""
    SIZES: Mapping[str, int | None]
    """The splits, and how many images each has; None: any number."""
    DEFAULT_TASKS: tuple[str, ...]
    FIXED_LAYOUT = True

    def __init__(
        self,
        data_root: str,
        split: str = 'train',
        tasks: TaskDeclarations | None = None,
        ann_file: str = '',
        pipeline: Sequence[dict | Callable] = (),
        images: str | None = None,
        labels: Mapping[str, Entry] | None = None,
        **kwargs: Any,
    ) -> None:
        if split not in self.SIZES:
            known = ' or '.join(map(repr, self.SIZES))
            raise ValueError(f'split must be {known}, got {split!r}; for another list give ann_file')
        self.split = split
        super().__init__(
            data_root,
            self.DEFAULT_TASKS if tasks is None else tasks,
            _of_split(images or self.IMAGES, split),
            {task: _of_split(entry, split) for task, entry in {**self.LABELS, **(labels or {})}.items()},
            ann_file or _of_split(self.LIST, split),
            pipeline,
            **kwargs,
        )

    @classmethod
    def label_folders(cls) -> dict[str, list[str]]:
        """Where the label maps of each task are, relative to the data folder, without the folders of splits."""
        return {
            task: [folder.removesuffix('/{split}') for folder in folders]
            for task, folders in super().label_folders().items()
        }


def _of_split(entry: Any, split: str) -> Any:
    """An entry of ``labels`` with the split in its patterns."""
    if isinstance(entry, str):
        return entry.replace('{split}', split)
    if isinstance(entry, Mapping):
        return {key: _of_split(value, split) for key, value in entry.items()}
    return [_of_split(value, split) for value in entry] if isinstance(entry, (list, tuple)) else entry
