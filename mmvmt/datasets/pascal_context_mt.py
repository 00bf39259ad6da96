"""PASCAL-Context with labels for several tasks ("PASCAL_MT", the edition of ASTMT)."""

from __future__ import annotations

import copy
import os.path as osp
from collections.abc import Callable, Iterable, Mapping, Sequence

from mmengine.dataset import BaseDataset

from mmvmt.registry import DATASETS
from mmvmt.structures import (
    HUMAN_PARTS_PALETTE,
    NormalsAxes,
    check_tasks,
    declared_classes,
    read_text,
    voc_palette,
    with_classes,
)

from .cache import check_cache_dir
from .formats import PART_GROUPS
from .seeding import seeded_rng
from .transforms.foreign import follow_picture

VOC_CLASSES = (
    'background',
    'aeroplane',
    'bicycle',
    'bird',
    'boat',
    'bottle',
    'bus',
    'car',
    'cat',
    'chair',
    'cow',
    'diningtable',
    'dog',
    'horse',
    'motorbike',
    'person',
    'pottedplant',
    'sheep',
    'sofa',
    'train',
    'tvmonitor',
)
CONTEXT_FOLDER = 'pascal-context/trainval'
IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.JPG', '.JPEG', '.PNG')
"""Endings of an image, in the order in which they are looked for."""
HELP = 'the section "Use on PASCAL-Context" of README.md says how to get the data'


