from .evaluator import MultiTaskEvaluator, delta_m, main_figures, relative_changes
from .metrics import DepthMetric, EdgePictures, IoUMetric, NormalsMetric, RunningMetric, SaliencyMetric

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
