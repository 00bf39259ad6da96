"""What fills the slots of an encoder's blocks in one pass, and running it: what blocks call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mmvmt.adapters.base import Method, SharedLayer, Site

Size = tuple[int, int]
"""Height and width."""


class Fill(NamedTuple):
    """A method in a slot, in one pass of the encoder.

    Args:
        method: The method.
        site: Where it stands.
        tasks: Tasks of the pass, stacked along the batch in this order; ``(None,)`` for a method that knows no task.
        generated: What the method generated for each of them.
    """

    method: Method
    site: Site
    tasks: tuple[str | None, ...]
    generated: tuple[Any, ...]

    def adapt(self, inputs: Tensor, outputs: Tensor, batch_dim: int, hw: Size | None) -> tuple[Tensor, Tensor | None]:
        """Adapt the outputs; those of stacked tasks each with their own part of the method."""
        count = len(self.tasks)
        if count == 1:
            return self.method.adapt_map(self.site, inputs, outputs, self.tasks[0], self.generated[0], hw)
        parts = zip(inputs.chunk(count, batch_dim), outputs.chunk(count, batch_dim), self.tasks, self.generated)
        adapted = [self.method.adapt_map(self.site, i, o, task, generated, hw)[0] for i, o, task, generated in parts]
        return torch.cat(adapted, batch_dim), None

    def prompts(self, carried: Tensor | None) -> Prompts:
        """Prompts of all tasks of the pass, ``(T, P, C)`` or ``(T * B, P, C)``."""
        count = len(self.tasks)
        before = carried.chunk(count) if carried is not None and count > 1 else [carried] * count
        prompts, carry = [], False
        for task, part in zip(self.tasks, before):
            tokens, carry = self.method.tokens(self.site, part, task)
            prompts.append(tokens if tokens.ndim == 3 else tokens.unsqueeze(0))
        return Prompts(torch.cat(prompts), carry, self.method.carry_residual)


Fills = dict[str, list[Fill]]
"""What fills the slots of one block, in one pass."""


def fill(
    fills: Fills,
    slot: str,
    inputs: Tensor,
    outputs: Tensor,
    tapped: list[Tensor] | None = None,
    batch_dim: int = 0,
    inside_drop_path: bool | None = None,
    hw: Size | None = None,
    tails: Tails | None = None,
    normed: Tensor | None = None,
) -> Tensor:
    """Run the methods of a slot over a branch's or a layer's outputs.

    Args:
        fills: What fills the slots of the block.
        slot: The slot.
        inputs: ``(..., C_in)``: for a branch the stream before its norm, for a layer the layer's input.
        outputs: ``(..., C_out)``: what the branch or the layer puts out.
        tapped: Gets what the methods hand out for the stage's tap.
        batch_dim: Axis of the images.
        inside_drop_path: Run only the methods on this side of drop path; None: all.
        hw: Height and width of the map that the tokens are, or of a window; None for prompts.
        tails: The tails of tasks that pass this layer beside the stream.
        normed: ``(..., C_in)``: for a branch what its attention or MLP reads, for methods that read that.

    Returns:
        The adapted outputs.
    """
    frozen, handed = outputs, None
    for filled in fills.get(slot, ()):
        if inside_drop_path is not None and filled.method.inside_drop_path != inside_drop_path:
            continue
        outputs, tap = filled.adapt(normed if filled.method.reads_normed else inputs, outputs, batch_dim, hw)
        if tap is not None and tapped is not None:
            tapped.append(tap)
        if tails is not None and filled.method is tails.method:
            handed = tap
    if tails is not None:
        tails.keep(slot, inputs, frozen, handed, hw)
    return outputs


def branch(
    fills: Fills,
    slot: str,
    x: Tensor,
    outputs: Tensor,
    tapped: list[Tensor] | None = None,
    drop_path: Callable[[Tensor], Tensor] | None = None,
    hw: Size | None = None,
    normed: Tensor | None = None,
) -> Tensor:
    """What a residual branch adds to the stream: its outputs through drop path, adapted on either side of it.

    Args:
        fills: What fills the slots of the block.
        slot: The slot of the branch.
        x: ``(B, N, C)``, the stream before the branch's norm.
        outputs: ``(B, N, C)``, what the branch puts out.
        tapped: Gets what the methods hand out for the stage's tap.
        drop_path: Drop path; None: there is none.
        hw: Height and width of the map that the tokens are; None for prompts.
        normed: ``(B, N, C)``, what the branch's attention or MLP reads, see :attr:`AdaptedEncoder.normed_slots`.
    """
    outputs = fill(fills, slot, x, outputs, tapped, inside_drop_path=True, hw=hw, normed=normed)
    outputs = outputs if drop_path is None else drop_path(outputs)
    return fill(fills, slot, x, outputs, tapped, inside_drop_path=False, hw=hw, normed=normed)


class Prompts(NamedTuple):
    """Tokens that the attention of a block sees besides those of the image.

    Args:
        tokens: ``(B, P, C)``, or fewer sets of prompts, each for the same number of successive images.
        carry: Whether what the block makes of them goes on to the next block.
        residual: Whether they are added to what attention makes of them, see :attr:`Method.carry_residual`.
    """

    tokens: Tensor
    carry: bool
    residual: bool = True

    def of_images(self, images: int) -> Tensor:
        """A set of prompts for every image, ``(images, P, C)``."""
        return self.tokens.repeat_interleave(images // self.tokens.shape[0], 0)


class Tails:
    """The tails of tasks through the last block of a stage, beside the shared stream, in one pass.

    The block shows them its linear layers as the shared stream goes through these, see :func:`fill`, and then runs the
    tails through :meth:`layer`, group by group.

    Args:
        method: The method that they belong to.
        sites: Where it stands in this block, by slot.
        tasks: Tasks whose features are wanted.
        generated: What the method generated for the pass.
        stacked: Whether the tails run along one batch, or one after another.
    """

    def __init__(
        self, method: Method, sites: dict[str, Site], tasks: tuple[str, ...], generated: Any, stacked: bool
    ) -> None:
        self.method = method
        self.sites = sites
        self.generated = generated
        self.groups = [tasks] if stacked else [(task,) for task in tasks]
        self.shared: dict[str, SharedLayer] = {}
        self.scores: Tensor | None = None
        self.handed: dict[str, list[Tensor]] = {}

    def keep(self, slot: str, inputs: Tensor, frozen: Tensor, handed: Tensor | None, hw: Size) -> None:
        """Keep what the shared stream did in a layer."""
        self.shared[slot] = SharedLayer(inputs, frozen, handed, hw, self.scores if slot == 'proj' else None)

    def layer(
        self,
        slot: str,
        tasks: tuple[str, ...],
        own: Tensor | None = None,
        to_tokens: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """A layer in the tails of a group of tasks.

        Args:
            slot: Slot of the layer.
            tasks: The group.
            own: ``(T * B, N, C_in)``, what enters the layer in the tails; None: what enters it in the shared stream.
            to_tokens: Brings the layer's outputs into ``(B, N, C)``; None: they are.

        Returns:
            ``(T * B, N, C_out)``.
        """
        parts = [None] * len(tasks) if own is None else own.chunk(len(tasks)) if len(tasks) > 1 else [own]
        outputs = []
        for part, task in zip(parts, tasks):
            pair = self.method.branch(self.sites[slot], part, self.shared[slot], task, self.generated)
            out, handed = [to_tokens(x) if to_tokens is not None and x is not None else x for x in pair]
            outputs.append(out)
            if handed is not None:
                self.handed.setdefault(slot, []).append(handed)
        return torch.cat(outputs) if len(outputs) > 1 else outputs[0]

    def tapped(self, streams: list[Tensor]) -> list[Tensor]:
        """What the method's tap gets: the tail of every task, and what :meth:`Method.branch` handed out.

        Args:
            streams: ``(T * B, N, C)`` for every group.
        """
        tails = [
            tail
            for tasks, stream in zip(self.groups, streams)
            for tail in (stream.chunk(len(tasks)) if len(tasks) > 1 else (stream,))
        ]
        return tails + [handed for of_slot in self.handed.values() for handed in of_slot]
