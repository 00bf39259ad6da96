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

__all__ = [
    'Stage',
    'Stages',
    'TrainingLog',
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
