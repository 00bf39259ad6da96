"""Tasks added to a trained model, and removed from it; the configs that go with an added one."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.config import Config
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mmvmt.datasets import FromMMSeg, MultiTaskDataset
from mmvmt.engine.run_config import dataset_cfgs, name_types
from mmvmt.models import MultiTaskEncoderDecoder
from mmvmt.models.task_heads import heads_by_task, output_config
from mmvmt.models.wrappers import is_sharded, unwrapped
from mmvmt.registry import DATASETS, class_of
from mmvmt.structures import TASKS, check_tasks, declarations, declare_tasks

_SAID_OF_TASKS = ('num_classes', 'out_channels', 'loss_decode', 'sampler')
_EVALUATORS = ('val_evaluator', 'test_evaluator')
_DATALOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')


def add_task(
    model: MultiTaskEncoderDecoder,
    task: str,
    head: Mapping[str, Any],
    declaration: Mapping[str, Any] | None = None,
) -> None:
    """Add a task to a model, in place, and let it alone train.

    The encoder, what tasks share, the other tasks' parts of the adapters and their heads keep every bit; they are
    frozen, the other heads are in evaluation mode and are not run while the new task trains. ``set_trained_tasks()``
    of the model lets everything train again. So the other tasks' outputs stay the same, but for methods whose tasks
    depend on each other, of which a warning tells, see :func:`interacting_methods`.

    Args:
        model: The model, not wrapped for several ranks; in other wrappers, such as ``torch.compile``, it may be.
        task: Name of the new task, see :data:`mmvmt.structures.TASKS`.
        head: Config of its head, as under ``model.heads`` of a config.
        declaration: Of a task that is not known yet, such as ``dict(kind='binary')``, see
            :func:`mmvmt.structures.declare_tasks`.

    Raises:
        TypeError: ``model`` is no ``MultiTaskEncoderDecoder``.
        ValueError: The task is unknown or there already, the head does not fit it, or a method has no parts per task
            that could be added to; the model is unchanged then.
    """
    model = _bare(model)
    declare_tasks({task: declaration})
    if task in model.tasks:
        raise ValueError(f'the model has task {task!r} already; its tasks are {", ".join(model.tasks)}')
    built = model.build_head(task, head)
    built.init_weights()
    if methods := interacting_methods(model):
        warnings.warn(
            f'with {", ".join(methods)} the features of a task depend on which other tasks there are: the outputs of '
            f'{", ".join(model.tasks)} change as {task!r} is added. Test them again',
            stacklevel=2,
        )
    # The last check that can fail; what follows cannot.
    model.backbone.add_task(task)
    model.heads[task] = built.to(_device_of(model))
    _set_tasks(model, (*model.tasks, task))
    model.set_trained_tasks((task,))


def interacting_methods(model: MultiTaskEncoderDecoder) -> list[str]:
    """Names of the methods in a model with which a task that is added changes the outputs of the others."""
    return [type(adapter).__name__ for adapter in _bare(model).backbone.adapters if adapter.tasks_interact]


def remove_task(model: MultiTaskEncoderDecoder, task: str) -> None:
    """Remove a task from a model, in place: its head and its parts of the adapters.

    All remaining tasks are active afterwards, and everything that the config lets train trains again.

    Args:
        model: The model, not wrapped for several ranks; in other wrappers, such as ``torch.compile``, it may be.
        task: Name of one of its tasks.

    Raises:
        TypeError: ``model`` is no ``MultiTaskEncoderDecoder``.
        ValueError: The model has no such task, or no other, or a method does not say what belongs to a task; the model
            is unchanged then.
    """
    model = _bare(model)
    model.backbone.remove_task(task)
    del model.heads[task]
    _set_tasks(model, tuple(name for name in model.tasks if name != task))
    model.set_trained_tasks()


def head_config(cfg: Config, task: str, options: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Config of the head of a new task: as the first head of the config, with the output that the task's maps need.

    Args:
        cfg: A config with ``model.heads``.
        task: The new task.
        options: Changes, with dotted keys such as ``{'channels': 64, 'output.num_classes': 5}``.

    Raises:
        ValueError: The task is unknown or in the config already, or it has classes and no ``output.num_classes``.
    """
    check_tasks((task,))
    heads = heads_by_task(cfg.model.heads, cfg.model.get('tasks'))
    if task in heads:
        raise ValueError(f'the config has a head for task {task!r} already; its tasks are {", ".join(heads)}')
    head = {key: _of_any_task(value) for key, value in next(iter(heads.values())).items() if key != 'output'}
    merged = Config(copy.deepcopy(dict(head, output={})))
    merged.merge_from_dict(dict(options or {}))
    counted = TASKS[task].classes is not None or 'num_classes' in merged.output
    if TASKS[task].kind == 'classes' and not counted:
        raise ValueError(f'task {task!r} has classes: say how many with --head output.num_classes=N')
    with_loss = 'loss_decode' not in merged.get('decode_head', ())
    return merged.to_dict() | dict(output=output_config(TASKS[task], merged.output.to_dict(), with_loss))


