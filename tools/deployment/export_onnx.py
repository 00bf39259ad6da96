"""Write a whole multi-task model as one ONNX file, or as a torch.export program, and compare it with the model.

The input `image` is (batch, 3, height, width): uint8 in BGR order as OpenCV reads it (RGB where the config's data
preprocessor takes that), or with --normalised float32 as it enters the encoder. There is one output per task, named as
the task, at the size of the input. The config's test pipeline, its resizing for instance, is no part of the file."""

import argparse
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config, DictAction
from torch import Tensor

from mmvmt.apis.inferencer import split_tasks
from mmvmt.apis.weights import build_model, load_weights
from mmvmt.engine.run_config import add_trust_argument
from mmvmt.models import MultiTaskEncoderDecoder
from mmvmt.models.export import MultiTaskGraph, example_images, export_graph, save_onnx
from mmvmt.models.task_heads.base import upsample
from mmvmt.structures import TASKS, NormalsAxes

SUFFIXES = {'onnx': '.onnx', 'torch-export': '.pt2'}
Outputs = Sequence[np.ndarray]


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint or adapter file')
    parser.add_argument('out', type=Path, help='file to write: .onnx, or .pt2 with --format torch-export')
    parser.add_argument('--format', choices=list(SUFFIXES), default='onnx', help='kind of file (default: %(default)s)')
    parser.add_argument('--height', type=int, default=224, help='height of the images in pixels (default: %(default)s)')
    parser.add_argument('--width', type=int, default=288, help='width of the images in pixels (default: %(default)s)')
    parser.add_argument(
        '--dynamic',
        action='store_true',
        help='any size from 33 pixels on (65 with an AdaptedBackbone), not --height and --width alone',
    )
    parser.add_argument('--tasks', help='tasks to put out, with commas between them (default: all of the model)')
    parser.add_argument('--normalised', action='store_true', help='take normalised float32 images')
    parser.add_argument('--logits', action='store_true', help='put out logits (batch, channels, height, width)')
    parser.add_argument(
        '--tolerance', type=float, default=1e-4, help='largest difference from the model, per value above 1 relative'
    )
    parser.add_argument('--no-check', action='store_true', help='do not compare the file with the model')
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, help='override config entries, as key=value pairs'
    )
    add_trust_argument(parser)
    args = parser.parse_args(argv)
    if args.out.suffix != SUFFIXES[args.format]:
        parser.error(f'a file of --format {args.format} must end in {SUFFIXES[args.format]}, got {str(args.out)!r}')
    return args


def check_packages(args: argparse.Namespace) -> None:
    """See that what the format needs is installed, before the model is traced.

    Raises:
        ImportError: A package is missing.
    """
    names = ['onnx', 'onnxscript'] + ([] if args.no_check else ['onnxruntime'])
    missing = [name for name in names if args.format == 'onnx' and find_spec(name) is None]
    if missing:
        raise ImportError(
            f'ONNX files need the packages {", ".join(missing)}: pip install -r requirements/optional.txt (without '
            f'onnxruntime, --no-check leaves the comparison out)'
        )


def open_file(path: Path) -> Callable[[Tensor], Outputs]:
    """A function that runs a written file."""
    if path.suffix == '.onnx':
        import onnxruntime

        session = onnxruntime.InferenceSession(str(path), providers=['CPUExecutionProvider'])
        return lambda images: session.run(None, {'image': images.numpy()})
    module = torch.export.load(path).module()
    return lambda images: [output.detach().numpy() for output in module(images)]


@torch.no_grad()
def expected_logits(model: MultiTaskEncoderDecoder, graph: MultiTaskGraph, images: Tensor) -> dict[str, Tensor]:
    """Logits of the model itself, by its own data preprocessor and encoder, at the size of the images."""
    inputs = images if graph.normalised else model.data_preprocessor(dict(inputs=images))['inputs']
    logits = model.encode_decode(inputs, graph.tasks)
    return {t: upsample(x.float(), images.shape[2:], model.heads[t].align_corners) for t, x in logits.items()}


def difference(model: MultiTaskEncoderDecoder, graph: MultiTaskGraph, outputs: Outputs, images: Tensor) -> float:
    """Largest difference between a file and the model: absolute up to values of 1, relative above.

    The class of a pixel may differ by as much as the model itself prefers the one over the other.
    """
    largest = 0.0
    for (task, logits), output in zip(expected_logits(model, graph, images).items(), outputs):
        got = torch.from_numpy(np.asarray(output))
        if TASKS[task].kind == 'classes' and not graph.logits:
            chosen = logits.gather(1, got.long().unsqueeze(1)).squeeze(1)
            expected, got = logits.amax(1), chosen
        else:
            expected = logits if graph.logits else model.heads[task].predict(logits)
            expected = expected.squeeze(1) if got.ndim == 3 else expected
        if got.shape != expected.shape:
            raise ValueError(f'output {task!r} has the shape {tuple(got.shape)}, the model {tuple(expected.shape)}')
        scaled = (got - expected).abs() / expected.abs().clamp(min=1)
        largest = max(largest, scaled.max().item())
    return largest


def check(args: argparse.Namespace, model: MultiTaskEncoderDecoder, graph: MultiTaskGraph, path: Path) -> bool:
    """Compare a file with the model at several sizes, odd ones too, and say how far they are apart."""
    run = open_file(path)
    height, width = args.height, args.width
    sizes = [(2, height, width), (1, height, width)]
    if args.dynamic:
        edge = graph.smallest_edge
        sizes += [(1, max(edge, height - 31), width + 17), (3, height // 2 + edge, 65), (1, edge, 2 * width + 1)]
    good = True
    for index, (batch, height, width) in enumerate(sizes):
        images = example_images(graph, batch, height, width, seed=index)
        largest = difference(model, graph, run(images), images)
        good = good and largest <= args.tolerance
        print(f'{batch} x {height} x {width}: largest difference {largest:.1e}')
    return good


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    try:
        check_packages(args)
        cfg = Config.fromfile(args.config)
        if args.cfg_options is not None:
            cfg.merge_from_dict(args.cfg_options)
        model = build_model(cfg)
        if not isinstance(model, MultiTaskEncoderDecoder):
            raise TypeError(f'only a MultiTaskEncoderDecoder can be exported, got {type(model).__name__}')
        meta = load_weights(model, args.checkpoint, args.trust_checkpoint)
        axes = NormalsAxes.of(meta.get('dataset_meta')) or NormalsAxes()
        tasks = split_tasks(args.tasks)
        graph = MultiTaskGraph(model, tasks=tasks, normalised=args.normalised, logits=args.logits, axes=axes)
        program = export_graph(graph, height=args.height, width=args.width, dynamic=args.dynamic)
        args.out.parent.mkdir(parents=True, exist_ok=True)
        # A file gets its name once it is known to compute what the model does.
        unchecked = args.out.with_stem(f'{args.out.stem}.unchecked')
        if args.format == 'onnx':
            save_onnx(program, graph, str(unchecked))
        else:
            torch.export.save(program, unchecked, extra_files=graph.description())
    except (OSError, ImportError, TypeError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    if not args.no_check and not check(args, model, graph, unchecked):
        print(
            f'the file differs from the model by more than {args.tolerance:g}; it stays as {unchecked}', file=sys.stderr
        )
        return 1
    unchecked.replace(args.out)
    print(f'{args.out}: {args.out.stat().st_size / 2**20:.1f} MiB, outputs {", ".join(graph.tasks)}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
