from . import transforms
from .cityscapes_mt import CityscapesMT
from .cityscapes_readers import CityscapesClassesReader, CityscapesDepthReader, CityscapesPartsReader
from .concat_dataset import ConcatDataset
from .from_mmseg import FromMMSeg, MMSegReader
from .label_reader import LabelReader
from .multi_task_dataset import MultiTaskDataset
from .nyud_v2_mt import NYUDv2MT
from .pascal_context_classes import normals_valid_ids, pascal_context_classes
from .pascal_context_mt import PASCALContextMT
from .pascal_readers import PASCALEdgeReader, PASCALNormalsReader, PASCALPartsReader
from .published import PublishedDataset
from .rendered_pictures import RenderedPictures
from .samplers import RatioSampler, SeededInfiniteSampler
from .seeding import seeded_rng
from .synthetic_mt import SyntheticMT

__all__ = [
    'CityscapesClassesReader',
    'CityscapesDepthReader',
    'CityscapesMT',
    'CityscapesPartsReader',
    'ConcatDataset',
    'FromMMSeg',
    'LabelReader',
    'MMSegReader',
    'MultiTaskDataset',
    'NYUDv2MT',
    'PASCALContextMT',
    'PASCALEdgeReader',
    'PASCALNormalsReader',
    'PASCALPartsReader',
    'PublishedDataset',
    'RatioSampler',
    'RenderedPictures',
    'SeededInfiniteSampler',
    'SyntheticMT',
    'normals_valid_ids',
    'pascal_context_classes',
    'seeded_rng',
    'transforms',
]
