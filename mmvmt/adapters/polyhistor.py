"""Polyhistor and Polyhistor-Lite (Liu et al., "Polyhistor: Parameter-Efficient Multi-Task Adaptation for Dense Vision
Tasks", NeurIPS 2022, arXiv 2210.03265).

docs/methods/polyhistor.md says what the paper states and what is ours.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from mmvmt.registry import ADAPTERS

from .base import Site
from .compacter import kronecker_sum
from .hypernetwork import AdapterWeights, BlockwiseHypernetworks, FactorGenerator, HypernetworkMethod


@ADAPTERS.register_module()
class Polyhistor(BlockwiseHypernetworks):
    r"""A decomposed hypernetwork per block: it generates the factors of both matrices, :math:`W = A B`.

    Args:
        sites: Branches to fill, in the encoder's order.
        tasks: Task names.
        reduction: Block width over bottleneck width.
        rank: Columns of A and rows of B, at most the narrowest bottleneck width.
        **kwargs: The other options of :class:`~mmvmt.adapters.hypernetwork.HypernetworkMethod`.

    Raises:
        ValueError: An argument is out of its range.
    """

    def __init__(
        self, sites: Sequence[Site], tasks: Sequence[str], *, reduction: float = 2, rank: int = 6, **kwargs
    ) -> None:
        matrix = partial(FactorGenerator, rank=rank)
        super().__init__(sites, tasks, matrix=matrix, reduction=reduction, **kwargs)


class ScalingKernels(nn.Module):
    r"""Layer-wise scaling kernels of a block: from k template adapters to one that is k times as wide.

    .. math::
        W = \sum_{i=1}^k K_i \otimes T_i, \qquad b = \sum_{i=1}^k c_i \otimes t_i

    K_i, (k, k), is a matrix for the down- and another for the up-projection; c_i, (k, 1), is a column for each of the
    two biases and for scale and shift of the LayerNorm.

    Args:
        scale: Block width over template width, k.
        norm: Whether there is a LayerNorm.
    """

    def __init__(self, scale: int, norm: bool) -> None:
        super().__init__()
        self.kernels = nn.ParameterDict(
            {name: nn.Parameter(torch.empty(scale, scale, scale)) for name in ('down', 'up')}
        )
        vectors = ('down_bias', 'up_bias', 'gamma', 'beta') if norm else ('down_bias', 'up_bias')
        self.coefficients = nn.ParameterDict({name: nn.Parameter(torch.empty(scale, scale, 1)) for name in vectors})

    def reset_parameters(self) -> None:
        """Keep the templates' health: variance 1 / k^2 for kernels, 1 / k for coefficients.

        A template matrix has variance 1 / fan-in; W adds up k products and has k times that fan-in. Vectors keep
        their variance.
        """
        for kernel in self.kernels.values():
            nn.init.normal_(kernel, std=kernel.shape[0] ** -1.0)
        for coefficient in self.coefficients.values():
            nn.init.normal_(coefficient, std=coefficient.shape[0] ** -0.5)

    def forward(self, templates: AdapterWeights) -> AdapterWeights:
        """Combine k templates of width d_0 and bottleneck b_0 into an adapter of width k d_0 and bottleneck k b_0."""
        named = templates._asdict()
        matrices = {name: kronecker_sum(kernel, named[name]) for name, kernel in self.kernels.items()}
        vectors = {
            name: kronecker_sum(coefficient, named[name].unsqueeze(-1)).squeeze(-1)
            for name, coefficient in self.coefficients.items()
        }
        return AdapterWeights(**matrices, **vectors)


@ADAPTERS.register_module()
class PolyhistorLite(HypernetworkMethod):
    r"""One decomposed hypernetwork for the whole encoder, and layer-wise scaling kernels that fit it to every width.

    With d_0 the narrowest filled width and :math:`k = d / d_0`, a block has k embeddings u_l,i, ``(k, e)``. From each
    the hypernetwork generates a template, an adapter of width d_0, with matrices of low rank; :class:`ScalingKernels`
    combine the k templates into the block's adapter. Where k = 1 the adapter is the template itself.

    Args:
        sites: Branches to fill, in the encoder's order.
        tasks: Task names.
        reduction: d_0 over the bottleneck width of a template.
        rank: Rank of the template matrices, at most the bottleneck width of a template.
        **kwargs: The other options of :class:`~mmvmt.adapters.hypernetwork.HypernetworkMethod`.

    Raises:
        ValueError: An argument is out of its range, or a filled width is no multiple of the narrowest one.
    """

    def __init__(
        self, sites: Sequence[Site], tasks: Sequence[str], *, reduction: float = 2, rank: int = 18, **kwargs
    ) -> None:
        matrix = partial(FactorGenerator, rank=rank)
        super().__init__(sites, tasks, matrix=matrix, reduction=reduction, **kwargs)
        narrowest = min(site.in_channels for site in self.sites)
        self.hypernetwork = self.build_hypernetwork(narrowest)
        self.scalings = nn.ModuleDict()
        for site in self.sites:
            scale, rest = divmod(site.in_channels, narrowest)
            if rest:
                raise ValueError(
                    f'width {site.in_channels} of {site.key} is no multiple of {narrowest}, the narrowest width that '
                    f'PolyhistorLite fills here, so no scaling kernel fits; choose stages whose widths are multiples, '
                    f'or use Polyhistor'
                )
            self.block_embeddings[site.key] = nn.Parameter(torch.empty(scale, self.embedding))
            if scale > 1:
                self.scalings[site.key] = ScalingKernels(scale, self.norm == 'generated')
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start from the frozen network, with weights at fan-in scale in every block."""
        super().reset_parameters()
        for scaling in self.scalings.values():
            scaling.reset_parameters()

    def generate_adapters(self, embedding: Tensor) -> dict[str, AdapterWeights]:
        # All templates of all blocks in one go.
        templates = self.hypernetwork(embedding, torch.cat(tuple(self.block_embeddings.values())))
        adapters, start = {}, 0
        for key, blocks in self.block_embeddings.items():
            of_block = slice(start, start + len(blocks))
            start = of_block.stop
            if key in self.scalings:
                adapters[key] = self.scalings[key](templates.select(of_block))
            else:
                adapters[key] = templates.select(of_block.start)
        return adapters

    def no_decay_parameters(self) -> Iterable[nn.Parameter]:
        yield from super().no_decay_parameters()
        for scaling in self.scalings.values():
            yield from scaling.coefficients.values()
