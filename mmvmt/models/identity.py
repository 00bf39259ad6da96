"""Which method and which frozen encoder trained weights belong to, and checkpoints without the frozen weights."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mmvmt.adapters.base import Method
from mmvmt.registry import ADAPTERS, class_of, type_in_configs
from mmvmt.structures import declarations

from .backbones.adapted import FROZEN_DTYPES, AdaptedEncoder
from .backbones.plugins import slots_of
from .wrappers import unwrapped

FULL_STORAGE = 'float32'
"""Storage of an encoder without ``frozen_dtype``."""

ENCODER_REMEDY = (
    "name the pretrained encoder in the config: model.backbone.init_cfg=dict(type='Pretrained', checkpoint=PATH)"
)
"""What to do where weights come without the encoder."""

METHOD_KEY = 'mmvmt_method'
"""Where the meta information of a checkpoint has the plugins of the encoder."""

ENCODER_KEY = 'mmvmt_encoder'
"""Where it has the fingerprints of the encoder that the weights come without."""

TASKS_KEY = 'mmvmt_tasks'
"""Where it has the declarations of the model's tasks, see :func:`mmvmt.structures.declarations`."""

_PREFIX = 'backbone.'


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes of tensors, whatever their order and device.

    Returns:
        64 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f'{name} {tensor.dtype} {tuple(tensor.shape)}\n'.encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def encoder_of(model: nn.Module) -> AdaptedEncoder:
    """The encoder of a model, which may be wrapped for several ranks.

    Raises:
        TypeError: The model's ``backbone`` is no ``AdaptedEncoder``.
    """
    model = unwrapped(model)
    encoder = getattr(model, 'backbone', None)
    encoder = encoder if encoder is None else unwrapped(encoder)
    if not isinstance(encoder, AdaptedEncoder):
        raise TypeError(
            f'only of a model whose backbone is an AdaptedEncoder is it known what is frozen; the backbone of '
            f'{type(model).__name__} is {type(encoder).__name__}'
        )
    return encoder


def plain(value: Any) -> Any:
    """Config values as lists, dictionaries, scalars and names of classes, which every loader reads."""
    if isinstance(value, Mapping):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, type):
        return type_in_configs(value)
    return [plain(entry) for entry in value] if isinstance(value, (list, tuple)) else value


def method_record(model: nn.Module) -> list[dict]:
    """The plugins of a model's encoder, as checkpoints and adapter files hold them: with all of their options, those
    that the config leaves at their defaults too, since a default may change."""
    encoder = unwrapped(unwrapped(model).backbone)
    return [_written_out(plugin, encoder) for plugin in getattr(encoder, 'plugins', [])]


def model_record(model: nn.Module) -> dict[str, Any]:
    """What the meta information of a checkpoint says of a model: the plugins of its encoder, and its tasks."""
    encoder = unwrapped(unwrapped(model).backbone)
    tasks = declarations(getattr(encoder, 'tasks', None) or ())
    return {METHOD_KEY: method_record(model)} | ({TASKS_KEY: tasks} if tasks else {})


def _written_out(plugin: Mapping[str, Any], encoder: AdaptedEncoder, former: bool = False) -> dict[str, Any]:
    """A plugin in the one way to write it: its class with scope, all stages, a list of slots, every option.

    Args:
        plugin: The plugin.
        encoder: The encoder, for the number of its stages.
        former: Whether options that are not named have the defaults that they had before records named them all.
    """
    cfg = dict(plugin['cfg'])
    kind = cfg.pop('type')
    stages = plugin.get('stages')
    stages = [True] * len(encoder.stage_blocks()) if stages is None else [bool(filled) for filled in stages]
    method = class_of(ADAPTERS, kind)
    if not isinstance(method, type) or not issubclass(method, Method):
        # A method that nobody imported here can only be compared word for word.
        return plain(dict(plugin, cfg=dict(cfg, type=kind), stages=stages))
    options = option_defaults(method) | (method.former_defaults if former else {}) | cfg
    slots = slots_of(method, plugin.get('position'))
    return plain(dict(cfg=dict(options, type=method), stages=stages, position=slots))