@DATASETS.register_module()
class PASCALContextMT(BaseDataset):
    """Images and label maps of PASCAL_MT, read from the folder as it is unpacked; nothing is written into it.

    Only the folders of enabled tasks need to exist, and a file is first touched when its sample is loaded. The layout::

        JPEGImages/ID.jpg
        ImageSets/Context/{train,val}.txt
        semseg/VOC12/ID.png               semseg, else semseg/pascal-context/ID.png, looked for per image
        human_parts/ID.mat                human_parts
        sal_distill/ID.png                saliency
        normals_distill/ID.png            normals
        pascal-context/trainval/ID.mat    normals (where they are valid), edge

    An image may also end in ``.jpeg`` or ``.png``, in small or capital letters. Lists are read in UTF-8, or in UTF-16
    with a byte order mark, with line ends of any system.

    A sample enters the pipeline with ``img_path``, ``img_id``, ``tasks``, ``label_paths`` (by task; for normals the
    pair of both files), ``num_classes`` (by task), ``strict``, ``cache_dir``, ``normals_x`` and ``normals_y`` (the axes
    of normals), ``num_samples`` (of the data set) and ``sample_idx``.

    With ``human_parts`` as the only task, images without a labelled part are replaced by others while training
    (``drop_unlabelled``, see :class:`mmvmt.datasets.transforms.LoadMultiTaskAnnotations`); in test mode they stay, and
    count in no score.

    An index with an attribute ``seed``, as the package's samplers give, makes all randomness of the sample depend on
    that seed alone, the replacement of dropped samples included.

    Args:
        data_root: The unpacked folder.
        split: ``'train'`` or ``'val'``.
        tasks: Any of semseg, human_parts, saliency, normals, edge.
        ann_file: List of IDs, one per line, absolute or relative to ``data_root``. Empty:
            ``ImageSets/Context/{split}.txt``.
        pipeline: Transforms. Of other packages only those whose motions of the picture label maps can follow, see
            :func:`mmvmt.datasets.transforms.follow_picture`.
        test_mode: Keep every sample.
        metainfo: Additions to :attr:`METAINFO`, such as other axes of normals: ``normals_x='left'`` or ``'right'``,
            ``normals_y='up'`` or ``'down'``.
        num_classes: Number of classes by task, background included, where the files hold others than PASCAL VOC's:
            ``dict(semseg=40)``. Default: as many as the meta information has names (``classes``). A map with a larger
            index is refused, and so are a head and a metric with another number.
        indices: Use the first so many samples, or the samples of these indices; None: all.
        serialize_data: Keep the list in one buffer, which worker processes share.
        lazy_init: Leave the folder alone until ``full_init()``.
        max_refetch: How many replacements of a dropped sample to try.
        cache_dir: Folder outside of ``data_root`` where the label maps of ``.mat`` files are kept once they are
            decoded, see :class:`mmvmt.datasets.cache.LabelCache`; data sets, workers and runs may share it. None:
            decode them every time.
        strict: Refuse a label map of another size than its image. Otherwise it is resized to the image, as all readers
            of the field do, and named in a warning.

    Raises:
        ValueError: The split or a task is unknown, the list is empty or has an ID twice, ``cache_dir`` lies inside
            ``data_root``, or names, colours and ``num_classes`` do not agree.
        FileNotFoundError: The folder, the list, or a folder of an enabled task is missing.
    """

    METAINFO = {
        'dataset_type': 'pascal_context_mt',
        'classes': VOC_CLASSES,
        'palette': voc_palette(len(VOC_CLASSES)),
        'human_parts_classes': ('background', *PART_GROUPS),
        'human_parts_palette': list(HUMAN_PARTS_PALETTE),
        **NormalsAxes().meta,
    }
    FOLDERS: dict[str, tuple[str, ...]] = {
        'semseg': ('semseg/VOC12', 'semseg/pascal-context'),
        'human_parts': ('human_parts',),
        'saliency': ('sal_distill',),
        'normals': ('normals_distill',),
        'edge': (CONTEXT_FOLDER,),
    }
    """Where the labels of each task are. An image's label is in the first of the folders that has it."""
    TASKS = tuple(FOLDERS)

    def __init__(
        self,
        data_root: str,
        split: str = 'train',
        tasks: Iterable[str] = ('semseg', 'human_parts', 'saliency', 'normals'),
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
        if split not in ('train', 'val'):
            raise ValueError(f"split must be 'train' or 'val', got {split!r}; for another list give ann_file")
        if not isinstance(tasks, str):
            tasks = tuple(tasks)
            if 'depth' in tasks and 'depth' not in self.TASKS:
                raise ValueError(f"PASCAL-Context has no labels for task 'depth'; it has {', '.join(self.TASKS)}")
        self.split = split
        self.tasks = check_tasks(tasks, self.TASKS)
        self.strict = strict
        self.cache_dir = None if cache_dir is None else check_cache_dir(cache_dir, str(data_root))
        metainfo = with_classes(self._load_metainfo(dict(metainfo or {})), metainfo or (), num_classes or {})
        parts = declared_classes(metainfo)['human_parts']
        if parts != len(PART_GROUPS) + 1:
            raise ValueError(
                f'the parts in the files are merged into {len(PART_GROUPS) + 1} classes of human_parts, background '
                f'included; they cannot be {parts}'
            )
        super().__init__(
            ann_file=ann_file or f'ImageSets/Context/{split}.txt',
            metainfo={**metainfo, 'tasks': self.tasks},
            data_root=str(data_root),
            data_prefix={},
            indices=indices,
            serialize_data=serialize_data,
            pipeline=list(pipeline),
            test_mode=test_mode,
            lazy_init=lazy_init,
            max_refetch=max_refetch,
        )

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

    def __getitem__(self, idx: int) -> dict:
        """Run the pipeline on a sample, from the seed of ``idx`` where it has one."""
        seed = getattr(idx, 'seed', None)
        if seed is None:
            return super().__getitem__(idx)
        with seeded_rng(seed):
            return super().__getitem__(int(idx))

    def get_data_info(self, idx: int) -> dict:
        """The entry of a sample, with the files that are there.

        An image ends in the first of :data:`IMAGE_SUFFIXES` that exists, and a label map lies in the first folder of
        its task that has it. Where there is none, the path names all that were looked for.
        """
        info = super().get_data_info(idx)
        info['num_samples'] = len(self)
        if not osp.isfile(info['img_path']):
            stem = osp.splitext(info['img_path'])[0]
            found = (stem + suffix for suffix in IMAGE_SUFFIXES if osp.isfile(stem + suffix))
            info['img_path'] = next(found, info['img_path'])
        for task, folders in self._further_folders.items():
            path = info['label_paths'][task]
            paths = [osp.join(folder, osp.relpath(path, folders[0])) for folder in folders]
            info['label_paths'][task] = next(filter(osp.isfile, paths), ' or '.join(paths))
        return info

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
        raise KeyError(f'image ID {img_id!r} is not among the {len(self)} samples of {self.ann_file}')

    def load_data_list(self) -> list[dict]:
        """Compose the paths of every listed image. Checks folders, but no file, so that it takes no time."""
        if not osp.isdir(self.data_root):
            raise FileNotFoundError(
                f'data_root {self.data_root!r} is no folder; give the PASCAL_MT folder with --data-root or as '
                f'data_root of the data set ({HELP})'
            )
        images = self._folders('the images', 'JPEGImages')[0]
        folders = {task: self._folders(f'task {task!r}', *self.FOLDERS[task]) for task in self.tasks}
        self._further_folders = {task: found for task, found in folders.items() if len(found) > 1}
        extensions = {'human_parts': '.mat', 'edge': '.mat', 'depth': '.npy'}
        if 'normals' in self.tasks:
            context = self._folders("where normals are valid (task 'normals')", CONTEXT_FOLDER)[0]
        num_classes = declared_classes(self.metainfo)
        axes = NormalsAxes.of(self.metainfo)
        drop_unlabelled = self.tasks == ('human_parts',) and not self.test_mode

        samples = []
        for img_id in self._read_ids():
            paths = {task: osp.join(folders[task][0], img_id + extensions.get(task, '.png')) for task in self.tasks}
            if 'normals' in self.tasks:
                paths['normals'] = (paths['normals'], osp.join(context, f'{img_id}.mat'))
            samples.append(
                {
                    'img_id': img_id,
                    'img_path': osp.join(images, img_id + IMAGE_SUFFIXES[0]),
                    'tasks': self.tasks,
                    'label_paths': paths,
                    'num_classes': num_classes,
                    'drop_unlabelled': drop_unlabelled,
                    'strict': self.strict,
                    'cache_dir': self.cache_dir,
                    **({} if axes is None else axes.meta),
                }
            )
        return samples

    def _folders(self, purpose: str, *names: str) -> list[str]:
        """Those of some folders that exist."""
        found = [folder for name in names if osp.isdir(folder := osp.join(self.data_root, name))]
        if not found:
            raise FileNotFoundError(
                f'{self.data_root} has no folder {" or ".join(names)}, which holds {purpose}; unpack it there or '
                f'disable the task ({HELP})'
            )
        return found

    def _read_ids(self) -> list[str]:
        if not osp.isfile(self.ann_file):
            raise FileNotFoundError(
                f'the split file {self.ann_file} is missing; it lists one image ID per line ({HELP})'
            )
        # A list that was put together from several has byte order marks inside, which no editor shows.
        lines = (line.strip('\ufeff\u200b \t') for line in read_text(self.ann_file).splitlines())
        ids = [line for line in lines if line]
        if not ids:
            raise ValueError(f'the split file {self.ann_file} is empty; it must list one image ID per line')
        seen = set()
        for img_id in ids:
            if img_id in seen:
                raise ValueError(f'the split file {self.ann_file} lists the image ID {img_id!r} twice; remove one')
            seen.add(img_id)
        return ids
