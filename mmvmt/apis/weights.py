"""Models with the weights of a file of any kind: checkpoint, checkpoint without frozen weights, adapter file."""

from __future__ import annotations

import os
import os.path as osp
from collections.abc import Mapping
from typing import Any

from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import nn

from mmvmt.engine.adapter_file import is_adapter_file, load_adapter, read_adapter
from mmvmt.models import MultiTaskEncoderDecoder
from mmvmt.models.checkpoint import read_checkpoint, state_dict_of
from mmvmt.models.identity import (
    METHOD_KEY,
    TASKS_KEY,
    check_method_record,
    fill_frozen_in,
    lacks_encoder,
    load_pretrained,
)
from mmvmt.models.model_checkpoint import check_complete, named_as
from mmvmt.models.task_heads import heads_by_task
from mmvmt.models.weight_checks import check_tensors
from mmvmt.models.wrappers import unwrapped
from mmvmt.registry import MODELS
from mmvmt.structures import TASKS, meet_declarations, register_task


def build_model(cfg: Config) -> nn.Module:
    """Build the model of a config in evaluation mode; no weights are read, and only its own will fit."""
    init_default_scope(cfg.get('default_scope', 'mmvmt'))
    return MODELS.build({key: value for key, value in cfg.model.items() if key != 'strict_heads'}).eval()


def declare_tasks_of(cfg: Config, path: str | os.PathLike, trusted: bool = False) -> None:
    """Make the tasks of a model known before it is built: those that its config declares and, if it names others that
    nobody knows, those that a file of weights declares.

    Args:
        cfg: The config.
        path: A checkpoint, or an adapter file, as in :func:`load_weights`; it need not exist.
        trusted: As there.

    Raises:
        ValueError: The config declares a task wrongly, or the file has another task by the name of one that is known,
            or is damaged.
    """
    model, path = cfg.get('model') or {}, os.path.expanduser(os.fspath(path))
    tasks = model.get('tasks')
    if isinstance(tasks, Mapping):
        for task, fields in tasks.items():
            if fields:
                register_task(task, **fields)
    if all(task in TASKS for task in heads_by_task(model.get('heads') or {}, tasks)) or not osp.isfile(path):
        return
    if is_adapter_file(path):
        read_adapter(path)
        return
    meta = read_checkpoint(path, trusted).get('meta') or {}
    meet_declarations(meta.get(TASKS_KEY), f'checkpoint {path!r}')


def load_weights(model: nn.Module, path: str | os.PathLike, trusted: bool = False) -> dict[str, Any]:
    """Load a checkpoint or an adapter file into a model; nothing in it is executed unless it is trusted.

    Where the file holds no frozen weights, those of the encoder's ``init_cfg`` are loaded first.

    Args:
        model: A model whose ``backbone`` is an ``AdaptedEncoder``.
        path: A checkpoint, or an adapter file.
        trusted: Let a checkpoint execute what it holds besides weights; adapter files hold nothing of the kind.

    Returns:
        The meta information of the checkpoint, or the manifest of the adapter file.

    Raises:
        FileNotFoundError: The file, or that of the encoder, does not exist.
        ValueError: A file is damaged, holds what no weight can be, belongs to another model, or the encoder has no
            ``init_cfg`` where one is needed.
    """
    path, model = os.fspath(path), unwrapped(model)
    if is_adapter_file(path):
        read_adapter(path)  # a file that is missing or damaged is the first thing to be told
        load_pretrained(model, f'adapter file {path!r}')
        return load_adapter(model, path)
    if not osp.isfile(osp.expanduser(path)) and not path.startswith(('http://', 'https://')):
        raise FileNotFoundError(f'checkpoint {path!r} does not exist')
    checkpoint = read_checkpoint(path, trusted)
    what = f'checkpoint {path!r}'
    meta = checkpoint.get('meta') or {}
    check_method_record(meta.get(METHOD_KEY), model, what)
    meet_declarations(meta.get(TASKS_KEY), what)
    if lacks_encoder(checkpoint):
        load_pretrained(model, what)
        fill_frozen_in(model, checkpoint)
    weights = named_as(model, state_dict_of(checkpoint))
    check_tensors(weights, what, model.state_dict())
    if not isinstance(model, MultiTaskEncoderDecoder):
        check_complete(model, weights, what)
        weights = model.state_dict() | weights
    model.load_state_dict(weights)
    return meta
