"""Loading checkpoints: without executing what they hold, and without leaving a silent gap."""

from __future__ import annotations

import codecs
import os.path as osp
import pickle
import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.error import URLError

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.logging import print_log
from mmengine.logging.history_buffer import HistoryBuffer
from safetensors.torch import load_file
from torch import Tensor, nn

from mmvmt.compat import safe_globals
from mmvmt.registry import type_name

from .swin_layouts import BUFFERS, ENCODER_PARTS, architecture_of, layout_of, to_mmseg_layout, without_prefix
from .weight_checks import check_structure, check_tensors
from .wrappers import plain_name

_INIT_CFG = 'name a local file with --cfg-options model.backbone.init_cfg.checkpoint=PATH'

PRETRAINED = ('Pretrained', 'PretrainedInit')
"""Names of mmengine's initialiser from a file: as it is registered, and of its class."""

_TRUST = (
    'A file of your own that holds more than weights is read with --trust-checkpoint; one that init_cfg names, with '
    'init_cfg.trusted=True'
)

_HOLDERS = ('state_dict', 'model', 'model_state_dict', 'module')
"""Entries of checkpoints under which the weights are."""
_COUNTERS = ('n_averaged', 'steps')
"""What averages of weights have beside those."""


def _history_buffer_attribute(owner: Any, name: str) -> Any:
    """``getattr`` for the one use that mmengine's checkpoints make of it: the statistics of a HistoryBuffer."""
    if owner is not HistoryBuffer:
        raise pickle.UnpicklingError(f'the checkpoint asks for attribute {name!r} of {owner!r}, which is not allowed')
    return getattr(owner, name)


def _under_name(name: str, function: Callable) -> Callable:
    """A function that a file finds when it asks for ``name``; torch compares names alone."""

    def call(*arguments: Any) -> Any:
        return function(*arguments)

    call.__module__, _, call.__qualname__ = name.rpartition('.')
    call.__name__ = call.__qualname__
    return call


def _allowed_globals() -> list[type | Callable]:
    dtypes = [type(np.dtype(kind)) for kind in ('float64', 'float32', 'int64', 'int32', 'uint32')]
    # Files name the module of the numpy that wrote them, which numpy 2 moved, and two functions in it.
    arrays = [
        _under_name(f'numpy.{core}.multiarray.{function.__name__}', function)
        for core in ('core', '_core')
        for function in (value.__reduce__()[0] for value in (np.zeros(0), np.float64(0)))
    ]
    return [
        HistoryBuffer,
        _under_name('builtins.getattr', _history_buffer_attribute),
        slice,
        np.ndarray,
        np.dtype,
        codecs.encode,
        *arrays,
        *dtypes,
    ]


def read_checkpoint(
    source: str, trusted: bool = False, remedy: str = 'give the path of a file that is there'
) -> dict[str, Any]:
    """Read a checkpoint from a path or URL; nothing in it is executed unless it is trusted.

    Args:
        source: Local path (a ``.safetensors`` file too), or http(s) URL (downloaded once into torch.hub's cache).
        trusted: Let the file execute what it holds besides weights and mmengine's records, as pickle does.
        remedy: What to do where there is no such file, for the error.

    Raises:
        FileNotFoundError: There is no such file, or the URL cannot be reached.
        ValueError: The file is no checkpoint, is truncated, or holds more than weights and mmengine's records without
            being trusted.
    """
    what = f'checkpoint {source!r}'
    try:
        if source.endswith('.safetensors') and not source.startswith(('http://', 'https://')):
            return load_file(osp.expanduser(source))
        with safe_globals(_allowed_globals()):
            if source.startswith(('http://', 'https://')):
                checkpoint = torch.hub.load_state_dict_from_url(source, map_location='cpu', weights_only=not trusted)
            else:
                checkpoint = torch.load(osp.expanduser(source), map_location='cpu', weights_only=not trusted)
    except (FileNotFoundError, IsADirectoryError):
        raise FileNotFoundError(f'{what} does not exist; {remedy}') from None
    except (URLError, ConnectionError, TimeoutError) as error:
        raise FileNotFoundError(f'checkpoint {source} could not be downloaded ({error}); {remedy}') from error
    except OSError:
        raise
    # Unpickling damaged bytes fails with whatever its next operation raises: KeyError, UnicodeDecodeError, ...
    except Exception as error:
        refused = isinstance(error, pickle.UnpicklingError) and not trusted
        raise ValueError(
            f'{what} is not a readable file of weights (truncated, of another kind, or holding code '
            f'that would be executed): {_reason(error)}' + (f'. {_TRUST}' if refused else '')
        ) from error
    check_structure(checkpoint, what)
    return checkpoint


