"""Swin Transformer weights under the key names of others, brought into those of mmsegmentation.

mmpretrain's names are mmseg's. Microsoft's release and timm name the layers otherwise, and order the inputs of patch
merging otherwise: theirs are four blocks of C channels, one for each pixel of the 2 x 2 patch, those of mmseg
(``nn.Unfold``) are C blocks of four pixels. Timm has patch merging at the start of a stage, the others at the end of
the one before.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

LAYOUTS = ('mmseg', 'microsoft', 'timm')
"""Layouts of keys; ``mmseg`` is mmpretrain's too."""

_LAYER = re.compile(r'layers\.(\d+)\.(.+)')
_BLOCK = re.compile(
    r'(blocks\.\d+)\.(?:(norm[12])|(attn\.(?:qkv|proj|relative_position_bias_table))|mlp\.(fc[12]))\b(.*)'
)
_BUFFERS = re.compile(r'blocks\.\d+\.(?:attn_mask|attn\.relative_position_index)')
_MERGING = re.compile(r'layers\.(\d+)\.downsample\.')
_MLP = {'fc1': 'ffn.layers.0.0', 'fc2': 'ffn.layers.1'}


def without_prefix(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of the encoder in those of a whole model, whose encoder is called ``backbone``."""
    if not any(name.startswith('backbone.') for name in weights):
        return dict(weights)
    return {name.removeprefix('backbone.'): w for name, w in weights.items() if name.startswith('backbone.')}


def layout_of(weights: Mapping[str, Tensor]) -> str:
    """One of :data:`LAYOUTS`; ``mmseg`` where the keys tell of none of the others."""
    weights = without_prefix(weights)
    if not any(re.match(r'layers\.\d+\.blocks\.\d+\.attn\.', name) for name in weights):
        return 'mmseg'
    merging = [int(found[1]) for found in map(_MERGING.match, weights) if found]
    return 'timm' if merging and min(merging) > 0 else 'microsoft'


def to_mmseg_layout(weights: Mapping[str, Tensor], layout: str | None = None) -> dict[str, Tensor]:
    """Rename and reorder encoder weights; a classifier in them is left out.

    Args:
        weights: Weights of a Swin Transformer, with or without the prefix ``backbone.``.
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
        if name.startswith('head.'):
            continue
        if name == 'absolute_pos_embed' or name.startswith('patch_embed.norm.'):
            converted[name] = value
        elif name.startswith('patch_embed.proj.'):
            converted[name.replace('proj', 'projection', 1)] = value
        elif name.startswith('norm.'):
            # It stands behind the last stage, as mmseg's output norm of that stage does.
            converted[f'norm{last}{name.removeprefix("norm")}'] = value
        else:
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
    if _BUFFERS.fullmatch(rest):
        return {}
    block = _BLOCK.fullmatch(rest)
    if block:
        where, norm, attention, mlp, end = block.groups()
        inside = norm or (attention and attention.replace('attn', 'attn.w_msa')) or _MLP[mlp]
        return {f'stages.{stage}.{where}.{inside}{end}': value}
    if rest in ('downsample.norm.weight', 'downsample.norm.bias', 'downsample.reduction.weight'):
        return {f'stages.{stage - 1 if first else stage}.{rest}': _reordered(value)}
    raise ValueError(
        f'{name!r} is no weight of a Swin Transformer of the first version; encoders of another architecture cannot be '
        f'converted'
    )


def _reordered(value: Tensor) -> Tensor:
    """Inputs of patch merging, the last axis: from (column, row, channel) to (channel, row, column)."""
    parts = value.unflatten(-1, (2, 2, -1))
    return parts.movedim((-3, -2, -1), (-1, -2, -3)).flatten(-3).contiguous()
