"""LoRA (Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022, arXiv 2106.09685), section 4.1:
a low-rank update beside frozen linear layers, which can be added to their weights for inference.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmvmt.registry import ADAPTERS

from .base import Site
from .mergeable import Mergeable

SHARED = 'shared'
"""Name of the one set of updates that all tasks share."""


class LowRankUpdate(nn.Module):
    """The update of one linear layer: ``x`` to ``B A dropout(x)``.

    Args:
        in_channels: Width of the layer's input.
        out_channels: Width of the layer's output.
        rank: Rank r of the update.
        dropout: Probability with which an entry of the input is dropped in training.
        uniform: Whether A starts uniform in ±1/sqrt(in_channels), instead of normal with that deviation.
    """

    def __init__(self, in_channels: int, out_channels: int, rank: int, dropout: float, uniform: bool = False) -> None:
        super().__init__()
        self.uniform = uniform
        self.dropout = dropout
        self.down_weight = nn.Parameter(torch.empty(rank, in_channels))
        self.up_weight = nn.Parameter(torch.empty(out_channels, rank))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Random A and zero B: no update yet, and a gradient for B."""
        spread = self.down_weight.shape[1] ** -0.5
        if self.uniform:
            nn.init.uniform_(self.down_weight, -spread, spread)
        else:
            nn.init.normal_(self.down_weight, std=spread)
        nn.init.zeros_(self.up_weight)

    def forward(self, x: Tensor) -> Tensor:
        """``(..., in_channels)`` to ``(..., out_channels)``."""
        return self.of_dropped(self.drop(x))

    def drop(self, x: Tensor) -> Tensor:
        """The input with some of its entries dropped."""
        return F.dropout(x, self.dropout, self.training) if self.dropout else x

    def of_dropped(self, x: Tensor) -> Tensor:
        """``B A x``."""
        return self.of_low(F.linear(x, self.down_weight))

    def of_low(self, z: Tensor) -> Tensor:
        """``B z``, ``(..., rank)`` to ``(..., out_channels)``."""
        return F.linear(z, self.up_weight)

    def weight(self) -> Tensor:
        """``B A``, ``(out_channels, in_channels)``, in double precision: what is merged is rounded only once."""
        return self.up_weight.double() @ self.down_weight.double()


@ADAPTERS.register_module()
class LoRA(Mergeable):
    r"""Low-rank updates of linear layers, one per task or one for all tasks.

    .. math::
        y = W x + b + \frac{\alpha}{r} B_t A_t x

    Args:
        sites: Linear layers to update, in the encoder's order.
        tasks: Task names.
        rank: Rank r of the updates.
        alpha: The numerator of the update's factor; None: r, a factor of 1.
        dropout: Probability with which an entry of an update's input is dropped in training.
        per_task: Whether every task has updates of its own, for which the encoder runs once per task; else all tasks
            share one set and one run.
        norms: Whether the LayerNorm in front of each updated layer trains too: per task, or shared as the updates are.

    Raises:
        ValueError: An argument is out of its range.
    """

    positions = ('qkv', 'proj', 'fc1', 'fc2', 'downsample')
    default_positions = ('qkv',)
    update_type: ClassVar[type[LowRankUpdate]] = LowRankUpdate

    def __init__(
        self,
        sites: Sequence[Site],
        tasks: Sequence[str],
        *,
        rank: int = 4,
        alpha: float | None = None,
        dropout: float = 0.0,
        per_task: bool = True,
        norms: bool = False,
    ) -> None:
        super().__init__(sites, tasks)
        if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
            raise ValueError(f'rank must be an integer of at least 1, got {rank!r}')
        for site in self.sites:
            if rank > min(site.in_channels, site.out_channels):
                raise ValueError(
                    f'rank {rank} is above the width of {site.key}, a layer from {site.in_channels} to '
                    f'{site.out_channels} channels; it can be at most {min(site.in_channels, site.out_channels)}'
                )
        if alpha is None:
            alpha = rank
        if not _is_number(alpha) or not 0 < alpha < math.inf:
            raise ValueError(f'alpha must be a positive finite number, or None for the rank, got {alpha!r}')
        if not _is_number(dropout) or not 0 <= dropout < 1:
            raise ValueError(f'dropout must be at least 0 and below 1, got {dropout!r}')
        self.factor = alpha / rank
        self.per_task = per_task
        self.norms = norms
        self.updates = nn.ModuleDict(
            {
                owner: nn.ModuleDict(
                    {
                        site.key: self.update_type(site.in_channels, site.out_channels, rank, dropout)
                        for site in self.sites
                    }
                )
                for owner in (self.tasks if per_task else (SHARED,))
            }
        )

    def reset_parameters(self) -> None:
        """Start from the frozen network: B = 0.

        Raises:
            ValueError: The updates are merged: the encoder could not be restored afterwards.
        """
        super().reset_parameters()
        for module in self.modules():
            if isinstance(module, LowRankUpdate):
                module.reset_parameters()

    def task_parts(self) -> Sequence[nn.ModuleDict]:
        if not self.per_task:
            return ()
        return (self.updates, self.offsets) if hasattr(self, 'offsets') else (self.updates,)

    def adapt(
        self, site: Site, inputs: Tensor, outputs: Tensor, task: str | None, generated: Any
    ) -> tuple[Tensor, Tensor | None]:
        if self.is_merged:
            self.refuse_training()
            return outputs, None
        update = self.updates[task if self.per_task else SHARED][site.key]
        return torch.add(outputs, update(inputs), alpha=self.factor), None

    def encoder_parameters(self, encoder: nn.Module) -> Iterable[nn.Parameter]:
        return self._norm_parameters(encoder) if self.norms and not self.per_task else ()

    def copied_parameters(self, encoder: nn.Module) -> Iterable[nn.Parameter]:
        return self._norm_parameters(encoder) if self.norms and self.per_task else ()

    def substitutes(self, encoder: nn.Module, task: str, generated: Any) -> dict[str, Tensor]:
        """As in the base class; nothing while merged, when the encoder's norms hold the offsets."""
        return {} if self.is_merged else super().substitutes(encoder, task, generated)

    def merge_into(self, encoder: nn.Module) -> None:
        r"""Add :math:`\frac{\alpha}{r} B A` to the encoder's weights, and the offsets of a single task to its norms."""
        self._add_to(encoder, 1)

    def take_out_of(self, encoder: nn.Module) -> None:
        self._add_to(encoder, -1)

    def _add_to(self, encoder: nn.Module, sign: int) -> None:
        (updates,) = self.updates.values()
        for site in self.sites:
            weight = encoder.layer_of(site).weight
            weight.copy_(weight.double() + sign * self.factor * updates[site.key].weight())
        if hasattr(self, 'offsets'):
            (task,) = self.tasks
            parameters = encoder.own_parameters()
            for key, offset in self.offsets[task].items():
                parameters[key.replace('-', '.')].add_(offset, alpha=sign)

    def _norm_parameters(self, encoder: nn.Module) -> list[nn.Parameter]:
        # Two slots of a block may share a norm, which counts once.
        norms = {id(norm): norm for norm in map(encoder.norm_of, self.sites)}
        return [parameter for norm in norms.values() for parameter in norm.parameters()]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
