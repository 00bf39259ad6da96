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


def encoder_parts(
    encoder: nn.Module, patch_embed: bool, norms: bool, position_bias: bool, merging: bool
) -> list[nn.Parameter]:
    """Parameters of some parts of an encoder, without those of adapters and output norms.

    Args:
        encoder: The encoder.
        patch_embed: Whether the patch embedding is among them, without its norm.
        norms: Whether all LayerNorms are.
        position_bias: Whether the tables of the relative position bias are.
        merging: Whether what leads from stage to stage is, without its norms.
    """
    own = {id(p) for p in encoder.own_parameters().values()}
    of_norms = [p for p in norm_parameters(encoder) if id(p) in own]
    transitions = [encoder.transition_part(stage) for stage in range(len(encoder.stage_blocks()))]
    chosen = list(of_norms) if norms else []
    for part, wanted in ((encoder.embedding_part(), patch_embed), *((part, merging) for part in transitions)):
        if wanted and part is not None:
            chosen += [p for p in part.parameters() if all(p is not norm for norm in of_norms)]
    if position_bias:
        tables = (getattr(module, 'relative_position_bias_table', None) for module in encoder.modules())
        chosen += [table for table in tables if isinstance(table, nn.Parameter)]
    return chosen


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


def check_choice(key: str, value: str, known: tuple[str, str]) -> None:
    """Check an option that is one of two words.

    Raises:
        ValueError: It is none of them.
    """
    if value not in known:
        raise ValueError(f'{key} must be {known[0]!r} or {known[1]!r}, got {value!r}')


def check_flag(key: str, value: bool) -> None:
    """Check an option that is a truth value.

    Raises:
        ValueError: It is none.
    """
    if not isinstance(value, bool):
        raise ValueError(f'{key} must be True or False, got {value!r}')
