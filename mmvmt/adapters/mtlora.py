"""MTLoRA (Agiza, Neseem and Reda, "MTLoRA: A Low-Rank Adaptation Approach for Efficient Multi-Task Learning", CVPR
2024, arXiv 2403.20320): low-rank updates that all tasks share, and beside the last block of each stage a tail per task
with updates of its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mmvmt.registry import ADAPTERS

from .base import SharedLayer, Site
from .branching import BranchingMethod
from .lora import LowRankUpdate


class ScaledUpdate(LowRankUpdate):
    """A low-rank update with a factor that trains.

    Args: as :class:`LowRankUpdate`, and
        scale: The factor at the start.
    """

    def __init__(self, *args: Any, scale: float, **kwargs: Any) -> None:
        self.start = scale
        super().__init__(*args, **kwargs)

    def reset_parameters(self) -> None:
        """As without a factor, and the factor at its start."""
        super().reset_parameters()
        self.scale = nn.Parameter(torch.full((1,), self.start))

    def of_low(self, z: Tensor) -> Tensor:
        return super().of_low(z) * self.scale

    def weight(self) -> Tensor:
        return super().weight() * self.scale.double()


class SharedUpdates(BranchingMethod):
    r"""Low-rank updates that all tasks share: what MTLoRA and TADFormer have in common.

    .. math:: L(x) = W x + b + s B A\, \mathrm{drop}(x)

    Args:
        sites: Places to fill, in the encoder's order; linear layers among them get an update.
        tasks: Task names.
        rank: Rank r of the updates.
        scale: The factor s.
        dropout: Probability with which an entry of an update's input is dropped in training.
        trainable_scale: Whether s is a number per update that trains.
        **kwargs: Which parts of the encoder train, see :class:`~mmvmt.adapters.branching.BranchingMethod`.

    Raises:
        ValueError: An argument is out of its range, or a layer that the tails pass is not filled.
    """

    def __init__(
        self,
        sites: Sequence[Site],
        tasks: Sequence[str],
        *,
        rank: int,
        scale: float,
        dropout: float,
        trainable_scale: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(sites, tasks, **kwargs)
        _check_rank('rank', rank)
        _check_number('scale', scale)
        _check_number('dropout', dropout, 1)
        self.trainable_scale = trainable_scale
        layers = [site for site in self.sites if site.slot in BranchingMethod.positions]
        self.updates, self.factor = self._updates(layers, rank, scale, dropout)

    def reset_parameters(self) -> None:
        """Start without an update: every B is zero."""
        super().reset_parameters()
        for module in self.modules():
            if isinstance(module, LowRankUpdate):
                module.reset_parameters()

    def adapt(
        self, site: Site, inputs: Tensor, outputs: Tensor, task: str | None, generated: Any
    ) -> tuple[Tensor, Tensor | None]:
        if self.is_merged and site not in self.tail_sites:
            self.refuse_training()
            return outputs, None
        update = self.updates[site.key]
        dropped = update.drop(inputs)
        return torch.add(outputs, update.of_dropped(dropped), alpha=self.factor), dropped

    def merged_sites(self) -> list[Site]:
        return [site for site in super().merged_sites() if site.key in self.updates]

    def merge_into(self, encoder: nn.Module) -> None:
        """Add the shared updates to the weights of all layers but those that tails pass.

        Those stay as they are: the tails need the layer's output without the shared update.
        """
        self._add_to(encoder, 1)

    def take_out_of(self, encoder: nn.Module) -> None:
        self._add_to(encoder, -1)

    def _add_to(self, encoder: nn.Module, sign: int) -> None:
        for site in self.merged_sites():
            weight = encoder.layer_of(site).weight
            weight.copy_(weight.double() + sign * self.factor * self.updates[site.key].weight())

    def _updates(self, sites: Iterable[Site], rank: int, scale: float, dropout: float) -> tuple[nn.ModuleDict, float]:
        """An update for each of some layers, A uniform in its range as published, and the factor besides theirs."""
        kind = partial(ScaledUpdate, scale=float(scale)) if self.trainable_scale else LowRankUpdate
        widths = {site.key: (site.in_channels, site.out_channels) for site in sites}
        updates = nn.ModuleDict({key: kind(*w, rank, dropout, uniform=True) for key, w in widths.items()})
        return updates, 1.0 if self.trainable_scale else float(scale)


def _check_rank(name: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f'{name} must be an integer of at least 1, got {value!r}')


def _check_number(name: str, value: float, limit: float = math.inf) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < limit:
        raise ValueError(f'{name} must be a number of at least 0 and below {limit}, got {value!r}')


@ADAPTERS.register_module()
class MTLoRA(SharedUpdates):
    r"""Shared low-rank updates in every block, and updates per task in the tails of the stages' last blocks.

    .. math::
        L(x) &= W x + b + s B A\, \mathrm{drop}(x) \\
        L_t(x, x_t) &= W x + b + s B_t A_t x_t

    L is a layer of the stream that all tasks share, :math:`L_t` the same layer in the tail of task t: its frozen part
    is that of the shared stream, which is computed anyway, and only the update sees the task's own stream :math:`x_t`.
    So the encoder runs once, and a task costs its updates. The start is the frozen network.

    Args:
        sites: Linear layers to fill, in the encoder's order.
        tasks: Task names.
        rank: Rank r of the shared updates.
        task_rank: Rank of the tasks' updates.
        scale: The factor s: 4 in the public code, not :math:`\alpha / r`, which is ``scale=alpha / rank``.
        task_scale: The factor of the tasks' updates; None: ``scale``.
        dropout: Probability with which an entry of the input of a shared update is dropped in training; the tasks'
            updates of ``proj`` see the same input with the same entries dropped, those of ``fc1`` and ``fc2`` all.
        own_stream: Whether the frozen part of ``fc1`` and ``fc2`` sees the task's own stream too. The paper's formula
            can be read like this; the published code and figures have False. It costs the frozen MLP once per task.
        add_shared: Whether :math:`L_t` contains the shared update of its own layer too (the mode ``matrixv2`` of the
            published code, which no published figure uses).
        trainable_scale: Whether the factors are numbers per update that train; in no published figure.
        **kwargs: ``patch_embed``, ``norms``, ``position_bias``, ``merging``: which parts of the encoder train, all by
            default, see :class:`~mmvmt.adapters.branching.BranchingMethod`.

    Raises:
        ValueError: An argument is out of its range, or a layer that the tails pass is not filled.
    """

    def __init__(
        self,
        sites: Sequence[Site],
        tasks: Sequence[str],
        *,
        rank: int = 64,
        task_rank: int = 4,
        scale: float = 4.0,
        task_scale: float | None = None,
        dropout: float = 0.05,
        own_stream: bool = False,
        add_shared: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(sites, tasks, rank=rank, scale=scale, dropout=dropout, **kwargs)
        _check_rank('task_rank', task_rank)
        self.own_stream = own_stream
        self.add_shared = add_shared
        task_scale = scale if task_scale is None else task_scale
        _check_number('task_scale', task_scale)
        self.tails = nn.ModuleDict()
        for task in self.tasks:
            self.tails[task], self.task_factor = self._updates(self.tail_sites, task_rank, task_scale, 0.0)
        self._layers: dict[str, nn.Linear] = {}
        self._unread: tuple[str, ...] = ()

    def attach(self, encoder: nn.Module) -> None:
        super().attach(encoder)
        self._layers = {site.key: encoder.layer_of(site) for site in self.tail_sites}
        # Nothing reads what the shared stream's very last layer puts out, unless tails contain its update.
        last = encoder.block_indices()[-1]
        unread = (s.key for s in self.sites if (s.stage, s.block) == last and s.slot == 'fc2')
        self._unread = () if self.add_shared else tuple(unread)

    def task_parts(self) -> Sequence[nn.ModuleDict]:
        return (self.tails,)

    def unread_parameters(self) -> list[nn.Parameter]:
        return [p for key in self._unread for p in self.updates[key].parameters()]

    def branch(
        self, site: Site, own: Tensor | None, shared: SharedLayer, task: str, generated: Any
    ) -> tuple[Tensor, Tensor | None]:
        update = self.tails[task][site.key]
        frozen = self._layers[site.key](own) if own is not None and self.own_stream else shared.frozen
        if self.add_shared:
            frozen = torch.add(frozen, self.updates[site.key].of_dropped(shared.handed), alpha=self.factor)
        return torch.add(frozen, update(shared.handed if own is None else own), alpha=self.task_factor), None


@ADAPTERS.register_module()
class MTLoRAPlus(MTLoRA):
    """MTLoRA with shared updates of the layers between stages too, which themselves stay frozen.

    Args: as :class:`MTLoRA`, and
        merging: Whether the layers between stages train themselves; not while they have updates.
    """

    default_positions = ('qkv', 'proj', 'fc1', 'fc2', 'downsample')

    def __init__(
        self,
        sites: Sequence[Site],
        tasks: Sequence[str],
        *,
        rank: int = 16,
        task_rank: int = 16,
        merging: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(sites, tasks, rank=rank, task_rank=task_rank, merging=merging, **kwargs)
