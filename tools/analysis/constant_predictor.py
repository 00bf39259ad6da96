"""Score the predictor that gives every pixel the best single value: the floor that every result stands above."""

import argparse
import sys

from mmengine.fileio import dump

import mmvmt  # noqa: F401  makes the scope known before the config is read
from mmvmt.engine.inputs import missing_inputs
from mmvmt.engine.provenance import run_record
from mmvmt.engine.run_config import add_run_arguments, load_run_config
from mmvmt.evaluation.constant_predictor import score_constant_predictor


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file; its validation set and evaluator are used')
    parser.add_argument('--out', metavar='FILE', help='file for the metrics, .json')
    add_run_arguments(parser)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    cfg = load_run_config(args)
    missing = missing_inputs(cfg, ('val_dataloader',), weights=False)
    if missing:
        print('Cannot score yet:', *(f'- {line}' for line in missing), sep='\n', file=sys.stderr)
        return 2
    metrics = score_constant_predictor(cfg)
    if args.out:
        dump(run_record() | dict(config=args.config, metrics=metrics), args.out, indent=2)
    return 0


if __name__ == '__main__':
    sys.exit(main())
