"""Optimizers of models that train side by side."""

from __future__ import annotations

import copy

from mmengine.model import is_model_wrapper
from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapperDict
from torch import nn

from mmvmt.registry import OPTIM_WRAPPER_CONSTRUCTORS


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class SideBySideOptimWrapperConstructor:
    """An optimizer for each encoder of a :class:`mmvmt.models.AttributeClassifier`, all by one config.

    Args:
        optim_wrapper_cfg: As of mmengine's ``DefaultOptimWrapperConstructor``.
        paramwise_cfg: Likewise.
    """

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None) -> None:
        self.optim_wrapper_cfg, self.paramwise_cfg = optim_wrapper_cfg, paramwise_cfg

    def __call__(self, model: nn.Module) -> OptimWrapperDict:
        """Build the optimizers, by the names of the encoders.

        Raises:
            TypeError: The model is spread over several processes.
        """
        if is_model_wrapper(model):
            raise TypeError('encoders learn side by side in one process; start tools/train.py without a launcher')

        def build(encoder: nn.Module):
            return DefaultOptimWrapperConstructor(copy.deepcopy(self.optim_wrapper_cfg), self.paramwise_cfg)(encoder)

        return OptimWrapperDict(**{name: build(encoder) for name, encoder in model.encoders.items()})
