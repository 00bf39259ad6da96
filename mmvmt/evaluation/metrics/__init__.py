from .base import RunningMetric
from .depth_metric import DepthMetric
from .edge_metric import EdgeMetric
from .edge_pictures import EdgePictures
from .iou_metric import IoUMetric
from .mean_metric import MeanMetric
from .normals_metric import NormalsMetric
from .saliency_metric import SaliencyMetric
from .values_metric import ValuesMetric

__all__ = [
    'DepthMetric',
    'EdgeMetric',
    'EdgePictures',
    'IoUMetric',
    'MeanMetric',
    'NormalsMetric',
    'RunningMetric',
    'SaliencyMetric',
    'ValuesMetric',
]
