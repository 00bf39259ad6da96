"""Bottleneck adapters behind or beside the branches of a block (Houlsby et al., "Parameter-Efficient Transfer Learning
for NLP", ICML 2019, arXiv 1902.00751; in parallel: He et al., ICLR 2022, arXiv 2110.04366)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmvmt.registry import ADAPTERS

from .base import Method, Site
from .parts import bottleneck_width, build_activation

SHARED = 'shared'
"""Owner of the bottlenecks of a method that has one set for all tasks."""


class DenseProjection(nn.Module):
    """A linear layer whose weight starts at fan-in scale, or at zero.

    Args:
        in_features: Channels in.
        out_features: Channels out.
        zero: Whether the weight starts at zero.
    """

    def __init__(self, in_features: int, out_features: int, zero: bool) -> None:
        super().__init__()
        self.zero = zero
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        self.bias = nn.Parameter(torch.empty(out_features))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Bias zero; weight zero, or normal with variance 1 / in_features."""
        nn.init.zeros_(self.bias)
        nn.init.normal_(self.weight, std=0.0 if self.zero else self.weight.shape[1] ** -0.5)

    def forward(self, x: Tensor) -> Tensor:
        """``(..., in_features)`` to ``(..., out_features)``."""
        return F.linear(x, self.weight, self.bias)


