"""Test a checkpoint. Same calling convention as mmsegmentation's tools/test.py, plus --data-root."""

import argparse
import os.path as osp
import sys

from mmengine.dist import is_main_process
from mmengine.fileio import dump

import mmvmt  # noqa: F401  makes the scope known before the config is read
from mmvmt.apis.weights import declare_tasks_of
from mmvmt.engine.adapter_file import is_adapter_file, load_adapter
from mmvmt.engine.inputs import comes_without_encoder, is_there, missing_inputs
from mmvmt.engine.provenance import run_record
from mmvmt.engine.run_config import (
    add_run_arguments,
    finish_distributed,
    load_run_config,
    set_launcher,
    set_test_outputs,
    set_tta,
)
from mmvmt.evaluation import MultiTaskEvaluator
from mmvmt.models.identity import ENCODER_REMEDY, load_pretrained
from mmvmt.structures import warn_of_other_axes


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file, or adapter file (.safetensors)')
    parser.add_argument('--out', help='folder for metrics.json and the predicted maps, one folder per task')
    parser.add_argument('--show', action='store_true', help='show every picture in a window')
    parser.add_argument('--show-dir', help='folder for one labelled picture per image')
    parser.add_argument('--wait-time', type=float, default=2.0, help='seconds that --show waits at each picture')
    parser.add_argument('--tta', action='store_true', help="test-time augmentation by the config's tta_pipeline")
    add_run_arguments(parser)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    args.checkpoint = osp.expanduser(args.checkpoint)
    cfg = load_run_config(args)
    is_adapter = is_adapter_file(args.checkpoint)
    cfg.load_from = None if is_adapter else args.checkpoint
    cfg.get('model', {}).pop('strict_heads', None)  # what is tested is what was trained
    set_test_outputs(cfg, args.out, args.show, args.show_dir, args.wait_time)

    exists = is_there(args.checkpoint)
    if exists:
        declare_tasks_of(cfg, args.checkpoint, args.trust_checkpoint)
    # mmengine's own loader falls back to executing what a file holds: this one refuses such a file.
    needs_encoder = exists and comes_without_encoder(args.checkpoint, args.trust_checkpoint)
    missing = missing_inputs(cfg, ('test_dataloader',), weights=needs_encoder)
    if not exists:
        missing.append(f'checkpoint: file {args.checkpoint!r} does not exist')
    if needs_encoder and cfg.model.backbone.get('init_cfg') is None:
        missing.append(f'encoder weights: {args.checkpoint!r} holds no frozen weights; {ENCODER_REMEDY}')
    if missing:
        print('Cannot test yet:', *(f'- {line}' for line in missing), sep='\n', file=sys.stderr)
        return 2
    if args.tta:
        set_tta(cfg)
    set_launcher(cfg, args.launcher)

    from mmengine.runner import Runner

    runner = Runner.from_cfg(cfg)
    if needs_encoder:
        load_pretrained(runner.model, f'{args.checkpoint!r}')
    if is_adapter:
        manifest = load_adapter(runner.model, args.checkpoint)
        data = getattr(runner.test_dataloader.dataset, 'metainfo', None)
        warn_of_other_axes(manifest.get('dataset_meta'), data, f'the adapter file {args.checkpoint}')
    metrics = runner.test()
    if args.out and is_main_process():
        record = run_record(seed=runner.seed) | dict(
            config=args.config,
            checkpoint=args.checkpoint,
            metrics={key: float(value) for key, value in metrics.items()},
        )
        evaluator = runner.test_loop.evaluator
        if isinstance(evaluator, MultiTaskEvaluator):
            # Figures that serve as references of Delta_m carry the protocol that they were measured under.
            record['protocol'] = evaluator.protocol_record()
        dump(record, osp.join(args.out, 'metrics.json'), indent=2)
    finish_distributed()
    return 0


if __name__ == '__main__':
    sys.exit(main())
