"""Optimizer groups from what the model declares to train."""

from __future__ import annotations

from typing import Any

from mmengine.logging import print_log
from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS, OPTIMIZERS
from torch import nn

from mmvmt.models.parameter_groups import count, no_decay_ids, parameter_groups
from mmvmt.registry import OPTIM_WRAPPER_CONSTRUCTORS

_MULTIPLIERS = ('adapter_lr_mult', 'encoder_lr_mult', 'decoder_lr_mult')


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class PEFTOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """Gives the optimizer the trainable parameters only; norms, biases, scales and shifts without weight decay.

    Args:
        optim_wrapper_cfg: Config of the optimizer wrapper, with ``optimizer``.
        paramwise_cfg: ``adapter_lr_mult``, ``encoder_lr_mult`` and ``decoder_lr_mult``, factors of the learning rate,
            1 by default.

    Raises:
        ValueError: ``paramwise_cfg`` has another key, or nothing trains.
    """

    def __init__(self, optim_wrapper_cfg: dict[str, Any], paramwise_cfg: dict[str, Any] | None = None) -> None:
        unknown = sorted(set(paramwise_cfg or {}) - set(_MULTIPLIERS))
        if unknown:
            raise ValueError(f'paramwise_cfg has unknown keys {unknown}; known: {", ".join(_MULTIPLIERS)}')
        super().__init__(optim_wrapper_cfg, paramwise_cfg)

    def __call__(self, model: nn.Module) -> OptimWrapper:
        multipliers = {key: self.paramwise_cfg.get(key, 1.0) for key in _MULTIPLIERS}
        by_group = parameter_groups(model)
        factors = {
            'adapters': multipliers['adapter_lr_mult'],
            'norms_biases': multipliers['encoder_lr_mult'],
            'encoder_weights': multipliers['encoder_lr_mult'],
            'decoders': multipliers['decoder_lr_mult'],
            'task_weights': 1.0,
        }
        no_decay = no_decay_ids(model)
        groups = []
        for name, factor in factors.items():
            for decays in (True, False):
                params = [p for p in by_group[name] if (id(p) not in no_decay) == decays]
                if not params:
                    continue
                group: dict[str, Any] = dict(params=params, name=name if decays else f'{name}_no_decay')
                if self.base_lr is not None:
                    group['lr'] = self.base_lr * factor
                if not decays:
                    group['weight_decay'] = 0.0
                groups.append(group)
                print_log(f'optimizer group {group["name"]}: {count(params):,} parameters', logger='current')
        if not groups:
            raise ValueError('the model has no trainable parameter; give it a head or a plugin that trains something')
        optimizer = OPTIMIZERS.build(dict(self.optimizer_cfg, params=groups))
        wrapper = dict(self.optim_wrapper_cfg)
        wrapper.setdefault('type', 'OptimWrapper')
        return OPTIM_WRAPPERS.build(wrapper, default_args=dict(optimizer=optimizer))
