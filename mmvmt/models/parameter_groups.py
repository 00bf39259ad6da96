"""What of a model trains, by group and by identity of the parameters."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from .wrappers import unwrapped

GROUPS = ('adapters', 'norms_biases', 'encoder_weights', 'decoders', 'task_weights', 'frozen')
"""``adapters``: what methods add. ``norms_biases``: trained norms and biases of the encoder. ``encoder_weights``:
what else of the encoder trains. ``decoders``: heads and necks. ``task_weights``: what is learned to weigh losses of
tasks. ``frozen``: the rest."""

_NORMS = (nn.LayerNorm, nn.GroupNorm, _BatchNorm, _InstanceNorm)


def norm_and_bias_ids(module: nn.Module) -> set[int]:
    """Identities of all parameters of norms and of all biases."""
    ids = set()
    for m in module.modules():
        if isinstance(m, _NORMS):
            ids.update(id(p) for p in m.parameters(recurse=False))
        bias = getattr(m, 'bias', None)
        if isinstance(bias, nn.Parameter):
            ids.add(id(bias))
    return ids


def parameter_groups(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """Parameters of a model by :data:`GROUPS`; each stands in one group.

    Args:
        model: A ``MultiTaskEncoderDecoder``, or any model whose ``backbone`` is an ``AdaptedEncoder``.
    """
    model = unwrapped(model)
    encoder = model.backbone
    adapters = {id(p) for p in encoder.adapter_parameters()}
    inside = {id(p) for p in encoder.parameters()}
    light = norm_and_bias_ids(encoder)
    task_weights = getattr(model, 'task_weights', None)
    weights = set() if task_weights is None else {id(p) for p in task_weights.parameters()}
    groups: dict[str, list[nn.Parameter]] = {group: [] for group in GROUPS}
    for parameter in model.parameters():
        key = id(parameter)
        if not parameter.requires_grad:
            group = 'frozen'
        elif key in adapters:
            group = 'adapters'
        elif key in weights:
            group = 'task_weights'
        elif key not in inside:
            group = 'decoders'
        else:
            group = 'norms_biases' if key in light else 'encoder_weights'
        groups[group].append(parameter)
    return groups


def task_ids(model: nn.Module, task: str) -> set[int]:
    """Identities of what belongs to one task alone: its head, and its parts of the adapters.

    Raises:
        ValueError: The model has no such task, or an adapter does not say which of its parts belong to a task.
    """
    model = unwrapped(model)
    heads = getattr(model, 'heads', {})
    if task not in heads:
        raise ValueError(f'the model has no task {task!r}; its tasks are {", ".join(heads) or "none"}')
    parts = [p for adapter in model.backbone.adapters for p in adapter.task_parameters(task)]
    return {id(p) for p in (*heads[task].parameters(), *parts)}


def no_decay_ids(model: nn.Module) -> set[int]:
    """Identities of parameters that get no weight decay: norms, biases, position tables, and what adapters declare."""
    model = unwrapped(model)
    ids = norm_and_bias_ids(model)
    for module in model.modules():
        table = getattr(module, 'relative_position_bias_table', None)
        if isinstance(table, nn.Parameter):
            ids.add(id(table))
        ids.update(id(p) for p in _declared(module))
    return ids


def _declared(module: nn.Module) -> Iterable[nn.Parameter]:
    declare = getattr(module, 'no_decay_parameters', None)
    return declare() if callable(declare) else ()


def count(parameters: Iterable[nn.Parameter]) -> int:
    """Number of entries."""
    return sum(p.numel() for p in parameters)
