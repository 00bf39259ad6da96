"""PASCAL-Context with labels for several tasks ("PASCAL_MT", the edition of ASTMT)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mmvmt.registry import DATASETS
from mmvmt.structures import HUMAN_PARTS_PALETTE, NormalsAxes, TaskDeclarations, declared_classes, voc_palette

from .formats import PART_GROUPS
from .multi_task_dataset import MultiTaskDataset

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
_CONTEXT = 'pascal-context/trainval/{id}.mat'


@DATASETS.register_module()
class PASCALContextMT(MultiTaskDataset):
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

    With ``human_parts`` as the only task, images without a labelled part are replaced by others while training.

    Args:
        data_root: The unpacked folder.
        split: ``'train'`` or ``'val'``.
        tasks: Any of semseg, human_parts, saliency, normals, edge, and those that ``labels`` adds.
        ann_file: List of IDs, one per line, absolute or relative to ``data_root``. Empty:
            ``ImageSets/Context/{split}.txt``.
        pipeline: Transforms, see :class:`MultiTaskDataset`.
        kwargs: As of :class:`MultiTaskDataset`.

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
    NAME = 'PASCAL-Context'
    HELP = 'the section "Use on PASCAL-Context" of README.md says how to get the data'
    LABELS = {
        'semseg': ('semseg/VOC12/{id}.png', 'semseg/pascal-context/{id}.png'),
        'human_parts': dict(type='PASCALPartsReader', path='human_parts/{id}.mat'),
        'saliency': 'sal_distill/{id}.png',
        'normals': dict(type='PASCALNormalsReader', path='normals_distill/{id}.png', beside=[_CONTEXT]),
        'edge': dict(type='PASCALEdgeReader', path=_CONTEXT),
    }
    TASKS = tuple(LABELS)
    FIXED_LAYOUT = True

    def __init__(
        self,
        data_root: str,
        split: str = 'train',
        tasks: TaskDeclarations = ('semseg', 'human_parts', 'saliency', 'normals'),
        ann_file: str = '',
        pipeline: Sequence[dict | Callable] = (),
        **kwargs: Any,
    ) -> None:
        if split not in ('train', 'val'):
            raise ValueError(f"split must be 'train' or 'val', got {split!r}; for another list give ann_file")
        self.split = split
        options = dict(images='JPEGImages/{id}.jpg', ann_file=ann_file or f'ImageSets/Context/{split}.txt') | kwargs
        super().__init__(data_root, tasks, pipeline=pipeline, **options)

    def _complete(self, metainfo: Mapping[str, Any]) -> dict[str, Any]:
        metainfo = super()._complete(metainfo)
        parts = declared_classes(metainfo)['human_parts']
        if parts != len(PART_GROUPS) + 1:
            raise ValueError(
                f'the parts in the files are merged into {len(PART_GROUPS) + 1} classes of human_parts, background '
                f'included; they cannot be {parts}'
            )
        return metainfo
