from .foreign import FollowedTransform, follow_picture
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
    'FollowedTransform',
    'LoadMultiTaskAnnotations',
    'LoadMultiTaskImage',
    'MultiTaskPad',
    'MultiTaskRandomFlip',
    'MultiTaskRandomRotate',
    'MultiTaskRandomScaleCrop',
    'MultiTaskResize',
    'PackMultiTaskInputs',
    'follow_picture',
]
