"""Swin Transformer V2 of mmpretrain and timm (Liu et al., CVPR 2022, arXiv 2111.09883)."""

from __future__ import annotations

from torch import Tensor, nn

from .attention import run_as, window_attention_v2
from .base import Layout, Size, from_windows, register_layout


@register_layout('mmpretrain.SwinTransformerV2')
class MMPretrainSwinV2Layout(Layout):
    """Norms stand behind a branch, and mmpretrain's drop path in front of the norm. Attention is inside windows."""

    layers = {'qkv': 'attn.w_msa.qkv', 'proj': 'attn.w_msa.proj', 'fc1': 'ffn.layers.0.0', 'fc2': 'ffn.layers.1'}
    branches = {'attn': ('attn', 'attn.drop', 'norm1'), 'ffn': ('ffn', 'ffn.dropout_layer', 'norm2')}
    post_norm = True
    behind_proj = ('attn.w_msa.proj_drop', 'attn.drop', 'norm1')
    mlp = ('ffn', 'norm2')
    in_windows = ('qkv', 'proj')
    any_batch = False

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__(encoder)
        stages, last = encoder.stages, len(encoder.stages) - 1
        for block in (block for stage in stages for block in stage.blocks):
            run_as(block.attn.w_msa, window_attention_v2)
            # They follow from the window. The library takes them out of weights that it loads, and then misses them.
            block.attn.w_msa._non_persistent_buffers_set |= {'relative_coords_table', 'relative_position_index'}
        self.blocks = [[f'stages.{i}.blocks.{j}' for j in range(len(stage.blocks))] for i, stage in enumerate(stages)]
        self.widths, self.out_indices = [stage.out_channels for stage in stages], tuple(encoder.out_indices)
        self.embedding = ('patch_embed', 'drop_after_pos')
        self.transitions = (*((f'stages.{i + 1}.downsample',) for i in range(last)), ())
        self.downsamples = {i: f'stages.{i + 1}.downsample.reduction' for i in range(last)}
        self.leaving_norms = {index: f'norm{index}' for index in self.out_indices}
        self.output_norms = self.out_indices
        self.patch_size = encoder.patch_embed.projection.kernel_size[0]

    def embed(self, image: Tensor) -> tuple[Tensor, Size]:
        encoder = self.encoder
        x, hw = encoder.patch_embed(image)
        if encoder.use_abs_pos_embed:
            from mmpretrain.models.utils import resize_pos_embed

            table, size = encoder.absolute_pos_embed, encoder.patch_resolution
            x = x + resize_pos_embed(table, size, hw, encoder.interpolate_mode, encoder.num_extra_tokens)
        return encoder.drop_after_pos(x), hw

    def run(self, block: nn.Module, x: Tensor, hw: Size) -> Tensor:
        # Where a map is smaller than a window the library asks for this option; on larger ones it changes the windows.
        padded = block.attn.pad_small_map
        block.attn.pad_small_map = padded or min(hw) < block.attn.window_size
        try:
            return block(x, hw)
        finally:
            block.attn.pad_small_map = padded

    def to_tokens(self, block: nn.Module, x: Tensor, hw: Size) -> Tensor:
        attention = block.attn
        maps = from_windows(x, hw, (attention.window_size,) * 2)
        return maps.roll((attention.shift_size,) * 2, (1, 2))[:, : hw[0], : hw[1]].flatten(1, 2)

    def pass_on(self, stage: int, x: Tensor, hw: Size) -> tuple[Tensor, Size]:
        return self.encoder.stages[stage + 1].downsample(x, hw)

    def prepare(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """A position embedding of another size is interpolated as mmpretrain does."""
        weights = dict(weights)
        if self.encoder.use_abs_pos_embed:
            self.encoder._prepare_abs_pos_embed(weights, '')
        return weights

    def start_from_scratch(self) -> None:
        self.encoder.init_weights()


@register_layout('timm.SwinTransformerV2')
class TimmSwinV2Layout(Layout):
    """timm's ``swinv2_*``, whose blocks run on maps ``(B, H, W, C)``. Norms stand behind a branch."""

    layers = {'qkv': 'attn.qkv', 'proj': 'attn.proj', 'fc1': 'mlp.fc1', 'fc2': 'mlp.fc2'}
    branches = {'attn': ('', 'drop_path1'), 'ffn': ('mlp', 'drop_path2')}
    post_norm = True
    behind_proj = ('attn.proj_drop', 'norm1', 'drop_path1')
    mlp = ('mlp', 'norm2', 'drop_path2')
    in_windows = ('qkv', 'proj')
    embedding = ('patch_embed',)

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__(encoder)
        stages, last = encoder.layers, len(encoder.layers) - 1
        for block in (block for stage in stages for block in stage.blocks):
            run_as(block.attn, window_attention_v2)
        self.blocks = [[f'layers.{i}.blocks.{j}' for j in range(len(stage.blocks))] for i, stage in enumerate(stages)]
        self.widths = [stage.blocks[0].dim for stage in stages]
        self.out_indices = tuple(range(last + 1) if encoder.out_indices is None else encoder.out_indices)
        self.transitions = (*((f'layers.{i + 1}.downsample',) for i in range(last)), ())
        self.downsamples = {i: f'layers.{i + 1}.downsample.reduction' for i in range(last)}
        self.left_out = ('norm', 'head')
        encoder.norm, encoder.head = nn.Identity(), nn.Identity()
        self.patch_size = self.multiple = encoder.patch_embed.patch_size[0]

    def embed(self, image: Tensor) -> tuple[Tensor, Size]:
        x = self.encoder.patch_embed(image)
        return x.flatten(1, 2), (x.shape[1], x.shape[2])

    def run(self, block: nn.Module, x: Tensor, hw: Size) -> Tensor:
        return block(x.unflatten(1, hw)).flatten(1, 2)

    def to_tokens(self, block: nn.Module, x: Tensor, hw: Size) -> Tensor:
        maps = from_windows(x, hw, block.window_size)[:, : hw[0], : hw[1]]
        return maps.roll(block.shift_size, (1, 2)).flatten(1, 2)

    def pass_on(self, stage: int, x: Tensor, hw: Size) -> tuple[Tensor, Size]:
        x = self.encoder.layers[stage + 1].downsample(x.unflatten(1, hw))
        return x.flatten(1, 2), (x.shape[1], x.shape[2])

    def prepare(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Names of the authors, as timm reads them."""
        from timm.models.swin_transformer_v2 import checkpoint_filter_fn

        return checkpoint_filter_fn(weights, self.encoder)
