"""ConvNeXt of timm, V1 (Liu et al., CVPR 2022, arXiv 2201.03545) and V2 (Woo et al., CVPR 2023, arXiv 2301.00808)."""

from __future__ import annotations

from torch import Tensor, nn

from .base import Layout, Size, register_layout


@register_layout('timm.ConvNeXt')
class ConvNeXtLayout(Layout):
    """A block is one branch, a convolution of each channel and an MLP; there is no attention. Where the MLP is made of
    convolutions (``conv_mlp``), none of it is ``fc1`` or ``fc2``.
    """

    layers = {'fc1': 'mlp.fc1', 'fc2': 'mlp.fc2'}
    branches = {'ffn': ('conv_dw', 'drop_path')}
    norms = {'ffn': 'norm'}
    normed_slots = ('ffn',)  # the norm stands behind the convolution and in front of the MLP
    channels_first = True

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__(encoder)
        stages, last = encoder.stages, len(encoder.stages) - 1
        self.blocks = [[f'stages.{i}.blocks.{j}' for j in range(len(stage.blocks))] for i, stage in enumerate(stages)]
        self.norms_turned = not stages[0].blocks[0].use_conv_mlp
        self.widths = [stage.blocks[0].conv_dw.out_channels for stage in stages]
        self.out_indices = tuple(range(last + 1) if encoder.out_indices is None else encoder.out_indices)
        self.embedding = ('stem', 'stages.0.downsample')
        self.transitions = (*((f'stages.{i + 1}.downsample',) for i in range(last)), ())
        encoder.norm_pre, encoder.head = nn.Identity(), nn.Identity()
        self.left_out = ('norm_pre', 'head')
        self.patch_size = encoder.feature_info[0]['reduction']
        self.multiple = encoder.feature_info[-1]['reduction']

    def embed(self, image: Tensor) -> tuple[Tensor, Size]:
        return self._tokens(self.encoder.stages[0].downsample(self.encoder.stem(image)))

    def run(self, block: nn.Module, x: Tensor, hw: Size) -> Tensor:
        return self._tokens(block(x.transpose(1, 2).unflatten(2, hw)))[0]

    def pass_on(self, stage: int, x: Tensor, hw: Size) -> tuple[Tensor, Size]:
        return self._tokens(self.encoder.stages[stage + 1].downsample(x.transpose(1, 2).unflatten(2, hw)))

    def prepare(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Names of the authors, as timm reads them."""
        from timm.models.convnext import checkpoint_filter_fn

        # It tells timm's own names by those of the classifier, which may be left out here.
        return weights if 'stem.0.weight' in weights else checkpoint_filter_fn(weights, self.encoder)

    @staticmethod
    def _tokens(maps: Tensor) -> tuple[Tensor, Size]:
        return maps.flatten(2).transpose(1, 2), (maps.shape[2], maps.shape[3])
