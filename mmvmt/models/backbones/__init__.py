from .adapted import AdaptedEncoder
from .swin import AdaptedSwin

__all__ = ['AdaptedEncoder', 'AdaptedSwin']
