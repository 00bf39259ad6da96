"""Methods that add no module and only choose which of the encoder's own parameters train."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from mmvmt.registry import ADAPTERS

from .base import Adapter


@ADAPTERS.register_module()
class DecodersOnly(Adapter):
    """The encoder stays as it is; only the heads learn. The lower reference of every comparison."""


@ADAPTERS.register_module()
class FullFineTuning(Adapter):
    """Every parameter of the encoder trains. With one task the upper reference, with several multi-task fine-tuning."""

    def encoder_parameters(self, encoder: nn.Module) -> Iterable[nn.Parameter]:
        return encoder.parameters()
