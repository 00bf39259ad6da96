"""SegFormer's Mix Transformer of mmseg (Xie et al., NeurIPS 2021, arXiv 2105.15203)."""

from __future__ import annotations

from torch import Tensor, nn

from .attention import fuse
from .base import Layout, Size, register_layout


@register_layout('mmseg.MixVisionTransformer')
class MixVisionTransformerLayout(Layout):
    """Keys and values come from fewer tokens than queries, so no layer is ``qkv``; the MLP is made of convolutions, so
    none is ``fc1`` or ``fc2``. The norm behind a stage is in the stream: it belongs to the transition.
    """

    layers = {'proj': 'attn.attn.out_proj'}
    branches = {'attn': ('norm1', 'attn.dropout_layer'), 'ffn': ('norm2', 'ffn.dropout_layer')}

    any_size = True

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__(encoder)
        stages, last = encoder.layers, len(encoder.layers) - 1
        for _, blocks, _ in stages:
            for block in blocks:
                fuse(block.attn.attn, to_itself=False)
        self.blocks = [[f'layers.{i}.1.{j}' for j in range(len(stage[1]))] for i, stage in enumerate(stages)]
        self.widths = [stage[2].normalized_shape[0] for stage in stages]
        self.out_indices = tuple(encoder.out_indices)
        self.embedding = ('layers.0.0',)
        self.transitions = (*((f'layers.{i}.2', f'layers.{i + 1}.0') for i in range(last)), ())
        self.leaving_norms = {index: f'layers.{index}.2' for index in self.out_indices}
        self.output_norms = (last,)
        self.patch_size = encoder.strides[0]

    def embed(self, image: Tensor) -> tuple[Tensor, Size]:
        return self.encoder.layers[0][0](image)

    def run(self, block: nn.Module, x: Tensor, hw: Size) -> Tensor:
        return block(x, hw)

    def pass_on(self, stage: int, x: Tensor, hw: Size) -> tuple[Tensor, Size]:
        x = self.encoder.layers[stage][2](x).transpose(1, 2).unflatten(2, hw)
        return self.encoder.layers[stage + 1][0](x)

    def start_from_scratch(self) -> None:
        self.encoder.init_weights()
