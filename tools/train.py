"""Train a model. Same calling convention as mmsegmentation's tools/train.py, plus --data-root."""

import argparse
import sys

import mmvmt  # noqa: F401  makes the scope known before the config is read
from mmvmt.apis.weights import declare_tasks_of
from mmvmt.engine.inputs import check_load_from, check_sampler, missing_inputs, set_resume
from mmvmt.engine.run_config import (
    add_run_arguments,
    finish_distributed,
    load_run_config,
    set_amp,
    set_launcher,
)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('--resume', action='store_true', help='go on from the latest checkpoint in the work dir')
    parser.add_argument('--amp', action='store_true', help='mixed precision (bfloat16 where there is no GPU)')
    add_run_arguments(parser)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    cfg = load_run_config(args)
    if args.amp:
        set_amp(cfg)
    check_sampler(cfg)
    if args.resume or cfg.get('resume', False):
        set_resume(cfg, args.trust_checkpoint)
    else:
        check_load_from(cfg, args.trust_checkpoint)
        if cfg.get('load_from'):
            declare_tasks_of(cfg, cfg.load_from, args.trust_checkpoint)

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
