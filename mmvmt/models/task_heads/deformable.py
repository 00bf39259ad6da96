"""All-MLP head, levels aligned by modulated deformable convolution (Zhu et al., CVPR 2019, arXiv 1811.11168)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmvmt.compat import operators
from mmvmt.registry import MODELS

from .base import upsample
from .mlp import MLPHead

_KERNEL = 3
_TAPS = _KERNEL**2


class LevelAlignment(nn.Module):
    r"""Modulated deformable 3x3 convolution of a level, whose sampling points are read from it and from the finest one.

    .. math:: y(p) = \sum_k D_k\, m_k(p)\, x(p + p_k + \Delta p_k(p)), \quad k = 1 \dots 9

    where p_k runs over the 3x3 grid, x between pixels is bilinear, and x outside of the map is zero. The kernel is
    D = I + W / sqrt(9 C), with the identity I in its middle tap. One convolution over the concatenation of the
    upsampled level and the finest level, divided by sqrt(18 C), gives the offsets and the modulation m = 2 sigmoid(.).
    All weights start from zero: at the start the level passes unchanged.

    The roots of the numbers of inputs (the equalised learning rate of Karras et al., ICLR 2018, arXiv 1710.10196) are
    for optimizers like Adam, whose step moves every weight by the learning rate: without them it would move points and
    values by that many times the rate.

    Args:
        channels: Width of both levels and of the result.
        deform_groups: Groups of channels with offsets and modulation of their own.

    Raises:
        ImportError: mmcv's operators are missing.
        ValueError: ``deform_groups`` does not divide ``channels``.
    """

    def __init__(self, channels: int, deform_groups: int = 1) -> None:
        super().__init__()
        if deform_groups < 1 or channels % deform_groups:
            raise ValueError(f'deform_groups must divide channels={channels}, got {deform_groups}')
        points = deform_groups * _TAPS
        self.point_gain, self.kernel_gain = (2 * channels * _TAPS) ** -0.5, (channels * _TAPS) ** -0.5
        # Two convolutions that are added: the same as one over the concatenation, which need not be stored.
        self.from_level = nn.Conv2d(channels, 3 * points, _KERNEL, padding=_KERNEL // 2)
        self.from_finest = nn.Conv2d(channels, 3 * points, _KERNEL, padding=_KERNEL // 2, bias=False)
        self.convolution = operators('DeformableHead').ModulatedDeformConv2d(
            channels, channels, _KERNEL, padding=_KERNEL // 2, deform_groups=deform_groups, bias=False
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initial values: sampling on the regular grid, and the identity."""
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    def sampling(self, level: Tensor, finest: Tensor) -> tuple[Tensor, Tensor]:
        """Where to sample, and how much each sample counts.

        Args:
            level: ``(B, channels, H, W)``, upsampled.
            finest: ``(B, channels, H, W)``.

        Returns:
            Offsets ``(B, deform_groups * 18, H, W)`` in pixels, for each tap first down, then to the right; modulation
            ``(B, deform_groups * 9, H, W)`` in 0..2.
        """
        points = self.point_gain * (self.from_level(level) + self.from_finest(finest))
        offsets, modulation = points.split((points.shape[1] // 3 * 2, points.shape[1] // 3), dim=1)
        return offsets, 2 * modulation.sigmoid()

    def forward(self, level: Tensor, finest: Tensor, mixing: Tensor | None = None) -> Tensor:
        """Align a level.

        Args:
            level: ``(B, channels, H, W)``, upsampled.
            finest: ``(B, channels, H, W)``.
            mixing: ``(C', channels)``, a 1x1 convolution of the result; it is multiplied into the kernel instead.

        Returns:
            ``(B, channels, H, W)``, or ``(B, C', H, W)``.
        """
        offsets, modulation = self.sampling(level, finest)
        # The operator has no bfloat16 kernel, in float16 it would round positions to fractions of a pixel that grow
        # with the map, and it reads memory as if all tensors were contiguous, whatever their strides.
        precision = torch.promote_types(level.dtype, torch.float32)
        with torch.autocast(level.device.type, enabled=False):
            kernel = self.kernel_gain * self.convolution.weight.to(precision)
            identity = torch.eye(len(kernel), dtype=precision, device=kernel.device)
            if mixing is not None:
                kernel, identity = torch.einsum('om,mcyx->ocyx', mixing.to(precision), kernel), mixing.to(precision)
            kernel = kernel + F.pad(identity[:, :, None, None], (_KERNEL // 2,) * 4)
            aligned = operators('DeformableHead').modulated_deform_conv2d(
                level.to(precision).contiguous(),
                offsets.to(precision).contiguous(),
                modulation.to(precision).contiguous(),
                kernel.contiguous(),
                None,
                self.convolution.stride,
                self.convolution.padding,
                self.convolution.dilation,
                self.convolution.groups,
                self.convolution.deform_groups,
            )
        return aligned.to(level.dtype)


@MODELS.register_module()
class DeformableHead(MLPHead):
    r"""Linear per level, upsample, align every coarser level to the finest, concatenate, fuse, norm, ReLU, predict.

    Upsampled features of coarse levels do not follow the edges that the finest level shows. A modulated deformable
    convolution A_i lets them move, see :class:`LevelAlignment`; the rest is :class:`MLPHead`. The fusion is linear in
    what comes out of A_i, so that

    .. math:: \mathrm{fuse}(\mathrm{cat}_i\, A_i(u_i)) = V_0 u_0 + \sum_{i \ge 1} (V_i A_i)(u_i),
        \quad u_i = \mathrm{up}(W_i x_i + b_i)

    where V_i are the columns of the fusion for level i, and V_i A_i is a deformable convolution with the kernel V_i D.
    The right-hand side keeps no concatenation; parameters, function and gradients are the same.

    Args:
        in_channels: Widths of the levels, at least one.
        channels: Width of the head.
        output: Config of a :class:`TaskOutput`.
        norm_cfg: Norm after the fusion.
        dropout: Dropout before the predictor, as a probability.
        compose: Whether to use the right-hand side above; False computes the left one, for comparison.
        deform_groups: Groups of channels with sampling points of their own.
        init_cfg: As in mmengine.

    Raises:
        ImportError: mmcv's operators are missing.
        ValueError: ``deform_groups`` does not divide ``channels``.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        output: dict[str, Any],
        channels: int = 256,
        norm_cfg: dict[str, Any] | None = None,
        dropout: float = 0.0,
        compose: bool = True,
        deform_groups: int = 1,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(in_channels, output, channels, norm_cfg, dropout, compose, init_cfg)
        self.alignments = nn.ModuleList([LevelAlignment(channels, deform_groups) for _ in self.in_channels[1:]])

    def graph_obstacle(self) -> str:
        return "graphs do not have the operator of mmcv that it aligns levels by; type='mmvmt.MLPHead' can be exported"

    def _composed(self, tokens: Sequence[Tensor]) -> Tensor:
        first, *others = self.fuse.weight.flatten(1).chunk(len(tokens), dim=1)
        finest, *coarser = self._levels(tokens)
        fused = F.conv2d(finest, first[:, :, None, None])
        for alignment, level, columns in zip(self.alignments, coarser, others):
            fused = fused + alignment(level, finest, mixing=columns)
        return fused

    def _uncomposed(self, tokens: Sequence[Tensor]) -> Tensor:
        finest, *coarser = self._levels(tokens)
        aligned = [alignment(level, finest) for alignment, level in zip(self.alignments, coarser)]
        return self.fuse(torch.cat([finest, *aligned], dim=1))

    def _levels(self, tokens: Sequence[Tensor]) -> list[Tensor]:
        """``(B, channels, H_0, W_0)`` of every level."""
        size = tokens[0].shape[1:3]
        return [upsample(linear(x).permute(0, 3, 1, 2), size) for x, linear in zip(tokens, self.linears)]
