"""Bring a checkpoint of MTLoRA's public code into this package's layout: encoder, updates and decoders."""

import argparse
import os
import os.path as osp
import re
import sys
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from mmvmt.engine.run_config import add_trust_argument
from mmvmt.models.checkpoint import read_checkpoint, state_dict_of
from mmvmt.models.swin_layouts import reordered, to_mmseg_layout

TASKS = {'sal': 'saliency'}
"""Names of tasks that differ, by the source's."""

DECODER = {'0': 'widen', '1': 'norm', '3': 'predictor'}
"""Layers of a decoder, by their places in the source."""

_UPDATE = re.compile(
    r'layers\.(?P<stage>\d+)\.'
    r'(?:blocks\.(?P<block>\d+)\.(?:attn|mlp)\.(?P<slot>qkv|proj|fc1|fc2)|downsample\.reduction)\.'
    r'lora_(?P<kind>shared|tasks)_(?P<side>[AB])(?:\.(?P<task>\w+))?'
)
_BLOCK = re.compile(r'layers\.(\d+)\.blocks\.(\d+)\.norm1\.weight')
_INDEX = re.compile(r'layers\.(\d+)\.(blocks\.\d+)\.attn\.relative_position_index')
_SCALE = re.compile(r'(.*)\.lora_(?:shared|task)_scale(?:\.\w+)?')
_PROJECTION = re.compile(r'downsampler\.(\w+)\.downsample_(\d)\.(weight)')
_DECODER = re.compile(r'decoders\.decoders\.(\w+)\.last_layer\.([013])\.(\w+)')


class Converted(NamedTuple):
    """A converted checkpoint.

    Args:
        weights: Weights of a ``MultiTaskEncoderDecoder``.
        method: The method that they are of: ``MTLoRA``, or ``MTLoRAPlus`` where layers between stages have updates.
        rank: Rank of the shared updates.
        task_rank: Rank of the tasks' updates.
        tasks: Names of the tasks here.
        filled: Number of layers that had no shared update and got one that is zero.
    """

    weights: dict[str, Tensor]
    method: str
    rank: int
    task_rank: int
    tasks: tuple[str, ...]
    filled: int


def convert(source: Mapping[str, Tensor]) -> Converted:
    """Rename weights, and bring the inputs of patch merging into mmseg's order.

    Args:
        source: Weights under the names of the public code.

    Raises:
        ValueError: A weight has no place here or is missing, ranks differ, or there are no updates.
    """
    encoder, updates, heads = {}, {}, {}
    for name, value in source.items():
        name = name.removeprefix('module.')
        inner = name.removeprefix('backbone.')
        update = _UPDATE.fullmatch(inner)
        if _SCALE.fullmatch(inner) or '.lora_norm.' in inner:
            raise ValueError(f'{name!r} is of an option of the public code that is not converted: only constant scales')
        if update:
            updates[tuple(update.group('stage', 'block', 'slot', 'kind', 'task', 'side'))] = value
        elif name.startswith('backbone.'):
            encoder[inner.replace('.linear.', '.')] = value
        else:
            heads |= _of_head(name, value)
    if not any(kind == 'tasks' for *_, kind, _, _ in updates):
        found = next(iter(source), 'nothing')
        raise ValueError(f'it is no checkpoint of MTLoRA: no task has updates (there is e.g. {found!r})')

    blocks = [tuple(map(int, found.groups())) for found in map(_BLOCK.fullmatch, encoder) if found]
    last = {stage: max(block for at, block in blocks if at == stage) for stage, _ in blocks}
    adapters = {}
    for (stage, block, slot, kind, task, side), value in updates.items():
        slot, at = slot or 'downsample', int(last[int(stage)] if block is None else block)
        owner = 'updates' if kind == 'shared' else f'tails.{TASKS.get(task, task)}'
        if slot == 'downsample' and side == 'A':
            value = reordered(value)
        key = f'{owner}.stage{stage}_block{at}_{slot}.{"down" if side == "A" else "up"}_weight'
        adapters[key] = value
    tasks = tuple(dict.fromkeys(name.split('.')[1] for name in adapters if name.startswith('tails.')))
    _check(adapters, tasks, last)
    rank = _rank(adapters, 'updates.')
    filled = _fill(adapters, encoder, blocks, rank)
    weights = {f'backbone.{name}': value for name, value in to_mmseg_layout(encoder, 'microsoft').items()}
    for name, value in encoder.items():
        index = _INDEX.fullmatch(name)
        if index:
            weights[f'backbone.stages.{index[1]}.{index[2]}.attn.w_msa.relative_position_index'] = value
    weights |= {f'backbone.adapters.0.{name}': value for name, value in adapters.items()}
    weights['backbone.adapters.0.merged'] = torch.tensor(False)
    plus = any(slot is None for _, _, slot, *_ in updates)
    method = 'MTLoRAPlus' if plus else 'MTLoRA'
    return Converted(weights | heads, method, rank, _rank(adapters, 'tails.'), tasks, filled)


