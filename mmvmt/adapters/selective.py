"""Methods that add no module and only choose which of the encoder's own parameters train.

Where the benchmark has a copy per task, the copies are the method's own parameters, kept as offsets from the frozen
values; with ``per_task=False`` the encoder's parameters themselves train, the same for all tasks, in one pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import nn

from mmvmt.registry import ADAPTERS

from .base import Method, Site
from .parts import encoder_parts, norm_parameters


@ADAPTERS.register_module()
class DecodersOnly(Method):
    """The encoder stays as it is; only the heads learn. The lower reference of every comparison."""


@ADAPTERS.register_module()
class FullFineTuning(Method):
    """Every parameter of the encoder trains. With one task the upper reference, with several multi-task fine-tuning."""

    def encoder_parameters(self, encoder: nn.Module) -> Iterable[nn.Parameter]:
        return encoder.parameters()


class SelectiveTuning(Method):
    """Base class of methods that train some of the encoder's parameters.

    Args:
        sites: Ignored: the choice concerns the whole encoder.
        tasks: Task names.
        per_task: Whether every task has a copy of its own, for which the encoder runs once per task.
    """

    def __init__(self, sites: Sequence[Site], tasks: Sequence[str], *, per_task: bool = True) -> None:
        super().__init__(sites, tasks)
        self.per_task = per_task

    def attach(self, encoder: nn.Module) -> None:
        """As in the base class.

        Raises:
            ValueError: The encoder has no parameters of the kind.
        """
        if not list(self.selected(encoder)):
            raise ValueError(f'{type(self).__name__} trains nothing: {encoder.label} has no such parameters')
        super().attach(encoder)

    def selected(self, encoder: nn.Module) -> Iterable[nn.Parameter]:
        """The encoder's parameters that this method is about."""
        raise NotImplementedError(f'{type(self).__name__} does not define selected()')

    def encoder_parameters(self, encoder: nn.Module) -> Iterable[nn.Parameter]:
        return () if self.per_task else self.selected(encoder)

    def copied_parameters(self, encoder: nn.Module) -> Iterable[nn.Parameter]:
        return self.selected(encoder) if self.per_task else ()


@ADAPTERS.register_module()
class BitFit(SelectiveTuning):
    """Biases of all layers (Ben Zaken et al., "BitFit", ACL 2022, arXiv 2106.10199).

    The relative position bias is a table of attention offsets, no bias of a layer: it stays frozen.

    Args: as :class:`SelectiveTuning`.
    """

    def selected(self, encoder: nn.Module) -> Iterable[nn.Parameter]:
        biases = (getattr(module, 'bias', None) for module in encoder.modules())
        return [bias for bias in biases if isinstance(bias, nn.Parameter)]


@ADAPTERS.register_module()
class RelativePositionBias(SelectiveTuning):
    """The tables of the relative position bias of all windows.

    Args: as :class:`SelectiveTuning`.
    """

    def selected(self, encoder: nn.Module) -> Iterable[nn.Parameter]:
        tables = (getattr(module, 'relative_position_bias_table', None) for module in encoder.modules())
        return [table for table in tables if isinstance(table, nn.Parameter)]


@ADAPTERS.register_module()
class NormTuning(SelectiveTuning):
    """Weights and biases of all LayerNorms.

    Args: as :class:`SelectiveTuning`.
    """

    def selected(self, encoder: nn.Module) -> Iterable[nn.Parameter]:
        return norm_parameters(encoder)


@ADAPTERS.register_module()
class PartTuning(SelectiveTuning):
    """Parts of the encoder by name, by default the same for all tasks: what MTLoRA and its kin train besides adapters.

    Args:
        sites: Ignored: the choice concerns the whole encoder.
        tasks: Task names.
        patch_embed: Whether the patch embedding trains.
        norms: Whether all LayerNorms train.
        position_bias: Whether the tables of the relative position bias train.
        merging: Whether the linear layers between stages train.
        per_task: Whether every task has a copy of its own, for which the encoder runs once per task.

    Raises:
        ValueError: No part is chosen.
    """

    def __init__(
        self,
        sites: Sequence[Site],
        tasks: Sequence[str],
        *,
        patch_embed: bool = True,
        norms: bool = True,
        position_bias: bool = True,
        merging: bool = False,
        per_task: bool = False,
    ) -> None:
        super().__init__(sites, tasks, per_task=per_task)
        self.parts = dict(patch_embed=patch_embed, norms=norms, position_bias=position_bias, merging=merging)
        if not any(self.parts.values()):
            raise ValueError(f'PartTuning has nothing to train: set one of {", ".join(self.parts)} to True')

    def selected(self, encoder: nn.Module) -> Iterable[nn.Parameter]:
        return encoder_parts(encoder, **self.parts)
