"""VMT-Adapter and VMT-Adapter-Lite (Xin et al., "VMT-Adapter: Parameter-Efficient Transfer Learning for Multi-Task
Dense Scene Understanding", AAAI 2024, arXiv 2312.08733).

The authors published no code. This is our reading of the paper, chosen so that the parameter counts come out as
reported; docs/methods/vmt.md says what the paper states and what is ours.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmvmt.registry import ADAPTERS

from .base import Method, Site
from .parts import bottleneck_width, build_activation, check_choice, check_flag, norm_parameters
from .task_features import task_features


class SharedBottleneck(nn.Module):
    """The projections that all tasks share: ``a = act(h W_down + b_down) W_up + b_up``.

    Args:
        width: Block width d.
        bottleneck: Bottleneck width r.
        activation: Name of the activation.
        tied: Whether ``W_up`` is the transpose of ``W_down`` (Lite).
        zero: Whether ``W_up`` is zero at the start.
    """

    def __init__(self, width: int, bottleneck: int, activation: str, tied: bool, zero: bool) -> None:
        super().__init__()
        self.tied = tied
        self.zero = zero
        self.down_weight = nn.Parameter(torch.empty(bottleneck, width))
        self.down_bias = nn.Parameter(torch.empty(bottleneck))
        if not tied:
            self.up_weight = nn.Parameter(torch.empty(width, bottleneck))
        self.up_bias = nn.Parameter(torch.empty(width))
        self.activation = build_activation(activation)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start from a = 0, at a point that gradients can leave; or, unless ``zero``, from weights at fan-in scale.

        Tied weights that are zero together with a zero ``down_bias`` get no gradient at all: hence the normal bias.
        """
        bottleneck, width = self.down_weight.shape
        nn.init.zeros_(self.up_bias)
        if self.tied and self.zero:
            nn.init.zeros_(self.down_weight)
            nn.init.normal_(self.down_bias)
            return
        nn.init.normal_(self.down_weight, std=width**-0.5)
        nn.init.zeros_(self.down_bias)
        if self.zero:
            nn.init.zeros_(self.up_weight)
        elif not self.tied:
            nn.init.normal_(self.up_weight, std=bottleneck**-0.5)

    def forward(self, h: Tensor) -> Tensor:
        """``(..., d)`` to ``(..., d)``."""
        z = self.activation(F.linear(h, self.down_weight, self.down_bias))
        return F.linear(z, self.down_weight.t() if self.tied else self.up_weight, self.up_bias)


