from .mlp import MLPHead
from .outputs import ClassesOutput, DepthOutput, ProbabilityOutput, TaskOutput, UnitVectorOutput

__all__ = ['ClassesOutput', 'DepthOutput', 'MLPHead', 'ProbabilityOutput', 'TaskOutput', 'UnitVectorOutput']
