from .amp import CPUAmpOptimWrapper
from .constructor import PEFTOptimWrapperConstructor
from .side_by_side import SideBySideOptimWrapperConstructor

__all__ = ['CPUAmpOptimWrapper', 'PEFTOptimWrapperConstructor', 'SideBySideOptimWrapperConstructor']
