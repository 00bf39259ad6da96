"""Swin Transformer weights under the key names of others, brought into those of mmsegmentation.

mmpretrain's names are mmseg's. Microsoft's releases and timm name the layers otherwise, and order the inputs of patch
merging otherwise: theirs are four blocks of C channels, one for each pixel of the 2 x 2 patch, those of mmseg
(``nn.Unfold``) are C blocks of four pixels. Timm has patch merging at the start of a stage, the others at the end of
the one before. Microsoft's encoders for detection and segmentation have an output norm per stage, as mmseg's have,
where its classifiers have one behind the last stage.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

LAYOUTS = ('mmseg', 'microsoft', 'timm')
"""Layouts of keys; ``mmseg`` is mmpretrain's too."""

ENCODER_PARTS = ('patch_embed.', 'stages.', 'absolute_pos_embed')
"""How names begin in mmseg's layout that belong to the encoder, whatever stands beside it; output norms aside."""

BUFFERS = ('relative_position_index', 'attn_mask')
"""Ends of names whose values follow from the architecture."""

_PLACE = re.compile(r'((?:[^.]+\.)*?)(?:(patch_embed\.proj(?:ection)?)|(?:stages|layers)\.\d+\.blocks\.\d+)\.')
_USUAL = ('', 'backbone', 'encoder', 'model', 'module')
_LAYER = re.compile(r'layers\.(\d+)\.(.+)')
_BLOCK = re.compile(
    r'(blocks\.\d+)\.(?:(norm[12])|(attn\.(?:qkv|proj|relative_position_bias_table))|mlp\.(fc[12]))\b(.*)'
)
_MERGING = re.compile(r'layers\.(\d+)\.downsample\.')
_MLP = {'fc1': 'ffn.layers.0.0', 'fc2': 'ffn.layers.1'}
_NAMES = {
    (96, (2, 2, 6, 2)): 'Swin-T',
    (96, (2, 2, 18, 2)): 'Swin-S',
    (128, (2, 2, 18, 2)): 'Swin-B',
    (192, (2, 2, 18, 2)): 'Swin-L',
}


