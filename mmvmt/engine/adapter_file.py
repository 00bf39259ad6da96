"""Adapter files: what was trained of a model, in a file of its own that says what it belongs to.

A file is in the safetensors format. Its tensors have the names that they have in the model's state dict; its metadata
holds one entry, a manifest as JSON. Nothing in such a file can be executed.
"""

from __future__ import annotations

import json
import math
import os
import os.path as osp
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import safetensors
import safetensors.torch
import torch
from mmengine.runner import CheckpointLoader
from torch import Tensor, nn

from mmvmt.models.checkpoint import read_checkpoint
from mmvmt.models.head_records import check_head_records, head_records, neck_record
from mmvmt.models.identity import (
    ENCODER_KEY,
    METHOD_KEY,
    check_encoder,
    check_method_record,
    encoder_fingerprints,
    encoder_of,
    fingerprint,
    method_record,
)
from mmvmt.models.model_checkpoint import named_as
from mmvmt.models.weight_checks import check_tensors
from mmvmt.models.wrappers import is_sharded, plain_name, unwrapped
from mmvmt.structures import NormalsAxes, declarations, meet_declarations

from .files import write_atomically
from .provenance import package_versions

SUFFIX = '.safetensors'
FORMAT_VERSION = 1
HALF_DTYPES = {'float16': torch.float16, 'bfloat16': torch.bfloat16}
"""Types in which matrices can be stored."""

ADAPTER_KEY = 'mmvmt_adapter'
"""Where the metadata of a file, and the meta information of a checkpoint that was read from one, has the manifest."""

_PACKAGES = ('torch', 'mmengine', 'mmseg')


class AdapterFile(NamedTuple):
    """What is in an adapter file.

    Args:
        manifest: ``version`` of the format; ``method``, the plugins with their options; ``tasks``, and
            ``task_declarations`` of those that the package does not know; ``heads``, by task ``type``, ``kind`` of map
            and ``channels`` of the output, and of parts of mmseg their configs; ``neck``, the config of one that tasks
            share; ``encoder``, its fingerprints by storage;
            ``half``; ``dataset_meta``, the axes of normals; ``metrics`` and the ``iteration`` that they and the weights
            are of; ``versions`` of packages; ``sha256`` of the tensors.
        tensors: By their names in the model's state dict.
    """

    manifest: dict[str, Any]
    tensors: dict[str, Tensor]


def is_adapter_file(path: str | os.PathLike) -> bool:
    """Whether a path names a file of this format: by its suffix, unless it is a safetensors file of something else."""
    path = os.path.expanduser(os.fspath(path))
    if not path.endswith(SUFFIX) or not osp.isfile(path):
        return path.endswith(SUFFIX)
    try:
        with safetensors.safe_open(path, framework='pt') as file:
            return ADAPTER_KEY in (file.metadata() or {})
    except safetensors.SafetensorError:
        return True  # what is wrong with it is said by whoever reads it


def trained_names(model: nn.Module) -> list[str]:
    """Names in a model's state dict, without what wrappers add, of all that the frozen encoder does not determine.

    These are the parameters and buffers of adapters, heads and output norms, running statistics too, and the
    parameters of the encoder that plugins train; not how a training weighs its tasks, which no prediction needs.

    Raises:
        TypeError: The model's ``backbone`` is no ``AdaptedEncoder``.
    """
    left_out = {f'backbone.{name}' for name in encoder_of(model).pretrained_names()}
    names = map(plain_name, unwrapped(model).state_dict())
    return [name for name in names if name not in left_out and not name.startswith('task_weights.')]


