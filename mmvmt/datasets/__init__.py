from . import transforms
from .concat_dataset import ConcatDataset
from .from_mmseg import FromMMSeg, MMSegReader
from .label_reader import LabelReader
from .multi_task_dataset import MultiTaskDataset
from .pascal_context_classes import normals_valid_ids, pascal_context_classes
from .pascal_context_mt import PASCALContextMT
from .pascal_readers import PASCALEdgeReader, PASCALNormalsReader, PASCALPartsReader
from .rendered_pictures import RenderedPictures
from .samplers import RatioSampler, SeededInfiniteSampler
from .seeding import seeded_rng
from .synthetic_mt import SyntheticMT

__all__ = [
    'ConcatDataset',
    'FromMMSeg',
    'LabelReader',
    'MMSegReader',
    'MultiTaskDataset',
    'PASCALContextMT',
    'PASCALEdgeReader',
    'PASCALNormalsReader',
    'PASCALPartsReader',
    'RatioSampler',
    'RenderedPictures',
    'SeededInfiniteSampler',
    'SyntheticMT',
    'normals_valid_ids',
    'pascal_context_classes',
    'seeded_rng',
    'transforms',
]
