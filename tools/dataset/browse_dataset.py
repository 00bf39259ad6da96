"""Write pictures of samples as the pipeline of a config hands them to the model: image and all maps side by side."""

import argparse
import itertools
import sys
from pathlib import Path

import numpy as np
from mmengine.config import Config, DictAction
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS, init_default_scope
from mmengine.structures import BaseDataElement
from PIL import Image
from rich.progress import track

import mmvmt  # noqa: F401  makes the scope known before the config is read
from mmvmt.datasets.samplers import SampleKey, derive_seed
from mmvmt.engine.run_config import set_data_root
from mmvmt.structures import TASKS, NormalsAxes
from mmvmt.visualization.drawing import draw_multi_task


def draw_sample(packed: dict) -> np.ndarray:
    """Draw one sample of a pipeline that ends with ``PackMultiTaskInputs``.

    Args:
        packed: ``dict(inputs, data_samples)``.

    Returns:
        ``(H, W, 3)`` uint8 canvas, RGB.

    Raises:
        TypeError: The pipeline does not pack its sample.
    """
    if not isinstance(packed, dict) or not isinstance(packed.get('data_samples'), BaseDataElement):
        raise TypeError('the pipeline does not end with mmvmt.PackMultiTaskInputs; add it as its last transform')
    image = np.ascontiguousarray(packed['inputs'].numpy()[::-1].transpose(1, 2, 0))
    sample = packed['data_samples']
    maps = dict(sample.gt.items()) if 'gt' in sample else {}
    height, width = image.shape[:2]
    title = f'{sample.get("img_id", "")}   {width} x {height} pixels'
    if sample.get('rotation'):
        title += f', rotated by {sample.rotation:.1f} degrees'
    if sample.get('flip'):
        title += ', flipped'
    ordered = {task: maps[task] for task in TASKS if task in maps}
    return draw_multi_task(image, {'ground truth': ordered}, title, NormalsAxes.of(sample))


def sample_keys(dataset: BaseDataset, number: int, img_ids: list[str] | None, seed: int) -> list[SampleKey]:
    """Indices of the samples to draw, each with a seed of its own for the random transforms.

    Of several data sets in one, the first ones of each.
    """
    if img_ids is not None:
        chosen = map(dataset.index_of, img_ids)
    else:
        ends = getattr(dataset, 'cumulative_sizes', [len(dataset)])
        parts = [range(begin, end) for begin, end in zip([0, *ends], ends)]
        in_turn = (index for row in itertools.zip_longest(*parts) for index in row if index is not None)
        chosen = sorted(itertools.islice(in_turn, number))
    return [SampleKey(index, derive_seed('browse', seed, index)) for index in chosen]


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('--split', choices=['train', 'val', 'test'], default='train', help='whose data loader to use')
    parser.add_argument('--out', type=Path, default=Path('work_dirs/browse'), help='folder of the pictures')
    parser.add_argument(
        '--number',
        type=int,
        default=20,
        help='number of samples, from the start of the list; of several data sets, of each in turn',
    )
    parser.add_argument('--ids', nargs='+', metavar='ID', help='these images instead')
    parser.add_argument('--seed', type=int, default=0, help='seed of the random transforms')
    parser.add_argument('--data-root', help='folder of the data set')
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, help='override config entries, as key=value pairs'
    )
    args = parser.parse_args(argv)
    if args.number < 1:
        parser.error(f'--number must be at least 1, got {args.number}')
    return args


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    cfg = Config.fromfile(args.config)
    if args.cfg_options is not None:
        cfg.merge_from_dict(args.cfg_options)
    if args.data_root is not None:
        set_data_root(cfg, args.data_root)
    init_default_scope(cfg.get('default_scope', 'mmvmt'))
    dataset = DATASETS.build(cfg[f'{args.split}_dataloader'].dataset)
    args.out.mkdir(parents=True, exist_ok=True)
    keys = sample_keys(dataset, args.number, args.ids, args.seed)
    for key in track(keys, description='drawing', transient=True):
        packed = dataset[key]
        picture = draw_sample(packed)
        # The ID is that of the sample drawn: the data set may have replaced the one asked for.
        # IDs may name folders.
        img_id = str(packed['data_samples'].get('img_id', '')).replace('/', '_')
        name = f'{args.split}_{int(key):05d}_{img_id}.png'
        Image.fromarray(picture).save(args.out / name)
    print(f'{len(keys)} pictures in {args.out}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
