"""``torch.nn.MultiheadAttention`` with its projections as layers, and by scaled-dot-product attention."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


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
