from .formatting import PackMultiTaskInputs
from .geometric import (
    MultiTaskPad,
    MultiTaskRandomFlip,
    MultiTaskRandomRotate,
    MultiTaskRandomScaleCrop,
    MultiTaskResize,
)
from .loading import LoadMultiTaskAnnotations, LoadMultiTaskImage

__all__ = [
    'LoadMultiTaskAnnotations',
    'LoadMultiTaskImage',
    'MultiTaskPad',
    'MultiTaskRandomFlip',
    'MultiTaskRandomRotate',
    'MultiTaskRandomScaleCrop',
    'MultiTaskResize',
    'PackMultiTaskInputs',
]
