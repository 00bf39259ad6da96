"""Adapters whose weights are sums of Kronecker products (Karimi Mahabadi et al., "Compacter", NeurIPS 2021, arXiv
2106.04647; the layer: Zhang et al., "Beyond Fully-Connected Layers with Quaternions", ICLR 2021, arXiv 2102.08597)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmvmt.registry import ADAPTERS

from .base import Site
from .bottleneck import BottleneckMethod, check_rank
from .parts import bottleneck_width


class PHMProjection(nn.Module):
    """The part of a PHM layer that is its own: the factors F_i and a bias.

    Args:
        in_features: Channels in.
        out_features: Channels out.
        zero: Whether the factors, and so the weight, start at zero.
        n: Number of Kronecker products; divides both widths.
    """

    def __init__(self, in_features: int, out_features: int, zero: bool, n: int) -> None:
        super().__init__()
        self.zero = zero
        self.in_features = in_features
        self.factors = nn.Parameter(torch.empty(n, out_features // n, in_features // n))
        self.bias = nn.Parameter(torch.empty(out_features))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Bias zero; factors zero, or normal with variance 1 / in_features.

        As the rules have variance 1 / n, the weight then has variance 1 / in_features too.
        """
        nn.init.zeros_(self.bias)
        nn.init.normal_(self.factors, std=0.0 if self.zero else self.in_features**-0.5)

    def weight(self, rules: Tensor) -> Tensor:
        """The layer's weight.

        Args:
            rules: ``(n, n, n)``, the matrices R_i.

        Returns:
            ``(out_features, in_features)``.
        """
        return kronecker_sum(rules, self.factors)


