"""Mona (Yin et al., "5%>100%: Breaking Performance Shackles of Full Fine-Tuning on Visual Recognition Tasks", CVPR
2025, arXiv 2408.08345): bottlenecks that mix neighbouring pixels, behind both branches of a block.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmvmt.registry import ADAPTERS

from .base import Method, Site

SHARED = 'shared'
"""Owner of the modules that all tasks share."""


class MixingBottleneck(nn.Module):
    r"""``x`` to ``up(drop(gelu(C(down(LN(x) g + x g_x)))))``.

    C adds to its input the mean of three depthwise convolutions, of 3, 5 and 7 pixels, and to that a 1x1 convolution.

    Args:
        width: Block width d.
        bottleneck: Width r inside.
        dropout: Probability with which an entry is dropped before the up-projection in training.
    """

    def __init__(self, width: int, bottleneck: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.norm = nn.LayerNorm(width)
        self.gamma = nn.Parameter(torch.empty(width))
        self.gamma_x = nn.Parameter(torch.empty(width))
        self.down = nn.Linear(width, bottleneck)
        self.convolutions = nn.ModuleList(
            [nn.Conv2d(bottleneck, bottleneck, size, padding=size // 2, groups=bottleneck) for size in (3, 5, 7)]
        )
        self.pointwise = nn.Conv2d(bottleneck, bottleneck, 1)
        self.up = nn.Linear(bottleneck, width)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """g is 1e-6 and g_x is 1; all layers start as PyTorch starts them, the up-projection too."""
        nn.init.constant_(self.gamma, 1e-6)
        nn.init.ones_(self.gamma_x)
        for module in (self.norm, self.down, *self.convolutions, self.pointwise, self.up):
            module.reset_parameters()

    def forward(self, x: Tensor, hw: tuple[int, int]) -> Tensor:
        """``(B, H*W, d)`` to ``(B, H*W, d)``."""
        y = self.down(self.norm(x) * self.gamma + x * self.gamma_x)
        y = y.transpose(1, 2).unflatten(2, hw)
        y = y + sum(convolution(y) for convolution in self.convolutions) / 3
        y = y + self.pointwise(y)
        y = F.dropout(F.gelu(y.flatten(2).transpose(1, 2)), self.dropout, self.training)
        return self.up(y)


@ADAPTERS.register_module()
class Mona(Method):
    r"""A bottleneck with depthwise convolutions behind each branch of a block, once the branch is added to the stream.

    .. math:: x \leftarrow x + \mathrm{up}(g(C(\mathrm{down}(\gamma\, LN(x) + \gamma_x\, x))))

    Prompts stand at no position and are left as they are. The up-projection does not start from zero, so the start is
    not the frozen network.

    Args:
        sites: Branches to fill, in the encoder's order.
        tasks: Task names.
        bottleneck: Width inside, the same in all stages.
        dropout: Probability with which an entry is dropped before the up-projection in training.
        per_task: Whether every task has bottlenecks of its own, for which the encoder runs once per task.

    Raises:
        ValueError: An argument is out of its range.
    """

    positions = ('attn', 'ffn')
    default_positions = ('attn', 'ffn')

    def __init__(
        self,
        sites: Sequence[Site],
        tasks: Sequence[str],
        *,
        bottleneck: int = 64,
        dropout: float = 0.1,
        per_task: bool = False,
    ) -> None:
        super().__init__(sites, tasks)
        if isinstance(bottleneck, bool) or not isinstance(bottleneck, int) or bottleneck < 1:
            raise ValueError(f'bottleneck must be an integer of at least 1, got {bottleneck!r}')
        if isinstance(dropout, bool) or not isinstance(dropout, (int, float)) or not 0 <= dropout < 1:
            raise ValueError(f'dropout must be at least 0 and below 1, got {dropout!r}')
        self.per_task = per_task
        self.bottlenecks = nn.ModuleDict(
            {
                owner: nn.ModuleDict(
                    {site.key: MixingBottleneck(site.in_channels, bottleneck, dropout) for site in self.sites}
                )
                for owner in (self.tasks if per_task else (SHARED,))
            }
        )

    def reset_parameters(self) -> None:
        """As the layers start."""
        super().reset_parameters()
        for module in self.modules():
            if isinstance(module, MixingBottleneck):
                module.reset_parameters()

    def task_parts(self) -> Sequence[nn.ModuleDict]:
        return (self.bottlenecks,) if self.per_task else ()

    def adapt_map(
        self, site: Site, inputs: Tensor, outputs: Tensor, task: str | None, generated: Any, hw: tuple[int, int] | None
    ) -> tuple[Tensor, Tensor | None]:
        if hw is None:
            return outputs, None
        bottleneck = self.bottlenecks[SHARED if task is None else task][site.key]
        return outputs + bottleneck(inputs + outputs, hw), None
