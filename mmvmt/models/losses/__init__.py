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

__all__ = [
    'DifferenceLoss',
    'HuberPixelLoss',
    'L1PixelLoss',
    'L2PixelLoss',
    'PixelLoss',
    'WeightedBCELoss',
    'decode_loss',
    'loss_name',
    'mean_over_ranks',
    'sum_of_losses',
    'unit_length',
]
