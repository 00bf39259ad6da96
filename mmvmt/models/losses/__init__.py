from .decode import decode_loss, loss_name, sum_of_losses
from .pixel import (
    DifferenceLoss,
    HuberPixelLoss,
    L1PixelLoss,
    L2PixelLoss,
    PixelLoss,
    WeightedBCELoss,
    mean_over_ranks,
    unit_length,
)
from .task_weights import DynamicWeightAverage, FixedWeights, TaskWeights, UncertaintyWeights

__all__ = [
    'DifferenceLoss',
    'DynamicWeightAverage',
    'FixedWeights',
    'HuberPixelLoss',
    'L1PixelLoss',
    'L2PixelLoss',
    'PixelLoss',
    'TaskWeights',
    'UncertaintyWeights',
    'WeightedBCELoss',
    'decode_loss',
    'loss_name',
    'mean_over_ranks',
    'sum_of_losses',
    'unit_length',
]
