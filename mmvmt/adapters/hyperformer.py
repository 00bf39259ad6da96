"""HyperFormer (Karimi Mahabadi et al., "Parameter-efficient Multi-task Fine-tuning for Transformers via Shared
Hypernetworks", ACL 2021, arXiv 2106.04489), as a method for dense prediction.

docs/methods/hyperformer.md says what the paper states and what is ours.
"""

from __future__ import annotations

from collections.abc import Sequence

from mmvmt.registry import ADAPTERS

from .base import Site
from .generators import MatrixGenerator
from .hypernetwork import BlockwiseHypernetworks


@ADAPTERS.register_module()
class HyperFormer(BlockwiseHypernetworks):
    """A hypernetwork per block that generates every entry of the block's adapter from the task's embedding.

    Args:
        sites: Branches to fill, in the encoder's order.
        tasks: Task names.
        reduction: Block width over bottleneck width.
        **kwargs: The other options of :class:`~mmvmt.adapters.hypernetwork.BlockwiseHypernetworks`.

    Raises:
        ValueError: An argument is out of its range.
    """

    def __init__(self, sites: Sequence[Site], tasks: Sequence[str], *, reduction: float = 4, **kwargs) -> None:
        super().__init__(sites, tasks, matrix=MatrixGenerator, reduction=reduction, **kwargs)
