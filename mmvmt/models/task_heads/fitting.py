"""Heads and necks of mmseg, built to fit features, and tried on them before a training starts.

A trial runs modules on tensors that have shapes and no values, PyTorch's meta device: it costs milliseconds at any
width, and tells what a module puts out, and by its gradients what it reads.
"""

from __future__ import annotations

import copy
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from mmengine.logging import print_log
from mmengine.registry import DefaultScope
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvTransposeNd

from mmvmt.registry import MODELS, class_of

Config = dict[str, Any]

_COARSEST = 64
"""Edge of the coarsest map in a trial, pixels: some heads of mmseg pool over 49."""

_COARSEST_WITH_VALUES = 8


class Trial(NamedTuple):
    """What a run without values showed.

    Args:
        shapes: Of the maps that came out.
        levels: Levels of the features that these depend on.
        unread: Names of the parameters that train and that they do not depend on.
        compiled: Whether it took values, which compiled operators of mmcv need.
    """

    shapes: tuple[torch.Size, ...]
    levels: tuple[int, ...]
    unread: tuple[str, ...]
    compiled: bool


def in_mmseg(cfg: Mapping[str, Any]) -> Config:
    """A config whose ``type`` is named as in mmseg's own configs, without a scope, as a config that finds it here."""
    kind = cfg.get('type')
    if isinstance(kind, str) and '.' not in kind and class_of(MODELS, kind) is None:
        return dict(cfg, type=f'mmseg.{kind}')
    return dict(cfg)


def class_named(cfg: Mapping[str, Any], key: str) -> type:
    """The class that a config builds.

    Args:
        cfg: The config.
        key: Where it stands, for the error.

    Raises:
        ValueError: There is no ``type``, or no such class.
    """
    kind = cfg.get('type')
    found = class_of(MODELS, kind) if kind else None
    if found is None:
        raise ValueError(f'{key}.type is {kind!r}, which is not in the registry of models; such as mmseg.UPerHead')
    return found


@contextmanager
def explained(problem: str) -> Iterator[None]:
    """Say of whatever is raised inside what it is about.

    Args:
        problem: The first half of the sentence.

    Raises:
        ValueError: Anything was raised.
    """
    try:
        yield
    # Parts of mmseg meet what they are not made for by assertions, or by whatever their next operation raises.
    except Exception as error:
        text = str(error).strip() or 'an assertion without a message failed'
        raise ValueError(f'{problem}: {type(error).__name__}: {text}') from error


def build_part(cfg: Config, fitted: Config, key: str) -> nn.Module:
    """Build a head or a neck with options that the features and the task give; what it does not take is left out.

    Classes named inside of the config are found without a scope, as in configs of mmseg.

    Args:
        cfg: Its config.
        fitted: Options.
        key: Where the config stands, for the error.

    Raises:
        ValueError: It cannot be built.
    """
    kind, fitted = class_named(cfg, key), dict(fitted)
    with explained(f'{key} ({kind.__name__}) cannot be built'), DefaultScope.overwrite_default_scope('mmseg'):
        while True:
            try:
                return MODELS.build(cfg | fitted | dict(type=kind))
            except TypeError as error:
                refused = re.search(r"unexpected keyword argument '(\w+)'", str(error))
                if refused is None or refused[1] not in fitted:
                    raise
                del fitted[refused[1]]


def selected(cfg: Mapping[str, Any], widths: Sequence[int], key: str) -> Config:
    """``in_index`` and ``in_channels`` of a decode head, mmseg's way: one index and one width, or a list of each.

    Args:
        cfg: Config of the head.
        widths: Widths of the features, finest first.
        key: Where the config stands, for errors.

    Raises:
        ValueError: An index is none of a level, or the widths are others than the features have.
    """
    index, channels = cfg.get('in_index'), cfg.get('in_channels')
    if index is None:
        index = list(range(len(widths))) if isinstance(channels, (list, tuple)) else -1
    several = isinstance(index, (list, tuple))
    for number in index if several else [index]:
        if not isinstance(number, int) or not -len(widths) <= number < len(widths):
            raise ValueError(
                f'{key}.in_index is {index}, but the features have the levels 0 to {len(widths) - 1}, of '
                f'{", ".join(map(str, widths))} channels'
            )
    index = [number % len(widths) for number in index] if several else index % len(widths)
    there = [widths[number] for number in index] if several else widths[index]
    if channels is not None and channels != there and list(channels if several else [channels]) != there:
        raise ValueError(
            f'{key}.in_channels is {channels}, but the features at in_index={index} have {there} channels; leave it '
            f'out, and it is taken from them'
        )
    return dict(in_index=index, in_channels=there)


