from .evaluator import MultiTaskEvaluator
from .metrics import DepthMetric, EdgePictures, IoUMetric, NormalsMetric, RunningMetric, SaliencyMetric
from .references import delta_m, main_figures, relative_changes

__all__ = [
    'DepthMetric',
    'EdgePictures',
    'IoUMetric',
    'MultiTaskEvaluator',
    'NormalsMetric',
    'RunningMetric',
    'SaliencyMetric',
    'delta_m',
    'main_figures',
    'relative_changes',
]
