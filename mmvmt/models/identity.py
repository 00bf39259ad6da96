"""Which method and which frozen encoder trained weights belong to, and checkpoints without the frozen weights."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mmvmt.registry import ADAPTERS, type_in_configs

from .backbones.adapted import FROZEN_DTYPES, AdaptedEncoder
from .wrappers import unwrapped

FULL_STORAGE = 'float32'
"""Storage of an encoder without ``frozen_dtype``."""

ENCODER_REMEDY = (
    "name the pretrained encoder in the config: model.backbone.init_cfg=dict(type='Pretrained', checkpoint=PATH)"
)
"""What to do where weights come without the encoder."""

METHOD_KEY = 'mmvmt_method'
"""Where the meta information of a checkpoint has the plugins of the encoder."""

_ENCODER_KEY = 'mmvmt_encoder'
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
    """The plugins of a model's encoder, as checkpoints and adapter files hold them.

    Options whose default changed are named in any case, so that a record without them is one from before.
    """
    backbone = unwrapped(model).backbone
    record = plain(getattr(backbone, 'plugins', []))
    for plugin, adapter in zip(record, getattr(backbone, 'adapters', ())):
        plugin['cfg'] |= {option: getattr(adapter, option) for option in adapter.former_defaults}
    return record


def _completed(record: list) -> list:
    """A record with the former defaults of the options that it does not name and ours does."""
    completed = []
    for plugin in record:
        cfg = plugin.get('cfg') if isinstance(plugin, Mapping) else None
        kind = cfg.get('type') if isinstance(cfg, Mapping) else None
        method = ADAPTERS.get(kind) if isinstance(kind, str) else None
        completed.append(plugin if method is None else dict(plugin, cfg=method.former_defaults | cfg))
    return completed


def check_method_record(theirs: list[dict] | None, model: nn.Module, what: str) -> None:
    """Refuse weights of other plugins or other options of them.

    Args:
        theirs: The record that came with the weights; None: there is none.
        model: The model that shall get them.
        what: What the weights are, for the error.

    Raises:
        ValueError: The records differ.
    """
    ours = method_record(model)
    theirs = None if theirs is None else _completed(theirs)
    if theirs is not None and theirs != ours:
        raise ValueError(
            f'{what} was trained with another method than this model: its plugins are {theirs}, this model has {ours}. '
            f'Use the config of that training'
        )


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
    checkpoint.setdefault('meta', {})[_ENCODER_KEY] = encoder_fingerprints(encoder)
    for state_dict, prefix in _state_dicts(checkpoint):
        for name in encoder.pretrained_names():
            state_dict.pop(prefix + name, None)


def lacks_encoder(checkpoint: Mapping[str, Any]) -> bool:
    """Whether the frozen weights were left out of a checkpoint."""
    return _ENCODER_KEY in (checkpoint.get('meta') or {})


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
    check_encoder(encoder, checkpoint['meta'][_ENCODER_KEY], 'the checkpoint, which holds no frozen weights,')
    own = encoder.state_dict()
    for state_dict, prefix in _state_dicts(checkpoint):
        state_dict.update({prefix + name: own[name] for name in encoder.pretrained_names()})
