"""Pyramid Vision Transformer v2 of timm (Wang et al., CVMJ 2022, arXiv 2106.13797)."""

from __future__ import annotations

import re

from torch import Tensor, nn

from .base import Layout, Size, register_layout


@register_layout('timm.PyramidVisionTransformerV2')
class PVTv2Layout(Layout):
    """Keys and values come from fewer tokens than queries, so no layer is ``qkv``. The norm behind a stage is in the
    stream: it belongs to the transition.
    """

    layers = {'proj': 'attn.proj', 'fc1': 'mlp.fc1', 'fc2': 'mlp.fc2'}
    branches = {'attn': ('norm1', 'drop_path1'), 'ffn': ('norm2', 'drop_path2')}
    behind_proj = ('attn.proj_drop', 'drop_path1')
    mlp = ('norm2', 'mlp', 'drop_path2')

    any_size = True

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__(encoder)
        stages, last = encoder.stages, len(encoder.stages) - 1
        self.blocks = [[f'stages.{i}.blocks.{j}' for j in range(len(stage.blocks))] for i, stage in enumerate(stages)]
        self.widths = [stage.norm.normalized_shape[0] for stage in stages]
        self.out_indices = tuple(range(len(stages)) if encoder.out_indices is None else encoder.out_indices)
        self.embedding = ('patch_embed',)
        self.transitions = (*((f'stages.{i}.norm', f'stages.{i + 1}.downsample') for i in range(last)), ())
        self.leaving_norms = {index: f'stages.{index}.norm' for index in self.out_indices}
        self.output_norms = (last,)
        self.left_out = ('head',)
        self.patch_size = encoder.patch_embed.proj.stride[0]

    def embed(self, image: Tensor) -> tuple[Tensor, Size]:
        x = self.encoder.patch_embed(image)
        return x.flatten(1, 2), (x.shape[1], x.shape[2])

    def run(self, block: nn.Module, x: Tensor, hw: Size) -> Tensor:
        return block(x, hw)

    def mlp_branch(self, block: nn.Module, x: Tensor, hw: Size) -> Tensor:
        return block.drop_path2(block.mlp(block.norm2(x), hw))

    def pass_on(self, stage: int, x: Tensor, hw: Size) -> tuple[Tensor, Size]:
        x = self.encoder.stages[stage].norm(x).transpose(1, 2).unflatten(2, hw)
        x = self.encoder.stages[stage + 1].downsample(x)
        return x.flatten(1, 2), (x.shape[1], x.shape[2])

    def prepare(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Names of the authors, as timm reads them, and those of timm's ``features_only``."""
        from timm.models.pvt_v2 import checkpoint_filter_fn

        weights = checkpoint_filter_fn(weights, self.encoder)
        return {re.sub(r'^stages_(\d+)\.', r'stages.\1.', name): value for name, value in weights.items()}
