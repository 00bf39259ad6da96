from .hooks import AtomicCheckpointHook, MultiTaskVisualizationHook, RandomnessHook, SavePredictionsHook
from .optimizers import CPUAmpOptimWrapper, PEFTOptimWrapperConstructor

__all__ = [
    'AtomicCheckpointHook',
    'CPUAmpOptimWrapper',
    'MultiTaskVisualizationHook',
    'PEFTOptimWrapperConstructor',
    'RandomnessHook',
    'SavePredictionsHook',
]
