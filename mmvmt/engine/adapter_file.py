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
from torch import Tensor, nn

from mmvmt.models.identity import (
    check_encoder,
    check_method_record,
    encoder_fingerprints,
    encoder_of,
    fingerprint,
    method_record,
)
from mmvmt.models.wrappers import unwrapped
from mmvmt.structures import NormalsAxes

from .files import write_atomically
from .provenance import package_versions

SUFFIX = '.safetensors'
FORMAT_VERSION = 1
HALF_DTYPES = {'float16': torch.float16, 'bfloat16': torch.bfloat16}
"""Types in which matrices can be stored."""

_MANIFEST = 'mmvmt_adapter'
_PACKAGES = ('torch', 'mmengine', 'mmseg')


class AdapterFile(NamedTuple):
    """What is in an adapter file.

    Args:
        manifest: ``version`` of the format; ``method``, the plugins with their options; ``tasks``; ``heads``, by task
            ``type``, ``kind`` of map and ``channels`` of the output; ``encoder``, its fingerprints by storage;
            ``half``; ``dataset_meta``, the axes of normals; ``metrics`` and the ``iteration`` that they and the weights
            are of; ``versions`` of packages; ``sha256`` of the tensors.
        tensors: By their names in the model's state dict.
    """

    manifest: dict[str, Any]
    tensors: dict[str, Tensor]


def is_adapter_file(path: str | os.PathLike) -> bool:
    """Whether a path names a file of this format, by its suffix."""
    return os.fspath(path).endswith(SUFFIX)


def trained_names(model: nn.Module) -> list[str]:
    """Names in a model's state dict of all that the frozen encoder does not determine.

    These are the parameters and buffers of adapters, heads and output norms, running statistics too, and the
    parameters of the encoder that plugins train.

    Raises:
        TypeError: The model's ``backbone`` is no ``AdaptedEncoder``.
    """
    left_out = {f'backbone.{name}' for name in encoder_of(model).pretrained_names()}
    return [name for name in unwrapped(model).state_dict() if name not in left_out]


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
        model: A model whose ``backbone`` is an ``AdaptedEncoder``.
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
        ValueError: The suffix or ``half`` is wrong, an adapter is merged, or a value does not fit into ``half``.
    """
    path = os.fspath(path)
    if not is_adapter_file(path):
        raise ValueError(f'the name of an adapter file ends in {SUFFIX}, got {path!r}')
    if half is not None and half not in HALF_DTYPES:
        raise ValueError(f'half must be one of {", ".join(HALF_DTYPES)} or None, got {half!r}')
    encoder, model = encoder_of(model), unwrapped(model)
    _refuse_merged(model, 'saved')
    state = model.state_dict() if weights is None else weights
    # A copy each: safetensors refuses tensors that share memory.
    tensors = {name: state[name].detach().cpu().contiguous().clone() for name in trained_names(model)}
    if half is not None:
        tensors = {name: _halved(name, tensor, half) for name, tensor in tensors.items()}
    manifest = dict(
        version=FORMAT_VERSION,
        method=method_record(model),
        tasks=list(encoder.tasks or ()),
        heads=_describe_heads(model),
        encoder=encoder_fingerprints(encoder),
        half=half,
        dataset_meta={} if axes is None else axes.meta,
        metrics={key: _figure(value) for key, value in (metrics or {}).items()},
        iteration=iteration,
        versions=package_versions(_PACKAGES),
        sha256=fingerprint(tensors),
    )
    write_atomically(path, safetensors.torch.save(tensors, metadata={_MANIFEST: json.dumps(manifest)}))
    return manifest


def read_adapter(path: str | os.PathLike) -> AdapterFile:
    """Read an adapter file and see that it is whole.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no adapter file, was damaged, or has a later version of the format.
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
    if _MANIFEST not in metadata:
        raise ValueError(
            f'{path!r} is a safetensors file, but no adapter file: its metadata has no entry {_MANIFEST!r}. Adapter '
            f'files are written by tools/model_converters/export_adapter.py and at the end of a training'
        )
    try:
        manifest = json.loads(metadata[_MANIFEST])
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
    encoder, model = encoder_of(model), unwrapped(model)
    _refuse_merged(model, 'loaded over')
    manifest, tensors = read_adapter(path)
    what = f'adapter file {os.fspath(path)!r}'
    ours = list(encoder.tasks or ())
    if sorted(ours) != sorted(manifest['tasks']):
        raise ValueError(
            f'{what} has the tasks {", ".join(manifest["tasks"]) or "none"}; this model has '
            f'{", ".join(ours) or "none"}. Use the config of that training'
        )
    check_method_record(manifest['method'], model, what)
    check_encoder(encoder, manifest['encoder'], what)
    for task, head in _describe_heads(model).items():
        if manifest['heads'].get(task) != head:
            raise ValueError(
                f'{what} has another head of task {task!r}, {manifest["heads"].get(task)}; this model has {head}. Use '
                f'the config of that training'
            )
    for index, adapter in enumerate(encoder.adapters):
        prefix = f'backbone.adapters.{index}.'
        adapter.check_structure(name.removeprefix(prefix) for name in tensors if name.startswith(prefix))
    state = model.state_dict()
    _check_tensors(what, tensors, {name: state[name] for name in trained_names(model)})
    model.load_state_dict(state | tensors)
    return manifest


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


def _describe_heads(model: nn.Module) -> dict[str, dict[str, Any]]:
    """By task, what a head puts out; none where the model has no head per task."""
    heads = getattr(model, 'heads', {})
    return {
        task: dict(type=type(head).__name__, kind=head.output.kind, channels=head.output.channels)
        for task, head in heads.items()
    }


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
