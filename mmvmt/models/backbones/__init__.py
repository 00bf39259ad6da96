from .adapted import AdaptedEncoder
from .hooked import AdaptedBackbone
from .layouts import Columnar, Layout, register_layout
from .swin import AdaptedSwin

__all__ = ['AdaptedBackbone', 'AdaptedEncoder', 'AdaptedSwin', 'Columnar', 'Layout', 'register_layout']