def save_adapter(
    model: nn.Module,
    path: str | os.PathLike,
    *,
    half: str | None = None,
    metrics: Mapping[str, float] | None = None,
    iteration: int | None = None,
    weights: Mapping[str, Tensor] | None = None,
    axes: NormalsAxes | None = None,
) -> dict[str, Any]:
    """Write what was trained of a model into a file, atomically.

    Args:
        model: A model whose ``backbone`` is an ``AdaptedEncoder``, wrapped or not.
        path: The file; its name ends in ``.safetensors``.
        half: ``'float16'`` or ``'bfloat16'``: store tensors of two and more dimensions in this type. Vectors, such as
            biases, norms and running statistics, stay as they are.
        metrics: Figures of an evaluation, such as ``{'semseg/mIoU': 67.2}``.
        iteration: Number of training iterations.
        weights: Values by name to write instead of the model's own, such as averaged ones.
        axes: Axes of the normals that the model was trained on.

    Returns:
        The manifest.

    Raises:
        TypeError: The model's ``backbone`` is no ``AdaptedEncoder``.
        ValueError: The suffix or ``half`` is wrong, an adapter is merged, a value does not fit into ``half``, or the
            model holds only a shard of its weights and none are given.
    """
    path = os.fspath(path)
    if not path.endswith(SUFFIX):
        raise ValueError(f'the name of an adapter file ends in {SUFFIX}, got {path!r}')
    if half is not None and half not in HALF_DTYPES:
        raise ValueError(f'half must be one of {", ".join(HALF_DTYPES)} or None, got {half!r}')
    if weights is None and is_sharded(model):
        raise ValueError(
            'this rank holds but a shard of the weights: gather them, as FullyShardedDataParallel.state_dict_type does '
            'with StateDictType.FULL_STATE_DICT, and pass them as weights'
        )
    encoder, model = encoder_of(model), unwrapped(model)
    _refuse_merged(model, 'saved')
    state = {plain_name(name): value for name, value in (weights or model.state_dict()).items()}
    # A copy each: safetensors refuses tensors that share memory.
    tensors = {name: state[name].detach().cpu().contiguous().clone() for name in trained_names(model)}
    if half is not None:
        tensors = {name: _halved(name, tensor, half) for name, tensor in tensors.items()}
    manifest = dict(
        version=FORMAT_VERSION,
        method=method_record(model),
        tasks=list(encoder.tasks or ()),
        task_declarations=declarations(encoder.tasks or ()),
        heads=head_records(model),
        neck=neck_record(model),
        encoder=encoder_fingerprints(encoder),
        half=half,
        dataset_meta={} if axes is None else axes.meta,
        metrics={key: _figure(value) for key, value in (metrics or {}).items()},
        iteration=iteration,
        versions=package_versions(_PACKAGES),
        sha256=fingerprint(tensors),
    )
    write_atomically(path, safetensors.torch.save(tensors, metadata={ADAPTER_KEY: json.dumps(manifest)}))
    return manifest


def read_adapter(path: str | os.PathLike) -> AdapterFile:
    """Read an adapter file and see that it is whole. The tasks that it declares are known from then on.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no adapter file, was damaged, has a later version of the format, or has other tasks by the
            names of those that are known.
    """
    path = os.fspath(path)
    if not osp.isfile(path):
        raise FileNotFoundError(f'adapter file {path!r} does not exist')
    try:
        with safetensors.safe_open(path, framework='pt') as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  no dictionary
    except safetensors.SafetensorError as error:
        raise ValueError(f'adapter file {path!r} is damaged, or no safetensors file: {error}') from error
    if ADAPTER_KEY not in metadata:
        raise ValueError(
            f'{path!r} is a safetensors file, but no adapter file: its metadata has no entry {ADAPTER_KEY!r}. Adapter '
            f'files are written by tools/model_converters/export_adapter.py and at the end of a training'
        )
    try:
        manifest = json.loads(metadata[ADAPTER_KEY])
    except (RecursionError, ValueError) as error:
        raise ValueError(f'adapter file {path!r} is damaged: its manifest is no JSON ({error})') from error
    version = manifest.get('version') if isinstance(manifest, dict) else None
    if version != FORMAT_VERSION:
        raise ValueError(
            f'adapter file {path!r} has version {version!r} of the format, and this mmvmt reads version '
            f'{FORMAT_VERSION}; update mmvmt'
        )
    for key, kind in (('method', list), ('tasks', list), ('heads', dict), ('encoder', dict), ('sha256', str)):
        if not isinstance(manifest.get(key), kind):
            raise ValueError(f'adapter file {path!r} is damaged: its manifest has no {kind.__name__} {key!r}')
    if not all(isinstance(text, str) for text in (*manifest['tasks'], *manifest['encoder'].values())):
        raise ValueError(f'adapter file {path!r} is damaged: tasks and fingerprints in its manifest must be text')
    if fingerprint(tensors) != manifest['sha256']:
        raise ValueError(
            f'adapter file {path!r} is damaged: its tensors are not those that were written; copy it again'
        )
    meet_declarations(manifest.get('task_declarations'), f'adapter file {path!r}')
    return AdapterFile(manifest, tensors)


