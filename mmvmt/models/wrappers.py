"""What stands around a model."""

from __future__ import annotations

from mmengine.model import BaseAveragedModel, BaseTTAModel, is_model_wrapper
from torch import nn
from torch.optim.swa_utils import AveragedModel


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside of wrappers: for several ranks, test-time augmentation, averages of weights, ``torch.compile``.

    Args:
        model: A model, wrapped any number of times or not at all.
    """
    while True:
        if is_model_wrapper(model) or isinstance(model, (BaseTTAModel, BaseAveragedModel, AveragedModel)):
            model = model.module
        elif hasattr(model, '_orig_mod'):
            model = model._orig_mod
        else:
            return model
