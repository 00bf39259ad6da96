"""What trains in any model with an ``AdaptedEncoder``, whatever optimizer its config asks for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.optim import OptimWrapper, OptimWrapperDict
from torch import nn
from torch.optim import Optimizer

from mmvmt.models import AdaptedEncoder
from mmvmt.models.parameter_groups import count, parameter_groups
from mmvmt.models.wrappers import unwrapped
from mmvmt.registry import HOOKS


@HOOKS.register_module()
class PEFTHook(Hook):
    """Sees that exactly the declared parameters train, and says in the log how many they are.

    For configs that keep their own model, optimizer and constructor: before a training it

    - compares what trains of the encoder with what its plugins declare;
    - takes frozen parameters out of the optimizer. Most optimizers pass over a parameter without a gradient, but a
      constructor may hand over all of them, and an optimizer that decays weights by itself would move them;
    - makes sure that the optimizer holds every parameter that trains;
    - logs the counts by group.

    A run that was started with this hook has to be resumed with it, since the optimizer's state is smaller.
    """

    def before_run(self, runner: Any) -> None:
        """Check, take out, report. The optimizer has no state yet, also where a run is resumed.

        Raises:
            TypeError: The model's ``backbone`` is no ``AdaptedEncoder``.
            ValueError: It has no plugins, what trains is not what they declare, or the optimizer lacks a part of it.
        """
        if not isinstance(runner.optim_wrapper, (OptimWrapper, OptimWrapperDict)):
            return  # a test or validation
        model = unwrapped(runner.model)
        encoder = getattr(model, 'backbone', None)
        if not isinstance(encoder, AdaptedEncoder):
            raise TypeError(
                f'PEFTHook is for models whose backbone is an AdaptedEncoder, but {type(model).__name__} has '
                f"{type(encoder).__name__}; set model.backbone.type='mmvmt.AdaptedSwin'"
            )
        if not encoder.plugins:
            raise ValueError(
                'PEFTHook: the backbone has no plugins, so nothing of it is frozen; name a method in '
                "model.backbone.plugins (dict(cfg=dict(type='mmvmt.DecodersOnly')) freezes all of it)"
            )
        _check_encoder(encoder)
        removed = _remove_frozen(runner.optim_wrapper)
        _check_optimizer(model, runner.optim_wrapper)
        groups = {name: count(parameters) for name, parameters in parameter_groups(model).items()}
        total = sum(groups.values())
        trainable = total - groups['frozen']
        print_log(
            f'PEFT: {trainable:,} of {total:,} parameters train ({100 * trainable / total:.3f} %): '
            + ', '.join(f'{name} {value:,}' for name, value in groups.items())
            + (f'; {removed:,} frozen ones taken out of the optimizer' if removed else ''),
            logger='current',
        )


def _check_encoder(encoder: AdaptedEncoder) -> None:
    declared = {id(p) for p in encoder.declared_parameters()}
    wrong = {True: [], False: []}
    for name, parameter in encoder.named_parameters():
        if parameter.requires_grad != (id(parameter) in declared):
            wrong[parameter.requires_grad].append(name)
    for trains, names in wrong.items():
        if names:
            state = 'train although no plugin declares them' if trains else 'are declared to train but frozen'
            raise ValueError(
                f'{len(names)} parameters of the backbone {state}, e.g. {names[0]!r}: something changed their '
                f'requires_grad after the model was built; leave freezing to the plugins'
            )


def _optimizers(wrapper: OptimWrapper | OptimWrapperDict) -> Iterator[Optimizer]:
    wrappers = wrapper.values() if isinstance(wrapper, OptimWrapperDict) else [wrapper]
    return (single.optimizer for single in wrappers)


def _remove_frozen(wrapper: OptimWrapper | OptimWrapperDict) -> int:
    """Take frozen parameters out of their groups; groups stay, because schedulers count on their order."""
    removed = 0
    for optimizer in _optimizers(wrapper):
        for group in optimizer.param_groups:
            removed += count(p for p in group['params'] if not p.requires_grad)
            group['params'] = [p for p in group['params'] if p.requires_grad]
    return removed


def _check_optimizer(model: nn.Module, wrapper: OptimWrapper | OptimWrapperDict) -> None:
    held = {id(p) for optimizer in _optimizers(wrapper) for group in optimizer.param_groups for p in group['params']}
    lacking = [name for name, p in model.named_parameters() if p.requires_grad and id(p) not in held]
    if lacking:
        raise ValueError(
            f'the optimizer lacks {len(lacking)} parameters that are to train, e.g. {lacking[0]!r}: '
            f'optim_wrapper.constructor left them out; take the default one or mmvmt.PEFTOptimWrapperConstructor'
        )
