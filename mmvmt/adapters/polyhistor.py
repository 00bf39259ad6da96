"""Polyhistor and Polyhistor-Lite (Liu et al., "Polyhistor: Parameter-Efficient Multi-Task Adaptation for Dense Vision
Tasks", NeurIPS 2022, arXiv 2210.03265).

docs/methods/polyhistor.md says what the paper states and what is ours.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mmvmt.registry import ADAPTERS

from .base import Site
from .bottleneck import check_rank
from .compacter import kronecker_sum
from .generators import AdapterWeights, FactorGenerator
from .hypernetwork import BlockwiseHypernetworks, HypernetworkMethod
from .parts import check_choice, check_flag


@ADAPTERS.register_module()
class Polyhistor(BlockwiseHypernetworks):
    r"""A decomposed hypernetwork per block: it generates the factors of both matrices, :math:`W = A B`.

    Args:
        sites: Branches to fill, in the encoder's order.
        tasks: Task names.
        reduction: Block width over bottleneck width.
        rank: Columns of A and rows of B, at most the narrowest bottleneck width.
        growing_rank: Whether the rank grows with the width: ``floor(rank * d / d_0)``, where d_0 is the narrowest
            filled width.
        position: ``'parallel'``, beside the branch, or ``'serial'``, behind it.
        **kwargs: The other options of :class:`~mmvmt.adapters.hypernetwork.BlockwiseHypernetworks`.

    Raises:
        ValueError: An argument is out of its range.
    """

    former_defaults: ClassVar[dict[str, Any]] = BlockwiseHypernetworks.former_defaults | dict(position='serial')

    def __init__(
        self,
        sites: Sequence[Site],
        tasks: Sequence[str],
        *,
        reduction: float = 2,
        rank: int = 6,
        growing_rank: bool = False,
        position: str = 'parallel',
        **kwargs,
    ) -> None:
        check_flag('growing_rank', growing_rank)
        matrix = partial(FactorGenerator, rank=rank)
        if growing_rank:
            matrix = partial(growing_factors, rank=rank, narrowest=min((s.in_channels for s in sites), default=1))
        super().__init__(sites, tasks, matrix=matrix, reduction=reduction, position=position, **kwargs)


def growing_factors(code: int, rows: int, columns: int, zero: bool, rank: int, narrowest: int) -> FactorGenerator:
    """A generator of factors whose rank is in proportion to the block's width, ``rank`` at the narrowest one."""
    check_rank(rank, min(rows, columns), 'the bottleneck width')
    return FactorGenerator(code, rows, columns, zero, rank * max(rows, columns) // narrowest)


class ScalingKernels(nn.Module):
    r"""Layer-wise scaling kernels of a block: from k template adapters to one that is k times as wide.

    .. math::
        W = \sum_{i=1}^k K_i \otimes T_i, \qquad b = \sum_{i=1}^k c_i \otimes t_i

    K_i is ``(k, k)`` and c_i a column ``(k, 1)``. Shared, there is one K for down- and up-projection, one c for both
    biases, and one for scale and shift of the LayerNorm; otherwise each of these has its own.

    Args:
        scale: Block width over template width, k.
        norm: Whether there is a LayerNorm.
        shared: Whether weights of a kind share a kernel.
        product: ``'kernel_template'`` for the products above, ``'template_kernel'`` for :math:`T_i \otimes K_i`.
    """

    def __init__(self, scale: int, norm: bool, shared: bool, product: str) -> None:
        super().__init__()
        self.product = product
        kinds = dict(down='matrix', up='matrix', down_bias='bias', up_bias='bias')
        kinds |= dict(gamma='norm', beta='norm') if norm else {}
        self.sources = kinds if shared else {name: name for name in kinds}
        kernels = dict.fromkeys(self.sources[name] for name in kinds if kinds[name] == 'matrix')
        vectors = dict.fromkeys(self.sources[name] for name in kinds if kinds[name] != 'matrix')
        self.kernels = nn.ParameterDict({name: nn.Parameter(torch.empty(scale, scale, scale)) for name in kernels})
        self.coefficients = nn.ParameterDict({name: nn.Parameter(torch.empty(scale, scale, 1)) for name in vectors})

    def reset_parameters(self, start: str) -> None:
        """Keep the templates' health: variance 1 / k^2 for kernels, 1 / k for coefficients; or 1, as the authors do.

        A template matrix has variance 1 / fan-in; W adds up k products and has k times that fan-in. Vectors keep
        their variance.

        Args:
            start: ``'zero'`` or ``'authors'``.
        """
        for kernel in self.kernels.values():
            nn.init.normal_(kernel, std=1.0 if start == 'authors' else kernel.shape[0] ** -1.0)
        for coefficient in self.coefficients.values():
            nn.init.normal_(coefficient, std=1.0 if start == 'authors' else coefficient.shape[0] ** -0.5)

    def forward(self, templates: AdapterWeights) -> AdapterWeights:
        """Combine k templates of width d_0 and bottleneck b_0 into an adapter of width k d_0 and bottleneck k b_0."""
        weights = {}
        for name, source in self.sources.items():
            template = getattr(templates, name)
            if source in self.kernels:
                weights[name] = self._combine(self.kernels[source], template)
            else:
                weights[name] = self._combine(self.coefficients[source], template.unsqueeze(-1)).squeeze(-1)
        return AdapterWeights(**weights)

    def _combine(self, kernels: Tensor, templates: Tensor) -> Tensor:
        parts = (kernels, templates) if self.product == 'kernel_template' else (templates, kernels)
        return kronecker_sum(*parts)


@ADAPTERS.register_module()
class PolyhistorLite(HypernetworkMethod):
    r"""One decomposed hypernetwork for the whole encoder, and layer-wise scaling kernels that fit it to every width.

    With d_0 the narrowest filled width and :math:`k = d / d_0`, a block has k embeddings u_l,i, ``(k, e)``. From each,
    beside that of the task, the hypernetwork generates a template, an adapter of width d_0, with matrices of low rank;
    :class:`ScalingKernels` combine the k templates into the block's adapter. Where k = 1 the adapter is the template
    itself.

    Args:
        sites: Branches to fill, in the encoder's order.
        tasks: Task names.
        reduction: d_0 over the bottleneck width of a template.
        rank: Rank of the template matrices, at most the bottleneck width of a template.
        shared_kernels: Whether a block has one kernel for both matrices, one coefficient for both biases, and one for
            scale and shift of the LayerNorm, instead of one for each weight.
        product: Order of kernel and template in the Kronecker products, ``'kernel_template'`` or ``'template_kernel'``.
        position: ``'parallel'``, beside the branch, or ``'serial'``, behind it.
        **kwargs: The other options of :class:`~mmvmt.adapters.hypernetwork.HypernetworkMethod`.

    Raises:
        ValueError: An argument is out of its range, or a filled width is no multiple of the narrowest one.
    """

    former_defaults: ClassVar[dict[str, Any]] = dict(shared_kernels=False, inside_drop_path=False, position='serial')

    def __init__(
        self,
        sites: Sequence[Site],
        tasks: Sequence[str],
        *,
        reduction: float = 2,
        rank: int = 18,
        shared_kernels: bool = True,
        product: str = 'kernel_template',
        position: str = 'parallel',
        **kwargs,
    ) -> None:
        matrix = partial(FactorGenerator, rank=rank)
        super().__init__(sites, tasks, matrix=matrix, reduction=reduction, position=position, **kwargs)
        check_flag('shared_kernels', shared_kernels)
        check_choice('product', product, ('kernel_template', 'template_kernel'))
        self.shared_kernels = shared_kernels
        narrowest = min(site.in_channels for site in self.sites)
        self.hypernetwork = self.build_hypernetwork(narrowest, 2)
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
                self.scalings[site.key] = ScalingKernels(scale, self.norm == 'generated', shared_kernels, product)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start as ``start`` says; ``'zero'`` has weights at fan-in scale in every block."""
        super().reset_parameters()
        for scaling in self.scalings.values():
            scaling.reset_parameters(self.start)

    def generate_adapters(self, embedding: Tensor) -> dict[str, AdapterWeights]:
        # All templates of all blocks in one go.
        blocks = torch.cat(tuple(self.block_embeddings.values()))
        templates = self.hypernetwork(torch.cat((embedding.expand_as(blocks), blocks), dim=-1))
        adapters, start = {}, 0
        for key, rows in self.block_embeddings.items():
            of_block = slice(start, start + len(rows))
            start = of_block.stop
            if key in self.scalings:
                adapters[key] = self.scalings[key](templates.select(of_block))
            else:
                adapters[key] = templates.select(of_block.start)
        return adapters

    def structure_of(self, names: Iterable[str]) -> dict[str, Any]:
        kernels = [name for name in names if '.kernels.' in name]
        return dict(shared_kernels=all(name.endswith('.matrix') for name in kernels)) if kernels else {}

    def no_decay_parameters(self) -> Iterable[nn.Parameter]:
        yield from super().no_decay_parameters()
        for scaling in self.scalings.values():
            yield from scaling.coefficients.values()
