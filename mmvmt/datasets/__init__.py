from . import transforms
from .pascal_context_classes import normals_valid_ids, pascal_context_classes
from .pascal_context_mt import PASCALContextMT
from .rendered_pictures import RenderedPictures
from .seeding import seeded_rng
from .synthetic_mt import SyntheticMT

__all__ = [
    'PASCALContextMT',
    'RenderedPictures',
    'SyntheticMT',
    'normals_valid_ids',
    'pascal_context_classes',
    'seeded_rng',
    'transforms',
]
