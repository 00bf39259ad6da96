from .pixel import L1PixelLoss, WeightedBCELoss, mean_over_ranks, unit_length

__all__ = ['L1PixelLoss', 'WeightedBCELoss', 'mean_over_ranks', 'unit_length']