class LowRankProjection(nn.Module):
    """A linear layer with a weight of low rank, ``W = left right``, which is never made as a whole.

    Args:
        in_features: Channels in.
        out_features: Channels out.
        zero: Whether ``left``, and so the weight, starts at zero.
        rank: Rank of the weight.

    Raises:
        ValueError: ``rank`` is no integer from 1 to the smaller width.
    """

    def __init__(self, in_features: int, out_features: int, zero: bool, rank: int) -> None:
        super().__init__()
        check_rank(rank, min(in_features, out_features), 'the bottleneck width')
        self.zero = zero
        self.left = nn.Parameter(torch.empty(out_features, rank))
        self.right = nn.Parameter(torch.empty(rank, in_features))
        self.bias = nn.Parameter(torch.empty(out_features))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Bias zero; factors normal so that the weight has variance 1 / in_features, or ``left`` zero."""
        rank, in_features = self.right.shape
        nn.init.zeros_(self.bias)
        nn.init.normal_(self.left, std=0.0 if self.zero else rank**-0.5)
        nn.init.normal_(self.right, std=in_features**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        """``(..., in_features)`` to ``(..., out_features)``."""
        return F.linear(F.linear(x, self.right), self.left, self.bias)


class Bottleneck(nn.Module):
    """``a = up(act(down(n(x))))``, zero at the start because ``up`` is.

    Args:
        width: Block width d.
        bottleneck: Bottleneck width r.
        activation: Name of the activation.
        norm: Whether n is a LayerNorm with scale and shift; otherwise there is none.
        projection: Makes a projection from its input width, its output width, and whether it starts at zero.
        dropout: Probability with which an entry is dropped before the up-projection in training.
    """

    def __init__(
        self,
        width: int,
        bottleneck: int,
        activation: str,
        norm: bool,
        projection: Callable[[int, int, bool], nn.Module],
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.dropout = dropout
        self.norm = nn.LayerNorm(width) if norm else nn.Identity()
        self.down = projection(width, bottleneck, False)
        self.activation = build_activation(activation)
        self.up = projection(bottleneck, width, True)

    def reset_parameters(self) -> None:
        """Start from a = 0, at a point that gradients can leave."""
        if isinstance(self.norm, nn.LayerNorm):
            self.norm.reset_parameters()
        self.down.reset_parameters()
        self.up.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        """``(..., d)`` to ``(..., d)``."""
        z = self.activation(self.down(self.norm(x)))
        return self.up(F.dropout(z, self.dropout, self.training) if self.dropout else z)


class BottleneckMethod(Method):
    r"""Base class of methods with a bottleneck at every site, one per task or one for all tasks.

    .. math::
        a &= \mathrm{act}(n(x) W_{down} + b_{down}) W_{up} + b_{up} \\
        y' &= y + s\, a

    y is what the branch puts out; x is y itself (serial) or the stream before the branch (parallel).

    Args:
        sites: Branches to fill, in the encoder's order.
        tasks: Task names.
        projection: Makes the two projections of a bottleneck, see :class:`Bottleneck`.
        reduction: Block width over bottleneck width; the bottleneck is ``floor(d / reduction)``.
        activation: ``'gelu'``, ``'relu'``, ``'silu'`` or ``'identity'``.
        scale: The factor s.
        parallel: Whether x is the stream before the branch instead of what the branch puts out.
        norm: Whether the adapter has a LayerNorm n of its own in front.
        width: Width of the bottleneck in all stages, instead of ``reduction``; None: by that.
        dropout: Probability with which an entry is dropped before the up-projection in training.

    Raises:
        ValueError: An argument is out of its range.
    """

    positions = ('ffn', 'attn')

    def __init__(
        self,
        sites: Sequence[Site],
        tasks: Sequence[str],
        *,
        projection: Callable[[int, int, bool], nn.Module] = DenseProjection,
        reduction: float = 2,
        activation: str = 'gelu',
        scale: float = 1.0,
        parallel: bool = False,
        norm: bool = True,
        width: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(sites, tasks)
        if width is not None and (isinstance(width, bool) or not isinstance(width, int) or width < 1):
            raise ValueError(f'width must be an integer of at least 1, or None for that by reduction, got {width!r}')
        if isinstance(dropout, bool) or not isinstance(dropout, (int, float)) or not 0 <= dropout < 1:
            raise ValueError(f'dropout must be at least 0 and below 1, got {dropout!r}')
        if not isinstance(scale, (int, float)) or isinstance(scale, bool) or not math.isfinite(scale):
            raise ValueError(f'scale must be a finite number, got {scale!r}')
        for key, value in (('parallel', parallel), ('norm', norm)):
            if not isinstance(value, bool):
                raise ValueError(f'{key} must be True or False, got {value!r}')
        self.scale = float(scale)
        self.parallel = parallel
        self.bottlenecks = nn.ModuleDict()
        for owner in self.tasks if self.per_task else (SHARED,):
            self.bottlenecks[owner] = nn.ModuleDict()
            for site in self.sites:
                channels = site.in_channels
                inside = bottleneck_width(channels, reduction) if width is None else width
                self.bottlenecks[owner][site.key] = Bottleneck(channels, inside, activation, norm, projection, dropout)

    def reset_parameters(self) -> None:
        """Start from the frozen network: a = 0 everywhere."""
        super().reset_parameters()
        for module in self.modules():
            if isinstance(module, Bottleneck):
                module.reset_parameters()

    def task_parts(self) -> Sequence[nn.ModuleDict]:
        return (self.bottlenecks,) if self.per_task else ()

    def bottleneck(self, site: Site, task: str | None) -> Bottleneck:
        """The bottleneck of a site in the pass of a task; None: the one for all tasks."""
        return self.bottlenecks[SHARED if task is None else task][site.key]

    def branch(self, site: Site, x: Tensor, task: str | None, generated: Any) -> Tensor:
        """a of a site, ``(..., d)`` to ``(..., d)``."""
        return self.bottleneck(site, task)(x)

    def adapt(
        self, site: Site, inputs: Tensor, outputs: Tensor, task: str | None, generated: Any
    ) -> tuple[Tensor, Tensor | None]:
        a = self.branch(site, inputs if self.parallel else outputs, task, generated)
        return torch.add(outputs, a, alpha=self.scale), None


@ADAPTERS.register_module()
class Adapter(BottleneckMethod):
    """A bottleneck per task and site; the encoder runs once per task.

    Args: as :class:`BottleneckMethod`.
    """

    per_task = True


@ADAPTERS.register_module()
class SharedAdapter(BottleneckMethod):
    """A bottleneck per site for all tasks; the encoder runs once and every task gets the same features.

    Args: as :class:`BottleneckMethod`.
    """


@ADAPTERS.register_module()
class LowRankAdapter(BottleneckMethod):
    """A bottleneck per task and site, both of whose weights have low rank; the encoder runs once per task.

    Args: as :class:`BottleneckMethod`, and
        rank: Rank of both weights, at most the bottleneck width.
        norm: Whether the adapter has a LayerNorm of its own in front.
    """

    per_task = True

    def __init__(
        self, sites: Sequence[Site], tasks: Sequence[str], *, rank: int = 6, norm: bool = False, **kwargs
    ) -> None:
        super().__init__(sites, tasks, projection=partial(LowRankProjection, rank=rank), norm=norm, **kwargs)


def check_rank(rank: int, largest: int, what: str) -> None:
    """Check the rank of a factorised weight.

    Args:
        rank: The rank.
        largest: The largest rank that makes sense.
        what: What sets the largest rank, for the error.

    Raises:
        ValueError: ``rank`` is no integer from 1 to ``largest``.
    """
    if not isinstance(rank, int) or isinstance(rank, bool) or not 1 <= rank <= largest:
        raise ValueError(f'rank must be an integer from 1 to {what}, here {largest}; got {rank!r}')
