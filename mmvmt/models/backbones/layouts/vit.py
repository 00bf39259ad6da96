"""Vision Transformers (Dosovitskiy et al., ICLR 2021, arXiv 2010.11929) of mmseg, mmpretrain and timm: DeiT, DINOv2,
MAE, CLIP, SigLIP and the like, without class and register tokens in what leaves.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .attention import fuse
from .base import Columnar, Size, register_layout


@register_layout('mmseg.VisionTransformer')
class MMSegViTLayout(Columnar):
    """mmseg's, whose attention is PyTorch's ``MultiheadAttention``."""

    layers = {'qkv': 'attn.attn.in_proj', 'proj': 'attn.attn.out_proj', 'fc1': 'ffn.layers.0.0', 'fc2': 'ffn.layers.1'}
    branches = {'attn': ('ln1', 'attn.dropout_layer'), 'ffn': ('ln2', 'ffn.dropout_layer')}
    behind_proj = ('attn.proj_drop', 'attn.dropout_layer')
    mlp = ('ln2', 'ffn')
    norms = {'attn': 'ln1', 'ffn': 'ln2'}

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__(encoder, 'layers', tuple(encoder.out_indices), encoder.pos_embed.shape[-1])
        self.refuse(out_origin=False)
        self.class_token_leaves = encoder.output_cls_token
        for block in encoder.layers:
            fuse(block.attn.attn, to_itself=True)
        self.prefix = int(encoder.with_cls_token)
        self.patch_size = encoder.patch_size
        self.embedding = ('patch_embed', *((encoder.pre_ln_name,) if encoder.pre_norm else ()))
        self.leave_final_norm(encoder.norm1_name if encoder.final_norm else None)

    def embed(self, image: Tensor) -> tuple[Tensor, Size]:
        encoder = self.encoder
        x, hw = encoder.patch_embed(image)
        x = torch.cat((encoder.cls_token.expand(x.shape[0], -1, -1), x), dim=1)
        x = encoder._pos_embeding(x, hw, encoder.pos_embed)
        x = x if encoder.with_cls_token else x[:, 1:]
        return (encoder.pre_ln(x) if encoder.pre_norm else x), hw

    def prepare(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Positions of another number of patches are interpolated as mmseg does."""
        encoder, positions = self.encoder, weights.get('pos_embed')
        if positions is None or positions.shape[1:] == encoder.pos_embed.shape[1:]:
            return weights
        size = tuple(edge // encoder.patch_size for edge in encoder.img_size)
        side = round((positions.shape[1] - 1) ** 0.5)
        resized = encoder.resize_pos_embed(positions, size, (side, side), encoder.interpolate_mode)
        return weights | dict(pos_embed=resized)

    def mlp_branch(self, block: nn.Module, x: Tensor, hw: Size) -> Tensor:
        return block.ffn(block.ln2(x), identity=0.0)

    def start_from_scratch(self) -> None:
        self.encoder.init_weights()


@register_layout('mmpretrain.VisionTransformer')
class MMPretrainViTLayout(Columnar):
    """mmpretrain's: ViT, DeiT, DINOv2 with LayerScale and SwiGLU."""

    layers = {
        'qkv': 'attn.qkv',
        'proj': 'attn.proj',
        'fc1': ('ffn.layers.0.0', 'ffn.w12'),
        'fc2': ('ffn.layers.1', 'ffn.w3'),
    }
    branches = {'attn': ('ln1', 'attn.out_drop'), 'ffn': ('ln2', 'ffn.dropout_layer')}
    behind_proj = ('attn.proj_drop', 'attn.gamma1', 'attn.out_drop')
    mlp = ('ln2', 'ffn')
    norms = {'attn': 'ln1', 'ffn': 'ln2'}

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__(encoder, 'layers', tuple(encoder.out_indices), encoder.embed_dims)
        self.refuse(out_type='featmap')
        self.prefix = encoder.num_extra_tokens
        self.patch_size = encoder.patch_embed.projection.kernel_size[0]
        self.embedding = ('patch_embed', 'pre_norm')
        self.leave_final_norm('ln1' if encoder.final_norm else None)

    def embed(self, image: Tensor) -> tuple[Tensor, Size]:
        encoder = self.encoder
        x, hw = encoder.patch_embed(image)
        if encoder.cls_token is not None:
            x = torch.cat((encoder.cls_token.expand(x.shape[0], -1, -1), x), dim=1)
        positions = encoder.resize_pos_embed(
            encoder.pos_embed, encoder.patch_resolution, hw, encoder.interpolate_mode, encoder.num_extra_tokens
        )
        return encoder.pre_norm(encoder.drop_after_pos(x + positions)), hw

    def prepare(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Positions of another number of patches are interpolated as mmpretrain does."""
        weights = dict(weights)
        self.encoder._prepare_pos_embed(weights, '')
        return weights

    def mlp_branch(self, block: nn.Module, x: Tensor, hw: Size) -> Tensor:
        return block.ffn(block.ln2(x), identity=0.0)

    def start_from_scratch(self) -> None:
        self.encoder.init_weights()


@register_layout('timm.VisionTransformer')
class TimmViTLayout(Columnar):
    """timm's ``vit_*`` and ``deit_*``: with register tokens, LayerScale, SwiGLU."""

    layers = {'qkv': 'attn.qkv', 'proj': 'attn.proj', 'fc1': 'mlp.fc1', 'fc2': 'mlp.fc2'}
    branches = {'attn': ('norm1', 'drop_path1'), 'ffn': ('norm2', 'drop_path2')}
    behind_proj = ('attn.proj_drop', 'ls1', 'drop_path1')
    mlp = ('norm2', 'mlp', 'ls2', 'drop_path2')

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__(encoder, 'blocks', tuple(encoder.out_indices or ()), encoder.embed_dim)
        from timm.models.vision_transformer import ResPostBlock

        if isinstance(encoder.blocks[0], ResPostBlock):
            self.branches, self.post_norm = {'attn': ('attn', 'drop_path1'), 'ffn': ('mlp', 'drop_path2')}, True
            self.behind_proj, self.mlp = ('attn.proj_drop', 'norm1', 'drop_path1'), ('mlp', 'norm2', 'drop_path2')
        self.prefix = encoder.num_prefix_tokens
        self.patch_size = self.multiple = encoder.patch_embed.patch_size[0]
        self.embedding = ('patch_embed', 'norm_pre')
        # As in timm's features_only, maps leave without the classifier's norm.
        encoder.norm, encoder.fc_norm, encoder.attn_pool = nn.Identity(), nn.Identity(), None
        self.left_out += ('norm', 'fc_norm', 'attn_pool', 'head')

    def embed(self, image: Tensor) -> tuple[Tensor, Size]:
        encoder = self.encoder
        x = encoder.patch_embed(image)
        hw = x.shape[1], x.shape[2]
        return encoder.norm_pre(encoder.patch_drop(encoder._pos_embed(x))), hw

    def prepare(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """What timm's own loading does: the weights of DINOv2, CLIP, ... in their layouts, positions interpolated."""
        from timm.models.vision_transformer import checkpoint_filter_fn

        return checkpoint_filter_fn(weights, self.encoder)
