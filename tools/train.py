"""Train a model. Same calling convention as mmsegmentation's tools/train.py, plus --data-root."""

import argparse
import os
import os.path as osp
import sys

from mmengine.config import Config, DictAction

import mmvmt  # noqa: F401  makes the scope known before the config is read
from mmvmt.engine.run_config import (
    finish_distributed,
    missing_inputs,
    set_amp,
    set_data_root,
    set_launcher,
    set_resume,
)
from mmvmt.models.checkpoint import read_checkpoint


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('--work-dir', help='where logs and checkpoints go (default: work_dirs/CONFIG NAME)')
    parser.add_argument('--data-root', help='folder of the data set, for every data set of the config')
    parser.add_argument('--resume', action='store_true', help='go on from the latest checkpoint in the work dir')
    parser.add_argument('--amp', action='store_true', help='mixed precision (bfloat16 where there is no GPU)')
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, help='override config entries, as key=value pairs'
    )
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none', help='job launcher')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return args


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    cfg = Config.fromfile(args.config)
    if args.cfg_options is not None:
        cfg.merge_from_dict(args.cfg_options)
    if args.data_root is not None:
        set_data_root(cfg, args.data_root)
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = osp.join('work_dirs', osp.splitext(osp.basename(args.config))[0])
    if args.amp:
        set_amp(cfg)
    if args.resume or cfg.get('resume', False):
        set_resume(cfg)
    elif cfg.get('load_from'):
        read_checkpoint(cfg.load_from)

    missing = missing_inputs(cfg, ('train_dataloader', 'val_dataloader'), weights=True)
    if missing:
        print('Cannot train yet:', *(f'- {line}' for line in missing), sep='\n', file=sys.stderr)
        return 2
    set_launcher(cfg, args.launcher)

    from mmengine.runner import Runner

    Runner.from_cfg(cfg).train()
    finish_distributed()
    return 0


if __name__ == '__main__':
    sys.exit(main())
