"""Bring the weights of a Swin Transformer from mmpretrain, Microsoft's release or timm into mmsegmentation's layout."""

import argparse
import os
import os.path as osp
import sys

import torch
from safetensors.torch import save_file

from mmvmt.engine.run_config import add_trust_argument
from mmvmt.models.checkpoint import read_encoder
from mmvmt.models.swin_layouts import ENCODER_PARTS

LAYOUTS = {'mmpretrain': 'mmseg', 'microsoft': 'microsoft', 'timm': 'timm'}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('source', help='checkpoint: a path or URL; .safetensors files too')
    parser.add_argument('target', help='file to write, .pth (which mmsegmentation reads) or .safetensors')
    parser.add_argument('--layout', choices=['auto', *LAYOUTS], default='auto', help='layout of the source')
    add_trust_argument(parser)
    args = parser.parse_args(argv)
    if not args.target.endswith(('.pth', '.safetensors')):
        parser.error(f'the target must end in .pth or .safetensors, got {args.target!r}')
    if osp.exists(args.target):
        parser.error(f'{args.target} exists already; name another target')
    return args


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    try:
        weights, layout = read_encoder(args.source, args.trust_checkpoint, LAYOUTS.get(args.layout))
    except (OSError, ValueError) as error:
        print(f'Cannot convert {args.source}: {error}', file=sys.stderr)
        return 2
    # Entries that no Swin Transformer has: classifiers, projectors, adapters of another model.
    kept = (*ENCODER_PARTS, 'norm')
    encoder = {name: value.contiguous() for name, value in weights.items() if name.startswith(kept)}
    if not any(name.endswith('relative_position_bias_table') for name in encoder):
        found = next(iter(weights), 'nothing')
        print(
            f'Cannot convert {args.source}: it holds no Swin Transformer of the first version (but e.g. {found!r})',
            file=sys.stderr,
        )
        return 2
    os.makedirs(osp.dirname(osp.abspath(args.target)), exist_ok=True)
    if args.target.endswith('.pth'):
        torch.save(dict(state_dict=encoder), args.target)
    else:
        save_file(encoder, args.target)
    name = next(name for name, key in LAYOUTS.items() if key == layout)
    entries = sum(value.numel() for value in encoder.values())
    print(f'{args.target}: {len(encoder)} weights of {entries:,} entries, from {name}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