def try_out(
    module: nn.Module, widths: Sequence[int], run: Callable[[nn.Module, list[Tensor]], Sequence[Tensor]]
) -> Trial:
    """Run a module on features without values.

    The features are a pyramid of halving sizes; of one width, as those of a plain vision transformer, else of one size.

    Args:
        module: The module, which is left as it is.
        widths: Widths of the features, finest first.
        run: Gives maps from a copy of the module, and features.

    Raises:
        ValueError: As ``run`` does, or running the module adds to what its checkpoints hold.
    """
    twin = _without_values(module)
    steps = [range(len(widths))[::-1]] + ([[0] * len(widths)] if len({*widths}) < len(widths) else [])
    failure = None
    for step in steps:
        try:
            trial = _traced(twin, run, _features(widths, [_COARSEST << n for n in step], 'meta'))
            added = sorted(twin.state_dict().keys() - module.state_dict().keys())
            if added:
                raise ValueError(f'{", ".join(added)} would be there only after it has run, as no checkpoint has it')
            return trial
        except ValueError as error:
            failure = failure or error
    if 'meta' not in str(failure):
        raise failure
    training = [part for part in module.modules() if part.training]
    try:
        device = next((p.device for p in module.parameters()), None)
        return _traced(module, run, _features(widths, [_COARSEST_WITH_VALUES << n for n in steps[0]], device))
    finally:
        for part in training:
            part.training = True


def _traced(module: nn.Module, run: Callable, features: list[Tensor]) -> Trial:
    # Norms and dropout in evaluation mode: no statistics are changed, and no other ranks are asked for theirs.
    module.eval()
    with torch.enable_grad(), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        maps = run(module, features)
        named = {name: p for name, p in module.named_parameters() if p.requires_grad}
        gradients = torch.autograd.grad(sum(x.sum() for x in maps), [*features, *named.values()], allow_unused=True)
    read = [gradient is not None for gradient in gradients]
    levels = tuple(index for index, is_read in enumerate(read[: len(features)]) if is_read)
    unread = tuple(name for name, is_read in zip(named, read[len(features) :]) if not is_read)
    return Trial(tuple(x.shape for x in maps), levels, unread, not features[0].is_meta)


def _without_values(module: nn.Module) -> nn.Module:
    """A copy on the meta device."""
    memo = {id(p): nn.Parameter(torch.empty_like(p, device='meta'), p.requires_grad) for p in module.parameters()}
    memo |= {id(buffer): torch.empty_like(buffer, device='meta') for buffer in module.buffers()}
    twin = copy.deepcopy(module, memo)
    for part in twin.modules():
        if isinstance(part, (_ConvTransposeNd, _BatchNorm)):
            part.register_forward_pre_hook(_check_width)
    return twin


def _check_width(part: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """What PyTorch leaves to the kernels, which do not run here."""
    needed, got = part.num_features if isinstance(part, _BatchNorm) else part.in_channels, inputs[0].shape[1]
    if needed != got:
        raise RuntimeError(f'{type(part).__name__} is made for {needed} channels, and gets {got}')


def _features(widths: Sequence[int], edges: Sequence[int], device: str | torch.device | None) -> list[Tensor]:
    shapes = ((2, width, edge, edge) for width, edge in zip(widths, edges))
    return [torch.zeros(shape, device=device, requires_grad=True) for shape in shapes]


def freeze(module: nn.Module, names: Sequence[str], key: str) -> None:
    """Freeze parameters that nothing reads, and say so: without a gradient they would stop a training on several ranks.

    Args:
        module: The module.
        names: Names of the parameters.
        key: What the module is, for the log.
    """
    for name in names:
        module.get_parameter(name).requires_grad = False
    if names:
        print_log(f'{key}: no output depends on {", ".join(names)}; frozen', logger='current', level=logging.WARNING)