def option_defaults(kind: type) -> dict[str, Any]:
    """Options of a class with their defaults, those that its base classes take included."""
    defaults: dict[str, Any] = {}
    for base in kind.__mro__:
        if '__init__' not in vars(base):
            continue
        parameters = inspect.signature(base.__init__).parameters.values()
        for parameter in parameters:
            # What a config cannot hold is no option, but how one class is made of another.
            if isinstance(parameter.default, (str, bool, int, float, list, tuple, dict, type(None))):
                defaults.setdefault(parameter.name, parameter.default)
        if not any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters):
            break
    return defaults


def check_method_record(theirs: list[dict] | None, model: nn.Module, what: str) -> None:
    """Refuse weights of other plugins or other options of them, whichever way those are written.

    Args:
        theirs: The record that came with the weights; None: there is none.
        model: The model that shall get them.
        what: What the weights are, for the error.

    Raises:
        ValueError: The records differ, or theirs is none.
    """
    if theirs is None:
        return
    if not isinstance(theirs, list) or not all(_is_plugin(plugin) for plugin in theirs):
        raise ValueError(f'{what} is damaged: its record of the method must be a list of plugins, got {theirs!r}')
    encoder = unwrapped(unwrapped(model).backbone)
    ours = method_record(model)
    theirs = [_written_out(plugin, encoder, former=True) for plugin in theirs]
    if theirs != ours:
        raise ValueError(
            f'{what} was trained with another method than this model: {_difference(theirs, ours)}. Use the config of '
            f'that training'
        )


def _is_plugin(plugin: Any) -> bool:
    return isinstance(plugin, Mapping) and isinstance(plugin.get('cfg'), Mapping) and 'type' in plugin['cfg']


def _difference(theirs: list[dict], ours: list[dict]) -> str:
    """In which plugins or options two records differ."""
    kinds = [[plugin['cfg']['type'] for plugin in plugins] for plugins in (theirs, ours)]
    if kinds[0] != kinds[1]:
        names = [', '.join(map(str, of)) or 'none' for of in kinds]
        return f'its plugins are {names[0]}, this model has {names[1]}'
    found = []
    for kind, *plugins in zip(kinds[0], theirs, ours, strict=True):
        # A method may have an option of the same name as an entry of the plugin.
        options = [
            plugin | {f'cfg.{key}': value for key, value in plugin['cfg'].items()} | dict(cfg=None)
            for plugin in plugins
        ]
        for key in options[0] | options[1]:
            values = [of.get(key) for of in options]
            if values[0] != values[1]:
                found.append(f'{key} of {kind} is {values[0]!r} there and {values[1]!r} here')
    return ', '.join(found)


def _storage_of(encoder: AdaptedEncoder) -> str:
    names = {dtype: name for name, dtype in FROZEN_DTYPES.items()}
    return FULL_STORAGE if encoder.frozen_dtype is None else names[encoder.frozen_dtype]


def encoder_fingerprint(encoder: AdaptedEncoder, storage: str | None = None) -> str:
    """Fingerprint of the frozen weights of an encoder.

    Args:
        encoder: The encoder.
        storage: As if it had been built with this ``frozen_dtype``, which a float32 encoder can tell without changing;
            None: as it is.
    """
    weights: dict[str, Tensor] = dict(encoder.frozen_parameters())
    if storage not in (None, _storage_of(encoder)):
        dtype = FROZEN_DTYPES[storage]
        weights |= {name: weights[name].detach().to(dtype) for name in encoder.half_storable_names()}
    return fingerprint(weights)


def encoder_fingerprints(encoder: AdaptedEncoder) -> dict[str, str]:
    """Fingerprints by storage: those of the encoder as it is and, of one in float32, of what it is rounded to."""
    own = _storage_of(encoder)
    storages = (own, *FROZEN_DTYPES) if own == FULL_STORAGE else (own,)
    return {storage: encoder_fingerprint(encoder, storage) for storage in storages}


