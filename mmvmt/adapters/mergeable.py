"""Methods whose effect can be put into the encoder's own weights, so that inference costs nothing more."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

from .base import Method, Site


class Mergeable(Method):
    """Base class of methods that change weights and can be merged into them.

    A subclass defines :meth:`merge_into` and :meth:`take_out_of`; what it still has to compute while it is merged it
    does in ``adapt``, after :meth:`refuse_training`.

    Args: as :class:`Method`.
    """

    def __init__(self, sites: Sequence[Site], tasks: Sequence[str]) -> None:
        super().__init__(sites, tasks)
        # Saved with the weights: those that hold the updates must not get them a second time when they are loaded.
        self.register_buffer('merged', torch.tensor(False))

    def merge_into(self, encoder: nn.Module) -> None:
        """Put the method's effect into the encoder's weights."""
        raise NotImplementedError(f'{type(self).__name__} does not define merge_into()')

    def take_out_of(self, encoder: nn.Module) -> None:
        """Undo :meth:`merge_into`."""
        raise NotImplementedError(f'{type(self).__name__} does not define take_out_of()')

    def merged_sites(self) -> Iterable[Site]:
        """Sites whose weights change."""
        return self.sites

    def reset_parameters(self) -> None:
        """Set the method's own parameters to their initial values.

        Raises:
            ValueError: The method is merged: the encoder could not be restored afterwards.
        """
        if self.is_merged:
            raise ValueError(f'{type(self).__name__} is merged and cannot be initialised: call unmerge(encoder) first')
        super().reset_parameters()

    def refuse_training(self) -> None:
        """Refuse to train while merged.

        Raises:
            RuntimeError: The method is merged and in training mode.
        """
        if self.training:
            raise RuntimeError(
                f'{type(self).__name__} is merged into the encoder and cannot train: call unmerge(encoder) before '
                f'training'
            )

    @torch.no_grad()
    def merge(self, encoder: nn.Module) -> None:
        """Put the method's effect into the encoder's own weights.

        Raises:
            ValueError: Every one of several tasks has parts of its own, the method is merged already, or the encoder
                stores its weights in less than float32.
        """
        name = type(self).__name__
        if self.per_task and len(self.tasks) > 1:
            raise ValueError(
                f'{name} has updates of its own for each of {len(self.tasks)} tasks ({", ".join(self.tasks)}), and one '
                f'weight cannot hold them all; merge a model of a single task, or train with per_task=False'
            )
        if self.is_merged:
            raise ValueError(f'{name} is merged already: call unmerge(encoder) first')
        for site in self.merged_sites():
            dtype = encoder.layer_of(site).weight.dtype
            if dtype not in (torch.float32, torch.float64):
                raise ValueError(
                    f'the encoder stores {site.key} as {dtype}, which would round the update away; build it with '
                    f'frozen_dtype=None to merge'
                )
        self.merge_into(encoder)
        self._set_merged(True)

    @torch.no_grad()
    def unmerge(self, encoder: nn.Module) -> None:
        """Undo :meth:`merge`, to the rounding of the encoder's weights.

        Raises:
            ValueError: The method is not merged.
        """
        if not self.is_merged:
            raise ValueError(f'{type(self).__name__} is not merged: call merge(encoder) first')
        self.take_out_of(encoder)
        self._set_merged(False)

    def _set_merged(self, merged: bool) -> None:
        self.is_merged = merged
        self.merged.fill_(merged)
        self._kept = None

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self.is_merged = bool(self.merged)
