"""DoRA (Liu et al., "DoRA: Weight-Decomposed Low-Rank Adaptation", ICML 2024, arXiv 2402.09353), equation 5: LoRA for
the direction of a frozen weight, and a trained length for each of its rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmvmt.registry import ADAPTERS

from .base import Site
from .lora import SHARED, LoRA, LowRankUpdate


class DirectionUpdate(LowRankUpdate):
    """The update of one layer's direction, and the lengths of its rows.

    Args: as :class:`LowRankUpdate`.
    """

    def __init__(self, in_channels: int, out_channels: int, *args: Any) -> None:
        super().__init__(in_channels, out_channels, *args)
        self.magnitude = nn.Parameter(torch.ones(out_channels))
        # By what the rows were multiplied when they were merged; their former lengths cannot be read from the product.
        self.register_buffer('merged_scale', torch.ones(out_channels))


@ADAPTERS.register_module()
class DoRA(LoRA):
    r"""Low-rank updates of the direction of linear layers, and a length per output.

    .. math::
        y = m_t \odot \frac{W + s B_t A_t}{\lVert W + s B_t A_t \rVert} x + b, \quad s = \frac{\alpha}{r}

    The norm is that of each row and counts as a constant in the backward pass. At the start B = 0 and m is the length
    of W's rows: the frozen network.

    Args: as :class:`LoRA`, and
        per_task: Whether every task has updates of its own; here all tasks share one set and one run by default.

    Raises:
        ValueError: An argument is out of its range.
    """

    update_type = DirectionUpdate

    def __init__(self, sites: Sequence[Site], tasks: Sequence[str], *, per_task: bool = False, **kwargs: Any) -> None:
        super().__init__(sites, tasks, per_task=per_task, **kwargs)
        self._layers: dict[str, nn.Linear] = {}

    def attach(self, encoder: nn.Module) -> None:
        super().attach(encoder)
        # No submodules: they are the encoder's.
        self._layers = {site.key: encoder.layer_of(site) for site in self.sites}
        self._reset_magnitudes()

    def reset_parameters(self) -> None:
        """Start from the frozen network: B = 0, and m the length of the frozen rows."""
        super().reset_parameters()
        self._reset_magnitudes()

    def reset_task(self, task: str) -> None:
        super().reset_task(task)
        if self.per_task:
            self._reset_magnitudes([task])

    def generate(self, task: str | None) -> dict[str, Tensor]:
        """Factor of each row, ``(out_channels,)`` by site."""
        if self.is_merged:
            return {}
        updates = self.updates[SHARED if task is None else task]
        return {site.key: self._scale(site, updates[site.key]) for site in self.sites}

    def adapt(
        self, site: Site, inputs: Tensor, outputs: Tensor, task: str | None, generated: Any
    ) -> tuple[Tensor, Tensor | None]:
        updated, _ = super().adapt(site, inputs, outputs, task, generated)
        if self.is_merged:
            return updated, None
        scale, bias = generated[site.key].to(updated.dtype), self._layers[site.key].bias
        if bias is None:
            return updated * scale, None
        bias = bias.to(updated.dtype)
        return torch.addcmul(bias, updated - bias, scale), None

    def merge_into(self, encoder: nn.Module) -> None:
        r"""Put :math:`m (W + s B A) / \lVert W + s B A \rVert` in the place of the encoder's weights."""
        for site, update in self._own_updates():
            update.merged_scale.copy_(self._scale(site, update))
        super().merge_into(encoder)
        for site, update in self._own_updates():
            encoder.layer_of(site).weight.mul_(update.merged_scale.unsqueeze(1))

    def take_out_of(self, encoder: nn.Module) -> None:
        for site, update in self._own_updates():
            encoder.layer_of(site).weight.div_(update.merged_scale.unsqueeze(1))
        super().take_out_of(encoder)

    def _own_updates(self) -> list[tuple[Site, DirectionUpdate]]:
        """Sites and updates of the one set that there is when merging."""
        (updates,) = self.updates.values()
        return [(site, updates[site.key]) for site in self.sites]

    def _scale(self, site: Site, update: DirectionUpdate) -> Tensor:
        with torch.autocast(update.magnitude.device.type, enabled=False), torch.no_grad():
            change = update.up_weight @ update.down_weight
            lengths = torch.linalg.vector_norm(
                self._layers[site.key].weight.to(change.dtype) + self.factor * change, dim=1
            )
        return update.magnitude / lengths

    @torch.no_grad()
    def _reset_magnitudes(self, owners: Sequence[str] | None = None) -> None:
        for owner in self.updates if owners is None else owners:
            for key, update in self.updates[owner].items():
                if key in self._layers:
                    update.magnitude.copy_(torch.linalg.vector_norm(self._layers[key].weight.float(), dim=1))