def load_adapter(model: nn.Module, path: str | os.PathLike) -> dict[str, Any]:
    """Load an adapter file into a model whose encoder is loaded already.

    Everything is checked before anything is changed. Values that are stored in half precision become those of the
    model's own type.

    Args:
        model: A model of the same method, tasks and heads on the same frozen encoder.
        path: The file.

    Returns:
        The manifest, with metrics, iteration and versions.

    Raises:
        FileNotFoundError: There is no such file.
        TypeError: The model's ``backbone`` is no ``AdaptedEncoder``.
        ValueError: The file is damaged or no adapter file; or it belongs to other tasks, another method, another
            encoder (one that was never loaded, too) or other heads; or a tensor is missing, unexpected or of another
            shape or kind; or an adapter of the model is merged.
    """
    model = unwrapped(model)
    _refuse_merged(model, 'loaded over')
    manifest, tensors = read_adapter(path)
    what = f'adapter file {os.fspath(path)!r}'
    check_manifest(manifest, model, what)
    for index, adapter in enumerate(encoder_of(model).adapters):
        prefix = f'backbone.adapters.{index}.'
        adapter.check_structure(name.removeprefix(prefix) for name in tensors if name.startswith(prefix))
    state = {plain_name(name): value for name, value in model.state_dict().items()}
    own = {name: state[name] for name in trained_names(model)}
    if getattr(model, 'strict_heads', True):
        _check_tensors(what, tensors, own)
    check_tensors(tensors, what, own)
    left = {name: value for name, value in state.items() if name not in own}
    model.load_state_dict(named_as(model, left | tensors))
    return manifest


def check_manifest(manifest: Mapping[str, Any], model: nn.Module, what: str) -> None:
    """Refuse an adapter file of other tasks, another method, another encoder or other heads.

    With ``strict_heads=False`` of the model, tasks and heads may differ.

    Args:
        manifest: That of the file.
        model: The model, with the encoder's weights.
        what: What the file is, for the error.

    Raises:
        ValueError: It is of another model.
    """
    model = unwrapped(model)
    encoder = encoder_of(model)
    strict = getattr(model, 'strict_heads', True)
    ours = list(encoder.tasks or ())
    if strict and sorted(ours) != sorted(manifest['tasks']):
        raise ValueError(
            f'{what} has the tasks {", ".join(manifest["tasks"]) or "none"}; this model has '
            f'{", ".join(ours) or "none"}. Use the config of that training'
        )
    check_method_record(manifest['method'], model, what)
    check_encoder(encoder, manifest['encoder'], what)
    if strict:
        check_head_records(manifest, model, what)


def _read_as_checkpoint(filename: str, map_location: Any = None) -> dict[str, Any]:
    """An adapter file as a checkpoint without frozen weights, any other safetensors file as one of weights alone."""
    if not is_adapter_file(filename):
        return dict(meta={}, state_dict=read_checkpoint(filename))
    manifest, tensors = read_adapter(osp.expanduser(filename))
    meta = {METHOD_KEY: manifest['method'], ENCODER_KEY: manifest['encoder'], ADAPTER_KEY: manifest}
    return dict(meta=meta, state_dict=tensors)


# mmengine takes it for ``load_from`` and wherever else it reads a checkpoint; a prefix may be any regular expression.
CheckpointLoader.register_scheme(r'.*\.safetensors$', _read_as_checkpoint, force=True)


def _refuse_merged(model: nn.Module, what: str) -> None:
    merged = [type(adapter).__name__ for adapter in model.backbone.adapters if adapter.is_merged]
    if merged:
        raise ValueError(
            f'{merged[0]} is merged into the encoder, whose weights are no longer the pretrained ones: an adapter file '
            f'cannot be {what} it. Call adapter.unmerge(encoder) first'
        )


def _halved(name: str, tensor: Tensor, half: str) -> Tensor:
    if tensor.ndim < 2 or not tensor.is_floating_point():
        return tensor
    stored = tensor.to(HALF_DTYPES[half])
    if not torch.equal(stored.isfinite(), tensor.isfinite()):
        raise ValueError(
            f'{name} holds {tensor.abs().max().item():g}, which {half} cannot; store it as bfloat16, or not in half'
        )
    return stored


def _figure(value: Any) -> float | None:
    """A figure as JSON has it: null where it is no finite number."""
    value = float(value)
    return value if math.isfinite(value) else None


def _check_tensors(what: str, tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    for problem, names in (('lacks', own.keys() - tensors.keys()), ('has besides', tensors.keys() - own.keys())):
        if names:
            raise ValueError(
                f'{what} does not fit this model: it {problem} {_some(names)}. Use the config of that training'
            )
    for name, value in own.items():
        theirs = tensors[name]
        if theirs.shape != value.shape or theirs.is_floating_point() != value.is_floating_point():
            raise ValueError(
                f'{what} does not fit this model: {name!r} is {theirs.dtype} of shape {tuple(theirs.shape)}, the model '
                f'needs {value.dtype} of shape {tuple(value.shape)}. Use the config of that training'
            )


def _some(names: Iterable[str]) -> str:
    names = sorted(names)
    return ', '.join(names[:3]) + (f' and {len(names) - 3} more' if len(names) > 3 else '')