def _of_any_task(option: Any) -> Any:
    """An option of a head, of parts of mmseg without what they say of their task."""
    if isinstance(option, Mapping):
        return {key: _of_any_task(value) for key, value in option.items() if key not in _SAID_OF_TASKS}
    return type(option)(map(_of_any_task, option)) if isinstance(option, (list, tuple)) else option


def enlarged_config(cfg: Config, task: str, head: Mapping[str, Any]) -> Config:
    """The config of a model with a further task: its declaration, its head, its labels in every data set, its metric.

    References are left out where they have none for the new task.

    Args:
        cfg: The config of the model without it; not changed.
        task: The new task.
        head: Config of its head.

    Raises:
        ValueError: An evaluator has no dictionary of metrics by task.
    """
    cfg = copy.deepcopy(cfg)
    heads = heads_by_task(cfg.model.heads, cfg.model.get('tasks'))
    cfg.model.heads = {name: copy.deepcopy(dict(one)) for name, one in {**heads, task: head}.items()}
    name_types(cfg)
    _set_data_tasks(cfg, list(cfg.model.heads))
    cfg.model.backbone.pop('tasks', None)
    if cfg.model.get('tasks') is not None or declarations(cfg.model.heads):
        cfg.model.tasks = _declared(list(cfg.model.heads))
    for name in _EVALUATORS:
        evaluator = cfg.get(name)
        metric = _metric(task, head)
        if evaluator is None or metric is None:
            continue
        if isinstance(evaluator, Mapping) and evaluator.get('tasks') is not None:
            evaluator.tasks = _declared([*evaluator.tasks, task])
            if evaluator.get('metrics') is None:
                continue
        if not isinstance(evaluator, Mapping) or not isinstance(evaluator.get('metrics'), Mapping):
            raise ValueError(
                f'{name}.metrics must be a dictionary by task, as MultiTaskEvaluator takes it, to get one for {task!r}'
            )
        evaluator.metrics[task] = metric
        references = evaluator.get('references')
        if not isinstance(references, Mapping) or task not in references:
            evaluator.references = None
    return cfg


def training_config(cfg: Config, task: str, load_from: str) -> Config:
    """The config by which one task of an enlarged model trains, from a checkpoint of the whole model.

    Args:
        cfg: Config of the enlarged model; not changed.
        task: The task that trains.
        load_from: Path of the checkpoint.
    """
    cfg = copy.deepcopy(cfg)
    cfg.model.train_cfg = dict(tasks=[task])
    # The checkpoint holds the encoder, and those of this training hold it too.
    cfg.model.backbone.init_cfg = None
    cfg.load_from, cfg.resume = load_from, False
    cfg.get('default_hooks', {}).get('checkpoint', {}).pop('save_frozen', None)
    _set_data_tasks(cfg, [task])
    for name in _EVALUATORS:
        if cfg.get(name) is not None:
            metrics = cfg[name].get('metrics')
            metrics = _metric(task, cfg.model.heads[task]) if metrics is None else metrics.get(task)
            cfg[name].metrics = {} if metrics is None else {task: metrics}
            cfg[name].references = None
            if cfg[name].get('tasks') is not None:
                cfg[name].tasks = _declared([task])
    if cfg.get('val_evaluator') is not None and not cfg.val_evaluator.metrics:
        cfg.val_dataloader = cfg.val_evaluator = cfg.val_cfg = None
    return cfg


