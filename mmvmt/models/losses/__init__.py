from .pixel import L1PixelLoss, WeightedBCELoss, mean_over_ranks

__all__ = ['L1PixelLoss', 'WeightedBCELoss', 'mean_over_ranks']
