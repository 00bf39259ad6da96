from .base import LAYOUTS, Columnar, Layout, encoder_name, layout_for, register_layout
from .beit import BEiTLayout
from .convnext import ConvNeXtLayout
from .eva import MMPretrainEVALayout, TimmEVALayout
from .hiera import HieraLayout
from .hivit import HiViTLayout
from .mit import MixVisionTransformerLayout
from .mvit_v2 import MViTv2Layout
from .pvt_v2 import PVTv2Layout
from .swin import SwinLayout
from .swin_v2 import MMPretrainSwinV2Layout, TimmSwinV2Layout
from .timm_encoders import build_timm
from .twins import TwinsLayout
from .vit import MMPretrainViTLayout, MMSegViTLayout, TimmViTLayout

__all__ = [
    'LAYOUTS',
    'BEiTLayout',
    'Columnar',
    'ConvNeXtLayout',
    'HiViTLayout',
    'HieraLayout',
    'Layout',
    'MMPretrainEVALayout',
    'MMPretrainSwinV2Layout',
    'MMPretrainViTLayout',
    'MMSegViTLayout',
    'MViTv2Layout',
    'MixVisionTransformerLayout',
    'PVTv2Layout',
    'SwinLayout',
    'TimmEVALayout',
    'TimmSwinV2Layout',
    'TimmViTLayout',
    'TwinsLayout',
    'build_timm',
    'encoder_name',
    'layout_for',
    'register_layout',
]
