from . import transforms
from .pascal_context_classes import normals_valid_ids, pascal_context_classes
from .pascal_context_mt import PASCALContextMT
from .seeding import seeded_rng
from .synthetic_mt import SyntheticMT

__all__ = [
    'PASCALContextMT',
    'SyntheticMT',
    'normals_valid_ids',
    'pascal_context_classes',
    'seeded_rng',
    'transforms',
]
