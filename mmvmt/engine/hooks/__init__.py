from .adapter_checkpoint_hook import AdapterCheckpointHook
from .atomic_checkpoint_hook import AtomicCheckpointHook
from .compile_hook import CompileHook
from .method_record_hook import MethodRecordHook
from .peft_hook import PEFTHook
from .randomness_hook import RandomnessHook
from .save_predictions_hook import SavePredictionsHook
from .visualization_hook import MultiTaskVisualizationHook

__all__ = [
    'AdapterCheckpointHook',
    'AtomicCheckpointHook',
    'CompileHook',
    'MethodRecordHook',
    'MultiTaskVisualizationHook',
    'PEFTHook',
    'RandomnessHook',
    'SavePredictionsHook',
]