def without_prefix(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of the encoder in those of a whole model, under whatever name that has it.

    Raises:
        ValueError: There are several encoders.
    """
    prefix = _prefix(weights)
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}


def _prefix(names: Iterable[str]) -> str:
    """What stands in front of the names of the encoder."""
    places = [found for found in map(_PLACE.match, names) if found]
    # Other parts of a model may have stages and blocks, but only an encoder embeds patches.
    prefixes = {found[1] for found in places if found[2]} or {found[1] for found in places}
    usual = {prefix for prefix in prefixes if prefix.rstrip('.').rpartition('.')[2] in _USUAL}
    if len(prefixes) < 2 or len(usual) == 1:
        return next(iter(usual if len(usual) == 1 else prefixes), '')
    raise ValueError(
        f'there are several encoders, under {", ".join(map(repr, sorted(prefixes)))}; write the weights of one of them '
        f'into a file of their own'
    )


def layout_of(weights: Mapping[str, Tensor]) -> str:
    """One of :data:`LAYOUTS`; ``mmseg`` where the keys tell of none of the others."""
    weights = without_prefix(weights)
    if not any(re.match(r'layers\.\d+\.blocks\.\d+\.attn\.', name) for name in weights):
        return 'mmseg'
    merging = [int(found[1]) for found in map(_MERGING.match, weights) if found]
    return 'timm' if merging and min(merging) > 0 else 'microsoft'


def to_mmseg_layout(weights: Mapping[str, Tensor], layout: str | None = None) -> dict[str, Tensor]:
    """Rename and reorder encoder weights; what stands beside the encoder, such as a classifier, is left out.

    Args:
        weights: Weights of a Swin Transformer, alone or in a whole model.
        layout: One of :data:`LAYOUTS`; None: found out from the keys.

    Raises:
        ValueError: The keys are of another layout, or of another architecture, such as Swin Transformer V2.
    """
    if layout is not None and layout not in LAYOUTS:
        raise ValueError(f'layout must be one of {", ".join(LAYOUTS)}, got {layout!r}')
    weights = without_prefix(weights)
    found = layout_of(weights)
    if layout not in (None, found):
        raise ValueError(f'the weights have the layout {found!r}, not {layout!r} (e.g. {next(iter(weights), None)!r})')
    if found == 'mmseg':
        return weights
    last = max(int(match[1]) for match in map(_LAYER.match, weights) if match)
    converted = {}
    for name, value in weights.items():
        if name == 'absolute_pos_embed':
            # Of segmentation and detection it is a map, (1, C, H, W).
            converted[name] = value.flatten(2).transpose(1, 2) if value.ndim == 4 else value
        elif name.startswith('patch_embed.'):
            converted[name.replace('embed.proj.', 'embed.projection.', 1)] = value
        elif name.startswith('norm.'):
            # It stands behind the last stage, as mmseg's output norm of that stage does.
            converted[f'norm{last}{name.removeprefix("norm")}'] = value
        elif re.match(r'norm\d+\.', name):
            converted[name] = value
        elif name.startswith('layers.'):
            converted |= _layer(name, value, first=found == 'timm')
    return converted


def _layer(name: str, value: Tensor, first: bool) -> dict[str, Tensor]:
    """An entry of a stage under mmseg's name; none for buffers.

    Args:
        name: Its key.
        value: Its value.
        first: Whether patch merging is the first layer of a stage.
    """
    layer = _LAYER.fullmatch(name)
    stage, rest = (int(layer[1]), layer[2]) if layer else (0, '')
    if rest.startswith('blocks.') and rest.endswith(BUFFERS):
        return {}
    block = _BLOCK.fullmatch(rest)
    if block:
        where, norm, attention, mlp, end = block.groups()
        inside = norm or (attention and attention.replace('attn', 'attn.w_msa')) or _MLP[mlp]
        return {f'stages.{stage}.{where}.{inside}{end}': value}
    merging = ('downsample.norm.weight', 'downsample.norm.bias', 'downsample.reduction.weight')
    if rest in merging and value.ndim and value.shape[-1] % 4 == 0:
        return {f'stages.{stage - 1 if first else stage}.{rest}': reordered(value)}
    raise ValueError(
        f'{name!r} is no weight of a Swin Transformer of the first version; encoders of another architecture cannot be '
        f'converted'
    )


def reordered(value: Tensor) -> Tensor:
    """Inputs of patch merging, the last axis: from (column, row, channel) to (channel, row, column)."""
    parts = value.unflatten(-1, (2, 2, -1))
    return parts.movedim((-3, -2, -1), (-1, -2, -3)).flatten(-3).contiguous()


def architecture_of(weights: Mapping[str, Tensor]) -> str:
    """The architecture that weights in mmseg's layout belong to, by the arguments of mmseg's Swin Transformer."""
    blocks = [
        tuple(map(int, found.groups()))
        for found in map(re.compile(r'stages\.(\d+)\.blocks\.(\d+)').match, weights)
        if found
    ]
    stages = 1 + max((stage for stage, _ in blocks), default=-1)
    depths = tuple(1 + max((block for at, block in blocks if at == stage), default=-1) for stage in range(stages))
    patches = weights.get('patch_embed.projection.weight')
    width = patches.shape[0] if patches is not None and patches.ndim else None
    options = [f'embed_dims={width}', f'depths={depths}']
    options += ['use_abs_pos_embed=True'] if 'absolute_pos_embed' in weights else []
    options += [] if 'patch_embed.norm.weight' in weights else ['patch_norm=False']
    name = _NAMES.get((width, depths))
    return f'{name} ({", ".join(options)})' if name else f'a Swin with {", ".join(options)}'
