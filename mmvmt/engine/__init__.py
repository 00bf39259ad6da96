from .hooks import (
    AdapterCheckpointHook,
    AtomicCheckpointHook,
    CompileHook,
    MethodRecordHook,
    MultiTaskVisualizationHook,
    PEFTHook,
    RandomnessHook,
    SavePredictionsHook,
)
from .optimizers import CPUAmpOptimWrapper, PEFTOptimWrapperConstructor, SideBySideOptimWrapperConstructor

__all__ = [
    'AdapterCheckpointHook',
    'AtomicCheckpointHook',
    'CPUAmpOptimWrapper',
    'CompileHook',
    'MethodRecordHook',
    'MultiTaskVisualizationHook',
    'PEFTHook',
    'PEFTOptimWrapperConstructor',
    'RandomnessHook',
    'SavePredictionsHook',
    'SideBySideOptimWrapperConstructor',
]
