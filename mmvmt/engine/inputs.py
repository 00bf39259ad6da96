"""What a run begins with, looked at before it starts. Nothing that mmengine's runner takes is refused."""

from __future__ import annotations

import os.path as osp
from collections.abc import Iterator
from typing import Any

import torch
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.registry import DATASETS, DefaultScope

from mmvmt.datasets import PASCALContextMT, SeededInfiniteSampler
from mmvmt.models.checkpoint import PRETRAINED, read_checkpoint
from mmvmt.models.identity import ENCODER_REMEDY, lacks_encoder
from mmvmt.registry import DATA_SAMPLERS, class_of, type_name
from mmvmt.registry import DATASETS as OUR_DATASETS

from .adapter_file import is_adapter_file, read_adapter
from .files import POINTER, latest_checkpoint, renew_pointer
from .run_config import dataset_cfgs, has_several_tasks

_LOAD_FROM = 'load_from names it: pass --cfg-options load_from=PATH, or load_from=None to start without one'


def _is_url(path: str) -> bool:
    return path.startswith(('http://', 'https://'))


def is_there(path: str) -> bool:
    """Whether a file exists, as far as that can be told: what is no local path may."""
    return '://' in path or osp.exists(osp.expanduser(path))


def read_before_run(path: str, trusted: bool = False, remedy: str = '') -> dict[str, Any]:
    """Read the checkpoint that mmengine is going to load, whose own loader falls back to executing what a file holds.

    Args:
        path: Local path or URL. What lies elsewhere, as in ``s3://`` or ``open-mmlab://``, mmengine alone can read.
        trusted: Let the file execute what it holds besides weights.
        remedy: What to do where there is no such file, for the error.

    Returns:
        The checkpoint; empty where mmengine alone can read it.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is unreadable, or holds code that loading would execute without being trusted.
    """
    if '://' in path and not _is_url(path):
        print_log(f'{path} is read by mmengine, which executes what a file holds besides weights', logger='current')
        return {}
    return read_checkpoint(path, trusted, remedy)


def check_load_from(cfg: Config, trusted: bool = False) -> None:
    """Read the weights that a training starts from.

    Where they come without the frozen ones, as adapter files do, the run sees that its encoder is theirs.

    Args:
        cfg: The config.
        trusted: Let the checkpoint execute what it holds besides weights.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is unreadable, holds code that loading would execute, or holds no encoder and ``init_cfg`` names
            none.
    """
    source = cfg.get('load_from')
    if not source or not comes_without_encoder(source, trusted, _LOAD_FROM):
        return
    if encoder_init_cfg(cfg) is None:
        raise ValueError(
            f'load_from {source!r} holds no frozen weights, and model.backbone.init_cfg is None; {ENCODER_REMEDY}'
        )
    hooks = cfg.get('custom_hooks') or ()
    if not any(type_name(hook) == 'MethodRecordHook' for hook in hooks if isinstance(hook, dict)):
        cfg.custom_hooks = [*hooks, dict(type='mmvmt.MethodRecordHook')]


def set_resume(cfg: Config, trusted: bool = False) -> None:
    """Go on from the latest checkpoint of the work dir, if there is one.

    Where it holds the encoder's weights, as by default, those of ``init_cfg`` are not asked for.

    Args:
        cfg: The config.
        trusted: Let the checkpoint execute what it holds besides weights.

    Raises:
        FileNotFoundError: There is a pointer to a checkpoint, but not the checkpoint.
        ValueError: The checkpoint is unreadable, holds code that loading would execute, or holds no encoder and
            ``init_cfg`` names none.
    """
    cfg.resume = True
    (cfg.get('model') or {}).pop('strict_heads', None)
    latest, remedy = cfg.get('load_from'), _LOAD_FROM
    if not latest:
        renew_pointer(cfg.work_dir)
        latest = latest_checkpoint(cfg.work_dir)
        pointer = osp.join(cfg.work_dir, POINTER)
        remedy = (
            f'{pointer} names it. Put it back, name another one with --cfg-options load_from=PATH, or remove {pointer} '
            f'to start from the beginning'
        )
    if latest is None:
        return
    if lacks_encoder(read_before_run(latest, trusted, remedy)):
        if encoder_init_cfg(cfg) is None:
            raise ValueError(
                f'checkpoint {latest!r} holds no frozen weights, and model.backbone.init_cfg is None; {ENCODER_REMEDY}'
            )
        return
    if ((cfg.get('default_hooks') or {}).get('checkpoint') or {}).get('save_frozen') is False:
        return
    if encoder_init_cfg(cfg) is not None:
        cfg.model.backbone.init_cfg = None
    if cfg.model.get('pretrained') is not None:
        cfg.model.pretrained = None


