from .deformable import DeformableHead
from .mlp import MLPHead
from .outputs import (
    ClassesOutput,
    DepthOutput,
    ProbabilityOutput,
    TaskOutput,
    UnitVectorOutput,
    ValuesOutput,
    output_config,
)

__all__ = [
    'ClassesOutput',
    'DeformableHead',
    'DepthOutput',
    'MLPHead',
    'ProbabilityOutput',
    'TaskOutput',
    'UnitVectorOutput',
    'ValuesOutput',
    'output_config',
]
