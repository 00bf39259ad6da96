"""What methods with a tail per task have in common: the parts of the encoder that they train, where their tails run,
and features that are the tails."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .base import Site
from .mergeable import Mergeable
from .parts import encoder_parts

TAIL_SLOTS = ('proj', 'fc1', 'fc2')
"""The layers that a tail passes, in its order."""


class BranchingMethod(Mergeable):
    """Base class of methods with a tail per task through the last block of each filled stage.

    Args:
        sites: Linear layers to fill, in the encoder's order.
        tasks: Task names.
        patch_embed: Whether the encoder's patch embedding trains.
        norms: Whether all its LayerNorms train.
        position_bias: Whether its tables of the relative position bias train.
        merging: Whether its linear layers between stages train.

    Raises:
        ValueError: One of ``proj``, ``fc1`` and ``fc2`` is not filled, or no stage that is filled leaves the encoder.
    """

    positions = ('qkv', 'proj', 'fc1', 'fc2', 'downsample')
    default_positions = ('qkv', 'proj', 'fc1', 'fc2')
    branches = True

    def __init__(
        self,
        sites: Sequence[Site],
        tasks: Sequence[str],
        *,
        patch_embed: bool = True,
        norms: bool = True,
        position_bias: bool = True,
        merging: bool = True,
    ) -> None:
        super().__init__(sites, tasks)
        name, slots = type(self).__name__, {site.slot for site in self.sites}
        missing = [slot for slot in TAIL_SLOTS if slot not in slots]
        if missing:
            raise ValueError(
                f'{name} has a tail per task through proj, fc1 and fc2 and has to fill them all; position lacks '
                f'{", ".join(missing)}'
            )
        self.tail_sites = tuple(s for s in self.sites if s.last and s.leaves and s.slot in TAIL_SLOTS)
        if not self.tail_sites:
            raise ValueError(f'{name} fills no stage whose features leave the encoder, so no task would have its own')
        if merging and 'downsample' in slots:
            raise ValueError(f'{name} would train the layers between stages twice: fill downsample or set merging=True')
        self.encoder_options = dict(patch_embed=patch_embed, norms=norms, position_bias=position_bias, merging=merging)
        self.tapped_stages = {site.stage for site in self.tail_sites}

    def unread_parameters(self) -> Iterable[nn.Parameter]:
        """Parameters in the shared stream's last block that no feature depends on, since only tails leave it."""
        return ()

    def encoder_parameters(self, encoder: nn.Module) -> Iterable[nn.Parameter]:
        return encoder_parts(encoder, **self.encoder_options)

    def tap(self, stage: int, x: Tensor, tapped: Sequence[Tensor], tasks: Sequence[str]) -> dict[str, Tensor] | None:
        if stage not in self.tapped_stages:
            return None
        unread = [p for p in self.unread_parameters() if p.requires_grad]
        tails = list(tapped)
        if unread and stage == max(self.tapped_stages) and torch.is_grad_enabled():
            tails[0] = _WithUnread.apply(tails[0], *unread)
        return dict(zip(tasks, tails))

    def merged_sites(self) -> list[Site]:
        """Sites whose frozen output no tail needs: all but those of the tails."""
        return [site for site in self.sites if site not in self.tail_sites]


class _WithUnread(torch.autograd.Function):
    """A tensor as it is; parameters that no feature depends on get gradients of zero.

    They are part of the published method. Without a gradient, training on several ranks would wait for them.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, *parameters: Tensor) -> Tensor:
        ctx.save_for_backward(*parameters)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        return gradient, *map(torch.zeros_like, ctx.saved_tensors)