def check_encoder(encoder: AdaptedEncoder, fingerprints: Mapping[str, str], what: str) -> None:
    """Refuse trained weights that belong to another encoder.

    An encoder in float32 and the same one with ``frozen_dtype`` count as one: they are compared in half precision.

    Args:
        encoder: The encoder.
        fingerprints: What :func:`encoder_fingerprints` gave for the encoder that the weights were trained on.
        what: What the weights are, for the error.

    Raises:
        ValueError: The encoder is another one, was never loaded, or the two are rounded to different types.
    """
    own = _storage_of(encoder)
    if not isinstance(fingerprints, Mapping):
        raise ValueError(f'{what} is damaged: its fingerprints of the encoder are {type(fingerprints).__name__}')
    storage = own if own in fingerprints else next(iter(fingerprints), None)
    if storage is None or (storage != own and own != FULL_STORAGE) or storage not in (FULL_STORAGE, *FROZEN_DTYPES):
        raise ValueError(
            f'{what} was trained on an encoder stored in {", ".join(fingerprints) or "an unknown type"}, and this '
            f'encoder is stored in {own}: they cannot be compared. Set model.backbone.frozen_dtype as in the training'
        )
    found = encoder_fingerprint(encoder, storage)
    if found != fingerprints[storage]:
        raise ValueError(
            f'{what} was trained on another encoder: the frozen weights of this model have the fingerprint '
            f'{found[:12]}, {fingerprints[storage][:12]} is needed. Build the model with the same encoder config and '
            f'load the same pretrained weights: model.backbone.init_cfg, read by model.backbone.init_weights()'
        )


def load_pretrained(model: nn.Module, what: str) -> None:
    """Load the encoder that ``init_cfg`` names, for weights that come without it. Adapters are set to their start.

    Args:
        model: The model.
        what: What needs the encoder, for the error.

    Raises:
        TypeError: The model's ``backbone`` is no ``AdaptedEncoder``.
        FileNotFoundError: The file of the encoder does not exist.
        ValueError: ``init_cfg`` is None, or its file is damaged or of another encoder.
    """
    encoder = encoder_of(model)
    if not encoder.is_pretrained:
        raise ValueError(
            f'{what} holds no frozen weights, and model.backbone.init_cfg is {encoder.init_cfg}; {ENCODER_REMEDY}'
        )
    encoder.init_weights()


def _state_dicts(checkpoint: Mapping[str, Any]) -> list[tuple[dict[str, Tensor], str]]:
    """The state dicts of a checkpoint, with the prefix of the encoder's keys: the weights, and what EMAHook keeps."""
    keys = (('state_dict', _PREFIX), ('ema_state_dict', f'module.{_PREFIX}'))
    return [(checkpoint[key], prefix) for key, prefix in keys if key in checkpoint]


def leave_frozen_out(model: nn.Module, checkpoint: dict[str, Any]) -> None:
    """Take out of a checkpoint what the pretrained encoder alone determines, and note which encoder that is.

    Args:
        model: The model that it is of.
        checkpoint: A checkpoint of mmengine, changed in place.

    Raises:
        TypeError: The model's ``backbone`` is no ``AdaptedEncoder``.
    """
    encoder = encoder_of(model)
    checkpoint.setdefault('meta', {})[ENCODER_KEY] = encoder_fingerprints(encoder)
    for state_dict, prefix in _state_dicts(checkpoint):
        for name in encoder.pretrained_names():
            state_dict.pop(prefix + name, None)


def lacks_encoder(checkpoint: Mapping[str, Any]) -> bool:
    """Whether the frozen weights were left out of a checkpoint."""
    return ENCODER_KEY in (checkpoint.get('meta') or {})


def fill_frozen_in(model: nn.Module, checkpoint: dict[str, Any]) -> None:
    """Undo :func:`leave_frozen_out` with the weights of a model; nothing happens where nothing was left out.

    Args:
        model: The model that will load it, with the encoder's weights.
        checkpoint: A checkpoint of mmengine, changed in place.

    Raises:
        TypeError: The model's ``backbone`` is no ``AdaptedEncoder``.
        ValueError: The model has another encoder, or one that was never loaded.
    """
    if not lacks_encoder(checkpoint):
        return
    encoder = encoder_of(model)
    check_encoder(encoder, checkpoint['meta'][ENCODER_KEY], 'the checkpoint, which holds no frozen weights,')
    own = encoder.state_dict()
    for state_dict, prefix in _state_dicts(checkpoint):
        state_dict.update({prefix + name: own[name] for name in encoder.pretrained_names()})
