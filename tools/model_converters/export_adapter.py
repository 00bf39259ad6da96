"""Take what was trained out of a checkpoint: an adapter file, which holds no frozen weights and says what it is of."""

import argparse
import os.path as osp
import sys

from mmengine.config import Config, DictAction

import mmvmt  # noqa: F401  makes the scope known before the config is read
from mmvmt.apis.weights import build_model, load_weights
from mmvmt.engine.adapter_file import HALF_DTYPES, save_adapter
from mmvmt.engine.run_config import add_trust_argument
from mmvmt.structures import NormalsAxes, read_json


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config that the checkpoint was trained with')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('out', help='adapter file to write, *.safetensors')
    parser.add_argument(
        '--half',
        nargs='?',
        choices=list(HALF_DTYPES),
        const='float16',
        help='store matrices in half precision (default type: %(const)s)',
    )
    parser.add_argument('--metrics', help='metrics.json of tools/test.py --out, to be kept in the file')
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, help='override config entries, as key=value pairs'
    )
    add_trust_argument(parser)
    return parser.parse_args(argv)


def read_metrics(path: str) -> dict[str, float]:
    """The figures of a results file.

    Raises:
        ValueError: The file is no JSON, or has no figures.
    """
    record = read_json(path)
    metrics = record.get('metrics', record) if isinstance(record, dict) else None
    if not isinstance(metrics, dict) or not all(isinstance(value, (int, float)) for value in metrics.values()):
        raise ValueError(f'{path} holds no dictionary of figures; give the metrics.json of tools/test.py --out')
    return metrics


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    try:
        metrics = read_metrics(args.metrics) if args.metrics else None
        cfg = Config.fromfile(args.config)
        if args.cfg_options is not None:
            cfg.merge_from_dict(args.cfg_options)
        model = build_model(cfg)
        meta = load_weights(model, args.checkpoint, args.trust_checkpoint)
        iteration = meta.get('iter', meta.get('iteration'))
        manifest = save_adapter(
            model,
            args.out,
            half=args.half,
            metrics=metrics,
            iteration=iteration,
            axes=NormalsAxes.of(meta.get('dataset_meta')),
        )
    except (OSError, TypeError, ValueError) as error:
        print(f'export_adapter.py: {error}', file=sys.stderr)
        return 1
    print(f'{args.out}: {osp.getsize(args.out):,} bytes, tasks {", ".join(manifest["tasks"])}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
