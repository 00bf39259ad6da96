"""What the command-line tools change in a config before a run."""

from __future__ import annotations

import argparse
import os
import os.path as osp
from collections.abc import Iterator
from typing import Any

import torch
from mmengine.config import Config, DictAction
from mmengine.logging import print_log
from mmengine.runner import find_latest_checkpoint

from mmvmt.models.checkpoint import read_checkpoint
from mmvmt.models.identity import ENCODER_REMEDY, lacks_encoder

from .adapter_file import is_adapter_file

_DATALOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')


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


def load_run_config(args: argparse.Namespace) -> Config:
    """Read the config that the command line names, with the options of :func:`add_run_arguments` applied.

    Raises:
        ValueError: ``--data-root`` is given and the config has no data set with a ``data_root``.
    """
    # torchrun and SLURM set it; mmengine expects it of every launcher.
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    cfg = Config.fromfile(args.config)
    if args.cfg_options is not None:
        cfg.merge_from_dict(args.cfg_options)
    if args.data_root is not None:
        set_data_root(cfg, args.data_root)
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = osp.join('work_dirs', osp.splitext(osp.basename(args.config))[0])
    if args.compile:
        _add_hook(cfg, dict(type='mmvmt.CompileHook'))
    return cfg


def dataset_cfgs(cfg: Config, dataloaders: tuple[str, ...] = _DATALOADERS) -> Iterator[dict[str, Any]]:
    """Every data set of a config that has a ``data_root``, inside wrappers too."""
    pending = [cfg[name].dataset for name in dataloaders if cfg.get(name) is not None]
    while pending:
        dataset = pending.pop(0)
        if 'data_root' in dataset:
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
    several = _has_several_tasks(cfg)
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
        writers = [metric for metric in metrics if _type_name(metric) == 'IoUMetric']
        for metric in writers:
            metric['output_dir'] = osp.join(out, 'semseg')
        if not writers:
            names = ', '.join(map(_type_name, metrics))
            print_log(f'no predicted maps are written: test_evaluator has no IoUMetric, but {names}', logger='current')


def _add_hook(cfg: Config, hook: dict[str, Any]) -> None:
    # What a config's setdefault() returns is not what it keeps.
    cfg.custom_hooks = [*(cfg.get('custom_hooks') or ()), hook]


def _type_name(cfg: dict[str, Any]) -> str:
    kind = cfg.get('type', '')
    return kind.rpartition('.')[2] if isinstance(kind, str) else kind.__name__


def _has_several_tasks(cfg: Config) -> bool:
    return _type_name(cfg.get('model', {})) == 'MultiTaskEncoderDecoder'


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
    kind = cfg.optim_wrapper.get('type', 'OptimWrapper')
    if kind not in ('OptimWrapper', 'AmpOptimWrapper', 'mmvmt.CPUAmpOptimWrapper'):
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
    cfg.setdefault(
        'model_wrapper_cfg', dict(type='MMDistributedDataParallel', device_ids=None, broadcast_buffers=False)
    )
    if cfg.get('sync_bn') is not None:
        print_log('sync_bn is left out: SyncBatchNorm has no CPU kernel', logger='current')
        cfg.sync_bn = None


def finish_distributed() -> None:
    """Let ranks leave together; one that ends while another still talks to it makes that one fail."""
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def set_resume(cfg: Config, trusted: bool = False) -> None:
    """Go on from the latest checkpoint of the work dir, if there is one.

    Where it holds the encoder's weights, as by default, those of ``init_cfg`` are not asked for.

    Args:
        cfg: The config.
        trusted: Let the checkpoint execute what it holds besides weights.

    Raises:
        ValueError: The checkpoint is unreadable, holds code that loading would execute, or holds no encoder and
            ``init_cfg`` names none.
    """
    cfg.resume = True
    latest = cfg.get('load_from') or find_latest_checkpoint(cfg.work_dir)
    if latest is not None:
        # mmengine's own loader falls back to executing what a file holds.
        if lacks_encoder(read_checkpoint(latest, trusted)):
            if _encoder_init_cfg(cfg) is None:
                raise ValueError(
                    f'checkpoint {latest!r} holds no frozen weights, and model.backbone.init_cfg is None; '
                    f'{ENCODER_REMEDY}'
                )
            return
        if (cfg.get('default_hooks', {}).get('checkpoint') or {}).get('save_frozen') is False:
            return
        if cfg.model.get('backbone', {}).get('init_cfg') is not None:
            cfg.model.backbone.init_cfg = None
        if cfg.model.get('pretrained') is not None:
            cfg.model.pretrained = None


def _encoder_init_cfg(cfg: Config) -> dict[str, Any] | None:
    return cfg.get('model', {}).get('backbone', {}).get('init_cfg')


def comes_without_encoder(path: str, trusted: bool = False) -> bool:
    """Whether a file of weights holds no frozen weights: an adapter file, or a checkpoint that left them out.

    Args:
        path: Local path or URL.
        trusted: Let the file execute what it holds besides weights.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is unreadable, or holds code that loading would execute without being trusted.
    """
    return is_adapter_file(path) or lacks_encoder(read_checkpoint(path, trusted))


def missing_inputs(cfg: Config, dataloaders: tuple[str, ...], weights: bool) -> list[str]:
    """What a run would miss, each with its remedy: data folders and, for training, encoder weights.

    Args:
        cfg: The config.
        dataloaders: Names of the data loaders that the run uses.
        weights: Whether the encoder's ``init_cfg`` is needed.

    Returns:
        One message per missing thing; empty if a run can start. Weights at a URL are named only beside another gap.
    """
    missing = []
    roots = {dataset['data_root'] for dataset in dataset_cfgs(cfg, dataloaders)}
    for root in sorted(root for root in roots if not osp.isdir(root)):
        layout = ''
        if _has_several_tasks(cfg):
            layout = (
                f' with the PASCAL_MT layout, or render one with python tools/dataset/make_synthetic.py {root} '
                f'--train 400 --val 100'
            )
        missing.append(f'data: folder {root!r} does not exist. Pass --data-root DIR{layout}')
    init_cfg = _encoder_init_cfg(cfg) if weights else None
    if init_cfg and isinstance(init_cfg.get('checkpoint'), str):
        source = init_cfg['checkpoint']
        remedy = (
            'Pass --cfg-options model.backbone.init_cfg.checkpoint=PATH, or model.backbone.init_cfg=None to start from '
            'random weights'
        )
        if source.startswith(('http://', 'https://')):
            cached = osp.join(torch.hub.get_dir(), 'checkpoints', osp.basename(source))
            if missing and not osp.isfile(cached):
                missing.append(f'encoder weights: {source} is not downloaded yet; a run will try to. {remedy}')
        elif not osp.isfile(osp.expanduser(source)):
            missing.append(f'encoder weights: file {source!r} does not exist. {remedy}')
    return missing
