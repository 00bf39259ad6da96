"""Optimizer groups from what the model declares to train."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Any

from mmengine.logging import print_log
from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS, OPTIMIZERS
from torch import nn

from mmvmt.models.parameter_groups import count, no_decay_ids, parameter_groups, task_ids
from mmvmt.registry import OPTIM_WRAPPER_CONSTRUCTORS

_MULTIPLIERS = ('adapter_lr_mult', 'encoder_lr_mult', 'decoder_lr_mult')
_BY_TASK = ('task_lr_mult', 'task_decay_mult')


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class PEFTOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """Gives the optimizer the trainable parameters only; norms, biases, scales and shifts without weight decay.

    Args:
        optim_wrapper_cfg: Config of the optimizer wrapper, with ``optimizer``.
        paramwise_cfg: Factors, 1 by default: ``adapter_lr_mult``, ``encoder_lr_mult`` and ``decoder_lr_mult`` of the
            learning rate; and by task, such as ``task_lr_mult=dict(semseg=0.1)``, ``task_lr_mult`` of the learning rate
            and ``task_decay_mult`` of the weight decay of what belongs to that task alone, its head and its parts of
            the adapters, on top of the former.

    Raises:
        ValueError: ``paramwise_cfg`` has another key, names a task that the model does not have or of which an adapter
            does not know its parts, or nothing trains.
    """

    def __init__(self, optim_wrapper_cfg: dict[str, Any], paramwise_cfg: dict[str, Any] | None = None) -> None:
        unknown = sorted(set(paramwise_cfg or {}) - {*_MULTIPLIERS, *_BY_TASK})
        if unknown:
            known = ', '.join((*_MULTIPLIERS, *_BY_TASK))
            raise ValueError(f'paramwise_cfg has unknown keys {unknown}; known: {known}')
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
        rates, decays = (self._by_task(key) for key in _BY_TASK)
        tasks = list(dict.fromkeys((*rates, *decays)))
        task_of = {key: task for task in tasks for key in task_ids(model, task)}
        groups = []
        for (name, factor), task, decaying in product(factors.items(), (None, *tasks), (True, False)):
            params = [p for p in by_group[name] if (id(p) not in no_decay) == decaying and task_of.get(id(p)) == task]
            if not params:
                continue
            label = name if task is None else f'{name}.{task}'
            group: dict[str, Any] = dict(params=params, name=label if decaying else f'{label}_no_decay')
            if self.base_lr is not None:
                group['lr'] = self.base_lr * factor * rates.get(task, 1.0)
            if not decaying:
                group['weight_decay'] = 0.0
            elif task in decays:
                group['weight_decay'] = self.base_wd * decays[task]
            groups.append(group)
            print_log(f'optimizer group {group["name"]}: {count(params):,} parameters', logger='current')
        if not groups:
            raise ValueError('the model has no trainable parameter; give it a head or a plugin that trains something')
        optimizer = OPTIMIZERS.build(dict(self.optimizer_cfg, params=groups))
        wrapper = dict(self.optim_wrapper_cfg)
        wrapper.setdefault('type', 'OptimWrapper')
        return OPTIM_WRAPPERS.build(wrapper, default_args=dict(optimizer=optimizer))

    def _by_task(self, key: str) -> dict[str, float]:
        """Factors by task."""
        factors = self.paramwise_cfg.get(key) or {}
        if not isinstance(factors, Mapping):
            raise ValueError(f'paramwise_cfg.{key} must be a dictionary such as dict(semseg=0.1), got {factors!r}')
        if key == 'task_decay_mult' and factors and self.base_wd is None:
            raise ValueError(f'paramwise_cfg.{key} multiplies optimizer.weight_decay, which is not given')
        return dict(factors)
