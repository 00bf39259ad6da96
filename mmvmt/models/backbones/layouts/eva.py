"""Vision Transformers with rotary positions: EVA02 (Fang et al., arXiv 2303.11331) of mmpretrain and timm, and timm's
``vit_*`` of DINOv3 (Simeoni et al., arXiv 2508.10104) and the Perception Encoder.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .attention import Constants, attend, qkv_of, run_as
from .base import Columnar, Size, register_layout, through
from .vit import MMPretrainViTLayout


def rotary_attention(attention: nn.Module, x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """mmpretrain's attention with rotary positions, with any number of tokens in front of those of the map.

    Args:
        attention: The attention.
        x: ``(B, N, C)``.
        rotation: Cosines and sines ``(H * W, C / heads)`` of the angles by which pairs of channels are turned.
    """
    q, k, v = qkv_of(attention, x).unbind(0)
    cos, sin = (part.to(q.dtype) for part in rotation)
    front = x.shape[1] - len(cos)

    def turned(tokens: Tensor) -> Tensor:
        places = tokens[:, :, front:]
        first, second = places.unflatten(-1, (-1, 2)).unbind(-1)
        swapped = torch.stack((-second, first), -1).flatten(-2)
        return torch.cat((tokens[:, :, :front], places * cos + swapped * sin), 2)

    return attend(attention, torch.stack((turned(q), turned(k), v)), scale=attention.scale)


@register_layout('mmpretrain.ViTEVA02')
class MMPretrainEVALayout(MMPretrainViTLayout):
    """mmpretrain's EVA02. The MLP has gates: ``fc1`` puts out both halves."""

    layers = {'qkv': 'attn.qkv', 'proj': 'attn.proj', 'fc1': 'mlp.w12', 'fc2': 'mlp.w3'}
    branches = {'attn': ('norm1', 'drop_path'), 'ffn': ('norm2', 'drop_path')}
    norms = {'attn': 'norm1', 'ffn': 'norm2'}
    behind_proj = ('attn.proj_drop', 'drop_path')
    mlp = ('norm2', 'mlp', 'drop_path')

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__(encoder)
        for block in encoder.layers:
            if block.attn.rope is not None:
                run_as(block.attn, rotary_attention)
        self.rotations = Constants(self._rotation)

    def run(self, block: nn.Module, x: Tensor, hw: Size) -> Tensor:
        return block(x, self.rotations.of(hw, x.device))

    def mlp_branch(self, block: nn.Module, x: Tensor, hw: Size) -> Tensor:
        return through(block, self.mlp, x)

    def prepare(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Positions of another number of patches are interpolated as mmpretrain does; rotations are computed."""
        return {name: value for name, value in super().prepare(weights).items() if 'rope.freqs' not in name}

    def _rotation(self, hw: Size) -> tuple[Tensor, Tensor]:
        rope = self.encoder.rope
        if hw == rope.patch_resolution:
            return rope.freqs_cos, rope.freqs_sin
        # The library would keep it as buffers of the encoder, which then had another shape in the next checkpoint.
        kept, rope.patch_resolution = rope.patch_resolution, hw
        try:
            return rope.compute_position_embedding()
        finally:
            rope.patch_resolution = kept


@register_layout('timm.Eva')
class TimmEVALayout(Columnar):
    """timm's EVA02, DINOv3 and their kin. MLPs with gates have ``fc1`` where one layer puts out both halves."""

    layers = {'qkv': 'attn.qkv', 'proj': 'attn.proj', 'fc1': 'mlp.fc1', 'fc2': 'mlp.fc2'}
    branches = {'attn': ('norm1', 'drop_path1'), 'ffn': ('norm2', 'drop_path2')}
    behind_proj = ('attn.proj_drop', 'gamma_1', 'drop_path1')
    mlp = ('norm2', 'mlp', 'gamma_2', 'drop_path2')
    embedding = ('patch_embed', 'pos_drop', 'norm_pre')

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__(encoder, 'blocks', tuple(encoder.out_indices or ()), encoder.embed_dim)
        from timm.models.eva import EvaBlockPostNorm

        if isinstance(encoder.blocks[0], EvaBlockPostNorm):
            self.branches, self.post_norm = {'attn': ('attn', 'drop_path1'), 'ffn': ('mlp', 'drop_path2')}, True
            self.behind_proj, self.mlp = ('attn.proj_drop', 'norm1', 'drop_path1'), ('mlp', 'norm2', 'drop_path2')
        rope = encoder.rope
        if rope is not None and getattr(rope, 'aug_active', False):
            raise ValueError(
                'rotary positions that are moved at random in training (rope_shift_coords, rope_jitter_coords, '
                'rope_rescale_coords) differ from block to block here; leave them out'
            )
        self.learned = rope is not None and any(True for _ in rope.parameters())
        self.rotations = Constants(self._rotation)
        self.prefix = encoder.num_prefix_tokens
        self.patch_size = self.multiple = encoder.patch_embed.patch_size[0]
        # As in timm's features_only, maps leave without the classifier's norm.
        encoder.norm, encoder.fc_norm, encoder.attn_pool = nn.Identity(), nn.Identity(), None
        self.left_out += ('norm', 'fc_norm', 'attn_pool', 'head')

    def embed(self, image: Tensor) -> tuple[Tensor, Size]:
        encoder = self.encoder
        x = encoder.patch_embed(image)
        hw = x.shape[1], x.shape[2]
        # Without the rotation, which is a matter of the blocks.
        rope, encoder.rope = encoder.rope, None
        try:
            tokens, _ = encoder._pos_embed(x)
        finally:
            encoder.rope = rope
        return encoder.norm_pre(tokens), hw

    def run(self, block: nn.Module, x: Tensor, hw: Size) -> Tensor:
        if self.encoder.rope is None:
            return block(x)
        # Prompts stand in front of class and register tokens, and like these they are not turned.
        block.attn.num_prefix_tokens = x.shape[1] - hw[0] * hw[1]
        if self.learned:
            (rotation,) = self._rotation(hw)
        else:
            (rotation,) = self.rotations.of(hw, x.device)
        if self.encoder.rope_mixed:
            rotation = next(r for r, own in zip(rotation, self.encoder.blocks) if own is block)
        return block(x, rope=rotation)

    def open(self, block: nn.Module, slot: str) -> None:
        if slot == 'qkv' and hasattr(block.attn, 'qkv_bias_separate'):
            block.attn.qkv_bias_separate = True

    def prepare(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Names of the authors, as timm reads them, and positions interpolated as timm does."""
        from timm.models.eva import checkpoint_filter_fn

        return checkpoint_filter_fn(weights, self.encoder)

    def _rotation(self, hw: Size) -> tuple[Tensor]:
        return (self.encoder.rope.get_embed(shape=hw),)
