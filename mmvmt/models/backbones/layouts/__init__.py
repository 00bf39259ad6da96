from .base import LAYOUTS, Columnar, Layout, encoder_name, layout_for, register_layout
from .mit import MixVisionTransformerLayout
from .pvt_v2 import PVTv2Layout
from .swin import SwinLayout
from .timm_encoders import build_timm
from .vit import MMPretrainViTLayout, MMSegViTLayout, TimmViTLayout

__all__ = [
    'LAYOUTS',
    'Columnar',
    'Layout',
    'MMPretrainViTLayout',
    'MMSegViTLayout',
    'MixVisionTransformerLayout',
    'PVTv2Layout',
    'SwinLayout',
    'TimmViTLayout',
    'build_timm',
    'encoder_name',
    'layout_for',
    'register_layout',
]
