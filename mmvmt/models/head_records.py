"""Which heads and which neck trained weights belong to, as far as the shapes of the weights do not tell it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from mmvmt.registry import MODELS, class_of

from .identity import option_defaults, plain

Record = dict[str, Any]

_NO_FUNCTION = ('in_channels', 'dropout_ratio', 'init_cfg', 'requires_grad')
"""Options that the function of trained weights does not depend on, or that shapes tell."""

_ALIKE = {'SyncBN': 'BN', 'MMSyncBN': 'BN', 'BN2d': 'BN'}
"""Types of norms that are one function, on one device or on several."""


def head_records(model: nn.Module) -> dict[str, Record]:
    """By task, what its head is and puts out, and of which parts of mmseg it is made; none where the model has no head
    per task."""
    records = {}
    for task, head in getattr(model, 'heads', {}).items():
        records[task] = dict(type=type(head).__name__, kind=head.output.kind, channels=head.output.channels)
        if head.configs:
            records[task]['parts'] = {name: part_record(cfg) for name, cfg in head.configs.items()}
    return records


def neck_record(model: nn.Module) -> Record | None:
    """The neck that all tasks of a model share."""
    neck = getattr(model, 'neck', None)
    return part_record(neck.cfg) if hasattr(neck, 'cfg') else None


def part_record(cfg: Mapping[str, Any]) -> Record:
    """A config of a head or neck of mmseg in the one way to write it: without options that have their default values.

    Args:
        cfg: The config.
    """
    kind = class_of(MODELS, cfg['type'])
    defaults = {name: _plain(value) for name, value in option_defaults(kind).items()}
    return {name: value for name, value in _plain(cfg).items() if name not in defaults or value != defaults[name]}


def _plain(value: Any) -> Any:
    """Lists, dictionaries and scalars; classes by their names alone, norms by one of those that they have."""
    if isinstance(value, Mapping):
        entries = {key: _plain(entry) for key, entry in value.items() if key not in _NO_FUNCTION}
        if 'type' in entries:
            name = plain(value['type']).rpartition('.')[2]
            entries['type'] = _ALIKE.get(name, name)
        return entries
    return [_plain(entry) for entry in value] if isinstance(value, (list, tuple)) else plain(value)


def check_head_records(manifest: Mapping[str, Any], model: nn.Module, what: str) -> None:
    """Refuse weights of other heads, or behind another neck.

    Args:
        manifest: ``heads``, and where there is one ``neck``, as recorded with the weights.
        model: The model that shall get them.
        what: What the weights are, for the error.

    Raises:
        ValueError: A record differs.
    """
    pairs = [
        (f'another head of task {task!r}', manifest['heads'].get(task), record)
        for task, record in head_records(model).items()
    ]
    pairs.append(('another neck', manifest.get('neck'), neck_record(model)))
    for which, theirs, ours in pairs:
        if theirs != ours:
            there, here = _differing(theirs, ours)
            raise ValueError(f'{what} has {which}, {there}; this model has {here}. Use the config of that training')


def _differing(theirs: Any, ours: Any) -> tuple[Any, Any]:
    """Of two records the entries that differ."""
    if not (isinstance(theirs, Mapping) and isinstance(ours, Mapping)):
        return theirs, ours
    there, here = {}, {}
    for key in sorted({*theirs, *ours}):
        if theirs.get(key) != ours.get(key):
            there[key], here[key] = _differing(theirs.get(key), ours.get(key))
    return there, here
