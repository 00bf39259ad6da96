"""The head of HRNetV2 (Sun et al., arXiv 1904.04514) for one dense task, as MTLoRA and methods after it have it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmcv.cnn import build_norm_layer
from torch import Tensor, nn

from mmvmt.registry import MODELS

from .base import TaskHead, upsample


@MODELS.register_module()
class HighResolutionHead(TaskHead):
    r"""Project each level, upsample, concatenate, widen by a 1x1 convolution with norm and ReLU, predict.

    .. math:: P\,\mathrm{ReLU}(\mathrm{norm}(V\,\mathrm{cat}_i\,\mathrm{up}(W_i x_i) + v)) + p

    with W_i without biases, and no norms in front of them. HRNet has levels of the widths 18, 36, 72, 144 by itself;
    behind a Swin Transformer it is W_i that make them. Parameters: with c = sum of ``widths``, C_i of ``in_channels``
    and K logits, sum C_i widths_i + e c (c + 1) + 2 e c + (e c + 1) K for ``expansion`` e.

    Args:
        in_channels: Widths of the levels, finest first.
        output: Config of a :class:`TaskOutput`.
        widths: Widths that the levels are projected to, one for each.
        expansion: The concatenation is widened by this factor.
        norm_cfg: Norm in front of the ReLU; BatchNorm by default.
        init_cfg: As in mmengine.

    Raises:
        ValueError: ``widths`` are not as many as the levels.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        output: dict[str, Any],
        widths: Sequence[int] = (18, 36, 72, 144),
        expansion: int = 4,
        norm_cfg: dict[str, Any] | None = None,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(in_channels, output, init_cfg)
        if len(widths) != len(self.in_channels):
            raise ValueError(f'widths must be one for each of the {len(self.in_channels)} levels, got {list(widths)}')
        self.projections = nn.ModuleList(
            [nn.Conv2d(channels, width, 1, bias=False) for channels, width in zip(self.in_channels, widths)]
        )
        wide = expansion * sum(widths)
        self.widen = nn.Conv2d(sum(widths), wide, 1)
        self.norm = build_norm_layer(norm_cfg or dict(type='BN'), wide)[1]
        self.predictor = nn.Conv2d(wide, self.output.channels, 1)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initial values: the widening for a ReLU, the rest as PyTorch does, a predictor near zero."""
        nn.init.kaiming_normal_(self.widen.weight, mode='fan_out', nonlinearity='relu')
        nn.init.zeros_(self.widen.bias)
        nn.init.normal_(self.predictor.weight, std=0.01)
        nn.init.zeros_(self.predictor.bias)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Logits of a task.

        Args:
            features: One ``(B, C_i, H_i, W_i)`` per level, finest first.

        Returns:
            ``(B, output.channels, H_0, W_0)``.
        """
        size = features[0].shape[2:]
        levels = [upsample(projection(x), size) for projection, x in zip(self.projections, features)]
        return self.predictor(F.relu(self.norm(self.widen(torch.cat(levels, dim=1))), inplace=True))
