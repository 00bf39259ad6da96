"""Test a checkpoint. Same calling convention as mmsegmentation's tools/test.py, plus --data-root."""

import argparse
import os.path as osp
import sys

from mmengine.dist import is_main_process
from mmengine.fileio import dump

import mmvmt  # noqa: F401  makes the scope known before the config is read
from mmvmt.engine.provenance import run_record
from mmvmt.engine.run_config import (
    add_run_arguments,
    finish_distributed,
    load_run_config,
    missing_inputs,
    set_launcher,
)
from mmvmt.models.checkpoint import read_checkpoint


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('--out', help='folder for metrics.json and the predicted maps, in the formats of PASCAL_MT')
    parser.add_argument('--show', action='store_true', help='show every picture in a window')
    parser.add_argument('--show-dir', help='folder for one labelled picture per image')
    parser.add_argument('--wait-time', type=float, default=2.0, help='seconds that --show waits at each picture')
    add_run_arguments(parser)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    cfg = load_run_config(args)
    cfg.load_from = args.checkpoint
    if args.show or args.show_dir:
        cfg.setdefault('default_hooks', {}).setdefault('visualization', dict(type='mmvmt.MultiTaskVisualizationHook'))
        cfg.default_hooks.visualization.update(
            draw=True, show=args.show, wait_time=args.wait_time, out_dir=args.show_dir, interval=1
        )
    if args.out:
        cfg.setdefault('custom_hooks', []).append(dict(type='mmvmt.SavePredictionsHook', out_dir=args.out))

    missing = missing_inputs(cfg, ('test_dataloader',), weights=False)
    if not osp.isfile(args.checkpoint) and not args.checkpoint.startswith(('http://', 'https://')):
        missing.append(f'checkpoint: file {args.checkpoint!r} does not exist')
    if missing:
        print('Cannot test yet:', *(f'- {line}' for line in missing), sep='\n', file=sys.stderr)
        return 2
    # mmengine's own loader falls back to executing what a file holds.
    read_checkpoint(args.checkpoint)
    set_launcher(cfg, args.launcher)

    from mmengine.runner import Runner

    runner = Runner.from_cfg(cfg)
    metrics = runner.test()
    if args.out and is_main_process():
        record = run_record(seed=runner.seed) | dict(
            config=args.config,
            checkpoint=args.checkpoint,
            metrics={key: float(value) for key, value in metrics.items()},
        )
        dump(record, osp.join(args.out, 'metrics.json'), indent=2)
    finish_distributed()
    return 0


if __name__ == '__main__':
    sys.exit(main())
