from .inferencer import ImagePrediction, MultiTaskInferencer
from .pictures import UnreadableImagesError

__all__ = ['ImagePrediction', 'MultiTaskInferencer', 'UnreadableImagesError']
