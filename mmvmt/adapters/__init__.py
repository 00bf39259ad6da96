from .base import SLOTS, Method, Site
from .bottleneck import Adapter, LowRankAdapter, SharedAdapter
from .compacter import Compacter, CompacterPlusPlus, PHMAdapter
from .ditask import DiTASK
from .dora import DoRA
from .hyperformer import HyperFormer
from .lora import LoRA
from .mona import Mona
from .mtlora import MTLoRA, MTLoRAPlus
from .polyhistor import Polyhistor, PolyhistorLite
from .prompt import VPTDeep, VPTShallow
from .selective import BitFit, DecodersOnly, FullFineTuning, NormTuning, PartTuning, RelativePositionBias
from .ssf import SSF
from .tadformer import TADFormer
from .vmt import VMTAdapter, VMTAdapterLite

__all__ = [
    'SLOTS',
    'SSF',
    'Adapter',
    'BitFit',
    'Compacter',
    'CompacterPlusPlus',
    'DecodersOnly',
    'DiTASK',
    'DoRA',
    'FullFineTuning',
    'HyperFormer',
    'LoRA',
    'LowRankAdapter',
    'MTLoRA',
    'MTLoRAPlus',
    'Method',
    'Mona',
    'NormTuning',
    'PHMAdapter',
    'PartTuning',
    'Polyhistor',
    'PolyhistorLite',
    'RelativePositionBias',
    'SharedAdapter',
    'Site',
    'TADFormer',
    'VMTAdapter',
    'VMTAdapterLite',
    'VPTDeep',
    'VPTShallow',
]
