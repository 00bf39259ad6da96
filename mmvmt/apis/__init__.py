from .inferencer import MultiTaskInferencer
from .pictures import UnreadableImagesError
from .prediction import ImagePrediction

__all__ = ['ImagePrediction', 'MultiTaskInferencer', 'UnreadableImagesError']
