from .experiments import (
    Stage,
    Stages,
    TrainingLog,
    ValidationSamples,
    count_command,
    duration,
    fingerprint,
    main_figures,
    read_training_log,
    schedule_options,
    score_constant_predictor,
    write_encoder,
)
from .inferencer import ImagePrediction, MultiTaskInferencer
from .pictures import UnreadableImagesError

__all__ = [
    'ImagePrediction',
    'MultiTaskInferencer',
    'Stage',
    'Stages',
    'TrainingLog',
    'UnreadableImagesError',
    'ValidationSamples',
    'count_command',
    'duration',
    'fingerprint',
    'main_figures',
    'read_training_log',
    'schedule_options',
    'score_constant_predictor',
    'write_encoder',
]
