"""NYUD-v2 with labels for several tasks, in any of the three archives that the field uses."""

from __future__ import annotations

from mmvmt.registry import DATASETS
from mmvmt.structures import NormalsAxes, voc_palette

from .published import PublishedDataset

NYU40_CLASSES = (
    'wall',
    'floor',
    'cabinet',
    'bed',
    'chair',
    'sofa',
    'table',
    'door',
    'window',
    'bookshelf',
    'picture',
    'counter',
    'blinds',
    'desk',
    'shelves',
    'curtain',
    'dresser',
    'pillow',
    'mirror',
    'floor mat',
    'clothes',
    'ceiling',
    'books',
    'refrigerator',
    'television',
    'paper',
    'towel',
    'shower curtain',
    'box',
    'whiteboard',
    'person',
    'night stand',
    'toilet',
    'sink',
    'lamp',
    'bathtub',
    'bag',
    'other structure',
    'other furniture',
    'other prop',
)


@DATASETS.register_module()
class NYUDv2MT(PublishedDataset):
    """Images and label maps of NYUD-v2 (Silberman et al., ECCV 2012), 795 to train and 654 to validate.

    Three archives are in use, with the same folders and other files in them. Each file is looked for by its ending, so
    that any of them is read as it is unpacked, and so is a mixture::

        images/ID.*             jpg (ASTMT; MTI-Net and MTLoRA) or png (ATRC and InvPT)
        gt_sets/{train,val}.txt
        segmentation/ID.*       semseg: png, or mat with the variable segmentation (ASTMT): 0 becomes 255, the others
                                are less by one, 40 classes
        depth/ID.*              depth: npy, or mat with the variable depth (ASTMT): metres, 0 where unknown
        normals/ID.*            normals: npy of vectors (MTI-Net), or png (ATRC) or jpg (ASTMT) of 255 (n + 1) / 2
        edge/ID.*               edge: npy of 0 and 1 (MTI-Net), or png of 0 and 255

    The experiments of ASTMT itself count the ids of its files as 41 classes. For these give
    ``labels=dict(semseg=dict(path='segmentation/{id}.mat', key='segmentation'))`` and ``metainfo=dict(classes=[...])``
    with 41 names.

    Normals have x to the left and y up, as those of PASCAL-Context.

    Args: as :class:`PublishedDataset`; the tasks are semseg, depth, normals and edge.
    """

    METAINFO = {
        'dataset_type': 'nyud_v2_mt',
        'classes': NYU40_CLASSES,
        'palette': voc_palette(len(NYU40_CLASSES) + 1)[1:],
        **NormalsAxes().meta,
    }
    NAME = 'NYUD-v2'
    HELP = 'the section "NYUD-v2" of docs/data.md says how to get the data'
    IMAGES = 'images/{id}.jpg'
    LIST = 'gt_sets/{split}.txt'
    LABELS = {
        'semseg': dict(
            path=('segmentation/{id}.png', 'segmentation/{id}.mat'), key='segmentation', reduce_zero_label=True
        ),
        'depth': dict(path=('depth/{id}.npy', 'depth/{id}.mat'), key='depth'),
        'normals': ('normals/{id}.npy', 'normals/{id}.png', 'normals/{id}.jpg'),
        'edge': ('edge/{id}.npy', 'edge/{id}.png'),
    }
    SIZES = {'train': 795, 'val': 654}
    DEFAULT_TASKS = tuple(LABELS)
