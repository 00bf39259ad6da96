"""What the command-line tools change in a config before a run."""

from __future__ import annotations

import argparse
import os
import os.path as osp
from collections.abc import Callable, Iterator
from typing import Any

import torch
from mmengine.config import Config, DictAction
from mmengine.logging import print_log
from mmengine.registry import MODEL_WRAPPERS
from mmengine.utils import get_object_from_string
from torch.nn.parallel import DistributedDataParallel

from mmvmt.registry import class_of, type_in_configs, type_name

_DATALOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')
_WORKER_OPTIONS = ('persistent_workers', 'prefetch_factor', 'multiprocessing_context', 'timeout')


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that training and testing share."""
    parser.add_argument('--work-dir', help='where logs and checkpoints go (default: work_dirs/CONFIG NAME)')
    parser.add_argument('--data-root', help='folder of the data set, for every data set of the config')
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, help='override config entries, as key=value pairs'
    )
    add_trust_argument(parser)
    parser.add_argument('--compile', action='store_true', help='run encoder and heads through torch.compile')
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none', help='job launcher')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)


def add_trust_argument(parser: argparse.ArgumentParser) -> None:
    """Add the option without which nothing that a checkpoint holds is executed."""
    parser.add_argument(
        '--trust-checkpoint',
        action='store_true',
        help='let the checkpoint execute what it holds besides weights: for files of your own only',
    )


def read_config(
    path: str, options: dict[str, Any] | None = None, data_root: str | None = None, work_dir: str | None = None
) -> Config:
    """Read a config, as the command line changes it.

    Args:
        path: The file.
        options: Entries to override, by dotted keys.
        data_root: Folder for every data set.
        work_dir: Folder of the run; None: that of the config, or ``work_dirs/`` and the name of the file.

    Raises:
        ValueError: ``data_root`` is given and the config has no data set with one.
    """
    cfg = Config.fromfile(path)
    name_types(cfg)
    if options is not None:
        cfg.merge_from_dict(options)
    if data_root is not None:
        set_data_root(cfg, data_root)
    if work_dir is not None or cfg.get('work_dir') is None:
        cfg.work_dir = work_dir or osp.join('work_dirs', osp.splitext(osp.basename(path))[0])
    _leave_worker_options_out(cfg)
    return cfg


def name_types(cfg: Config | dict | list | tuple) -> None:
    """Put the name of a class or function in place of itself, under every ``type`` of a config.

    Pure-Python configs import what they name. mmengine writes such an object into the file of a changed config as it
    prints it, which cannot be read again.

    Args:
        cfg: A config, or a part of one; changed in place.
    """
    if isinstance(cfg, (list, tuple)):
        parts = cfg
    else:
        kind = cfg.get('type')
        if callable(kind) and _found_by_name(kind):
            cfg['type'] = type_in_configs(kind)
        parts = [cfg[key] for key in cfg]
    for part in parts:
        if isinstance(part, (dict, list, tuple)):
            name_types(part)


def _found_by_name(kind: type | Callable) -> bool:
    # What a function defines cannot be imported.
    try:
        return get_object_from_string(f'{kind.__module__}.{kind.__qualname__}') is kind
    except AttributeError:
        return False


def _leave_worker_options_out(cfg: Config) -> None:
    """Without workers PyTorch refuses options about them, even those that the config had for its own number."""
    for name in _DATALOADERS:
        loader = cfg.get(name)
        if loader is not None and not loader.get('num_workers'):
            for option in _WORKER_OPTIONS:
                loader.pop(option, None)


def load_run_config(args: argparse.Namespace) -> Config:
    """Read the config that the command line names, with the options of :func:`add_run_arguments` applied.

    Raises:
        ValueError: ``--data-root`` is given and the config has no data set with a ``data_root``.
    """
    # torchrun and SLURM set it; mmengine expects it of every launcher.
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    cfg = read_config(args.config, args.cfg_options, args.data_root, args.work_dir)
    if args.compile:
        _add_hook(cfg, dict(type='mmvmt.CompileHook'))
    return cfg


def schedule_options(iters: int, warm_up: float = 0.1) -> list[str]:
    """What ``--cfg-options`` takes to train a config of ours for another number of iterations.

    Args:
        iters: Iterations; validation comes after the last one.
        warm_up: Share of them in which the learning rate rises.
    """
    end = max(1, round(iters * warm_up))
    length = [f'train_cfg.max_iters={iters}', f'train_cfg.val_interval={iters}', f'param_scheduler.1.end={iters}']
    return [*length, f'param_scheduler.0.end={end}', f'param_scheduler.1.begin={end}']


def dataset_cfgs(
    cfg: Config, dataloaders: tuple[str, ...] = _DATALOADERS, key: str = 'data_root'
) -> Iterator[dict[str, Any]]:
    """Every data set of a config that has a certain entry, inside wrappers too."""
    pending = [cfg[name].dataset for name in dataloaders if cfg.get(name) is not None]
    while pending:
        dataset = pending.pop(0)
        if key in dataset:
            yield dataset
        pending.extend(dataset.get('datasets', ()))
        if isinstance(dataset.get('dataset'), dict):
            pending.append(dataset.dataset)


def set_data_root(cfg: Config, data_root: str) -> None:
    """Let every data set of a config read from this folder.

    ``--cfg-options data_root=DIR`` would come too late: the data sets took their value when the file was parsed.

    Raises:
        ValueError: The config has no data set with a ``data_root``.
    """
    found = list(dataset_cfgs(cfg))
    if not found:
        raise ValueError(
            f'{cfg.filename} has no data set with a data_root, so --data-root {data_root} would do nothing'
        )
    for dataset in found:
        dataset['data_root'] = data_root


def set_test_outputs(
    cfg: Config, out: str | None = None, show: bool = False, show_dir: str | None = None, wait_time: float = 2.0
) -> None:
    """Let a test write maps and pictures: by our hooks for several tasks, by mmsegmentation's own for its models.

    Args:
        cfg: The config.
        out: Folder for the predicted maps, in a folder per task; a segmentor of mmsegmentation has one, ``semseg``.
        show: Whether every picture is shown in a window.
        show_dir: Folder for the pictures.
        wait_time: Seconds that ``show`` waits at each picture.
    """
    several = has_several_tasks(cfg)
    if show or show_dir:
        kind = 'mmvmt.MultiTaskVisualizationHook' if several else 'mmseg.SegVisualizationHook'
        hooks = dict(cfg.get('default_hooks') or {})
        hook = dict(hooks.get('visualization') or dict(type=kind))
        hook.update(draw=True, show=show, wait_time=wait_time, interval=1)
        if several:
            hook['out_dir'] = show_dir
        elif show_dir:
            cfg.visualizer.save_dir = show_dir
        cfg.default_hooks = dict(hooks, visualization=hook)
    if out and several:
        _add_hook(cfg, dict(type='mmvmt.SavePredictionsHook', out_dir=out))
    elif out:
        metrics = _metric_cfgs(cfg.test_evaluator)
        writers = [metric for metric in metrics if type_name(metric) == 'IoUMetric']
        for metric in writers:
            metric['output_dir'] = osp.join(out, 'semseg')
        if not writers:
            names = ', '.join(map(type_name, metrics))
            print_log(f'no predicted maps are written: test_evaluator has no IoUMetric, but {names}', logger='current')


def set_tta(cfg: Config) -> None:
    """Test with the augmentations of ``tta_pipeline``, merged by ``tta_model``, as in mmsegmentation's configs.

    Raises:
        ValueError: The config has no ``tta_pipeline``.
    """
    pipeline = cfg.get('tta_pipeline')
    if pipeline is None:
        raise ValueError(
            '--tta needs a tta_pipeline in the config: one that loads the image and ends with TestTimeAug, whose '
            'transforms are scales, flips, loading of annotations and packing, as in '
            'configs/_base_/datasets/pascal_context_mt.py'
        )
    model = dict(cfg.get('tta_model') or {})
    if has_several_tasks(cfg):
        if type_name(model, 'SegTTAModel') == 'SegTTAModel':  # what configs get from mmsegmentation's own base
            model['type'] = 'mmvmt.MultiTaskTTAModel'
    else:
        model.setdefault('type', 'mmseg.SegTTAModel')
    cfg.model = dict(model, module=cfg.model)
    for dataset in dataset_cfgs(cfg, ('test_dataloader',), key='pipeline'):
        dataset['pipeline'] = pipeline


def _add_hook(cfg: Config, hook: dict[str, Any]) -> None:
    # What a config's setdefault() returns is not what it keeps.
    cfg.custom_hooks = [*(cfg.get('custom_hooks') or ()), hook]


def has_several_tasks(cfg: Config) -> bool:
    """Whether a config is of a model with a head per task."""
    return type_name(cfg.get('model', {})) == 'MultiTaskEncoderDecoder'


def _metric_cfgs(evaluator: dict[str, Any] | list[dict[str, Any]]) -> list[dict[str, Any]]:
    if isinstance(evaluator, dict):
        evaluator = evaluator.get('metrics', [evaluator])
    return [evaluator] if isinstance(evaluator, dict) else list(evaluator)


def set_amp(cfg: Config) -> None:
    """Train in mixed precision: mmengine's ``AmpOptimWrapper`` on a GPU, autocast to bfloat16 on the CPU.

    Raises:
        ValueError: The config has an optimizer wrapper of another kind.
    """
    amp = 'AmpOptimWrapper' if torch.cuda.is_available() else 'mmvmt.CPUAmpOptimWrapper'
    kind = type_name(cfg.optim_wrapper, 'OptimWrapper')
    if kind not in ('OptimWrapper', 'AmpOptimWrapper', 'CPUAmpOptimWrapper'):
        raise ValueError(f'--amp replaces an OptimWrapper, but optim_wrapper.type is {kind!r}; set it in the config')
    cfg.optim_wrapper.type = amp
    if amp == 'AmpOptimWrapper':
        cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')


def set_launcher(cfg: Config, launcher: str) -> None:
    """Prepare a distributed run. Without a GPU, ranks of torchrun meet over gloo; mmengine itself insists on CUDA.

    Raises:
        ValueError: The launcher cannot be used without a GPU.
    """
    cfg.launcher = launcher
    if launcher == 'none' or torch.cuda.is_available():
        return
    if launcher != 'pytorch':
        raise ValueError(f'--launcher {launcher} needs GPUs; on CPUs use torchrun with --launcher pytorch')
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group('gloo')
    cfg.merge_from_dict({'env_cfg.dist_cfg.backend': 'gloo'})
    if cfg.get('model_wrapper_cfg') is None:
        # As mmengine's runner wraps a model by itself.
        unused = cfg.get('find_unused_parameters', False)
        cfg.model_wrapper_cfg = dict(broadcast_buffers=False, find_unused_parameters=unused)
    wrapper = cfg.model_wrapper_cfg
    kind = class_of(MODEL_WRAPPERS, wrapper.setdefault('type', 'MMDistributedDataParallel'))
    if isinstance(kind, type) and issubclass(kind, DistributedDataParallel):
        # The runner would name the GPU of each rank.
        wrapper.device_ids = None
    if cfg.get('sync_bn') is not None:
        print_log('sync_bn is left out: SyncBatchNorm has no CPU kernel', logger='current')
        cfg.sync_bn = None


def finish_distributed() -> None:
    """Let ranks leave together; one that ends while another still talks to it makes that one fail."""
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
