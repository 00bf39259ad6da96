"""TADFormer (Baek et al., "TADFormer: Task-Adaptive Dynamic Transformer for Efficient Multi-Task Learning", CVPR 2025,
arXiv 2501.04293): low-rank updates that all tasks share, a prompt per task that the attention sees, and beside the last
block of each stage a tail per task, told apart by its prompt and by a filter inside the shared updates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmvmt.registry import ADAPTERS

from .base import SharedLayer, Site
from .mtlora import SharedUpdates


class TaskPrompt(nn.Module):
    """The prompt of a task, ``(C,)``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.vector = nn.Parameter(torch.empty(width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Normal with mean and deviation 1, between -2 and 2."""
        nn.init.trunc_normal_(self.vector, mean=1.0, std=1.0, a=-2.0, b=2.0)


class DynamicTaskFilter(nn.Module):
    r"""A depthwise 3 x 3 convolution whose kernel depends on what it filters.

    .. math:: k = W \, \mathrm{mean}_{h, w}(z) + b, \quad
        k'_c = \frac{k_c - \mathrm{mean}(k_c)}{\mathrm{std}(k_c) + 10^{-10}} \odot \sigma_c + \mu_c

    with mean and standard deviation over the 9 entries of channel c, and trained :math:`\sigma, \mu`.

    Args:
        channels: Width r of what is filtered.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.kernel = nn.Linear(channels, 9 * channels)
        self.spread = nn.Parameter(torch.empty(9 * channels))
        self.mean = nn.Parameter(torch.empty(9 * channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The linear layer as PyTorch has it, the deviation normal with √2 / 3, the mean normal with 1."""
        self.kernel.reset_parameters()
        nn.init.normal_(self.spread, std=2**0.5 / 3)
        nn.init.normal_(self.mean)

    def forward(self, z: Tensor) -> Tensor:
        """``(..., h, w, r)`` to the same shape; each map or window by a kernel of its own, zeros around it."""
        # The kernel is made in single precision: it is a difference of near numbers.
        k = self.kernel(z.mean((-3, -2))).float().unflatten(-1, (-1, 9))
        k = (k - k.mean(-1, keepdim=True)) / (k.std(-1, keepdim=True) + 1e-10)
        k = k * self.spread.view(-1, 9) + self.mean.view(-1, 9)
        return depthwise(z, k.to(z.dtype)[..., None, None, :, :])


class StaticTaskFilter(nn.Module):
    """A depthwise 3 x 3 convolution with a bias, zeros around the map.

    Args:
        channels: Width r of what is filtered.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, 9))
        self.bias = nn.Parameter(torch.empty(channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """As PyTorch has it for a convolution with 9 inputs: uniform within ±1/3."""
        nn.init.uniform_(self.weight, -1 / 3, 1 / 3)
        nn.init.uniform_(self.bias, -1 / 3, 1 / 3)

    def forward(self, z: Tensor) -> Tensor:
        """``(..., h, w, r)`` to the same shape."""
        return depthwise(z, self.weight) + self.bias


def depthwise(z: Tensor, kernel: Tensor) -> Tensor:
    """Cross-correlation of every channel with its 3 x 3 kernel, zeros around the map.

    Nine products of shifted maps: kernels differ by map, and a grouped convolution over all of them is slower on a CPU
    and fixes the number of images in an exported graph.

    Args:
        z: ``(..., h, w, r)``.
        kernel: ``(r, 9)`` row by row, or with leading axes as ``z``.
    """
    height, width = z.shape[-3:-1]
    padded = F.pad(z, (0, 0, 1, 1, 1, 1))
    shifted = (padded[..., y : y + height, x : x + width, :] for y in range(3) for x in range(3))
    return sum(part * kernel[..., at] for at, part in enumerate(shifted))


@ADAPTERS.register_module()
class TADFormer(SharedUpdates):
    r"""Shared low-rank updates, a prompt per task, and tails that filter the shared updates by task.

    .. math::
        \alpha_{t,h} &= g(q_{t,h} k_h^T), \quad f_t = \mathrm{concat}_h(\alpha_{t,h} \odot o_h) \\
        L_t(x, x_t) &= W x + b + s B\, \mathrm{Filter}_t(A x_t) \\
        F_t &= \sigma(\gamma)\, f_t + (1 - \sigma(\gamma))\, y_t

    :math:`q_{t,h}` is the query of task t's prompt and :math:`k_h, o_h` are keys and outputs of the image's tokens in
    head h; :math:`x_t = LN_p(o + f_t)` enters the tail at ``proj``. A, B are the shared ones, and the frozen part is
    that of the shared stream. :math:`\gamma` is a number per stage, at first 0.

    Image tokens attend to the prompts of all tasks, so what the encoder puts out depends on which tasks there are
    (:attr:`tasks_interact`), and the start is not the frozen network. A prompt goes through the blocks by
    :math:`p' = p + \mathrm{MLP}(LN(a))` with a its attention's outputs, mean over the windows, and from stage to stage
    by a linear layer.

    Args:
        sites: ``qkv``, ``proj``, ``fc1``, ``fc2`` and ``tokens`` of every block from the first filled one on, in the
            encoder's order.
        tasks: Task names.
        rank: Rank r of the updates.
        scale: The factor s.
        dropout: Probability with which an entry of the input of a shared update is dropped in training; the tails' are
            not dropped.
        trainable_scale: Whether s is a number per update that trains; in no published figure.
        filter: ``'dynamic'``, the paper's: a kernel from the image, one module per layer for all tasks; or
            ``'static'``, the published code's: a kernel per layer and task.
        skip: What the gate mixes with the tail: ``'features'``, f_t as in the published code (there its axes are
            confused, here they are not); or ``'attention'``, o + f_t.
        **kwargs: ``patch_embed``, ``norms``, ``position_bias``, ``merging``: which parts of the encoder train; all but
            the last by default, see :class:`~mmvmt.adapters.branching.BranchingMethod`.

    Raises:
        ValueError: An argument is out of its range, or a slot or a block is not filled.
    """

    positions = ('qkv', 'proj', 'fc1', 'fc2', 'tokens')
    default_positions = positions
    wants_prompt_scores = True
    carry_residual = False
    tasks_interact = True

    def __init__(
        self,
        sites: Sequence[Site],
        tasks: Sequence[str],
        *,
        rank: int = 64,
        scale: float = 4.0,
        dropout: float = 0.05,
        trainable_scale: bool = False,
        filter: str = 'dynamic',
        skip: str = 'features',
        merging: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            sites,
            tasks,
            rank=rank,
            scale=scale,
            dropout=dropout,
            trainable_scale=trainable_scale,
            merging=merging,
            **kwargs,
        )
        for name, value, known in (
            ('filter', filter, ('dynamic', 'static')),
            ('skip', skip, ('features', 'attention')),
        ):
            if value not in known:
                raise ValueError(f'{name} must be {known[0]!r} or {known[1]!r}, got {value!r}')
        prompted = [site for site in self.sites if site.slot == 'tokens']
        if not prompted:
            raise ValueError("TADFormer tells tasks apart by their prompts: position lacks 'tokens'")
        self.filter, self.skip = filter, skip
        widths = {site.stage: site.in_channels for site in prompted}
        self.prompts = nn.ModuleDict({task: TaskPrompt(prompted[0].in_channels) for task in self.tasks})
        stages = sorted(widths)
        self.transitions = nn.ModuleDict(
            {f'stage{a}': nn.Linear(widths[a], widths[b], bias=False) for a, b in pairwise(stages)}
        )
        self._last = (prompted[-1].stage, prompted[-1].block)
        projections = [site for site in self.tail_sites if site.slot == 'proj']
        self.norms = nn.ModuleDict({site.key: nn.LayerNorm(site.in_channels) for site in projections})
        self.gates = nn.ParameterDict({f'stage{site.stage}': nn.Parameter(torch.zeros(())) for site in projections})
        keys = [site.key for site in self.tail_sites]
        if filter == 'dynamic':
            self.filters = nn.ModuleDict({key: DynamicTaskFilter(rank) for key in keys})
        else:
            self.filters = nn.ModuleDict(
                {task: nn.ModuleDict({key: StaticTaskFilter(rank) for key in keys}) for task in self.tasks}
            )
        self.reset_parameters()

    def attach(self, encoder: nn.Module) -> None:
        super().attach(encoder)
        filled = {(site.stage, site.block) for site in self.sites if site.slot == 'tokens'}
        gaps = [at for at in encoder.block_indices() if at > min(filled) and at not in filled]
        if gaps:
            raise ValueError(
                f'TADFormer carries its prompts through every block behind the first filled one, but block '
                f'{gaps[0][1]} of stage {gaps[0][0]} is not filled; fill all stages from stage {min(filled)[0]} on'
            )

    def reset_parameters(self) -> None:
        """No update (every B is zero), but prompts and filters as published: not the frozen network."""
        super().reset_parameters()
        for module in self.modules():
            if isinstance(module, (TaskPrompt, DynamicTaskFilter, StaticTaskFilter, nn.LayerNorm)):
                module.reset_parameters()
        for transition in self.transitions.values():
            nn.init.trunc_normal_(transition.weight, std=0.02)
        for gate in self.gates.values():
            nn.init.zeros_(gate)

    def task_parts(self) -> Sequence[nn.ModuleDict]:
        return (self.prompts, *([self.filters] if self.filter == 'static' else []))

    def tokens(self, site: Site, carried: Tensor | None, task: str | None) -> tuple[Tensor, bool]:
        prompts = carried
        if carried is None:
            prompts = torch.stack([self.prompts[name].vector for name in self.tasks])
        # Nothing reads what the last block makes of them.
        return prompts, (site.stage, site.block) != self._last

    def merge_prompts(self, stage: int, prompts: Tensor, merge: Callable[[Tensor], Tensor]) -> Tensor:
        return self.transitions[f'stage{stage}'](prompts)

    def branch(
        self, site: Site, own: Tensor | None, shared: SharedLayer, task: str, generated: Any
    ) -> tuple[Tensor, Tensor | None]:
        skip = None
        if own is None:
            out = shared.inputs
            scale = F.gelu(shared.scores[..., self.tasks.index(task), :]).transpose(-1, -2).unsqueeze(-1)
            features = (out.unflatten(-1, (scale.shape[-2], -1)) * scale).flatten(-2)
            own = out + features
            skip = features if self.skip == 'features' else own
            own = self.norms[site.key](own)
        update = self.updates[site.key]
        filters = self.filters if self.filter == 'dynamic' else self.filters[task]
        low = F.linear(own, update.down_weight).unflatten(-2, shared.hw)
        low = filters[site.key](low).flatten(-3, -2)
        return torch.add(shared.frozen, update.of_low(low), alpha=self.factor), skip

    def tap(self, stage: int, x: Tensor, tapped: Sequence[Tensor], tasks: Sequence[str]) -> dict[str, Tensor] | None:
        tails = super().tap(stage, x, tapped[: len(tasks)], tasks)
        if tails is None:
            return None
        share = torch.sigmoid(self.gates[f'stage{stage}'])
        skips = dict(zip(tasks, tapped[len(tasks) :]))
        return {
            task: torch.lerp(tail, skips[task].to(tail.dtype), share.to(tail.dtype)) for task, tail in tails.items()
        }
