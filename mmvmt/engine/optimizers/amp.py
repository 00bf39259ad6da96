"""Mixed precision where mmengine has none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.optim import OptimWrapper
from torch import nn

from mmvmt.registry import OPTIM_WRAPPERS


@OPTIM_WRAPPERS.register_module()
class CPUAmpOptimWrapper(OptimWrapper):
    """Autocast to bfloat16 on the CPU. mmengine's ``AmpOptimWrapper`` insists on a GPU.

    bfloat16 has the exponents of float32, so the loss needs no scaling.

    Args: as ``OptimWrapper``.
    """

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[Any]:
        with super().optim_context(model), torch.autocast('cpu', dtype=torch.bfloat16):
            yield
