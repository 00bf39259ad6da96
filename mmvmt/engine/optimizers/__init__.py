from .amp import CPUAmpOptimWrapper
from .constructor import PEFTOptimWrapperConstructor

__all__ = ['CPUAmpOptimWrapper', 'PEFTOptimWrapperConstructor']
