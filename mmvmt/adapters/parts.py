"""What several methods are made of: widths, activations, the norms of a module."""

from __future__ import annotations

from torch import nn


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
