from .evaluator import MultiTaskEvaluator
from .metrics import (
    DepthMetric,
    EdgeMetric,
    EdgePictures,
    IoUMetric,
    MeanMetric,
    NormalsMetric,
    RunningMetric,
    SaliencyMetric,
    ValuesMetric,
)
from .references import delta_m, main_figures, relative_changes

__all__ = [
    'DepthMetric',
    'EdgeMetric',
    'EdgePictures',
    'IoUMetric',
    'MeanMetric',
    'MultiTaskEvaluator',
    'NormalsMetric',
    'RunningMetric',
    'SaliencyMetric',
    'ValuesMetric',
    'delta_m',
    'main_figures',
    'relative_changes',
]
