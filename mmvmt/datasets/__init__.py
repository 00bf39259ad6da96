from . import transforms
from .label_reader import LabelReader
from .multi_task_dataset import MultiTaskDataset
from .pascal_context_classes import normals_valid_ids, pascal_context_classes
from .pascal_context_mt import PASCALContextMT
from .pascal_readers import PASCALEdgeReader, PASCALNormalsReader, PASCALPartsReader
from .rendered_pictures import RenderedPictures
from .seeding import seeded_rng
from .synthetic_mt import SyntheticMT

__all__ = [
    'LabelReader',
    'MultiTaskDataset',
    'PASCALContextMT',
    'PASCALEdgeReader',
    'PASCALNormalsReader',
    'PASCALPartsReader',
    'RenderedPictures',
    'SyntheticMT',
    'normals_valid_ids',
    'pascal_context_classes',
    'seeded_rng',
    'transforms',
]
