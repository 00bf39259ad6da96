"""The hooks that fill the slots of an encoder's own blocks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mmvmt.adapters.base import Method

from .layouts import Layout
from .slots import Fills, Tails, fill


class Run:
    """What the hooks of a block know of the run that they are in; outside of one there is nothing to fill."""

    def __init__(self) -> None:
        self.hw: tuple[int, int] | None = None
        self.hw_behind: tuple[int, int] | None = None
        self.fills: Fills = {}
        self.tapped: list[Tensor] = []
        self.tails: Tails | None = None
        self.streams: dict[str, Tensor] = {}
        self.normed: dict[str, Tensor] = {}


class SlotHook:
    """Base of the hooks of one slot. Objects, since a copy of an encoder has to have hooks of its own.

    Args:
        current: The block's.
        slot: The slot.
        layout: The layout of the encoder.
    """

    def __init__(self, current: Run, slot: str, layout: Layout) -> None:
        self.current, self.slot = current, slot
        self.in_windows, self.layers = slot in layout.in_windows, layout.layers
        self.channels_first = layout.channels_first and slot in layout.branches

    def fill(self, inputs: Tensor, outputs: Tensor, normed: Tensor | None = None, **side: Any) -> Tensor:
        """Run the methods of the slot."""
        fills = self.current.fills
        if self.slot not in fills:
            return outputs
        if self.in_windows:
            edge = math.isqrt(outputs.shape[-2])
            return fill(fills, self.slot, inputs, outputs, hw=(edge, edge), **side)
        if outputs.ndim == 3:
            return self.fill_tokens(inputs, outputs, normed, side)
        # Maps become tokens and maps again.
        axes = (2, 3) if self.channels_first else (1, 2)
        size = tuple(outputs.shape[axis] for axis in axes)
        maps = [x if x is None or x.ndim == 3 else x.flatten(*axes) for x in (inputs, outputs, normed)]
        if not self.channels_first:
            return self.fill_tokens(*maps, side).unflatten(1, size)
        adapted = self.fill_tokens(*(x if x is None else x.transpose(1, 2) for x in maps), side)
        return adapted.transpose(1, 2).unflatten(2, size)

    def fill_tokens(self, inputs: Tensor, outputs: Tensor, normed: Tensor | None, side: dict[str, Any]) -> Tensor:
        """The same for ``(B, N, C)``."""
        fills, current = self.current.fills, self.current
        hw, tapped = current.hw if self.slot == 'qkv' else current.hw_behind, current.tapped
        if self.slot in self.layers:
            # Taps see what methods hand out of branches.
            tapped = []
        extra = outputs.shape[-2] - hw[0] * hw[1]
        pointwise = all(type(f.method).adapt_map is Method.adapt_map for f in fills[self.slot])
        if not extra or pointwise or 'tails' in side:
            return fill(fills, self.slot, inputs, outputs, tapped, hw=None if extra else hw, normed=normed, **side)
        # Class and register tokens and prompts, in front, stand at no place among those of the map.
        taps: tuple[list[Tensor], list[Tensor]] = ([], [])
        adapted = []
        for part, of_part, size in zip((slice(extra), slice(extra, None)), taps, (None, hw)):
            side['normed'] = normed if normed is None else normed[:, part]
            adapted.append(fill(fills, self.slot, inputs[:, part], outputs[:, part], of_part, hw=size, **side))
        tapped.extend(torch.cat(of_parts, dim=1) for of_parts in zip(*taps))
        return torch.cat(adapted, dim=1)


class AtLayer(SlotHook):
    """Behind a linear layer: adapts its outputs."""

    def __call__(self, module: nn.Module, args: tuple[Tensor, ...], outputs: Tensor) -> Tensor:
        tails = self.current.tails
        return self.fill(args[0], outputs, **({} if tails is None or self.slot == 'qkv' else dict(tails=tails)))


class AtMerging(SlotHook):
    """Behind the linear layer between two stages, which reads four neighbours: adapts its outputs."""

    def __call__(self, module: nn.Module, args: tuple[Tensor, ...], outputs: Tensor) -> Tensor:
        if self.slot not in self.current.fills:
            return outputs
        hw = tuple((edge + 1) // 2 for edge in self.current.hw)
        inputs, tokens = (x.flatten(1, -2) for x in (args[0], outputs))
        return fill(self.current.fills, self.slot, inputs, tokens, hw=hw).view(outputs.shape)


class AtEntry(SlotHook):
    """In front of a branch: notes the stream, which is what the attention or the MLP reads unless a norm follows."""

    def __call__(self, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        if self.slot in self.current.fills:
            self.current.streams[self.slot] = self.current.normed[self.slot] = args[0]


class AtNorm(SlotHook):
    """Behind the norm of a branch: notes what the attention or the MLP reads."""

    def __init__(self, current: Run, slot: str, layout: Layout) -> None:
        super().__init__(current, slot, layout)
        self.turned = layout.norms_turned

    def __call__(self, module: nn.Module, args: tuple[Tensor, ...], outputs: Tensor) -> None:
        if self.slot in self.current.fills:
            self.current.normed[self.slot] = outputs.permute(0, 3, 1, 2) if self.turned else outputs


class InFrontOfDropPath(SlotHook):
    """Adapts what a branch puts out, in front of drop path."""

    def __call__(self, module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        streams = self.current.streams
        if self.slot not in streams:
            return args
        normed = self.current.normed.get(self.slot)
        return self.fill(streams[self.slot], args[0], normed, inside_drop_path=True), *args[1:]


class AtEnd(SlotHook):
    """Adapts what a branch adds to the stream."""

    def __call__(self, module: nn.Module, args: tuple[Tensor, ...], outputs: Tensor) -> Tensor:
        streams = self.current.streams
        if self.slot not in streams:
            return outputs
        normed = self.current.normed.pop(self.slot, None)
        return self.fill(streams.pop(self.slot), outputs, normed, inside_drop_path=False)


@contextmanager
def instead(layers: Mapping[str, nn.Module], compute: Callable[[str, Tensor], Tensor]) -> Iterator[None]:
    """Within it, layers put out what a function makes of their slot and input."""
    for slot, layer in layers.items():
        layer.forward = partial(compute, slot)
    try:
        yield
    finally:
        for layer in layers.values():
            del layer.forward
