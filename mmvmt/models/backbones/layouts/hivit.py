"""mmpretrain's HiViT (Zhang et al., ICLR 2023, arXiv 2205.14949): MLPs at strides of 4 and 8, a ViT behind them."""

from __future__ import annotations

from torch import Tensor, nn

from .attention import attend, qkv_of, relative_bias, run_as
from .base import Layout, Size, register_layout


def attention_of_map(attention: nn.Module, x: Tensor, rpe_index: bool | None = None, mask: None = None) -> Tensor:
    """HiViT's attention, with prompts in front of the tokens of the map."""
    table, bias = attention.relative_position_bias_table, None
    if table is not None and rpe_index:
        bias = relative_bias(table, (attention.input_size,) * 2, attention.hw, x.shape[1])
    return attend(attention, qkv_of(attention, x), bias, attention.scale)


@register_layout('mmpretrain.HiViT')
class HiViTLayout(Layout):
    """Blocks of the first stages are MLPs alone, so what belongs to attention is in the last one, and tokens of all
    stages are in the order of the map. ``out_indices`` are the library's, which counts blocks and mergings of the first
    stages, and anew the blocks of the last one; it does not run with those of the first stages, which are let out here.
    """

    layers = {'qkv': 'attn.qkv', 'proj': 'attn.proj', 'fc1': 'mlp.fc1', 'fc2': 'mlp.fc2'}
    branches = {'attn': ('norm1', 'drop_path'), 'ffn': ('norm2', 'drop_path')}
    optional = ('attn',)
    prompts = True
    embedding = ('patch_embed',)

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__(encoder)
        merges = [i for i, block in enumerate(encoder.blocks) if hasattr(block, 'reduction')]
        first, count = merges[-1] + 1 if merges else 0, encoder.num_main_blocks
        early, (*others, _) = [merge - 1 for merge in merges], encoder.out_indices
        if any(index not in early for index in others if index < first) or any(index >= count for index in others):
            raise ValueError(
                f'out_indices of HiViT must be last blocks of the first stages, {early}, and blocks of the last stage '
                f'from {first} to {count - 1}, got {encoder.out_indices}'
            )
        for block in encoder.blocks[first:]:
            run_as(block.attn, attention_of_map)
        # A stage ends in front of a merging, and where maps leave. The library's last index is the last block, always.
        inside = sorted({first + index for index in others if index >= first} | {first + count - 1})
        ends = [*early, *inside]
        starts = [0, *(end + (2 if end in early else 1) for end in ends[:-1])]
        self.blocks = [[f'blocks.{i}' for i in range(start, end + 1)] for start, end in zip(starts, ends)]
        leaving = {*inside, *(index for index in others if index < first)}
        self.out_indices = tuple(stage for stage, end in enumerate(ends) if end in leaving)
        self.merges = {ends.index(merge - 1): merge for merge in merges}
        self.transitions = tuple(
            (f'blocks.{self.merges[stage]}',) if stage in self.merges else () for stage in range(len(ends))
        )
        self.downsamples = {stage: f'blocks.{merge}.reduction' for stage, merge in self.merges.items()}
        self.last_merge = max(self.merges, default=None)
        self.widths = [encoder.get_submodule(names[0]).dim for names in self.blocks]
        self.multiple = encoder.patch_size
        self.patch_size = encoder.patch_size // encoder.patch_embed.inner_patches

    def embed(self, image: Tensor) -> tuple[Tensor, Size]:
        patches = self.encoder.patch_embed
        x = patches.proj(image)
        hw, x = (x.shape[2], x.shape[3]), x.flatten(2).transpose(1, 2)
        x = x if patches.norm is None else patches.norm(x)
        return (self._enter_last_stage(x, hw) if self.last_merge is None else x), hw

    def run(self, block: nn.Module, x: Tensor, hw: Size) -> Tensor:
        if block.attn is None:
            return block(x)
        block.attn.hw = hw
        return block(x, True if self.encoder.rpe else None)

    def pass_on(self, stage: int, x: Tensor, hw: Size) -> tuple[Tensor, Size]:
        # The merging sees what the library gives it inside of a patch: here, the whole map.
        x = self.encoder.blocks[self.merges[stage]](x.unflatten(1, hw).unsqueeze(1))
        hw, x = (x.shape[2], x.shape[3]), x.flatten(1, 3)
        return (self._enter_last_stage(x, hw) if stage == self.last_merge else x), hw

    def _enter_last_stage(self, x: Tensor, hw: Size) -> Tensor:
        encoder, patch = self.encoder, self.encoder.patch_size
        if encoder.ape:
            x = x + encoder.interpolate_pos_encoding(x, *(int(edge) * patch for edge in hw))
        return encoder.pos_drop(x)