def _reason(error: Exception) -> str:
    """What PyTorch found, without its advice to run whatever a file holds."""
    text = re.sub(r'\x1b\[[0-9;]*m', '', str(error))
    found = re.search(r'(?:WeightsUnpickler error: *)\s*([^\n]+?)(?:\. Please use [^\n]*)?(?:\n|$)', text)
    return found[1] if found else next(iter(text.splitlines()), type(error).__name__)


def state_dict_of(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """The weights in a checkpoint of mmengine (``state_dict``), of Swin's authors (``model``) and the like, or bare.

    Names are without what a wrapper for several ranks, an average, ``torch.compile`` or FSDP adds to them.
    """
    while True:
        inside = [checkpoint[key] for key in _HOLDERS if isinstance(checkpoint.get(key), Mapping)]
        if not inside:
            break
        checkpoint = inside[0]
    weights = {plain_name(name): value for name, value in checkpoint.items() if isinstance(value, Tensor)}
    while any(name.startswith('module.') for name in weights):
        inner = {name: value for name, value in weights.items() if name not in _COUNTERS}
        if not all(name.startswith('module.') for name in inner):
            break
        weights = {plain_name(name.removeprefix('module.')): value for name, value in inner.items()}
    return weights


def _resize_bias_table(table: Tensor, rows: int) -> Tensor:
    """Interpolate a relative position bias table ``((2 W - 1)^2, heads)`` to another window size W, as mmseg does.

    In single precision, whatever the file has.
    """
    old, new = round(table.shape[0] ** 0.5), round(rows**0.5)
    grid = table.t().reshape(1, -1, old, old).float()
    grid = F.interpolate(grid, size=(new, new), mode='bicubic', align_corners=False)
    return grid.reshape(-1, new * new).t().contiguous()


def read_encoder(
    source: str, trusted: bool = False, layout: str | None = None, remedy: str = 'name a local file'
) -> tuple[dict[str, Tensor], str]:
    """Read the weights of an encoder, alone or in a whole model, under the names of mmseg.

    Args:
        source: As in :func:`read_checkpoint`.
        trusted: As in :func:`read_checkpoint`.
        layout: The layout of the keys, one of :data:`~mmvmt.models.swin_layouts.LAYOUTS`; None: found out from them.
        remedy: As in :func:`read_checkpoint`.

    Returns:
        The weights, and the layout that they had.

    Raises:
        FileNotFoundError: The checkpoint is missing.
        ValueError: It is unreadable, of another layout or architecture, or holds what no weight can be.
    """
    what = f'checkpoint {source!r}'
    weights = state_dict_of(read_checkpoint(source, trusted, remedy))
    try:
        weights = without_prefix(weights)
        parts = (*ENCODER_PARTS, 'layers.', 'norm')
        check_tensors({name: value for name, value in weights.items() if name.startswith(parts)}, what)
        return to_mmseg_layout(weights, layout), layout_of(weights)
    except ValueError as error:
        raise ValueError(str(error) if what in str(error) else f'{what} cannot be loaded: {error}') from None


def initialisers_of(init_cfg: Any) -> tuple[list[dict], list[dict]]:
    """The initialisers of an ``init_cfg`` that draw or set values, and those that load a checkpoint.

    Raises:
        ValueError: It is neither an initialiser, nor a list of them, nor None.
    """
    cfgs = [] if init_cfg is None else [init_cfg] if isinstance(init_cfg, Mapping) else init_cfg
    if not isinstance(cfgs, (list, tuple)) or not all(isinstance(cfg, Mapping) for cfg in cfgs):
        raise ValueError(
            "init_cfg must be dict(type='Pretrained', checkpoint=PATH_OR_URL), another initialiser of mmengine, a list "
            f'of them, or None, got {init_cfg!r}'
        )
    initialisers, pretrained = [], []
    for cfg in cfgs:
        (pretrained if type_name(cfg, 'Pretrained') in PRETRAINED else initialisers).append(cfg)
    return initialisers, pretrained


def load_encoder_checkpoint(encoder: nn.Module, init_cfg: Mapping[str, Any]) -> None:
    """Load encoder weights and make sure that every one of them was there, and no other.

    Key names may be those of mmseg, mmpretrain, Microsoft's releases or timm, the encoder may stand alone or in a whole
    model. What stands beside it is left out: heads, necks, adapters; output norms, of which a classifier has one at
    most, are loaded if both sides have them. A bias table of another window size is interpolated.

    Args:
        encoder: An ``AdaptedSwin``.
        init_cfg: ``dict(type='Pretrained', checkpoint=PATH_OR_URL)``; with ``trusted=True`` the file may execute
            what it holds, see :func:`read_checkpoint`.

    Raises:
        FileNotFoundError: The checkpoint is missing.
        ValueError: It is unreadable, of another encoder, a smaller or larger one too, or holds what no weight can be.
    """
    source = init_cfg.get('checkpoint')
    if type_name(init_cfg, 'Pretrained') not in PRETRAINED or not isinstance(source, str):
        raise ValueError(
            f'init_cfg of {type(encoder).__name__} must be dict(type="Pretrained", checkpoint=PATH_OR_URL) or None, '
            f'got {dict(init_cfg)!r}'
        )
    what = f'checkpoint {source!r}'
    weights, layout = read_encoder(source, init_cfg.get('trusted', False), remedy=_INIT_CFG)
    if layout != 'mmseg':
        print_log(f'{source} has the key names of {layout}; they are read as those of mmseg', logger='current')
    left_out = re.compile(r'adapters\.|norm\d+\.')
    everything = encoder.state_dict()
    own = {name: value for name, value in everything.items() if not (left_out.match(name) or name.endswith(BUFFERS))}
    for name, value in own.items():
        if name.endswith('relative_position_bias_table') and name in weights:
            table = weights[name]
            if table.ndim == 2 and table.shape[1] == value.shape[1] and _is_square(table.shape[0]):
                weights[name] = table if len(table) == len(value) else _resize_bias_table(table, len(value))
    check_same_encoder(own, weights, what)
    own |= {n: v for n, v in everything.items() if re.match(r'norm\d+\.', n) and n in weights}
    for name, value in own.items():
        if weights[name].shape != value.shape:
            raise ValueError(
                f'{what} is of another encoder size: {name!r} has shape {tuple(weights[name].shape)}, '
                f'this encoder needs {tuple(value.shape)}{_compared(weights, own)}'
            )
    encoder.load_state_dict({name: weights[name] for name in own}, strict=False)
    print_log(f'Loaded {len(own)} encoder weights from {source}', logger='current')


def _is_square(number: int) -> bool:
    return round(number**0.5) ** 2 == number


def _compared(weights: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str:
    """Which architectures two sets of encoder weights are of, where they differ in it."""
    theirs, ours = architecture_of(weights), architecture_of(own)
    if theirs == ours:
        return ''
    return f'. By its weights the file is of {theirs}; this encoder is {ours}. Name another file, or change the encoder'


def check_same_encoder(own: Mapping[str, Tensor], weights: Mapping[str, Tensor], what: str) -> None:
    """Refuse weights of another encoder by their names.

    Args:
        own: Weights of the encoder, without adapters, output norms and buffers.
        weights: Theirs in mmseg's layout.
        what: Where they come from, for the error.

    Raises:
        ValueError: Some are missing, or there are more.
    """
    missing = [name for name in own if name not in weights]
    besides = [n for n in weights if n.startswith(ENCODER_PARTS) and not n.endswith(BUFFERS) and n not in own]
    if len(missing) == len(own):
        raise ValueError(
            f'{what} is not of this encoder: all of its {len(own)} weights are missing, e.g. {missing[0]!r} (the file '
            f'has e.g. {next(iter(weights), "nothing")!r}); key names of mmseg, mmpretrain, Microsoft or timm are '
            f'expected'
        )
    if missing:
        raise ValueError(
            f'{what} is not of this encoder: {len(missing)} of its {len(own)} weights are missing, '
            f'e.g. {missing[0]!r}{_compared(weights, own)}'
        )
    if besides:
        raise ValueError(
            f'{what} is of another encoder: {len(besides)} weights in it have no place in this one, '
            f'e.g. {besides[0]!r}{_compared(weights, own)}'
        )
