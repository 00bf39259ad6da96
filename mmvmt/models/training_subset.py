"""Training only a part of what trains, for a while."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn


class TrainingSubset:
    """Freezes parameters of a module that train, and lets exactly those train again.

    What is frozen already, by a config, a plugin or a user, is never touched: it comes back as it was.
    """

    def __init__(self) -> None:
        # By name: a copy of the module has other parameters, and loading may replace them.
        self._paused: frozenset[str] = frozenset()

    def set(self, module: nn.Module, kept: Iterable[nn.Parameter] | None) -> None:
        """Undo the last call, and freeze all that trains and is not kept.

        Args:
            module: The same in every call.
            kept: Parameters to leave alone; None: all.
        """
        parameters = dict(module.named_parameters())
        for name in self._paused & parameters.keys():
            parameters[name].requires_grad = True
        kept = {id(p) for p in (parameters.values() if kept is None else kept)}
        self._paused = frozenset(name for name, p in parameters.items() if p.requires_grad and id(p) not in kept)
        for name in self._paused:
            parameters[name].requires_grad = False
