from .base import SLOTS, Method, Site
from .bottleneck import Adapter, LowRankAdapter, SharedAdapter
from .compacter import Compacter, CompacterPlusPlus, PHMAdapter
from .hyperformer import HyperFormer
from .lora import LoRA
from .polyhistor import Polyhistor, PolyhistorLite
from .prompt import VPTDeep, VPTShallow
from .selective import BitFit, DecodersOnly, FullFineTuning, NormTuning, RelativePositionBias
from .vmt import VMTAdapter, VMTAdapterLite

__all__ = [
    'SLOTS',
    'Adapter',
    'BitFit',
    'Compacter',
    'CompacterPlusPlus',
    'DecodersOnly',
    'FullFineTuning',
    'HyperFormer',
    'LoRA',
    'LowRankAdapter',
    'Method',
    'NormTuning',
    'PHMAdapter',
    'Polyhistor',
    'PolyhistorLite',
    'RelativePositionBias',
    'SharedAdapter',
    'Site',
    'VMTAdapter',
    'VMTAdapterLite',
    'VPTDeep',
    'VPTShallow',
]
