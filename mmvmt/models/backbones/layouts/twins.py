"""mmseg's Twins: PCPVT and SVT (Chu et al., NeurIPS 2021, arXiv 2104.13840)."""

from __future__ import annotations

from torch import Tensor, nn

from .attention import fuse
from .base import Layout, Size, register_layout


@register_layout('mmseg.PCPVT', 'mmseg.SVT')
class TwinsLayout(Layout):
    """Keys and values of all blocks (SVT: of every second one) come from fewer tokens than queries, so no layer is
    ``qkv``. Behind the first block of a stage a convolution adds positions; it runs with the block.
    """

    layers = {'proj': ('attn.attn.out_proj', 'attn.proj'), 'fc1': 'ffn.layers.0.0', 'fc2': 'ffn.layers.1'}
    branches = {'attn': ('norm1', 'drop_path'), 'ffn': ('norm2', 'drop_path')}
    behind_proj = ('attn.proj_drop', 'attn.dropout_layer', 'drop_path')
    mlp = ('norm2', 'ffn', 'drop_path')
    embedding = ('patch_embeds.0', 'position_encoding_drops.0')

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__(encoder)
        stages, last = encoder.layers, len(encoder.layers) - 1
        for block in (block for stage in stages for block in stage if hasattr(block.attn, 'attn')):
            fuse(block.attn.attn, to_itself=False)
        self.blocks = [[f'layers.{i}.{j}' for j in range(len(stage))] for i, stage in enumerate(stages)]
        self.widths = [embed.projection.out_channels for embed in encoder.patch_embeds]
        self.out_indices = tuple(index for index in encoder.out_indices if index <= last)
        norms = [(f'norm_list.{i}',) if encoder.norm_after_stage else () for i in range(last + 1)]
        self.transitions = (
            *((*norms[i], f'patch_embeds.{i + 1}', f'position_encoding_drops.{i + 1}') for i in range(last)),
            (),
        )
        self.leaving_norms = {index: norms[index][0] for index in self.out_indices if norms[index]}
        self.output_norms = tuple(index for index in self.leaving_norms if index == last)
        self.patch_size = encoder.patch_embeds[0].projection.kernel_size[0]

    def beside(self, block: str) -> tuple[str, ...]:
        _, stage, index = block.split('.')
        return (f'position_encodings.{stage}',) if index == '0' else ()

    def embed(self, image: Tensor) -> tuple[Tensor, Size]:
        return self._patches(0, image)

    def run(self, block: nn.Module, x: Tensor, hw: Size) -> Tensor:
        return self.finish(block, block(x, hw), hw)

    def finish(self, block: nn.Module, x: Tensor, hw: Size) -> Tensor:
        for stage, positions in zip(self.encoder.layers, self.encoder.position_encodings):
            if block is stage[0]:
                x = positions(x, hw)
        return x

    def pass_on(self, stage: int, x: Tensor, hw: Size) -> tuple[Tensor, Size]:
        if self.encoder.norm_after_stage:
            x = self.encoder.norm_list[stage](x)
        return self._patches(stage + 1, x.transpose(1, 2).unflatten(2, hw))

    def start_from_scratch(self) -> None:
        self.encoder.init_weights()

    def _patches(self, stage: int, maps: Tensor) -> tuple[Tensor, Size]:
        x, hw = self.encoder.patch_embeds[stage](maps)
        return self.encoder.position_encoding_drops[stage](x), hw
