from .base import RunningMetric
from .depth_metric import DepthMetric
from .edge_pictures import EdgePictures
from .iou_metric import IoUMetric
from .normals_metric import NormalsMetric
from .saliency_metric import SaliencyMetric

__all__ = ['DepthMetric', 'EdgePictures', 'IoUMetric', 'NormalsMetric', 'RunningMetric', 'SaliencyMetric']
