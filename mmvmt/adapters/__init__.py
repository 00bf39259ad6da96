from .base import SLOTS, Adapter, Site
from .selective import DecodersOnly, FullFineTuning
from .vmt import VMTAdapter, VMTAdapterLite

__all__ = ['SLOTS', 'Adapter', 'DecodersOnly', 'FullFineTuning', 'Site', 'VMTAdapter', 'VMTAdapterLite']
