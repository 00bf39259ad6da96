from .swin import AdaptedSwin

__all__ = ['AdaptedSwin']
