"""What fills the slots of an encoder's blocks in one pass, and running it: what blocks call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mmvmt.adapters.base import Method, Site


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

    def adapt(self, inputs: Tensor, outputs: Tensor, batch_dim: int) -> tuple[Tensor, Tensor | None]:
        """Adapt the outputs; those of stacked tasks each with their own part of the method."""
        count = len(self.tasks)
        if count == 1:
            return self.method.adapt(self.site, inputs, outputs, self.tasks[0], self.generated[0])
        parts = zip(inputs.chunk(count, batch_dim), outputs.chunk(count, batch_dim), self.tasks, self.generated)
        adapted = [self.method.adapt(self.site, i, o, task, generated)[0] for i, o, task, generated in parts]
        return torch.cat(adapted, batch_dim), None

    def prompts(self, carried: Tensor | None) -> Prompts:
        """Prompts of all tasks of the pass, ``(T, P, C)`` or ``(T * B, P, C)``."""
        count = len(self.tasks)
        before = carried.chunk(count) if carried is not None and count > 1 else [carried] * count
        prompts, carry = [], False
        for task, part in zip(self.tasks, before):
            tokens, carry = self.method.tokens(self.site, part, task)
            prompts.append(tokens if tokens.ndim == 3 else tokens.unsqueeze(0))
        return Prompts(torch.cat(prompts), carry)


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

    Returns:
        The adapted outputs.
    """
    for filled in fills.get(slot, ()):
        if inside_drop_path is not None and filled.method.inside_drop_path != inside_drop_path:
            continue
        outputs, tap = filled.adapt(inputs, outputs, batch_dim)
        if tap is not None and tapped is not None:
            tapped.append(tap)
    return outputs


def branch(
    fills: Fills,
    slot: str,
    x: Tensor,
    outputs: Tensor,
    tapped: list[Tensor] | None = None,
    drop_path: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """What a residual branch adds to the stream: its outputs through drop path, adapted on either side of it.

    Args:
        fills: What fills the slots of the block.
        slot: The slot of the branch.
        x: ``(B, N, C)``, the stream before the branch's norm.
        outputs: ``(B, N, C)``, what the branch puts out.
        tapped: Gets what the methods hand out for the stage's tap.
        drop_path: Drop path; None: there is none.
    """
    outputs = fill(fills, slot, x, outputs, tapped, inside_drop_path=True)
    outputs = outputs if drop_path is None else drop_path(outputs)
    return fill(fills, slot, x, outputs, tapped, inside_drop_path=False)


class Prompts(NamedTuple):
    """Tokens that the attention of a block sees besides those of the image.

    Args:
        tokens: ``(B, P, C)``, or fewer sets of prompts, each for the same number of successive images.
        carry: Whether what the block makes of them goes on to the next block.
    """

    tokens: Tensor
    carry: bool

    def of_images(self, images: int) -> Tensor:
        """A set of prompts for every image, ``(images, P, C)``."""
        return self.tokens.repeat_interleave(images // self.tokens.shape[0], 0)