def check_sampler(cfg: Config) -> None:
    """Refuse a training by epochs whose first epoch would not end.

    Raises:
        ValueError: Nothing tells ``SeededInfiniteSampler``, or one that derives from it, to end its epochs.
    """
    loop, sampler = cfg.get('train_cfg') or {}, (cfg.get('train_dataloader') or {}).get('sampler')
    by_epoch = loop.get('by_epoch') or type_name(loop) == 'EpochBasedTrainLoop'
    kind = class_of(DATA_SAMPLERS, sampler['type']) if isinstance(sampler, dict) and 'type' in sampler else None
    endless = isinstance(kind, type) and issubclass(kind, SeededInfiniteSampler)
    hooks = [type_name(hook) for hook in cfg.get('custom_hooks') or () if isinstance(hook, dict)]
    if by_epoch and endless and 'RandomnessHook' not in hooks:
        raise ValueError(
            f"the first epoch would not end: {kind.__name__} needs dict(type='mmvmt.RandomnessHook') among "
            'custom_hooks to work with EpochBasedTrainLoop'
        )


def comes_without_encoder(path: str, trusted: bool = False, remedy: str = 'name a local file') -> bool:
    """Whether a file of weights holds no frozen weights: an adapter file, or a checkpoint that left them out.

    Args:
        path: Local path or URL, see :func:`read_before_run`.
        trusted: Let the file execute what it holds besides weights.
        remedy: What to do where there is no such file, for the error.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is unreadable, or holds code that loading would execute without being trusted.
    """
    if is_adapter_file(path):
        read_adapter(path)
        return True
    return lacks_encoder(read_before_run(path, trusted, remedy))


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
    failing = {dataset['data_root']: dataset for dataset in _datasets_that_fail(cfg, dataloaders)}
    for root, dataset in sorted(failing.items(), key=lambda item: item[0]):
        layout, kind = '', class_of(OUR_DATASETS, dataset.get('type', ''))
        if has_several_tasks(cfg) and (not isinstance(kind, type) or issubclass(kind, PASCALContextMT)):
            layout = (
                f' with the PASCAL_MT layout, or render one with python tools/dataset/make_synthetic.py {root} '
                f'--train 400 --val 100'
            )
        missing.append(f'data: folder {root!r} does not exist. Pass --data-root DIR{layout}')
    for source in _pretrained(cfg) if weights else ():
        remedy = (
            'Pass --cfg-options model.backbone.init_cfg.checkpoint=PATH, or model.backbone.init_cfg=None to start from '
            'random weights'
        )
        if not is_there(source):
            missing.append(f'encoder weights: file {source!r} does not exist. {remedy}')
        elif _is_url(source) and missing:
            cached = osp.join(torch.hub.get_dir(), 'checkpoints', osp.basename(source))
            if not osp.isfile(cached):
                missing.append(f'encoder weights: {source} is not downloaded yet; a run will try to. {remedy}')
    return missing


def _datasets_that_fail(cfg: Config, dataloaders: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """Data sets whose folder does not exist, and that need it."""
    for dataset in dataset_cfgs(cfg, dataloaders):
        root = dataset['data_root']
        if not isinstance(root, str) or not root or '://' in root or osp.isdir(root):
            continue
        # Its files may have whole paths, or the class a meaning of its own for data_root: only building it tells.
        try:
            with DefaultScope.overwrite_default_scope(cfg.get('default_scope')):
                built = DATASETS.build(dataset)
                if hasattr(built, 'full_init'):
                    built.full_init()
        # Whatever a class of anybody's raises: the run would fail with it.
        except Exception:
            yield dataset


def encoder_init_cfg(cfg: Config) -> Any:
    """The ``init_cfg`` of the encoder: a config, several, or None."""
    return ((cfg.get('model') or {}).get('backbone') or {}).get('init_cfg')


def _pretrained(cfg: Config) -> list[str]:
    init_cfg = encoder_init_cfg(cfg) or []
    init_cfgs = [init_cfg] if isinstance(init_cfg, dict) else init_cfg
    sources = [entry.get('checkpoint') for entry in init_cfgs if type_name(entry, 'Pretrained') in PRETRAINED]
    return [source for source in sources if isinstance(source, str)]
