"""Weights of a whole model: under which names it takes them, and whether they are its own."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, MutableMapping
from typing import Any

from mmengine.logging import print_log
from torch import Tensor, nn

from .checkpoint import check_same_encoder
from .swin_layouts import BUFFERS, ENCODER_PARTS
from .weight_checks import check_names, check_tensors
from .wrappers import plain_name, unwrapped

_BUFFERS = ('relative_position_index', 'num_batches_tracked')
_REMEDY = 'Use the config that the checkpoint was trained with'


def named_as(model: nn.Module, weights: Mapping[str, Any]) -> dict[str, Any]:
    """Weights under the names that they have in a model, where names differ by what stands in front of them.

    Args:
        model: The model, which may hold compiled parts.
        weights: Weights by name; a prefix that all of them have in common, such as ``model.``, is taken off.
    """
    own = {plain_name(name): name for name in model.state_dict()}
    tops = {name.partition('.')[0] for name in own}
    weights = {plain_name(name): value for name, value in weights.items()}
    while True:
        first = {name.partition('.')[0] for name in weights}
        if len(first) != 1 or first & tops or not all('.' in name for name in weights):
            break
        weights = {name.partition('.')[2]: value for name, value in weights.items()}
    return {own.get(name, name): value for name, value in weights.items()}


def check_segmentor_encoder(model: nn.Module, weights: Mapping[str, Tensor], what: str) -> None:
    """Refuse weights of a model of mmsegmentation whose encoder is another one; mmengine would only warn.

    What is beside the encoder may differ, and there may be no encoder or no adapters in the weights.

    Args:
        model: A model whose ``backbone`` is an ``AdaptedSwin``.
        weights: Weights of a whole model.
        what: Where they come from, for the error.

    Raises:
        ValueError: The encoder is another one.
    """
    own, theirs = (
        {name.removeprefix('backbone.'): v for name, v in plain.items() if name.startswith('backbone.')}
        for plain in ({plain_name(n): v for n, v in d.items()} for d in (model.state_dict(), weights))
    )
    theirs = {name: value for name, value in theirs.items() if name.startswith(ENCODER_PARTS)}
    if theirs:
        own = {name: value for name, value in own.items() if name.startswith(ENCODER_PARTS)}
        check_same_encoder({n: v for n, v in own.items() if not n.endswith(BUFFERS)}, theirs, what)


def check_complete(model: nn.Module, weights: Mapping[str, Tensor], what: str) -> None:
    """Refuse weights that are not all of a model's, which checks nothing by itself, or more, or of other shapes.

    Raises:
        ValueError: They are.
    """
    check_segmentor_encoder(model, weights, what)
    own = model.state_dict()
    lacks = {name for name in own if name not in weights and not name.endswith(_BUFFERS)}
    besides = weights.keys() - own.keys()
    for problem, names in (('it lacks', lacks), ('it has besides', besides)):
        if names:
            raise ValueError(f'{what} does not fit this model: {problem} {_names(names)}. {_REMEDY}')
    for name in sorted(own.keys() & weights.keys()):
        if weights[name].shape != own[name].shape:
            raise ValueError(
                f'{what} does not fit this model: {name!r} has shape {tuple(weights[name].shape)}, the model needs '
                f'{tuple(own[name].shape)}. {_REMEDY}'
            )


def _names(keys: Iterable[str]) -> str:
    keys = sorted(keys)
    return ', '.join(keys[:3]) + (f' and {len(keys) - 3} more' if len(keys) > 3 else '')


def check_model_checkpoint(model: nn.Module, weights: MutableMapping[str, Any], prefix: str = '') -> None:
    """Refuse weights of another method, task set or size, and what no weight can be, before any of them is copied.

    With ``strict_heads=False`` of the model, what belongs to tasks may differ: what fits is loaded, the rest is left
    out and named in the log.

    Args:
        model: A ``MultiTaskEncoderDecoder``.
        weights: State dict whose keys start with ``prefix``. Changed in place: names become those of the model, and the
            model's own values stand for what is left out.
        prefix: Prefix of this model's keys.

    Raises:
        ValueError: Tasks, adapters, encoder or shapes differ, weights are missing, or are no finite numbers.
    """
    check_names(weights, 'the checkpoint')
    if not prefix:
        renamed = named_as(model, weights)
        weights.clear()
        weights.update(renamed)
    everything = {prefix + name: value for name, value in model.state_dict().items()}
    check_tensors(weights, 'the checkpoint', everything)
    _settle_task_weights(weights, everything, f'{prefix}task_weights.')
    if not model.strict_heads:
        _leave_out(model, weights, everything, prefix)
    own = {name: value for name, value in everything.items() if not name.endswith(_BUFFERS)}
    theirs = {name for name in weights if not name.endswith(_BUFFERS)}
    if _tasks(theirs, prefix) != _tasks(own, prefix):
        found = ', '.join(_tasks(theirs, prefix)) or 'none'
        raise ValueError(
            f'the checkpoint has heads for tasks: {found}; this model has: {", ".join(_tasks(own, prefix))}. {_REMEDY} '
            f'(an encoder alone is loaded through model.backbone.init_cfg; to train other heads on what else the '
            f'checkpoint holds, set model.strict_heads=False)'
        )
    trained = (f'{prefix}heads.', f'{prefix}neck.', f'{prefix}backbone.adapters.')
    for what, chosen in (
        ('was trained with another method than', lambda key: key.startswith(trained)),
        ('is of another encoder than', lambda key: not key.startswith(trained)),
    ):
        lacks = {key for key in own if chosen(key)} - theirs
        besides = {key for key in theirs if chosen(key)} - own.keys()
        if lacks or besides:
            details = [f'it lacks {_names(lacks)}'] if lacks else []
            details += [f'it has besides {_names(besides)}'] if besides else []
            raise ValueError(f'the checkpoint {what} this model: {"; ".join(details)}. {_REMEDY}')
    for key, value in own.items():
        if weights[key].shape != value.shape:
            raise ValueError(
                f'the checkpoint does not fit this model: {key!r} has shape {tuple(weights[key].shape)}, the model '
                f'needs {tuple(value.shape)}. {_REMEDY}'
                + (', or set model.strict_heads=False to train this head anew' if 'heads.' in key else '')
            )


def _settle_task_weights(weights: MutableMapping[str, Tensor], own: Mapping[str, Tensor], prefix: str) -> None:
    """Leave out how a training weighed its tasks where a model does not, and let a model begin to; predictions need
    none of it."""
    for name in [name for name in weights if name.startswith(prefix) and name not in own]:
        del weights[name]
    started = [name for name in own if name.startswith(prefix) and name not in weights]
    weights.update({name: own[name] for name in started})
    if started:
        print_log(
            'the checkpoint does not say how its tasks were weighed: task_weights starts anew',
            'current',
            logging.WARNING,
        )


def _tasks(keys: Iterable[str], prefix: str) -> list[str]:
    """The tasks that have heads."""
    heads = prefix + 'heads.'
    return sorted({key[len(heads) :].split('.')[0] for key in keys if key.startswith(heads)})


def _parts_of_tasks(model: nn.Module, prefix: str) -> tuple[str, ...]:
    """How the names of decoders begin, and of tasks' parts of adapters."""
    beginnings = [f'{prefix}heads.', f'{prefix}neck.']
    for index, adapter in enumerate(unwrapped(model.backbone).adapters):
        try:
            parts = adapter.task_parts()
        except ValueError:  # it does not say which of its parts belong to a task: all of them have to fit
            continue
        names = {id(module): name for name, module in adapter.named_modules()}
        beginnings += [f'{prefix}backbone.adapters.{index}.{names[id(part)]}.' for part in parts]
    return tuple(beginnings)


def _leave_out(model: nn.Module, weights: MutableMapping[str, Tensor], own: Mapping[str, Tensor], prefix: str) -> None:
    """Take out of weights what belongs to tasks and does not fit, and put the model's own values in."""
    parts = _parts_of_tasks(model, prefix)
    unfit = {name for name, value in weights.items() if name not in own or value.shape != own[name].shape}
    left_out = {name for name in unfit if name.startswith(parts)}
    started = {name for name in own if name.startswith(parts) and (name not in weights or name in left_out)}
    if not left_out | started:
        return
    print_log(
        f'strict_heads=False: {len(left_out)} weights of the checkpoint are left out ({_groups(left_out, weights)}), '
        f'and {len(started)} of this model start anew ({_groups(started, own)})',
        logger='current',
        level=logging.WARNING,
    )
    for name in left_out:
        del weights[name]
    weights.update({name: own[name] for name in started})


def _groups(names: Iterable[str], values: Mapping[str, Tensor]) -> str:
    """All of the names, with their shapes."""
    return ', '.join(f'{name} {tuple(values[name].shape)}' for name in sorted(names)) or 'none'