def _set_data_tasks(cfg: Config, tasks: Sequence[str]) -> None:
    """Let the data sets of a config have these tasks; of several as one, each those that it has labels of.

    Raises:
        ValueError: None of several has labels of any.
    """
    for name in _DATALOADERS:
        loader = cfg.get(name)
        if loader is None:
            continue
        parts = loader.dataset.get('datasets')
        if parts is None:
            for dataset in dataset_cfgs(cfg, (name,)):
                _give(dataset, tasks)
            continue
        kept = [index for index, part in enumerate(parts) if _give_those_with_labels(part, tasks)]
        if not kept:
            raise ValueError(f'none of the {len(parts)} data sets of {name} has labels of task {", ".join(tasks)}')
        loader.dataset.datasets = [parts[index] for index in kept]
        ratios = (loader.get('sampler') or {}).get('ratios')
        if ratios is not None:
            loader.sampler.ratios = [ratios[index] for index in kept]


def _give(dataset: dict[str, Any], tasks: Sequence[str]) -> None:
    # A config's own list stays one: not every data set takes declarations.
    dataset['tasks'] = _declared(tasks) if declarations(tasks) else list(tasks)


def _give_those_with_labels(dataset: dict[str, Any], tasks: Sequence[str]) -> bool:
    """Let one of several data sets have those of some tasks that it has labels of; whether there are any."""
    kind = class_of(DATASETS, dataset['type'])
    if issubclass(kind, FromMMSeg):
        return dataset['task'] in tasks
    if not issubclass(kind, MultiTaskDataset):
        return _give_those_with_labels(dataset['dataset'], tasks)
    labelled = {**kind.LABELS, **dataset.get('labels', {})}
    found = [task for task in tasks if task in labelled]
    if found:
        _give(dataset, found)
    return bool(found)


def _declared(tasks: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Tasks as configs declare them."""
    return {task: declarations([task]).get(task, {}) for task in tasks}


def _metric(task: str, head: Mapping[str, Any]) -> dict[str, Any] | None:
    """Config of the metric of a task; None for a task that has none."""
    rules = TASKS[task]
    uncounted = rules.kind == 'classes' and rules.classes is None
    counted = dict(num_classes=head['output']['num_classes']) if uncounted else {}
    return None if rules.metric is None else rules.metric | counted


def _bare(model: Any) -> MultiTaskEncoderDecoder:
    """The model inside of its wrappers, unless those keep track of its parameters for several ranks."""
    bare, ranks = model, False
    if isinstance(model, nn.Module):
        bare = unwrapped(model)
        ranks = is_sharded(model) or any(isinstance(module, DistributedDataParallel) for module in model.modules())
    if ranks or not isinstance(bare, MultiTaskEncoderDecoder):
        raise TypeError(
            f'tasks are added to and removed from a MultiTaskEncoderDecoder, got {type(model).__name__}; of a wrapped '
            f'model pass model.module, before it is wrapped for several ranks'
        )
    return bare


def _set_tasks(model: MultiTaskEncoderDecoder, tasks: tuple[str, ...]) -> None:
    model.tasks = model.active_tasks = model.trained_tasks = tasks
    if model.task_weights is not None:
        model.task_weights.set_tasks(tasks)


def _device_of(model: MultiTaskEncoderDecoder) -> torch.device:
    return next(model.heads.parameters()).device
