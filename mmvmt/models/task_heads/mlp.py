"""The original all-MLP head of SegFormer (Xie et al., NeurIPS 2021, arXiv 2105.15203), for one dense task."""

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
class MLPHead(TaskHead):
    r"""Linear per level, upsample, concatenate, fuse by a bias-free 1x1 convolution with norm and ReLU, predict.

    mmseg's ``SegformerHead`` is another function: it has a norm and a ReLU at each level. Here nothing non-linear
    stands between the linears and the fusion, and 1x1 convolutions commute with bilinear upsampling, so that

    .. math:: \mathrm{fuse}(\mathrm{cat}_i\, \mathrm{up}(W_i x_i + b_i)) = \sum_i \mathrm{up}((V_i W_i) x_i) + V_i b_i

    where V_i are the columns of the fusion for level i. The right-hand side works at each level's own resolution;
    parameters, function and gradients are the same.

    Args:
        in_channels: Widths of the four levels.
        channels: Width of the head.
        output: Config of a :class:`TaskOutput`.
        norm_cfg: Norm after the fusion.
        dropout: Dropout before the predictor, as a probability.
        compose: Whether to use the right-hand side above; False computes the left one, for comparison.
        init_cfg: As in mmengine.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        output: dict[str, Any],
        channels: int = 256,
        norm_cfg: dict[str, Any] | None = None,
        dropout: float = 0.0,
        compose: bool = True,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(in_channels, output, init_cfg)
        self.compose = compose
        self.norms = nn.ModuleList([nn.LayerNorm(width) for width in self.in_channels])
        self.linears = nn.ModuleList([nn.Linear(width, channels) for width in self.in_channels])
        self.fuse = nn.Conv2d(channels * len(self.in_channels), channels, 1, bias=False)
        self.fuse_norm = build_norm_layer(norm_cfg or dict(type='BN'), channels)[1]
        self.dropout = dropout
        self.predictor = nn.Conv2d(channels, self.output.channels, 1)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initial values: the fusion for a ReLU, the rest as PyTorch does, a predictor near zero."""
        nn.init.kaiming_normal_(self.fuse.weight, mode='fan_out', nonlinearity='relu')
        nn.init.normal_(self.predictor.weight, std=0.01)
        nn.init.zeros_(self.predictor.bias)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Logits of a task.

        Args:
            features: One ``(B, C_i, H_i, W_i)`` per level, finest first.

        Returns:
            ``(B, output.channels, H_0, W_0)``.
        """
        tokens = [norm(x.permute(0, 2, 3, 1)) for norm, x in zip(self.norms, features)]
        fused = self._composed(tokens) if self.compose else self._uncomposed(tokens)
        return self._predict_logits(F.relu(self.fuse_norm(fused), inplace=True))

    def _predict_logits(self, fused: Tensor) -> Tensor:
        if self.dropout and self.training:
            fused = F.dropout2d(fused, self.dropout)
        return self.predictor(fused)

    def _composed(self, tokens: Sequence[Tensor]) -> Tensor:
        size = tokens[0].shape[1:3]
        columns = self.fuse.weight.flatten(1).chunk(len(tokens), dim=1)
        fused = None
        # The constant V_i b_i may be added at the finest level: upsampling keeps constants.
        bias = sum(column @ linear.bias for column, linear in zip(columns, self.linears))
        for x, linear, column in zip(tokens, self.linears, columns):
            level = F.linear(x, column @ linear.weight, bias if fused is None else None).permute(0, 3, 1, 2)
            # In place: nothing needs the upsampled level itself, and every new map of this size costs its page faults.
            fused = level if fused is None else upsample(level, size).add_(fused)
        return fused

    def _uncomposed(self, tokens: Sequence[Tensor]) -> Tensor:
        size = tokens[0].shape[1:3]
        levels = [linear(x).permute(0, 3, 1, 2) for x, linear in zip(tokens, self.linears)]
        return self.fuse(torch.cat([upsample(level, size) for level in levels], dim=1))
