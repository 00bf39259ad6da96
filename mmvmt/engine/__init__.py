from .hooks import (
    AtomicCheckpointHook,
    MethodRecordHook,
    MultiTaskVisualizationHook,
    RandomnessHook,
    SavePredictionsHook,
)
from .optimizers import CPUAmpOptimWrapper, PEFTOptimWrapperConstructor

__all__ = [
    'AtomicCheckpointHook',
    'CPUAmpOptimWrapper',
    'MethodRecordHook',
    'MultiTaskVisualizationHook',
    'PEFTOptimWrapperConstructor',
    'RandomnessHook',
    'SavePredictionsHook',
]
