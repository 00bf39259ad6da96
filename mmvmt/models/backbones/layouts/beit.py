"""mmseg's BEiT (Bao et al., ICLR 2022, arXiv 2106.08254): positions are biases of the attention, by offsets."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.interpolate import RectBivariateSpline
from scipy.optimize import brentq
from torch import Tensor, nn

from .attention import attend, qkv_of, relative_bias, run_as
from .base import Columnar, Size, register_layout


def attention_by_offsets(attention: nn.Module, x: Tensor) -> Tensor:
    """BEiT's attention with class token, and with prompts in front of all."""
    bias = relative_bias(attention.relative_position_bias_table, attention.window_size, attention.hw, x.shape[1])
    return attend(attention, qkv_of(attention, x), bias, attention.scale)


def resized_table(table: Tensor, window: int, to: int) -> Tensor:
    """A table of biases for square maps of another size, as BEiT's authors do it.

    The offsets of the given table are laid out over those that are wanted with steps that grow outwards by a fixed
    factor, so that near offsets keep their bias, and cubic splines go through them.

    Args:
        table: ``((2 window - 1)^2 + 3, heads)``.
        window: Height and width of the map that it is for.
        to: Height and width of the map that it shall be for.
    """
    if window == to:
        return table
    factor = brentq(lambda q: sum(q**step for step in range(window - 1)) - (to - 1), 1e-6, 100.0, xtol=1e-9)
    steps = np.cumsum([factor**step for step in range(window - 1)])
    given, wanted = np.concatenate((-steps[::-1], [0.0], steps)), np.arange(-(to - 1), to)
    places = table[:-3].T.reshape(-1, 2 * window - 1, 2 * window - 1)
    splines = [RectBivariateSpline(given, given, of_head)(wanted, wanted) for of_head in places.double().numpy()]
    resized = torch.from_numpy(np.stack(splines)).flatten(1).T.to(table)
    return torch.cat((resized, table[-3:]))


@register_layout('mmseg.BEiT')
class BEiTLayout(Columnar):
    """For maps of another size than it was built for the biases are interpolated, where mmseg's own does not run."""

    layers = {'qkv': 'attn.qkv', 'proj': 'attn.proj', 'fc1': 'ffn.layers.0.0', 'fc2': 'ffn.layers.1'}
    branches = {'attn': ('ln1', 'drop_path'), 'ffn': ('ln2', 'drop_path')}
    norms = {'attn': 'ln1', 'ffn': 'ln2'}
    behind_proj = ('attn.proj_drop', 'gamma_1', 'drop_path')
    mlp = ('ln2', 'ffn', 'gamma_2', 'drop_path')
    prefix = 1
    embedding = ('patch_embed',)

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__(encoder, 'layers', tuple(encoder.out_indices), encoder.embed_dims)
        for block in encoder.layers:
            run_as(block.attn, attention_by_offsets)
        self.patch_size = self.multiple = encoder.patch_size
        self.leave_final_norm(encoder.norm1_name if encoder.final_norm else None)

    def embed(self, image: Tensor) -> tuple[Tensor, Size]:
        x, hw = self.encoder.patch_embed(image)
        return torch.cat((self.encoder.cls_token.expand(x.shape[0], -1, -1), x), dim=1), hw

    def run(self, block: nn.Module, x: Tensor, hw: Size) -> Tensor:
        block.attn.hw = hw
        return block(x)

    def prepare(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Biases for another size are interpolated as mmseg does."""
        (height, width), prepared = self.encoder.window_size, dict(weights)
        for name, value in weights.items():
            if name.endswith('relative_position_bias_table') and height == width:
                offsets = math.isqrt(max(len(value) - 3, 0))
                window = (offsets + 1) // 2
                # What is no table of a square map is refused by its shape.
                if offsets**2 == len(value) - 3 and offsets % 2 and min(window, height) > 2:
                    prepared[name] = resized_table(value, window, height)
        return prepared

    def start_from_scratch(self) -> None:
        self.encoder.init_weights()
