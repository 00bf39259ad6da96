"""What stands around a model, and around its parts in the names of weights."""

from __future__ import annotations

import re

from mmengine.model import BaseAveragedModel, BaseTTAModel, is_model_wrapper
from torch import nn
from torch.optim.swa_utils import AveragedModel

_PARTS = re.compile(r'(?:(?<=\.)|^)(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.')
"""What ``torch.compile``, FSDP and checkpointed activations put into the names of weights, at any depth."""


def plain_name(name: str) -> str:
    """A weight's name without what wrappers inside of the model add to it."""
    return _PARTS.sub('', name)


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside of wrappers: for several ranks, test-time augmentation, averages of weights, ``torch.compile``,
    sharded weights.

    Args:
        model: A model, wrapped any number of times or not at all.
    """
    while True:
        if is_model_wrapper(model) or isinstance(model, (BaseTTAModel, BaseAveragedModel, AveragedModel)):
            model = model.module
        elif hasattr(model, '_orig_mod'):
            model = model._orig_mod
        elif '_fsdp_wrapped_module' in model._modules:
            model = model._fsdp_wrapped_module
        else:
            return model


def is_sharded(model: nn.Module) -> bool:
    """Whether every rank holds but a shard of the weights, so that their shapes are not the model's."""
    return any('_fsdp_wrapped_module' in module._modules for module in model.modules())
