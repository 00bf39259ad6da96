"""Attention of other libraries by PyTorch's scaled-dot-product attention, with its projections as layers."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import MethodType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmvmt.compat import is_recording


class InProjection(nn.Module):
    """The projection to queries, keys and values of an attention, as a linear layer over its parameters.

    Args:
        attention: The attention, whose parameters stay where they are.
    """

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        # Not registered: the parameters are the attention's, under its names.
        object.__setattr__(self, 'owner', attention)
        self.in_features, self.out_features = attention.embed_dim, 3 * attention.embed_dim

    @property
    def weight(self) -> Tensor:
        """``(3 * C, C)``."""
        return self.owner.in_proj_weight

    @property
    def bias(self) -> Tensor | None:
        """``(3 * C,)``, or None."""
        return self.owner.in_proj_bias

    def forward(self, x: Tensor) -> Tensor:
        """``(..., C)`` to ``(..., 3 * C)``."""
        return F.linear(x, self.weight, self.bias)


class FusedAttention(nn.MultiheadAttention):
    """``nn.MultiheadAttention`` without attention weights as a result, which lets PyTorch fuse it."""

    @classmethod
    def over(cls, layer: nn.MultiheadAttention, to_itself: bool) -> FusedAttention:
        """Make a plain attention one of these: the same object, with its parameters.

        Args:
            layer: The attention.
            to_itself: Whether queries, keys and values always come from the same tokens.
        """
        layer.__class__ = cls
        layer.to_itself = to_itself
        object.__setattr__(layer, 'in_proj', InProjection(layer))
        return layer

    def forward(self, query: Tensor, key: Tensor, value: Tensor, **_: None) -> tuple[Tensor, None]:
        """Queries ``(N, B, C)``, keys and values ``(M, B, C)``, to ``(N, B, C)``; with ``batch_first`` B is first."""
        if not self.batch_first:
            query, key = query.transpose(0, 1), key.transpose(0, 1)
        if self.to_itself:
            q, k, v = self.in_proj(query).unflatten(-1, (3, self.num_heads, self.head_dim)).permute(2, 0, 3, 1, 4)
        else:
            weights = self.in_proj_weight.split((self.embed_dim, 2 * self.embed_dim))
            biases = (None, None)
            if self.in_proj_bias is not None:
                biases = self.in_proj_bias.split((self.embed_dim, 2 * self.embed_dim))
            q = F.linear(query, weights[0], biases[0]).unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)
            k, v = (
                F.linear(key, weights[1], biases[1])
                .unflatten(-1, (2, self.num_heads, self.head_dim))
                .permute(2, 0, 3, 1, 4)
            )
        out = F.scaled_dot_product_attention(q, k, v, dropout_p=self.dropout if self.training else 0.0)
        out = self.out_proj(out.transpose(1, 2).flatten(2))
        return (out if self.batch_first else out.transpose(0, 1)), None


def fuse(attention: nn.MultiheadAttention, to_itself: bool) -> None:
    """Run an attention as a :class:`FusedAttention`, if it is one of plain projections.

    Raises:
        ValueError: It is of another kind.
    """
    plain = attention._qkv_same_embed_dim and attention.bias_k is None and not attention.add_zero_attn
    if not plain:
        raise ValueError(f'an attention with key and value biases or widths of their own has no layout: {attention}')
    FusedAttention.over(attention, to_itself)


def run_as(attention: nn.Module, function: Callable[..., Tensor]) -> None:
    """Run a module by a function of it and its inputs: the same object, with its parameters under their names."""
    attention.forward = MethodType(function, attention)


def qkv_of(attention: nn.Module, x: Tensor) -> Tensor:
    """Queries, keys and values ``(3, B, heads, N, C / heads)`` of tokens ``(B, N, C)``.

    The biases of queries and values, where an attention has them apart from its layer ``qkv``, are added behind that,
    so that it is called and can be a slot. Keys have none.
    """
    qkv = attention.qkv(x)
    if getattr(attention, 'q_bias', None) is not None:
        qkv = qkv + torch.cat((attention.q_bias, torch.zeros_like(attention.v_bias), attention.v_bias))
    return qkv.unflatten(-1, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)


def attend(attention: nn.Module, qkv: Tensor, bias: Tensor | None = None, scale: float | None = None) -> Tensor:
    """``(B, N, C)`` of queries, keys and values ``(3, B, heads, N, C / heads)``, through the layer ``proj``."""
    q, k, v = qkv.unbind(0)
    dropped = attention.attn_drop.p if attention.training else 0.0
    out = F.scaled_dot_product_attention(q, k, v, None if bias is None else bias.to(q.dtype), dropped, scale=scale)
    return attention.proj_drop(attention.proj(out.transpose(1, 2).flatten(2)))


def window_attention_v2(attention: nn.Module, x: Tensor, mask: Tensor | None = None) -> Tensor:
    """The cosine attention of Swin V2 inside windows ``(windows, N, C)``, as mmpretrain and timm have it."""
    q, k, v = qkv_of(attention, x).unbind(0)
    q = F.normalize(q, dim=-1) * attention.logit_scale.clamp(max=math.log(100)).exp().to(q.dtype)
    tokens, heads = x.shape[1], attention.num_heads
    first, _, last = attention.cpb_mlp
    table = 16 * last(F.relu(first(attention.relative_coords_table))).view(-1, heads).sigmoid()
    bias = table[attention.relative_position_index.flatten()].view(tokens, tokens, heads).permute(2, 0, 1)
    if mask is not None:
        # By image, window of the image, and head.
        bias = (bias + mask.unsqueeze(1)).repeat(x.shape[0] // mask.shape[0], 1, 1, 1)
    return attend(attention, torch.stack((q, F.normalize(k, dim=-1), v)), bias, scale=1.0)


def relative_bias(table: Tensor, window: tuple[int, int], hw: tuple[int, int], tokens: int) -> Tensor:
    """Bias of an attention among all tokens of a map by their offsets, ``(heads, tokens, tokens)``.

    Args:
        table: ``((2 Wh - 1) (2 Ww - 1) + 3, heads)``, an entry for each offset, and those from the class token, to it
            and of it to itself; without the last three where the encoder has no class token.
        window: Height Wh and width Ww of the map that it is for.
        hw: Height and width of the map at hand; for another one the table is interpolated.
        tokens: Number of all tokens. Prompts, in front of class token and map, stand at no place: their bias is 0.
    """
    offsets, size = tuple(2 * edge - 1 for edge in window), tuple(2 * edge - 1 for edge in hw)
    count, area = offsets[0] * offsets[1], hw[0] * hw[1]
    places, others = table[:count], table[count:]
    if hw != window:
        grid = places.T.unflatten(1, offsets).unsqueeze(0)
        places = F.interpolate(grid, size=size, mode='bicubic', align_corners=True)[0].flatten(1).T
    rows, columns = (torch.arange(edge, device=table.device) for edge in hw)
    rows, columns = rows.repeat_interleave(hw[1]), columns.repeat(hw[0])
    down, right = (at.unsqueeze(1) - at + edge - 1 for at, edge in ((rows, hw[0]), (columns, hw[1])))
    bias = places[(down * size[1] + right).flatten()].view(area, area, -1).permute(2, 0, 1)
    if len(others):
        row, column, corner = (entry.view(-1, 1, 1) for entry in others)
        below = torch.cat((column.expand(-1, area, -1), bias), 2)
        bias = torch.cat((torch.cat((corner, row.expand(-1, -1, area)), 2), below), 1)
    front = tokens - bias.shape[-1]
    return F.pad(bias, (front, 0, front, 0)) if front else bias


class Constants:
    """What a module computes from the size of a map alone, kept until a graph is recorded.

    Args:
        compute: Makes it, of height and width.
    """

    def __init__(self, compute: Callable[[tuple[int, int]], tuple[Tensor, ...]]) -> None:
        self.compute = compute
        self.kept: tuple[tuple, tuple[Tensor, ...]] | None = None

    def of(self, hw: tuple[int, int], device: torch.device) -> tuple[Tensor, ...]:
        """The tensors for a size, on a device."""
        if is_recording():
            return tuple(tensor.to(device) for tensor in self.compute(hw))
        if self.kept is None or self.kept[0] != (hw, device):
            # What is made in inference mode could not be used outside of it later.
            with torch.inference_mode(False), torch.no_grad():
                self.kept = (hw, device), tuple(tensor.to(device) for tensor in self.compute(hw))
        return self.kept[1]
