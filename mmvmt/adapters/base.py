"""The adapter contract: what a parameter-efficient method says of itself, and what an encoder asks of it.

A method is one ``nn.Module`` for the whole encoder. The encoder describes the places that it offers as :class:`Site`
and calls the method there; the method never edits the encoder and knows nothing of Swin, tasks' meaning or data.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

SLOTS = ('attn', 'ffn', 'qkv', 'proj', 'fc1', 'fc2')
"""Slots of an encoder block: the two residual branches, and the four linear layers inside them."""


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
    """

    stage: int
    block: int
    slot: str
    in_channels: int
    out_channels: int
    leaves: bool = True

    @property
    def key(self) -> str:
        """Name of the site in parameter names."""
        return f'stage{self.stage}_block{self.block}_{self.slot}'


class Adapter(nn.Module):
    """Base class of all methods.

    Args:
        sites: The places to fill, in the encoder's order.
        tasks: Names of the tasks; a single unnamed task is called ``default``.

    Raises:
        ValueError: There is no site, no task, or a site's slot is none of :attr:`positions`.
    """

    positions: ClassVar[tuple[str, ...]] = ()
    """Slots that the method can fill; the first is its default. Empty: the method adds no module."""

    per_task: ClassVar[bool] = False
    """Whether the stream itself depends on the task, so that the encoder runs once per task."""

    def __init__(self, sites: Sequence[Site], tasks: Sequence[str]) -> None:
        super().__init__()
        self.sites = tuple(sites)
        self.tasks = tuple(tasks)
        name = type(self).__name__
        if not self.tasks:
            raise ValueError(f'{name} got no task')
        if self.positions and not self.sites:
            raise ValueError(f'{name} got no site to fill: its plugin matches no slot of the encoder')
        for site in self.sites:
            if site.slot not in self.positions:
                raise ValueError(f'{name} cannot fill slot {site.slot!r}; it fills {", ".join(self.positions)}')

    def reset_parameters(self) -> None:
        """Set the method's own parameters to their initial values."""

    def adapt(self, site: Site, inputs: Tensor, outputs: Tensor, task: str | None) -> tuple[Tensor, Tensor | None]:
        """Adapt a branch or a layer.

        Args:
            site: Where.
            inputs: ``(..., site.in_channels)``. For a branch the stream before its norm, for a layer the layer's input.
            outputs: ``(..., site.out_channels)``, what the frozen branch (after drop path) or layer puts out.
            task: The task of this pass; None unless :attr:`per_task`.

        Returns:
            The adapted outputs, and what :meth:`tap` wants to see of this block, or None.
        """
        raise NotImplementedError(f'{type(self).__name__} fills slots but does not define adapt()')

    def tap(self, stage: int, x: Tensor, tapped: Sequence[Tensor]) -> dict[str, Tensor] | None:
        """Features that leave a stage.

        Args:
            stage: Index of the stage.
            x: ``(B, H*W, C)``, the stage's output.
            tapped: What :meth:`adapt` handed out in this stage, in the blocks' order.

        Returns:
            ``(B, H*W, C)`` for every task, or None where every task gets ``x`` itself.
        """
        return None

    def encoder_parameters(self, encoder: nn.Module) -> Iterable[nn.Parameter]:
        """Parameters of the frozen encoder that this method trains besides its own."""
        return ()

    def no_decay_parameters(self) -> Iterable[nn.Parameter]:
        """Own parameters without weight decay, besides biases and norms: scales, shifts, embeddings."""
        return ()


def bottleneck_width(width: int, reduction: float) -> int:
    """Width r of a bottleneck, ``floor(width / reduction)``.

    Raises:
        ValueError: ``reduction`` is below 1 or above ``width``.
    """
    if not 1 <= reduction <= width:
        raise ValueError(
            f'reduction must be between 1 and the block width {width}, got {reduction}: '
            f'the bottleneck floor({width} / reduction) has to hold 1 to {width} channels'
        )
    return int(width // reduction)


def norm_parameters(module: nn.Module) -> list[nn.Parameter]:
    """Weights and biases of all LayerNorms in a module."""
    return [p for m in module.modules() if isinstance(m, nn.LayerNorm) for p in m.parameters(recurse=False)]


ACTIVATIONS: dict[str, type[nn.Module]] = {
    'gelu': nn.GELU,
    'relu': nn.ReLU,
    'silu': nn.SiLU,
    'identity': nn.Identity,
}


def build_activation(name: str) -> nn.Module:
    """Activation by name.

    Raises:
        ValueError: The name is unknown.
    """
    if name not in ACTIVATIONS:
        raise ValueError(f'unknown activation {name!r}; choose one of {", ".join(ACTIVATIONS)}')
    return ACTIVATIONS[name]()