def _of_head(name: str, value: Tensor) -> dict[str, Tensor]:
    """An entry of a decoder under our name.

    Raises:
        ValueError: It is of no decoder of the public code's default kind.
    """
    projection, decoder = _PROJECTION.fullmatch(name), _DECODER.fullmatch(name)
    if projection:
        task, level, end = projection.groups()
        return {f'heads.{TASKS.get(task, task)}.projections.{level}.{end}': value}
    if decoder:
        task, layer, end = decoder.groups()
        return {f'heads.{TASKS.get(task, task)}.{DECODER[layer]}.{end}': value}
    raise ValueError(f'{name!r} has no place here: only Swin Transformers with the HRNet heads are converted')


def _check(adapters: Mapping[str, Tensor], tasks: tuple[str, ...], last: Mapping[int, int]) -> None:
    """Check that updates have both factors, of one rank, and tasks one at each layer of last blocks that has tails.

    Raises:
        ValueError: One is missing, or the ranks of its factors differ.
    """
    layers = [f'stage{stage}_block{block}_{slot}' for stage, block in last.items() for slot in ('proj', 'fc1', 'fc2')]
    tails = [f'tails.{task}.{layer}' for task in tasks for layer in layers]
    for update in dict.fromkeys([name.rpartition('.')[0] for name in adapters] + tails):
        down, up = (adapters.get(f'{update}.{side}_weight') for side in ('down', 'up'))
        if down is None or up is None:
            missing = ' and '.join(side for side, factor in (('A', down), ('B', up)) if factor is None)
            raise ValueError(f'{update} has no {missing}; the checkpoint is not whole')
        if len(down) != up.shape[1]:
            raise ValueError(f'{update}: A has rank {len(down)}, but B {up.shape[1]}')


def _rank(adapters: Mapping[str, Tensor], prefix: str) -> int:
    """The one rank of the updates whose names begin so.

    Raises:
        ValueError: There are several.
    """
    ranks = {len(value) for name, value in adapters.items() if name.startswith(prefix) and name.endswith('down_weight')}
    if len(ranks) != 1:
        raise ValueError(f'updates must have one rank, but {prefix.rstrip(".")} have {sorted(ranks)}')
    return ranks.pop()


def _fill(adapters: dict[str, Tensor], encoder: Mapping[str, Tensor], blocks: list[tuple[int, int]], rank: int) -> int:
    """Give updates that are zero to layers without any: those of releases before June 2024 outside of last blocks.

    Returns:
        The number of these layers.

    Raises:
        ValueError: Such a layer itself is missing.
    """
    filled = 0
    for stage, block in blocks:
        for slot, place in (('qkv', 'attn'), ('proj', 'attn'), ('fc1', 'mlp'), ('fc2', 'mlp')):
            key = f'updates.stage{stage}_block{block}_{slot}.'
            if key + 'down_weight' not in adapters:
                name = f'layers.{stage}.blocks.{block}.{place}.{slot}.weight'
                if name not in encoder:
                    raise ValueError(f'{name!r} is missing; the checkpoint is not whole')
                weight = encoder[name]
                adapters[key + 'down_weight'] = weight.new_zeros(rank, weight.shape[1])
                adapters[key + 'up_weight'] = weight.new_zeros(weight.shape[0], rank)
                filled += 1
    return filled


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('source', help="checkpoint of MTLoRA's public code: a path or URL")
    parser.add_argument('target', help='file to write, .pth, for tools/test.py and load_from')
    add_trust_argument(parser)
    args = parser.parse_args(argv)
    if not args.target.endswith('.pth'):
        parser.error(f'the target must end in .pth, got {args.target!r}')
    if osp.exists(args.target):
        parser.error(f'{args.target} exists already; name another target')
    return args


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    try:
        converted = convert(state_dict_of(read_checkpoint(args.source, args.trust_checkpoint)))
    except (OSError, ValueError) as error:
        print(f'Cannot convert {args.source}: {error}', file=sys.stderr)
        return 2
    os.makedirs(osp.dirname(osp.abspath(args.target)), exist_ok=True)
    torch.save(dict(state_dict=converted.weights), args.target)
    if converted.filled:
        print(f'{converted.filled} layers had no shared update, as in releases before June 2024, and got one of zero')
    print(
        f'{args.target}: {len(converted.weights)} weights, tasks {", ".join(converted.tasks)}; they fit '
        f"backbone=dict(type='mmvmt.AdaptedSwin', features_after_merging=True, plugins=[dict(cfg=dict("
        f"type='mmvmt.{converted.method}', rank={converted.rank}, task_rank={converted.task_rank}))]) with "
        f'mmvmt.HighResolutionHead'
    )
    return 0


if __name__ == '__main__':
    sys.exit(main())
