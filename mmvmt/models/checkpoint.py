"""Loading checkpoints: without executing what they hold, and without leaving a silent gap."""

from __future__ import annotations

import codecs
import os.path as osp
import pickle
import re
from collections.abc import Callable, Iterable, Mapping
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

from .swin_layouts import layout_of, to_mmseg_layout, without_prefix

_INIT_CFG = 'name a local file with --cfg-options model.backbone.init_cfg.checkpoint=PATH'

PRETRAINED = ('Pretrained', 'PretrainedInit')
"""Names of mmengine's initialiser from a file: as it is registered, and of its class."""

_TRUST = (
    'A file of your own that holds more than weights is read with --trust-checkpoint; one that init_cfg names, with '
    'init_cfg.trusted=True'
)


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
    try:
        if source.endswith('.safetensors') and not source.startswith(('http://', 'https://')):
            return load_file(osp.expanduser(source))
        with safe_globals(_allowed_globals()):
            if source.startswith(('http://', 'https://')):
                checkpoint = torch.hub.load_state_dict_from_url(source, map_location='cpu', weights_only=not trusted)
            else:
                checkpoint = torch.load(osp.expanduser(source), map_location='cpu', weights_only=not trusted)
    except (FileNotFoundError, IsADirectoryError):
        raise FileNotFoundError(f'checkpoint {source!r} does not exist; {remedy}') from None
    except (URLError, ConnectionError, TimeoutError) as error:
        raise FileNotFoundError(f'checkpoint {source} could not be downloaded ({error}); {remedy}') from error
    except OSError:
        raise
    # Unpickling damaged bytes fails with whatever its next operation raises: KeyError, UnicodeDecodeError, ...
    except Exception as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        refused = isinstance(error, pickle.UnpicklingError) and not trusted
        raise ValueError(
            f'checkpoint {source!r} is not a readable file of weights (truncated, of another kind, or holding code '
            f'that would be executed): {reason}' + (f'. {_TRUST}' if refused else '')
        ) from error
    if not isinstance(checkpoint, dict):
        raise ValueError(
            f'checkpoint {source!r} holds no dictionary of weights, but {type(checkpoint).__name__}; name a file that '
            f'a training or torch.save(model.state_dict(), PATH) wrote'
        )
    return checkpoint


