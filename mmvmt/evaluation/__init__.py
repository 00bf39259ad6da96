from .evaluator import MultiTaskEvaluator
from .metrics import DepthMetric, EdgeMetric, EdgePictures, IoUMetric, NormalsMetric, RunningMetric, SaliencyMetric
from .references import delta_m, main_figures, relative_changes

__all__ = [
    'DepthMetric',
    'EdgeMetric',
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