class LowRankPHMProjection(nn.Module):
    """As :class:`PHMProjection`, with factors of low rank, ``F_i = left_i right_i``.

    Args:
        in_features: Channels in.
        out_features: Channels out.
        zero: Whether ``left``, and so the weight, starts at zero.
        n: Number of Kronecker products; divides both widths.
        rank: Rank of the factors.

    Raises:
        ValueError: ``rank`` is no integer from 1 to the smaller width over n.
    """

    def __init__(self, in_features: int, out_features: int, zero: bool, n: int, rank: int) -> None:
        super().__init__()
        check_rank(rank, min(in_features, out_features) // n, f'the bottleneck width over n={n}')
        self.zero = zero
        self.in_features = in_features
        self.left = nn.Parameter(torch.empty(n, out_features // n, rank))
        self.right = nn.Parameter(torch.empty(n, rank, in_features // n))
        self.bias = nn.Parameter(torch.empty(out_features))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Bias zero; ``left right`` normal with variance 1 / in_features, or ``left`` zero."""
        nn.init.zeros_(self.bias)
        nn.init.normal_(self.left, std=0.0 if self.zero else self.left.shape[-1] ** -0.5)
        nn.init.normal_(self.right, std=self.in_features**-0.5)

    def weight(self, rules: Tensor) -> Tensor:
        """The layer's weight.

        Args:
            rules: ``(n, n, n)``, the matrices R_i.

        Returns:
            ``(out_features, in_features)``.
        """
        return kronecker_sum(rules, self.left @ self.right)


class KroneckerMethod(BottleneckMethod):
    r"""Base class of bottleneck methods with weights :math:`W = \sum_{i=1}^n R_i \otimes F_i`.

    The rules R_i, (n, n), are the same for all sites, all tasks and both projections; the factors F_i,
    (out / n, in / n), belong to one projection of one task and site. The encoder runs once per task, and the weights
    of a task are made once per pass.

    Args: as :class:`BottleneckMethod`, and
        n: Number of Kronecker products; divides every block width and bottleneck width.
        projection: Makes the two projections of a bottleneck; gets n as well.

    Raises:
        ValueError: An argument is out of its range.
    """

    per_task = True

    def __init__(
        self,
        sites: Sequence[Site],
        tasks: Sequence[str],
        *,
        n: int,
        projection: Callable[..., nn.Module],
        reduction: float = 2,
        **kwargs,
    ) -> None:
        check_divisor(n, sites, reduction)
        super().__init__(sites, tasks, projection=partial(projection, n=n), reduction=reduction, **kwargs)
        self.rules = nn.Parameter(torch.empty(n, n, n))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start from the frozen network: a = 0 everywhere; rules normal with variance 1 / n."""
        super().reset_parameters()
        nn.init.normal_(self.rules, std=self.rules.shape[0] ** -0.5)

    def generate(self, task: str | None) -> dict[str, tuple[Tensor, Tensor]]:
        """The weights of a task by site, ``(r, d)`` down and ``(d, r)`` up."""
        return {
            key: (bottleneck.down.weight(self.rules), bottleneck.up.weight(self.rules))
            for key, bottleneck in self.bottlenecks[task].items()
        }

    def branch(self, site: Site, x: Tensor, task: str | None, generated: Any) -> Tensor:
        bottleneck = self.bottleneck(site, task)
        down, up = generated[site.key]
        z = bottleneck.activation(F.linear(bottleneck.norm(x), down, bottleneck.down.bias))
        return F.linear(z, up, bottleneck.up.bias)


@ADAPTERS.register_module()
class PHMAdapter(KroneckerMethod):
    """Adapters made of PHM layers: full factors F_i.

    Args: as :class:`KroneckerMethod`, with a default n of 16.
    """

    def __init__(self, sites: Sequence[Site], tasks: Sequence[str], *, n: int = 16, **kwargs) -> None:
        super().__init__(sites, tasks, n=n, projection=PHMProjection, **kwargs)


@ADAPTERS.register_module()
class Compacter(KroneckerMethod):
    """Adapters behind the attention and the FFN with factors of low rank, F_i = s_i t_i.

    Args: as :class:`KroneckerMethod`, with a default n of 4, and
        rank: Rank of the factors, at most the bottleneck width over n.
    """

    positions = ('attn', 'ffn')
    default_positions = ('attn', 'ffn')

    def __init__(self, sites: Sequence[Site], tasks: Sequence[str], *, n: int = 4, rank: int = 1, **kwargs) -> None:
        super().__init__(sites, tasks, n=n, projection=partial(LowRankPHMProjection, rank=rank), **kwargs)


@ADAPTERS.register_module()
class CompacterPlusPlus(Compacter):
    """Compacter behind the FFN only.

    Args: as :class:`Compacter`.
    """

    positions = ('ffn',)
    default_positions = None


def kronecker_sum(rules: Tensor, factors: Tensor) -> Tensor:
    """Sum of the Kronecker products of matching rules and factors, in the convention of :func:`torch.kron`.

    Args:
        rules: ``(n, a, b)``.
        factors: ``(n, c, d)``.

    Returns:
        ``(a * c, b * d)``.
    """
    (_, a, b), (_, c, d) = rules.shape, factors.shape
    return torch.einsum('iab,icd->acbd', rules, factors).reshape(a * c, b * d)


def check_divisor(n: int, sites: Sequence[Site], reduction: float) -> None:
    """Check that n divides every block width and bottleneck width.

    Raises:
        ValueError: n is no positive integer, or does not divide a width.
    """
    widths = sorted({w for site in sites for w in (site.in_channels, bottleneck_width(site.in_channels, reduction))})
    common = math.gcd(*widths)
    possible = ', '.join(str(k) for k in range(1, common + 1) if common % k == 0)
    if not isinstance(n, int) or isinstance(n, bool) or n < 1:
        raise ValueError(f'n must be a positive integer, got {n!r}; these divide all widths: {possible}')
    for width in widths:
        if width % n:
            raise ValueError(
                f'n={n} does not divide the width {width}; n must divide every block width and bottleneck width '
                f'(reduction={reduction}), which these do: {possible}'
            )
