"""mmseg's Swin Transformer (Liu et al., ICCV 2021, arXiv 2103.14030) by its own forward; AdaptedSwin is faster."""

from __future__ import annotations

from torch import Tensor, nn

from .base import Layout, Size, from_windows, register_layout


@register_layout('mmseg.SwinTransformer')
class SwinLayout(Layout):
    """Attention is inside windows: no prompts; AdaptedSwin has them."""

    layers = {'qkv': 'attn.w_msa.qkv', 'proj': 'attn.w_msa.proj', 'fc1': 'ffn.layers.0.0', 'fc2': 'ffn.layers.1'}
    branches = {'attn': ('norm1', 'attn.drop'), 'ffn': ('norm2', 'ffn.dropout_layer')}
    behind_proj = ('attn.w_msa.proj_drop', 'attn.drop')
    mlp = ('norm2', 'ffn')
    in_windows = ('qkv', 'proj')
    any_batch = False

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__(encoder)
        stages = encoder.stages
        self.blocks = [[f'stages.{i}.blocks.{j}' for j in range(len(stage.blocks))] for i, stage in enumerate(stages)]
        self.widths, self.out_indices = list(encoder.num_features), tuple(encoder.out_indices)
        self.embedding = ('patch_embed',)
        self.transitions = tuple(
            () if stage.downsample is None else (f'stages.{i}.downsample',) for i, stage in enumerate(stages)
        )
        self.downsamples = {i: f'{names[0]}.reduction' for i, names in enumerate(self.transitions) if names}
        self.leaving_norms = {index: f'norm{index}' for index in self.out_indices}
        self.output_norms = self.out_indices
        self.patch_size = encoder.patch_embed.projection.kernel_size[0]

    def embed(self, image: Tensor) -> tuple[Tensor, Size]:
        encoder = self.encoder
        x, hw = encoder.patch_embed(image)
        if encoder.use_abs_pos_embed:
            x = x + encoder.absolute_pos_embed
        return encoder.drop_after_pos(x), hw

    def run(self, block: nn.Module, x: Tensor, hw: Size) -> Tensor:
        return block(x, hw)

    def to_tokens(self, block: nn.Module, x: Tensor, hw: Size) -> Tensor:
        attention = block.attn
        maps = from_windows(x, hw, (attention.window_size,) * 2)
        return maps.roll((attention.shift_size,) * 2, (1, 2))[:, : hw[0], : hw[1]].flatten(1, 2)

    def mlp_branch(self, block: nn.Module, x: Tensor, hw: Size) -> Tensor:
        return block.ffn(block.norm2(x), identity=0.0)

    def pass_on(self, stage: int, x: Tensor, hw: Size) -> tuple[Tensor, Size]:
        return self.encoder.stages[stage].downsample(x, hw)

    def start_from_scratch(self) -> None:
        self.encoder.init_weights()
