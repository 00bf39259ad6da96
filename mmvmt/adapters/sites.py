"""The places that an encoder offers to methods, and what a layer there tells the tails of tasks beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

SLOTS = ('attn', 'ffn', 'qkv', 'proj', 'fc1', 'fc2', 'downsample', 'tokens')
"""Slots of an encoder block: the two residual branches, the four linear layers inside them, the linear layer that leads
from a stage's last block to the next stage, and the tokens that attention sees besides those of the image (prompts)."""


@dataclass(frozen=True)
class Site:
    """One place of the encoder that an adapter fills.

    Args:
        stage: Index of the stage.
        block: Index of the block in its stage.
        slot: One of :data:`SLOTS`.
        in_channels: Width of what enters: the stream for a branch, the layer's input for a linear layer.
        out_channels: Width of what the branch or layer puts out.
        leaves: Whether the output of the stage leaves the encoder, so that there is a feature to tap.
        last: Whether the block is the last of its stage.
    """

    stage: int
    block: int
    slot: str
    in_channels: int
    out_channels: int
    leaves: bool = True
    last: bool = False

    @property
    def key(self) -> str:
        """Name of the site in parameter names."""
        return f'stage{self.stage}_block{self.block}_{self.slot}'


class SharedLayer(NamedTuple):
    """What the stream that all tasks share did in a linear layer of a stage's last block, see :meth:`Method.branch`.

    Args:
        inputs: ``(..., in_channels)``, what the layer got.
        frozen: ``(..., out_channels)``, what it put out before any method adapted that.
        handed: What :meth:`Method.adapt` returned beside the adapted outputs, or None.
        hw: Height and width of the map that the tokens are; of one window, where the layer works on windows: its
            tokens are then ``(windows, B, height * width, channels)``.
        scores: ``(windows, B, heads, P, height * width)`` for ``proj`` of a method that asks for them, see
            :attr:`Method.wants_prompt_scores`: the products of the prompts' queries with the keys, neither scaled nor
            biased. Else None.
    """

    inputs: Tensor
    frozen: Tensor
    handed: Tensor | None
    hw: tuple[int, int]
    scores: Tensor | None = None
