"""timm's MViTv2 (Li et al., CVPR 2022, arXiv 2112.01526)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import Layout, Size, register_layout


def table_for(table: Tensor, queries: int, keys: int) -> Tensor:
    """Embeddings of the offsets along an axis with that many queries and keys, ``(queries, keys, C)``.

    Args:
        table: ``(2 max(Q, K) - 1, C)`` for Q queries and K keys; for another number it is interpolated.
        queries: Number of queries.
        keys: Number of keys.
    """
    size = 2 * max(queries, keys) - 1
    if len(table) != size:
        table = F.interpolate(table.T.unsqueeze(0), size=size, mode='linear')[0].T
    of_query, of_key = max(keys / queries, 1.0), max(queries / keys, 1.0)
    places = (torch.arange(count, device=table.device) for count in (queries, keys))
    at_query, at_key = next(places) * of_query, next(places) * of_key
    return table[(at_query.unsqueeze(1) - at_key + (keys - 1) * of_key).long()]


@register_layout('timm.MultiScaleVit')
class MViTv2Layout(Layout):
    """Queries, keys and values are pooled by convolutions; in a stage's first block queries too, which then is at the
    size of the new stage behind ``qkv``. A class token stays behind when maps leave.
    """

    layers = {'qkv': 'attn.qkv', 'proj': 'attn.proj', 'fc1': 'mlp.fc1', 'fc2': 'mlp.fc2'}
    branches = {'attn': ('shortcut', 'drop_path1'), 'ffn': ('norm2', 'drop_path2')}
    behind_proj = ('drop_path1',)
    mlp = ('norm2', 'mlp', 'drop_path2')
    embedding = ('patch_embed',)

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__(encoder)
        if not encoder.expand_attn:
            raise ValueError(
                'MViTv2 whose width grows in the MLP of a last block (expand_attn=False, mvitv2_large) has no layout: '
                'the blocks of a stage have several widths; take mvitv2_tiny, mvitv2_small or mvitv2_base'
            )
        blocks = [block for stage in encoder.stages for block in stage.blocks]
        for block in blocks:
            # Where the stream is that the attention is added to; it adds no name.
            object.__setattr__(block, 'shortcut', nn.Identity())
        stages = enumerate(encoder.stages)
        self.blocks = [[f'stages.{i}.blocks.{j}' for j in range(len(stage.blocks))] for i, stage in stages]
        self.widths = [stage.blocks[-1].dim_out for stage in encoder.stages]
        self.out_indices = tuple(range(len(self.blocks)) if encoder.out_indices is None else encoder.out_indices)
        encoder.norm, encoder.head = nn.Identity(), nn.Identity()
        self.left_out = ('norm', 'head')
        self.prefix = encoder.num_prefix_tokens
        self.patch_size = encoder.patch_embed.proj.stride[0]

    def embed(self, image: Tensor) -> tuple[Tensor, Size]:
        encoder = self.encoder
        x, hw = encoder.patch_embed(image)
        if encoder.cls_token is not None:
            x = torch.cat((encoder.cls_token.expand(x.shape[0], -1, -1), x), dim=1)
        return (x if encoder.pos_embed is None else x + encoder.pos_embed), (hw[0], hw[1])

    def size_behind(self, block: nn.Module, hw: Size) -> Size:
        pool = block.attn.pool_q
        if pool is None:
            return hw
        sizes = zip(hw, _pair(pool.padding), _pair(pool.kernel_size), _pair(pool.stride))
        return tuple((edge + 2 * padding - kernel) // stride + 1 for edge, padding, kernel, stride in sizes)

    def run(self, block: nn.Module, x: Tensor, hw: Size) -> Tensor:
        inner = block.norm1(x)
        x = block.shortcut(self.shortcut(block, x, hw, inner))
        x = x + block.drop_path1(self._attention(block.attn, inner, hw, self.size_behind(block, hw)))
        return x + block.drop_path2(block.mlp(block.norm2(x)))

    def shortcut(self, block: nn.Module, x: Tensor, hw: Size, inner: Tensor | None = None) -> Tensor:
        if block.shortcut_proj_attn is not None:
            x = block.shortcut_proj_attn(block.norm1(x) if inner is None else inner)
        return block._shortcut_pool(x, hw)

    def prepare(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Names of the authors, as timm reads them, and relative positions interpolated as timm does."""
        from timm.models.mvitv2 import checkpoint_filter_fn

        own = self.encoder.state_dict()
        known = {n: v for n, v in weights.items() if n in own and v.shape[1:] == own[n].shape[1:]}
        return (
            {**weights, **checkpoint_filter_fn(known, self.encoder)}
            if known
            else checkpoint_filter_fn(weights, self.encoder)
        )

    def _attention(self, attention: nn.Module, x: Tensor, hw: Size, behind: Size) -> Tensor:
        """Attention with pooled queries, keys and values, ``(B, N, C)`` to ``(B, N', C')``."""
        qkv = attention.qkv(x).unflatten(-1, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
        pools = (('pool_q', 'norm_q'), ('pool_k', 'norm_k'), ('pool_v', 'norm_v'))
        (q, _), (k, size), (v, _) = (
            self._pool(part, hw, *(getattr(attention, name) for name in names)) for part, names in zip(qkv, pools)
        )
        bias = None
        if attention.rel_pos_type == 'spatial':
            places = q[:, :, self.prefix :].unflatten(2, behind)
            down = table_for(attention.rel_pos_h, behind[0], size[0])
            right = table_for(attention.rel_pos_w, behind[1], size[1])
            of_rows = torch.einsum('bnhwc,hkc->bnhwk', places, down.to(q.dtype)).unsqueeze(-1)
            bias = of_rows + torch.einsum('bnhwc,wkc->bnhwk', places, right.to(q.dtype)).unsqueeze(-2)
            bias = F.pad(bias.flatten(4, 5).flatten(2, 3), (self.prefix, 0, self.prefix, 0))
        out = F.scaled_dot_product_attention(q, k, v, bias)
        if attention.residual_pooling:
            out = out + q
        return attention.proj(out.transpose(1, 2).flatten(2))

    def _pool(self, x: Tensor, hw: Size, pool: nn.Module | None, norm: nn.Module | None) -> tuple[Tensor, Size]:
        """Pool the tokens of the map, ``(B, heads, prefix + H * W, C)``; the class token is only normed."""
        if pool is not None:
            front, places = x[:, :, : self.prefix], x[:, :, self.prefix :]
            maps = pool(places.flatten(0, 1).transpose(1, 2).unflatten(2, hw))
            hw = (maps.shape[2], maps.shape[3])
            x = torch.cat((front, maps.flatten(2).transpose(1, 2).unflatten(0, x.shape[:2])), 2)
        return (x if norm is None else norm(x)), hw


def _pair(number: int | tuple[int, int]) -> tuple[int, int]:
    return (number, number) if isinstance(number, int) else number
