"""Take the encoders out of a checkpoint of a pretraining, in half precision: FOLDER/swin_NAME.safetensors of each.
The frozen weights of a model are as good in half precision; a model that loads them has them in its own."""

import argparse
import hashlib
import sys
from pathlib import Path

from safetensors.torch import save
from torch import Tensor

from mmvmt.engine.files import write_atomically
from mmvmt.engine.run_config import add_trust_argument
from mmvmt.models.checkpoint import read_checkpoint, state_dict_of


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('checkpoint', help='checkpoint of configs/pretrain/swin_nano_pico_attributes.py')
    parser.add_argument('folder', type=Path, help='folder to write to')
    parser.add_argument('names', nargs='*', help='encoders of that config (default: all)')
    add_trust_argument(parser)
    return parser.parse_args(argv)


def encoders_of(checkpoint: str, names: list[str], trusted: bool) -> dict[str, dict[str, Tensor]]:
    """Weights of the encoders of a checkpoint in half precision, by name.

    Raises:
        OSError: There is no such file.
        ValueError: It does not hold such an encoder, or values that half precision does not have.
    """
    weights = state_dict_of(read_checkpoint(checkpoint, trusted))
    known = sorted({name.split('.')[1] for name in weights if name.startswith('encoders.')})
    if not known:
        raise ValueError(f'checkpoint {checkpoint!r} is of no AttributeClassifier; give one of configs/pretrain')
    if not set(names) <= set(known):
        missing = ', '.join(sorted(set(names) - set(known)))
        raise ValueError(f'checkpoint {checkpoint!r} holds no encoder {missing}; it holds {", ".join(known)}')
    found = {}
    for name in names or known:
        prefix = f'encoders.{name}.backbone.'
        found[name] = {
            key.removeprefix(prefix): (value.half() if value.is_floating_point() else value).contiguous()
            for key, value in weights.items()
            if key.startswith(prefix)
        }
        if not all(value.isfinite().all() for value in found[name].values()):
            raise ValueError(f'encoder {name} of {checkpoint!r} holds values that half precision does not have')
    return found


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    try:
        for name, weights in encoders_of(args.checkpoint, args.names, args.trust_checkpoint).items():
            data = save(weights, metadata=dict(format='pt'))
            path = args.folder / f'swin_{name}.safetensors'
            write_atomically(str(path), data)
            print(f'{path}: {len(data):,} bytes, sha256 {hashlib.sha256(data).hexdigest()}')
    except (OSError, ValueError) as error:
        print(f'export_encoders.py: {error}', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
