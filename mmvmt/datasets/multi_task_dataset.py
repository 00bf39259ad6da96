"""Pictures and label maps of any tasks, wherever they lie and in whatever format."""

from __future__ import annotations

import copy
import logging
import os.path as osp
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mmengine.dataset import BaseDataset
from mmengine.logging import print_log

from mmvmt.registry import DATASETS, LABEL_READERS
from mmvmt.structures import (
    TASKS,
    NormalsAxes,
    TaskDeclarations,
    check_tasks,
    declare_tasks,
    declared_classes,
    meet_declarations,
    names_key,
    read_text,
    task_metainfo,
    with_classes,
)

from .cache import check_cache_dir
from .image_lists import is_annotation_file, joined, read_annotations, read_ids
from .label_reader import LabelReader
from .patterns import PICTURE_SUFFIXES, find_ids, find_picture, folder_of, path_of
from .seeding import seeded_rng
from .transforms.foreign import follow_picture

Entry = str | Sequence[str] | Mapping[str, Any]
"""How the label maps of a task are described in a config: a pattern, several, or the options of a reader."""


@DATASETS.register_module()
class MultiTaskDataset(BaseDataset):
    """Pictures, and per task a pattern that says where its label maps are::

        dict(
            type='mmvmt.MultiTaskDataset',
            data_root='data/mine',
            images='images/{id}.jpg',
            labels=dict(
                lanes='lanes/{id}.png',
                crops=['crops/by_hand/{id}.png', 'crops/old/{id}.png'],
                depth=dict(path='depth/{id}.png', scale=1 / 256, unit='m', missing='ignore'),
            ),
            ann_file='lists/train.txt',
            tasks=tasks,
        )

    Nothing is written into the folder. A file is first touched when its sample is loaded, those of tasks with
    ``missing='ignore'`` excepted: which images have one is found out, and logged, at the start.

    A sample enters the pipeline with ``img_path``, ``img_id``, ``tasks``, ``label_paths`` and ``label_readers`` (by
    task; a path of None means that the image has no label), ``num_classes`` (by task), ``strict``, ``cache_dir``,
    ``normals_x`` and ``normals_y`` (the axes of normals, where they are declared), ``num_samples`` (of the data set)
    and ``sample_idx``.

    Where all tasks are such that a map without foreground counts as unlabelled, as of human_parts, such images are
    replaced by others while training (``drop_unlabelled``, see
    :class:`mmvmt.datasets.transforms.LoadMultiTaskAnnotations`); in test mode they stay, and count in no score. The
    same holds for images for which no task has a file.

    An index with an attribute ``seed``, as the package's samplers give, makes all randomness of the sample depend on
    that seed alone, the replacement of dropped samples included.

    Args:
        data_root: The folder that patterns and lists are relative to.
        tasks: Tasks to read, and their declarations (see :func:`mmvmt.structures.declare_tasks`). None: all that
            ``labels`` has.
        images: Pattern of the pictures, with ``{id}`` in place of an image's ID, which may hold folders. A picture may
            also have another ending; without an ending, any.
        labels: By task a pattern, several that are tried in order, or the options of
            :class:`mmvmt.datasets.LabelReader` (or of another reader, by ``type``).
        ann_file: List of IDs, one per line; or a JSON file in mmengine's format, whose ``data_list`` has ``img_path``
            and ``label_paths`` (by task) of each sample, and where one is wanted an ``img_id``. Empty: all pictures
            that ``images`` fits.
        pipeline: Transforms. Of other packages only those whose motions of the picture label maps can follow, see
            :func:`mmvmt.datasets.transforms.follow_picture`.
        test_mode: Keep every sample.
        metainfo: Additions to :attr:`METAINFO`, such as names of classes (``<task>_classes``) or the axes of normals:
            ``normals_x='left'`` or ``'right'``, ``normals_y='up'`` or ``'down'``.
        num_classes: Number of classes by task, background included, where neither names nor declarations say it. A map
            with a larger index is refused, and so are a head and a metric with another number.
        indices: Use the first so many samples, or the samples of these indices; None: all.
        serialize_data: Keep the list in one buffer, which worker processes share.
        lazy_init: Leave the folder alone until ``full_init()``.
        max_refetch: How many replacements of a dropped sample to try.
        cache_dir: Folder outside of ``data_root`` where the label maps of ``.mat`` and ``.npz`` files are kept once
            they are decoded, see :class:`mmvmt.datasets.cache.LabelCache`; data sets, workers and runs may share it.
            None: decode them every time.
        strict: Refuse a label map of another size than its image. Otherwise it is resized to the image, as all readers
            of the field do, and named in a warning.

    Raises:
        ValueError: A task is unknown or has no labels, a pattern has no ``{id}`` or fits no file, the list is empty or
            has an ID twice, ``cache_dir`` lies inside ``data_root``, or names, colours and ``num_classes`` do not
            agree.
        FileNotFoundError: The folder, the list, or a folder of an enabled task is missing.
    """

    METAINFO = {'dataset_type': 'multi_task'}
    NAME = 'the data set'
    """What messages call it."""
    HELP = 'docs/data.md says how a data set is described'
    LABELS: Mapping[str, Entry] = {}
    """Where the label maps of each task are, unless ``labels`` says it."""
    FIXED_LAYOUT = False
    """Whether folders alone tell what is there: no file is looked for before its sample is loaded."""

    def __init__(
        self,
        data_root: str = '',
        tasks: TaskDeclarations | None = None,
        images: str = 'images/{id}',
        labels: Mapping[str, Entry] | None = None,
        ann_file: str = '',
        pipeline: Sequence[dict | Callable] = (),
        test_mode: bool = False,
        metainfo: Mapping | None = None,
        num_classes: Mapping[str, int] | None = None,
        indices: int | Sequence[int] | None = None,
        serialize_data: bool = True,
        lazy_init: bool = False,
        max_refetch: int = 1000,
        cache_dir: str | None = None,
        strict: bool = False,
    ) -> None:
        labels = {**self.LABELS, **(labels or {})}
        self.tasks = self._known(tuple(labels) if tasks is None else tasks, labels)
        if '{id}' not in images:
            raise ValueError(f"images is {images!r}, one file for every image; write {{id}} where an image's ID stands")
        self.images = images
        self.readers: dict[str, LabelReader] = {task: _reader(task, labels.get(task, {})) for task in self.tasks}
        self.strict = strict
        self.cache_dir = None if cache_dir is None else check_cache_dir(cache_dir, str(data_root))
        self._given_metainfo, self._num_classes = metainfo or {}, num_classes or {}
        self._of_others: dict[str, Any] = {}
        super().__init__(
            ann_file=ann_file,
            metainfo=self._complete(self._load_metainfo(dict(metainfo or {}))),
            data_root=str(data_root),
            data_prefix={},
            indices=indices,
            serialize_data=serialize_data,
            pipeline=list(pipeline),
            test_mode=test_mode,
            lazy_init=lazy_init,
            max_refetch=max_refetch,
        )

    def _known(self, tasks: TaskDeclarations, labels: Mapping[str, Entry]) -> tuple[str, ...]:
        """The names of the tasks that are wanted, all of which have labels."""
        if isinstance(tasks, Mapping):
            declare_tasks(tasks)
        others = () if isinstance(tasks, str) else [task for task in tasks if task in TASKS and task not in labels]
        tasks = check_tasks(tasks, (*labels, *others))
        check_tasks(tasks)
        absent = [task for task in tasks if task not in labels]
        if absent:
            raise ValueError(f'{self.NAME} has no labels for task {absent[0]!r}; it has {", ".join(labels)}')
        return tasks

    def _complete(self, metainfo: Mapping[str, Any]) -> dict[str, Any]:
        """Meta information in which what is given, what the tasks declare and what the class has by default agree."""
        NormalsAxes.of(metainfo)
        declared = task_metainfo(self.tasks)
        metainfo = {**metainfo, **declared, **{key: metainfo[key] for key in self._given_metainfo}}
        for task in self.tasks:
            names, classes = names_key(task), TASKS[task].classes
            if classes is not None and len(metainfo[names]) != len(classes):
                raise ValueError(
                    f'task {task!r} is declared with {len(classes)} classes, but metainfo.{names} has '
                    f'{len(metainfo[names])} names; make them agree'
                )
        return with_classes(metainfo, {*self._given_metainfo, *declared}, self._num_classes)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Make the tasks known in the process that a data set is sent to."""
        meet_declarations(state['_metainfo'].get('task_declarations'), 'the data set')
        self.__dict__.update(state)

    @classmethod
    def label_folders(cls) -> dict[str, list[str]]:
        """Where the label maps of each task are, relative to the data folder, by the layout of the class."""
        known = {task: entry for task, entry in cls.LABELS.items() if task in TASKS}
        return {task: list(map(folder_of, _reader(task, entry).patterns)) for task, entry in known.items()}

    @classmethod
    def _load_metainfo(cls, metainfo: Mapping | None = None) -> dict:
        """As mmengine does, in which a path stands for a list of names, in any encoding of ``read_text``."""
        files = {key: value for key, value in dict(metainfo or {}).items() if isinstance(value, str)}
        lists = {key: read_text(path).splitlines() for key, path in files.items() if osp.isfile(path)}
        return {**copy.deepcopy(cls.METAINFO), **(metainfo or {}), **lists}

    @property
    def pipeline(self) -> Callable[[dict], dict | None]:
        """The transforms; label maps follow the picture through any pipeline that is set."""
        return self._pipeline

    @pipeline.setter
    def pipeline(self, pipeline: Callable[[dict], dict | None]) -> None:
        self._pipeline = follow_picture(pipeline)

    def join(self, metainfo: Mapping[str, Any]) -> None:
        """Give samples the tasks of other data sets that they are mixed with: without labels, and with their classes.

        Args:
            metainfo: That of the whole, with its ``tasks``.
        """
        unlabelled = tuple(task for task in metainfo['tasks'] if task not in self.tasks)
        self._of_others = dict(tasks=unlabelled, num_classes=declared_classes(metainfo))

    def __getitem__(self, idx: int) -> dict:
        """Run the pipeline on a sample, from the seed of ``idx`` where it has one."""
        seed = getattr(idx, 'seed', None)
        if seed is None:
            return super().__getitem__(idx)
        with seeded_rng(seed):
            return super().__getitem__(int(idx))

    def get_data_info(self, idx: int) -> dict:
        """The entry of a sample, with the files that are there.

        A label map is the first file that exists of those that the patterns of its task give. Where there is none, the
        path names all that were looked for.
        """
        info = super().get_data_info(idx)
        unlabelled, others = info.pop('unlabelled', ()), self._of_others.get('tasks', ())
        info['img_path'] = info.get('img_path') or find_picture(self.data_root, self.images, info['img_id'])
        given = info.get('label_paths', {})
        info['label_paths'] = {
            task: None if task in unlabelled else given.get(task) or self._label_path(task, info['img_id'])
            for task in self.tasks
        } | dict.fromkeys(others)
        axes = NormalsAxes.of(self._metainfo)
        foreground = all(TASKS[task].needs_foreground for task in self.tasks)
        return info | {
            'tasks': (*self.tasks, *others),
            'label_readers': self.readers,
            'num_classes': declared_classes(self._metainfo) | self._of_others.get('num_classes', {}),
            'drop_unlabelled': foreground and not self.test_mode,
            'strict': self.strict,
            'cache_dir': self.cache_dir,
            'num_samples': len(self),
            **({} if axes is None else axes.meta),
        }

    def index_of(self, img_id: str) -> int:
        """Position of an image in the data set, found by walking through its list.

        Args:
            img_id: ID as in the list.

        Raises:
            KeyError: The ID is not listed.
        """
        for idx in range(len(self)):
            if super().get_data_info(idx)['img_id'] == img_id:
                return idx
        raise KeyError(f'image ID {img_id!r} is not among the {len(self)} samples of {self.ann_file or self.data_root}')

    def load_data_list(self) -> list[dict]:
        """List the images, and find out which have labels where they may be missing.

        Raises:
            ValueError: See the class.
            FileNotFoundError: See the class.
        """
        if self.data_root and not osp.isdir(self.data_root):
            raise FileNotFoundError(
                f'data_root {self.data_root!r} is no folder; give it with --data-root or as data_root of the data set '
                f'({self.HELP})'
            )
        self._patterns: dict[str, list[str]] = {}
        if is_annotation_file(self.ann_file):
            entries = self._annotations()
        else:
            self._folders('the images', [self.images])
            for task, reader in self.readers.items():
                if not reader.patterns:
                    raise ValueError(f'labels.{task} has no path, and {self.ann_file or "ann_file"} is no JSON file')
                self._patterns[task] = self._folders(f'task {task!r}', reader.patterns)
                for pattern in reader.beside:
                    self._folders(f'what task {task!r} needs besides', [pattern])
            entries = [{'img_id': img_id} for img_id in self._ids()]
        return self._with_labels(entries)

    def _annotations(self) -> list[dict]:
        """The samples of an annotation file, whose meta information fills what is not given otherwise."""
        samples, metainfo = read_annotations(self.ann_file, self.HELP)
        self._metainfo = self._complete({**metainfo, **self._metainfo})
        self._patterns = {task: list(reader.patterns) for task, reader in self.readers.items()}
        samples = [joined(self.data_root, sample, self.tasks) for sample in samples]
        needed = [t for t, reader in self.readers.items() if reader.missing == 'error' and not reader.patterns]
        for sample, task in ((s, t) for s in samples for t in needed if t not in s['label_paths']):
            raise ValueError(
                f'{self.ann_file}: sample {sample["img_id"]!r} has no label_paths.{task}; name it, or let such images '
                f"be unlabelled by labels=dict({task}=dict(missing='ignore'))"
            )
        return samples

    def _folders(self, purpose: str, patterns: Sequence[str]) -> list[str]:
        """Those of some patterns whose folder exists."""
        found = [pattern for pattern in patterns if osp.isdir(osp.join(self.data_root, folder_of(pattern)) or '.')]
        if not found:
            raise FileNotFoundError(
                f'{self.data_root or "the working directory"} has no folder {" or ".join(map(folder_of, patterns))}, '
                f'which holds {purpose}; unpack it there or disable the task ({self.HELP})'
            )
        return found

    def _ids(self) -> list[str]:
        if self.ann_file:
            return read_ids(self.ann_file, self.HELP)
        labels = [pattern for reader in self.readers.values() for pattern in reader.patterns]
        ids, others = find_ids(self.data_root, self.images, labels)
        if others:
            self._log(
                f'{others} pictures in {osp.join(self.data_root, folder_of(self.images))} have another ending than '
                f'{self.images!r} and are left out; leave the ending out of the pattern to take all',
                logging.WARNING,
            )
        if not ids:
            raise ValueError(
                f'images={self.images!r} fits no picture in {self.data_root or "the working directory"}; endings of '
                f'pictures are {", ".join(PICTURE_SUFFIXES[: len(PICTURE_SUFFIXES) // 2])}'
            )
        return ids

    def _with_labels(self, entries: list[dict]) -> list[dict]:
        """The samples, with the tasks named that an image has no label of where that is allowed."""
        optional = [task for task in self.tasks if self.readers[task].missing == 'ignore']
        for entry in entries if optional else ():
            entry['unlabelled'] = tuple(task for task in optional if not self._has_label(task, entry))
        labelled = {task: sum(task not in entry['unlabelled'] for entry in entries) for task in optional}
        for task in () if self.FIXED_LAYOUT else self.tasks:
            if not labelled[task] if task in labelled else not any(self._has_label(task, e) for e in entries):
                first = entries[0].get('label_paths', {}).get(task) or self._label_path(task, entries[0]['img_id'])
                raise ValueError(
                    f'none of {len(entries)} images has a label of task {task!r}: there is no file such as '
                    f'{first or "any that the annotation file names"}. Correct labels.{task}, or take the task out'
                )
        if not optional:
            return entries
        kept = [e for e in entries if self.test_mode or len(e['unlabelled']) < len(self.tasks)]
        counts = ', '.join(f'{task} {labelled.get(task, len(entries)):,}' for task in self.tasks)
        dropped = f'; {len(entries) - len(kept):,} without any label are left out' if len(kept) < len(entries) else ''
        self._log(f'{self.ann_file or self.data_root}: {len(entries):,} images, with labels: {counts}{dropped}')
        return kept

    def _has_label(self, task: str, entry: Mapping[str, Any]) -> bool:
        path = entry.get('label_paths', {}).get(task) or self._label_path(task, entry['img_id'])
        return path is not None and osp.isfile(path if isinstance(path, str) else path[0])

    def _label_path(self, task: str, img_id: str) -> str | tuple[str, ...] | None:
        """The file of an image's label map, with what its reader needs besides; None where nothing says where it is."""
        paths = [path_of(self.data_root, pattern, img_id) for pattern in self._patterns[task]]
        if not paths:
            return None
        path = paths[0] if len(paths) == 1 else next(filter(osp.isfile, paths), ' or '.join(paths))
        beside = self.readers[task].beside
        return (path, *(path_of(self.data_root, pattern, img_id) for pattern in beside)) if beside else path

    def _log(self, text: str, level: int = logging.INFO) -> None:
        print_log(text, logger='current', level=level)


def _reader(task: str, entry: Entry) -> LabelReader:
    """The reader that an entry of ``labels`` describes."""
    options = dict(entry) if isinstance(entry, Mapping) else dict(path=entry)
    try:
        return LABEL_READERS.build({'type': 'LabelReader', **options, 'task': task})
    except TypeError as error:
        raise ValueError(f'labels.{task}: {error}') from error
