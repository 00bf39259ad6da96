from .base import TaskHead
from .deformable import DeformableHead
from .high_resolution import HighResolutionHead
from .mlp import MLPHead
from .neck import Neck
from .outputs import (
    ClassesOutput,
    DepthOutput,
    ProbabilityOutput,
    TaskOutput,
    UnitVectorOutput,
    ValuesOutput,
    heads_by_task,
    output_config,
)
from .segmentor import SegmentorHead

__all__ = [
    'ClassesOutput',
    'DeformableHead',
    'DepthOutput',
    'HighResolutionHead',
    'MLPHead',
    'Neck',
    'ProbabilityOutput',
    'SegmentorHead',
    'TaskHead',
    'TaskOutput',
    'UnitVectorOutput',
    'ValuesOutput',
    'heads_by_task',
    'output_config',
]
