"""PASCAL-Context with labels for several tasks ("PASCAL_MT", the edition of ASTMT)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmvmt.registry import DATASETS
from mmvmt.structures import HUMAN_PARTS_PALETTE, NormalsAxes, declared_classes, voc_palette

from .formats import PART_GROUPS
from .published import PublishedDataset

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
class PASCALContextMT(PublishedDataset):
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

    Args: as :class:`PublishedDataset`; the tasks are semseg, human_parts, saliency, normals
        and edge.
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
    IMAGES = 'JPEGImages/{id}.jpg'
    LIST = 'ImageSets/Context/{split}.txt'
    SIZES = {'train': 4998, 'val': 5105}
    DEFAULT_TASKS = ('semseg', 'human_parts', 'saliency', 'normals')

    def _complete(self, metainfo: Mapping[str, Any]) -> dict[str, Any]:
        metainfo = super()._complete(metainfo)
        parts = declared_classes(metainfo)['human_parts']
        if parts != len(PART_GROUPS) + 1:
            raise ValueError(
                f'the parts in the files are merged into {len(PART_GROUPS) + 1} classes of human_parts, background '
                f'included; they cannot be {parts}'
            )
        return metainfo