class KnowledgeExtraction(nn.Module):
    """Scale and shift of one task in one stage, for each tapped block.

    Args:
        blocks: Number of tapped blocks L of the stage.
        width: Block width d.
        shift: Whether there is a shift.
        zero: Whether the scale is zero at the start.
    """

    def __init__(self, blocks: int, width: int, shift: bool, zero: bool) -> None:
        super().__init__()
        self.zero = zero
        self.scale = nn.Parameter(torch.empty(blocks, width))
        self.register_parameter('shift', nn.Parameter(torch.empty(blocks, width)) if shift else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Scale one, or zero; shift zero: every task starts from the task-generic feature."""
        nn.init.constant_(self.scale, 0.0 if self.zero else 1.0)
        if self.shift is not None:
            nn.init.zeros_(self.shift)


@ADAPTERS.register_module()
class VMTAdapter(Method):
    r"""One adapter per block in parallel to the MLP, shared by all tasks, with a scale and a shift per task.

    .. math::
        a &= \mathrm{act}(x W_{down} + b_{down}) W_{up} + b_{up} \\
        h' &= h + \mathrm{MLP}(\mathrm{LN}(h)) + s\, a \\
        F_t &= X + s \sum_l (\gamma_t^l \odot a^l + \beta_t^l)

    The stream h' does not depend on the task, so the encoder runs once for any number of tasks. F_t is the feature of
    task t that leaves a stage with output X and blocks l; x is what the MLP reads, LN(h), or h.

    With ``start='up'`` W_up is zero and gamma is one: a = 0, and all is as in the frozen network. With
    ``start='gamma'`` gamma is zero and W_up is not: F_t = X for every task, but the stream moves away from that of the
    frozen network by s a at once, unless s is learned and starts at zero.

    Args:
        sites: Blocks to fill, in the encoder's order.
        tasks: Task names.
        reduction: Block width over bottleneck width, rho; the bottleneck is ``floor(d / rho)``.
        activation: ``'gelu'``, ``'relu'``, ``'silu'`` or ``'identity'``.
        input: What the adapter reads: ``'normed'``, x is what the MLP reads, LN(h), or h where norms stand behind the
            MLPs; or ``'stream'``, x is h.
        scale: The factor s: a number, or ``'learned'`` for one trained scalar per block.
        scale_start: Where a learned s starts.
        tap: ``'all'`` blocks of a stage feed F_t, or the ``'last'`` filled one only.
        shift: Whether there is a shift beta.
        start: What is zero at the start: ``'up'``, W_up; or ``'gamma'``.
        unfreeze: ``'none'``, or ``'norms'`` to train the encoder's LayerNorms too.

    Raises:
        ValueError: An argument is out of its range, or nothing would ever get a gradient.
    """

    positions = ('ffn',)
    tied = False
    former_defaults: ClassVar[dict[str, Any]] = dict(input='stream')

    def __init__(
        self,
        sites: Sequence[Site],
        tasks: Sequence[str],
        *,
        reduction: float = 4,
        activation: str = 'gelu',
        input: str = 'normed',
        scale: float | str = 1.0,
        scale_start: float = 1.0,
        tap: str = 'all',
        shift: bool = True,
        start: str = 'up',
        unfreeze: str = 'none',
    ) -> None:
        super().__init__(sites, tasks)
        check_choice('input', input, ('stream', 'normed'))
        check_choice('tap', tap, ('all', 'last'))
        check_choice('start', start, ('up', 'gamma'))
        check_choice('unfreeze', unfreeze, ('none', 'norms'))
        check_flag('shift', shift)
        if scale != 'learned' and not _is_number(scale):
            raise ValueError(f"scale must be a finite number or 'learned', got {scale!r}")
        if not _is_number(scale_start):
            raise ValueError(f'scale_start must be a finite number, got {scale_start!r}')
        if scale != 'learned' and scale_start != 1:
            raise ValueError(f"scale_start={scale_start!r} is for scale='learned', but scale is {scale!r}")
        if scale == 'learned' and scale_start == 0 and start == 'up':
            raise ValueError(
                "scale_start=0 with start='up' multiplies a = 0 by s = 0, so that neither gets a gradient; "
                "choose start='gamma' or another scale_start"
            )
        self.reads_normed = input == 'normed'
        self.scale_start = float(scale_start)
        self.unfreeze = unfreeze

        self.bottlenecks = nn.ModuleDict()
        by_stage: dict[int, list[Site]] = {}
        for site in self.sites:
            width = site.in_channels
            self.bottlenecks[site.key] = SharedBottleneck(
                width, bottleneck_width(width, reduction), activation, self.tied, zero=start == 'up'
            )
            if site.leaves:
                by_stage.setdefault(site.stage, []).append(site)

        self.learned_scale = scale == 'learned'
        if self.learned_scale:
            self.scales = nn.ParameterDict(
                {site.key: nn.Parameter(torch.tensor(self.scale_start)) for site in self.sites}
            )
        else:
            self.scale = float(scale)

        self.tapped_sites = {stage: (group if tap == 'all' else group[-1:]) for stage, group in by_stage.items()}
        self.extractions = nn.ModuleDict(
            {
                f'stage{stage}': nn.ModuleDict(
                    {
                        task: KnowledgeExtraction(len(group), group[0].in_channels, shift, zero=start == 'gamma')
                        for task in self.tasks
                    }
                )
                for stage, group in self.tapped_sites.items()
            }
        )

    def reset_parameters(self) -> None:
        """Start as ``start`` says, with F_t = X for every task."""
        for module in self.modules():
            if isinstance(module, (SharedBottleneck, KnowledgeExtraction)):
                module.reset_parameters()
        if self.learned_scale:
            for scale in self.scales.values():
                nn.init.constant_(scale, self.scale_start)

    def _scale(self, site: Site) -> Tensor | float:
        return self.scales[site.key] if self.learned_scale else self.scale

    def adapt(
        self, site: Site, inputs: Tensor, outputs: Tensor, task: str | None, generated: Any
    ) -> tuple[Tensor, Tensor | None]:
        a = self.bottlenecks[site.key](inputs)
        scale = self._scale(site)
        if isinstance(scale, float):
            adapted = torch.add(outputs, a, alpha=scale)
        else:
            adapted = torch.addcmul(outputs, a, scale)
        return adapted, (a if site in self.tapped_sites.get(site.stage, ()) else None)

    def task_parts(self) -> Sequence[nn.ModuleDict]:
        return tuple(self.extractions.values())

    def tap(self, stage: int, x: Tensor, tapped: Sequence[Tensor], tasks: Sequence[str]) -> dict[str, Tensor] | None:
        sites = self.tapped_sites.get(stage)
        if sites is None:
            return None
        extractions = [self.extractions[f'stage{stage}'][task] for task in tasks]
        scales = torch.stack([extraction.scale for extraction in extractions])
        # s enters through the small (T, L, d) tables instead of through every token; only the sum of shifts matters.
        factor = torch.stack([self.scales[s.key] for s in sites]).unsqueeze(-1) if self.learned_scale else self.scale
        if extractions[0].shift is None:
            shifts = scales.new_zeros(scales.shape[0], scales.shape[2])
        else:
            shifts = (factor * torch.stack([extraction.shift for extraction in extractions])).sum(1)
        features = task_features(x, factor * scales, shifts, tapped)
        return dict(zip(tasks, features))

    def encoder_parameters(self, encoder: nn.Module) -> Iterable[nn.Parameter]:
        return norm_parameters(encoder) if self.unfreeze == 'norms' else ()

    def no_decay_parameters(self) -> Iterable[nn.Parameter]:
        yield from super().no_decay_parameters()
        for module in self.modules():
            if isinstance(module, KnowledgeExtraction):
                yield from module.parameters()

    def structure_of(self, names: Iterable[str]) -> dict[str, Any]:
        parts = {name.rpartition('.')[2] for name in names if name.startswith('extractions.')}
        return dict(shift='shift' in parts) if parts else {}


@ADAPTERS.register_module()
class VMTAdapterLite(VMTAdapter):
    r"""VMT-Adapter whose up-projection is the transpose of its down-projection, :math:`W_{up} = W_{down}^T`.

    Args: as :class:`VMTAdapter`, with a default reduction of 6.
    """

    tied = True

    def __init__(self, sites: Sequence[Site], tasks: Sequence[str], *, reduction: float = 6, **kwargs) -> None:
        super().__init__(sites, tasks, reduction=reduction, **kwargs)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