def state_dict_of(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """The weights in a checkpoint of mmengine (``state_dict``), of Swin's authors (``model``) or bare."""
    for key in ('state_dict', 'model'):
        if isinstance(checkpoint.get(key), Mapping):
            checkpoint = checkpoint[key]
            break
    weights = {name: value for name, value in checkpoint.items() if isinstance(value, Tensor)}
    if weights and all(name.startswith('module.') for name in weights):
        weights = {name.removeprefix('module.'): value for name, value in weights.items()}
    return weights


def _resize_bias_table(table: Tensor, rows: int) -> Tensor:
    """Interpolate a relative position bias table ``((2 W - 1)^2, heads)`` to another window size W, as mmseg does."""
    old, new = round(table.shape[0] ** 0.5), round(rows**0.5)
    grid = table.t().reshape(1, -1, old, old)
    grid = F.interpolate(grid, size=(new, new), mode='bicubic', align_corners=False)
    return grid.reshape(-1, new * new).t().contiguous()


def load_encoder_checkpoint(encoder: nn.Module, init_cfg: Mapping[str, Any]) -> None:
    """Load encoder weights and make sure that every one of them was there.

    Key names may be those of mmseg, mmpretrain, Microsoft's release or timm. Weights of heads and adapters in the file
    are left out; output norms, of which a classifier has one at most, are loaded if both sides have them. A bias table
    of another window size is interpolated.

    Args:
        encoder: An ``AdaptedSwin``.
        init_cfg: ``dict(type='Pretrained', checkpoint=PATH_OR_URL)``; with ``trusted=True`` the file may execute
            what it holds, see :func:`read_checkpoint`.

    Raises:
        FileNotFoundError: The checkpoint is missing.
        ValueError: It is unreadable, or of another encoder.
    """
    source = init_cfg.get('checkpoint')
    if type_name(init_cfg, 'Pretrained') not in PRETRAINED or not isinstance(source, str):
        raise ValueError(
            f'init_cfg of {type(encoder).__name__} must be dict(type="Pretrained", checkpoint=PATH_OR_URL) or None, '
            f'got {dict(init_cfg)!r}'
        )
    weights = without_prefix(state_dict_of(read_checkpoint(source, init_cfg.get('trusted', False), _INIT_CFG)))
    layout = layout_of(weights)
    if layout != 'mmseg':
        try:
            weights = to_mmseg_layout(weights)
        except ValueError as error:
            raise ValueError(f'checkpoint {source!r} cannot be loaded: {error}') from None
        print_log(f'{source} has the key names of {layout}; they are read as those of mmseg', logger='current')

    left_out = re.compile(r'adapters\.|norm\d+\.|.*relative_position_index$')
    own = {name: value for name, value in encoder.state_dict().items() if not left_out.match(name)}
    for name, value in own.items():
        if name.endswith('relative_position_bias_table') and name in weights:
            table = weights[name]
            if table.ndim == 2 and table.shape[1] == value.shape[1] and table.shape[0] != value.shape[0]:
                weights[name] = _resize_bias_table(table, value.shape[0])
    own |= {n: v for n, v in encoder.state_dict().items() if re.match(r'norm\d+\.', n) and n in weights}
    missing = [name for name in own if name not in weights]
    if missing:
        raise ValueError(
            f'checkpoint {source!r} is not of this encoder: {len(missing)} of its {len(own)} weights are missing, '
            f'e.g. {missing[0]!r} (the file has e.g. {next(iter(weights), "nothing")!r}); '
            f'key names of mmseg, mmpretrain, Microsoft or timm are expected'
        )
    for name, value in own.items():
        if weights[name].shape != value.shape:
            raise ValueError(
                f'checkpoint {source!r} is of another encoder size: {name!r} has shape {tuple(weights[name].shape)}, '
                f'this encoder needs {tuple(value.shape)}'
            )
    encoder.load_state_dict({name: weights[name] for name in own}, strict=False)
    print_log(f'Loaded {len(own)} encoder weights from {source}', logger='current')


def _names(keys: Iterable[str]) -> str:
    keys = sorted(keys)
    return ', '.join(keys[:3]) + (f' and {len(keys) - 3} more' if len(keys) > 3 else '')


def check_model_checkpoint(model: nn.Module, weights: Mapping[str, Tensor], prefix: str = '') -> None:
    """Refuse weights of another method, task set or size before any of them is copied.

    Args:
        model: A ``MultiTaskEncoderDecoder``.
        weights: State dict whose keys start with ``prefix``.
        prefix: Prefix of this model's keys.

    Raises:
        ValueError: Tasks, adapters, encoder or shapes differ, or weights are missing.
    """
    buffers = ('relative_position_index', 'num_batches_tracked')
    own = {prefix + name: value for name, value in model.state_dict().items() if not name.endswith(buffers)}
    theirs = {name for name in weights if not name.endswith(buffers)}
    remedy = 'Use the config that the checkpoint was trained with'

    def tasks(keys: Iterable[str]) -> list[str]:
        heads = prefix + 'heads.'
        return sorted({key[len(heads) :].split('.')[0] for key in keys if key.startswith(heads)})

    if tasks(theirs) != tasks(own):
        found = ', '.join(tasks(theirs)) or 'none'
        raise ValueError(
            f'the checkpoint has heads for tasks: {found}; this model has: {", ".join(tasks(own))}. {remedy} (an '
            f'encoder alone is loaded through model.backbone.init_cfg)'
        )
    trained = (f'{prefix}heads.', f'{prefix}backbone.adapters.')
    for what, chosen in (
        ('was trained with another method than', lambda key: key.startswith(trained)),
        ('is of another encoder than', lambda key: not key.startswith(trained)),
    ):
        lacks = {key for key in own if chosen(key)} - theirs
        besides = {key for key in theirs if chosen(key)} - own.keys()
        if lacks or besides:
            details = [f'it lacks {_names(lacks)}'] if lacks else []
            details += [f'it has besides {_names(besides)}'] if besides else []
            raise ValueError(f'the checkpoint {what} this model: {"; ".join(details)}. {remedy}')
    for key, value in own.items():
        if weights[key].shape != value.shape:
            raise ValueError(
                f'the checkpoint does not fit this model: {key!r} has shape {tuple(weights[key].shape)}, the model '
                f'needs {tuple(value.shape)}. {remedy}'
            )
