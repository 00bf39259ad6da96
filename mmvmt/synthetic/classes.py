"""Names and ids that rendered labels carry: VOC classes, human body parts, context classes."""

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
"""The 21 classes of semantic segmentation; the index is the label."""

VOC_IDS = {name: index for index, name in enumerate(VOC_CLASSES)}
PERSON = VOC_IDS['person']

PART_CLASSES = ('background', 'head', 'torso', 'upper arms', 'lower arms', 'upper legs', 'lower legs')
"""The 7 classes of human parts; the index is the label."""

PART_LABELS = {
    'head': 1,
    'hair': 1,
    'nose': 1,
    'mouth': 1,
    'leye': 1,
    'reye': 1,
    'lear': 1,
    'rear': 1,
    'neck': 2,
    'torso': 2,
    'luarm': 3,
    'ruarm': 3,
    'llarm': 4,
    'rlarm': 4,
    'lhand': 4,
    'rhand': 4,
    'luleg': 5,
    'ruleg': 5,
    'llleg': 6,
    'rlleg': 6,
    'lfoot': 6,
    'rfoot': 6,
}
"""Class of each body part, by the names in the .mat files (l, r: left, right; a second l or u: lower, upper)."""

PART_NAMES = tuple(PART_LABELS)

CONTEXT_IDS = {
    'aeroplane': 2,
    'ball': 10,
    'barrel': 13,
    'bicycle': 23,
    'bird': 25,
    'boat': 31,
    'book': 33,
    'bottle': 34,
    'box': 37,
    'building': 44,
    'bus': 45,
    'cabinet': 46,
    'car': 59,
    'cat': 65,
    'chair': 72,
    'cow': 98,
    'dog': 113,
    'door': 115,
    'fence': 144,
    'floor': 158,
    'grass': 187,
    'horse': 207,
    'light': 232,
    'motorbike': 258,
    'mountain': 259,
    'person': 284,
    'picture': 287,
    'pottedplant': 308,
    'rug': 330,
    'sand': 334,
    'sheep': 347,
    'sky': 360,
    'sofa': 368,
    'table': 397,
    'train': 416,
    'tree': 420,
    'tvmonitor': 427,
    'wall': 440,
    'water': 445,
    'window': 454,
}
"""The few of the 459 context classes that scenes are made of; ids as in ``pascal_context_classes.json``."""


def context_id(voc_class: str) -> int:
    """Id of a VOC class among the 459 context classes, which call the dining table ``table``."""
    return CONTEXT_IDS['table' if voc_class == 'diningtable' else voc_class]
