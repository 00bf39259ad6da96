"""Cityscapes with classes, depth or disparity, and parts of persons."""

from __future__ import annotations

from mmseg.datasets import CityscapesDataset

from mmvmt.registry import DATASETS
from mmvmt.structures import HUMAN_PARTS_PALETTE

from .cityscapes_readers import PARTS
from .published import PublishedDataset


@DATASETS.register_module()
class CityscapesMT(PublishedDataset):
    """Images and label maps of Cityscapes (Cordts et al., CVPR 2016), 2,975 to train and 500 to validate.

    The packages leftImg8bit, gtFine, disparity and camera, unpacked into one folder::

        leftImg8bit/SPLIT/CITY/*_leftImg8bit.png                         the images
        gtFine/SPLIT/CITY/*_gtFine_labelTrainIds.png                     semseg: 19 classes, 255 ignored; where there is
                                                                         none, from *_gtFine_labelIds.png
        disparity/SPLIT/CITY/*_disparity.png                             depth in metres, with the files below
        camera/SPLIT/CITY/*_camera.json                                  baseline and focal length
        gtFinePanopticParts/SPLIT/CITY/*_gtFinePanopticParts.tif         human_parts, where you have
                                                                         Cityscapes-Panoptic-Parts (Meletis et al.,
                                                                         arXiv 2004.07944): torso, head, arms, legs

    Disparity in pixels can be a task in place of depth, which a config declares:
    ``tasks=dict(semseg={}, disparity=dict(kind='metric', unit='px', motion='disparity'))``.

    An image's ID is its city and its name without the ending, as in ``aachen/aachen_000000_000019``.

    Args: as :class:`PublishedDataset`; tasks are semseg, depth, disparity and human_parts.
    """

    METAINFO = {
        'dataset_type': 'cityscapes_mt',
        'classes': CityscapesDataset.METAINFO['classes'],
        'palette': CityscapesDataset.METAINFO['palette'],
        'human_parts_classes': PARTS,
        'human_parts_palette': [HUMAN_PARTS_PALETTE[index] for index in (0, 2, 1, 3, 5)],
    }
    NAME = 'Cityscapes'
    HELP = 'the section "Cityscapes" of docs/data.md says how to get the data'
    IMAGES = 'leftImg8bit/{split}/{id}_leftImg8bit.png'
    LABELS = {
        'semseg': dict(
            type='CityscapesClassesReader',
            path=('gtFine/{split}/{id}_gtFine_labelTrainIds.png', 'gtFine/{split}/{id}_gtFine_labelIds.png'),
        ),
        'depth': dict(
            type='CityscapesDepthReader',
            path='disparity/{split}/{id}_disparity.png',
            beside=('camera/{split}/{id}_camera.json',),
        ),
        'disparity': dict(path='disparity/{split}/{id}_disparity.png', scale=1 / 256, offset=-1 / 256, invalid=[0]),
        'human_parts': dict(
            type='CityscapesPartsReader', path='gtFinePanopticParts/{split}/{id}_gtFinePanopticParts.tif'
        ),
    }
    SIZES = {'train': 2975, 'val': 500}
    DEFAULT_TASKS = ('semseg', 'depth')
