"""timm's Hiera (Ryali et al., ICML 2023, arXiv 2306.00989)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import Layout, Size, register_layout


def pooled(x: Tensor, hw: Size, stride: int) -> Tensor:
    """Maxima over squares of ``stride`` x ``stride`` tokens; ``(..., H * W, C)``."""
    if stride == 1:
        return x
    squares = x.unflatten(-2, (hw[0] // stride, stride, hw[1] // stride, stride))
    return squares.amax((-4, -2)).flatten(-3, -2)


@register_layout('timm.Hiera')
class HieraLayout(Layout):
    """timm keeps the tokens in an order by which pooling and windows are slices of one axis. Here they are in the order
    of the map, which is the same computation for any size of it and the order that methods expect. The first block of
    a stage, whose attention pools its queries, is at the size of the new stage behind ``qkv``.
    """

    layers = {'qkv': 'attn.qkv', 'proj': 'attn.proj', 'fc1': 'mlp.fc1', 'fc2': 'mlp.fc2'}
    branches = {'attn': ('shortcut', 'drop_path1'), 'ffn': ('norm2', 'drop_path2')}
    behind_proj = ('ls1', 'drop_path1')
    mlp = ('norm2', 'mlp', 'ls2', 'drop_path2')
    embedding = ('patch_embed',)

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__(encoder)
        self.refuse(patch_drop_rate=0.0, pos_embed_temporal=None, q_stride=(2, 2))
        ends = encoder.stage_ends
        if tuple(encoder.mask_unit_size) != (2 ** (len(ends) - 1),) * 2:
            raise ValueError(
                f'Hiera with mask_unit_size={encoder.mask_unit_size} has no layout: with {len(ends)} stages it is '
                f'{(2 ** (len(ends) - 1),) * 2}'
            )
        for block in encoder.blocks:
            # Where the stream is that the attention is added to; it adds no name.
            object.__setattr__(block, 'shortcut', nn.Identity())
        starts = [0, *(end + 1 for end in ends[:-1])]
        self.blocks = [[f'blocks.{i}' for i in range(start, end + 1)] for start, end in zip(starts, ends)]
        self.widths = [encoder.blocks[end].dim_out for end in ends]
        self.out_indices = tuple(range(len(ends)) if encoder.out_indices is None else encoder.out_indices)
        encoder.head = nn.Identity()
        self.left_out = ('head',)
        self.patch_size = encoder.patch_stride[0]
        self.multiple = encoder.patch_stride[0] * encoder.mask_unit_size[0]

    def embed(self, image: Tensor) -> tuple[Tensor, Size]:
        encoder = self.encoder
        x = encoder.patch_embed.proj(image)
        hw, built = (x.shape[2], x.shape[3]), tuple(encoder.tokens_spatial_shape)
        if encoder.pos_embed_win is not None:
            windows = encoder.pos_embed_win.tile([edge // unit for edge, unit in zip(hw, encoder.mask_unit_size)])
            positions = windows + F.interpolate(encoder.pos_embed, size=hw, mode='bicubic', antialias=True)
        else:
            positions = encoder.pos_embed.transpose(1, 2).unflatten(2, built)
            if hw != built:
                positions = F.interpolate(positions, size=hw, mode='bicubic', antialias=True)
        return (x + positions).flatten(2).transpose(1, 2), hw

    def size_behind(self, block: nn.Module, hw: Size) -> Size:
        stride = math.isqrt(block.attn.q_stride)
        return hw[0] // stride, hw[1] // stride

    def run(self, block: nn.Module, x: Tensor, hw: Size) -> Tensor:
        inner = block.norm1(x)
        x = block.shortcut(self.shortcut(block, x, hw, inner))
        x = x + block.drop_path1(block.ls1(self._attention(block.attn, inner, hw)))
        return x + block.drop_path2(block.ls2(block.mlp(block.norm2(x))))

    def shortcut(self, block: nn.Module, x: Tensor, hw: Size, inner: Tensor | None = None) -> Tensor:
        stride = math.isqrt(block.attn.q_stride)
        if block.proj is not None:
            return pooled(block.proj(block.norm1(x) if inner is None else inner), hw, stride)
        if not block.do_expand:
            return x
        squares = x.unflatten(1, (hw[0] // stride, stride, hw[1] // stride, stride))
        return torch.cat((squares.amax((2, 4)), squares.mean((2, 4))), -1).flatten(1, 2)

    def prepare(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Names of the authors, as timm reads them."""
        from timm.models.hiera import checkpoint_filter_fn

        return checkpoint_filter_fn(weights, self.encoder)

    def _attention(self, attention: nn.Module, x: Tensor, hw: Size) -> Tensor:
        """Attention inside windows or among all tokens, with queries pooled."""
        stride = math.isqrt(attention.q_stride)
        edges = (math.isqrt(attention.window_size) * stride,) * 2 if attention.use_mask_unit_attn else hw
        rows, columns = (edge // of_window for edge, of_window in zip(hw, edges))
        qkv = attention.qkv(x).unflatten(1, (rows, edges[0], columns, edges[1]))
        # By image and window; then heads, tokens of the window.
        qkv = qkv.unflatten(-1, (3, attention.heads, attention.head_dim)).permute(5, 0, 1, 3, 6, 2, 4, 7)
        q, k, v = qkv.flatten(5, 6).flatten(1, 3).unbind(0)
        out = F.scaled_dot_product_attention(pooled(q, edges, stride), k, v)
        out = out.transpose(1, 2).flatten(2)
        out = out.unflatten(1, (edges[0] // stride, edges[1] // stride)).unflatten(0, (x.shape[0], rows, columns))
        return attention.proj(out.transpose(2, 3).flatten(1, 4))
