"""SSF (Lian et al., "Scaling & Shifting Your Features", NeurIPS 2022, arXiv 2210.08823), equation 3: a scale and a
shift behind every operation of the encoder, which can be merged into its weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmvmt.registry import ADAPTERS

from .base import Site
from .mergeable import Mergeable

SHARED = 'shared'
"""Owner of the scales and shifts that all tasks share."""


class ScaleShift(nn.Module):
    """``y`` to ``scale * y + shift``.

    Args:
        width: Channels.
        std: Standard deviation of the initial values around 1 and 0.
    """

    def __init__(self, width: int, std: float) -> None:
        super().__init__()
        self.std = std
        self.scale = nn.Parameter(torch.empty(width))
        self.shift = nn.Parameter(torch.empty(width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Normal around 1, and around 0."""
        nn.init.normal_(self.scale, mean=1.0, std=self.std)
        nn.init.normal_(self.shift, std=self.std)

    def forward(self, y: Tensor) -> Tensor:
        """``(..., width)`` to ``(..., width)``."""
        return torch.addcmul(self.shift.to(y.dtype), y, self.scale.to(y.dtype))


@ADAPTERS.register_module()
class SSF(Mergeable):
    r"""What every operation puts out becomes :math:`\gamma \odot y + \beta`.

    Behind linear layers it is computed; behind the norms and the convolution of the patch embedding, whose weights are
    small, it is computed as another weight and bias, :math:`\gamma W` and :math:`\gamma b + \beta`.

    Args:
        sites: Linear layers to adapt, in the encoder's order.
        tasks: Task names.
        norms: Whether it also stands behind the LayerNorms of the blocks and transitions that are filled.
        patch_embed: Whether it also stands behind the convolution and the norm of the patch embedding.
        std: Standard deviation of the initial scales around 1 and shifts around 0; 0 starts from the frozen network.
        per_task: Whether every task has scales and shifts of its own, for which the encoder runs once per task.

    Raises:
        ValueError: An argument is out of its range.
    """

    positions = ('qkv', 'proj', 'fc1', 'fc2', 'downsample')
    default_positions = positions

    def __init__(
        self,
        sites: Sequence[Site],
        tasks: Sequence[str],
        *,
        norms: bool = True,
        patch_embed: bool = True,
        std: float = 0.02,
        per_task: bool = False,
    ) -> None:
        super().__init__(sites, tasks)
        if isinstance(std, bool) or not isinstance(std, (int, float)) or not 0 <= std < 1:
            raise ValueError(f'std must be at least 0 and below 1, got {std!r}')
        self.norms, self.patch_embed, self.std = norms, patch_embed, std
        self.per_task = per_task
        self.sets = nn.ModuleDict(
            {
                owner: nn.ModuleDict({site.key: ScaleShift(site.out_channels, std) for site in self.sites})
                for owner in (self.tasks if per_task else (SHARED,))
            }
        )
        self.replaced: tuple[str, ...] = ()
        self.biasless: frozenset[str] = frozenset()

    def attach(self, encoder: nn.Module) -> None:
        """Find the modules whose weights are replaced, and make their scales and shifts."""
        super().attach(encoder)
        self.biasless = frozenset(site.key for site in self.sites if encoder.layer_of(site).bias is None)
        names = {id(p): name for name, p in encoder.own_parameters().items()}
        parts = [encoder.embedding_part()] if self.patch_embed else []
        modules = [m for part in parts for m in part.modules() if isinstance(m, (nn.Conv2d, nn.LayerNorm))]
        if self.norms:
            blocks = dict.fromkeys((site.stage, site.block) for site in self.sites)
            filled = [encoder.stage_blocks()[stage][block] for stage, block in blocks]
            filled += [encoder.transition_part(site.stage) for site in self.sites if site.slot == 'downsample']
            modules += [m for part in filled for m in part.modules() if isinstance(m, nn.LayerNorm)]
        self.replaced = tuple(names[id(module.weight)].removesuffix('.weight') for module in modules)
        for path, module in zip(self.replaced, modules):
            if module.bias is None:
                raise ValueError(f'SSF cannot shift what {path} puts out: it has no bias')
            for scales in self.sets.values():
                scales[path.replace('.', '-')] = ScaleShift(len(module.weight), self.std)

    def reset_parameters(self) -> None:
        """Draw scales around 1 and shifts around 0."""
        super().reset_parameters()
        for module in self.sets.modules():
            if isinstance(module, ScaleShift):
                module.reset_parameters()

    def task_parts(self) -> Sequence[nn.ModuleDict]:
        return (self.sets,) if self.per_task else ()

    def adapt(
        self, site: Site, inputs: Tensor, outputs: Tensor, task: str | None, generated: Any
    ) -> tuple[Tensor, Tensor | None]:
        scale_shift = self.sets[SHARED if task is None else task][site.key]
        if not self.is_merged:
            return scale_shift(outputs), None
        self.refuse_training()
        # A layer without a bias cannot hold the shift.
        return outputs + scale_shift.shift if site.key in self.biasless else outputs, None

    def substitutes(self, encoder: nn.Module, task: str | None, generated: Any) -> dict[str, Tensor]:
        """Weights and biases of norms and patch embedding; nothing while merged."""
        if self.is_merged:
            return {}
        return self._replacements(encoder, self.sets[SHARED if task is None else task])

    def merge_into(self, encoder: nn.Module) -> None:
        """Scale weights and biases, and shift the biases; a shift behind a layer that has no bias is still added."""
        (sets,) = self.sets.values()
        if any((scales.scale == 0).any() for scales in sets.values()):
            raise ValueError('SSF has a scale of zero, which could not be unmerged')
        own = encoder.own_parameters()
        for name, value in self._replacements(encoder, sets).items():
            own[name].copy_(value)
        for site in self.sites:
            layer, scales = encoder.layer_of(site), sets[site.key]
            layer.weight.mul_(scales.scale.unsqueeze(1))
            if layer.bias is not None:
                layer.bias.copy_(scales(layer.bias))

    def take_out_of(self, encoder: nn.Module) -> None:
        (sets,) = self.sets.values()
        own = encoder.own_parameters()
        layers = [(encoder.layer_of(site).weight, encoder.layer_of(site).bias, sets[site.key]) for site in self.sites]
        for path in self.replaced:
            layers.append((own[f'{path}.weight'], own[f'{path}.bias'], sets[path.replace('.', '-')]))
        for weight, bias, scales in layers:
            weight.div_(scales.scale.view(-1, *[1] * (weight.ndim - 1)))
            if bias is not None:
                bias.sub_(scales.shift).div_(scales.scale)

    def _replacements(self, encoder: nn.Module, sets: nn.ModuleDict) -> dict[str, Tensor]:
        own, replaced = encoder.own_parameters(), {}
        for path in self.replaced:
            scales, weight = sets[path.replace('.', '-')], own[f'{path}.weight']
            replaced[f'{path}.weight'] = weight * scales.scale.view(-1, *[1] * (weight.ndim - 1))
            replaced[f'{path}.bias'] = scales(own[f'{path}.bias'])
        return replaced
