from .hooks import (
    AtomicCheckpointHook,
    CompileHook,
    MethodRecordHook,
    MultiTaskVisualizationHook,
    RandomnessHook,
    SavePredictionsHook,
)
from .optimizers import CPUAmpOptimWrapper, PEFTOptimWrapperConstructor

__all__ = [
    'AtomicCheckpointHook',
    'CPUAmpOptimWrapper',
    'CompileHook',
    'MethodRecordHook',
    'MultiTaskVisualizationHook',
    'PEFTOptimWrapperConstructor',
    'RandomnessHook',
    'SavePredictionsHook',
]
