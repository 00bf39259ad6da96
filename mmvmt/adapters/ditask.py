"""DiTASK (Mantri et al., "DiTASK: Multi-Task Fine-Tuning with Diffeomorphic Transformations", CVPR 2025, arXiv
2502.06029): the singular values of frozen layers are moved by smooth monotone maps of a few parameters (CPAB: Freifeld
et al., TPAMI 2017).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mmvmt.compat import is_recording
from mmvmt.registry import ADAPTERS

from .base import SharedLayer, Site
from .branching import BranchingMethod

STEPS = 16
"""Steps of the fourth-order Runge-Kutta method from time 0 to 1."""


def flow(theta: Tensor, x: Tensor) -> Tensor:
    r"""Where points of the unit interval are at time 1, moved by a velocity that is linear in each of n equal cells.

    .. math:: v(j/n) = \frac{j}{n} \sum_{k=j}^{n-1} \frac{\theta_k}{k}, \quad v(0) = v(1) = 0

    The map is smooth and monotone and keeps both ends; theta = 0 is the identity.

    Args:
        theta: ``(M, n - 1)``.
        x: ``(M, N)``, each 0 to 1.

    Returns:
        ``(M, N)``.
    """
    cells = theta.shape[1] + 1
    knot = torch.arange(1, cells, dtype=theta.dtype, device=theta.device)
    inner = knot / cells * (theta / knot).flip(1).cumsum(1).flip(1)
    knots = nn.functional.pad(inner, (1, 1))

    def velocity(x: Tensor) -> Tensor:
        cell = (x.detach() * cells).floor().clamp(0, cells - 1).long()
        left = knots.gather(1, cell)
        return left + (x * cells - cell) * (knots.gather(1, cell + 1) - left)

    step = 1 / STEPS
    for _ in range(STEPS):
        first = velocity(x)
        second = velocity(x + step / 2 * first)
        third = velocity(x + step / 2 * second)
        x = x + step / 6 * (first + 2 * second + 2 * third + velocity(x + step * third))
    return x


class Spectrum(NamedTuple):
    """Singular value decomposition of a layer's weight, of each of its square thirds for ``qkv``.

    Args:
        left: ``(parts, out / parts, m)``.
        values: ``(parts, m)``, descending.
        right: ``(parts, m, in)``.
    """

    left: Tensor
    values: Tensor
    right: Tensor


class Diffeomorphism(nn.Module):
    """Parameters of one map, ``(1, cells - 1)``.

    Args:
        cells: Number of cells n.
        identity: Whether it starts as the identity; else uniform in ±1/sqrt(n - 1).
    """

    def __init__(self, cells: int, identity: bool) -> None:
        super().__init__()
        self.identity = identity
        self.theta = nn.Parameter(torch.empty(1, cells - 1))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Zero, or random."""
        bound = 0.0 if self.identity else self.theta.shape[1] ** -0.5
        nn.init.uniform_(self.theta, -bound, bound)


class Weights(NamedTuple):
    """What :meth:`DiTASK.generate` makes: weights by site, of the shared stream and of each task's tails."""

    shared: dict[str, Tensor]
    tails: dict[str, dict[str, Tensor]]


@ADAPTERS.register_module()
class DiTASK(BranchingMethod):
    r"""Singular values of frozen layers moved by maps that all tasks share, and in the tails by a map per task.

    .. math::
        W = U \Sigma V^T, \quad W' = U \phi_\theta(\Sigma) V^T

    The tails, in the last block of each stage, have weights of their own from the frozen W, and see the task's own
    stream throughout: each costs the projection and the MLP of these blocks.

    Args:
        sites: Linear layers to fill, in the encoder's order.
        tasks: Task names.
        cells: Cells n of the shared maps.
        task_cells: Cells of the tasks' maps.
        on: ``'index'``: the map moves the places of singular values, between which they are interpolated, as the
            published code does; ``'value'``: it moves the values, relative to the largest, as the paper says.
        identity: Whether maps start as the identity, the frozen network; False: random, as published.
        dropout: Probability with which an entry of the whole input of a layer of the shared stream is dropped in
            training, the frozen part included, and so in the tasks' ``proj``; the inputs of their ``fc1`` and ``fc2``
            are not dropped. The published code has 0.05. Every layer runs a second time then.
        qkv_maps: Whether tasks have maps for ``qkv`` of all filled blocks too, which nothing reads; the published code
            makes and counts them.
        **kwargs: ``patch_embed``, ``norms``, ``position_bias``, ``merging``: which parts of the encoder train, all by
            default, see :class:`~mmvmt.adapters.branching.BranchingMethod`.

    Raises:
        ValueError: An argument is out of its range, or a layer that the tails pass is not filled.
    """

    positions = ('qkv', 'proj', 'fc1', 'fc2')

    def __init__(
        self,
        sites: Sequence[Site],
        tasks: Sequence[str],
        *,
        cells: int = 64,
        task_cells: int = 4,
        on: str = 'index',
        identity: bool = True,
        dropout: float = 0.0,
        qkv_maps: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(sites, tasks, **kwargs)
        for name, value in (('cells', cells), ('task_cells', task_cells)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 2:
                raise ValueError(f'{name} must be an integer of at least 2, got {value!r}')
        if on not in ('index', 'value'):
            raise ValueError(f"on must be 'index' or 'value', got {on!r}")
        if isinstance(dropout, bool) or not isinstance(dropout, (int, float)) or not 0 <= dropout < 1:
            raise ValueError(f'dropout must be a number of at least 0 and below 1, got {dropout!r}')
        self.on = on
        self.dropout = dropout
        self.maps = nn.ModuleDict({site.key: Diffeomorphism(cells, identity) for site in self.sites})
        self._unread_of_tasks = [site.key for site in self.sites if site.slot == 'qkv'] if qkv_maps else []
        keys = [site.key for site in self.tail_sites] + self._unread_of_tasks
        self.tails = nn.ModuleDict(
            {task: nn.ModuleDict({key: Diffeomorphism(task_cells, identity) for key in keys}) for task in self.tasks}
        )
        self._layers: dict[str, nn.Linear] = {}
        self._names: dict[str, str] = {}
        self._unread: tuple[str, ...] = ()
        self._spectra: dict[str, tuple[tuple, Spectrum]] = {}
        self._before_merging: dict[str, Tensor] = {}

    def attach(self, encoder: nn.Module) -> None:
        super().attach(encoder)
        self._layers = {site.key: encoder.layer_of(site) for site in self.sites}
        names = {id(p): name for name, p in encoder.own_parameters().items()}
        self._names = {key: names[id(layer.weight)] for key, layer in self._layers.items()}
        # Tails start from the heads' outputs, so nothing reads what the shared stream makes of them in the last block.
        last = encoder.block_indices()[-1]
        self._unread = tuple(s.key for s in self.sites if (s.stage, s.block) == last and s.slot != 'qkv')

    def reset_parameters(self) -> None:
        """Set all maps to their start."""
        super().reset_parameters()
        for module in self.modules():
            if isinstance(module, Diffeomorphism):
                module.reset_parameters()

    def task_parts(self) -> Sequence[nn.ModuleDict]:
        return (self.tails,)

    def unread_parameters(self) -> list[nn.Parameter]:
        of_tasks = [maps[key].theta for maps in self.tails.values() for key in self._unread_of_tasks]
        return [self.maps[key].theta for key in self._unread] + of_tasks

    def generate(self, task: str | None) -> Weights:
        """Weights of all layers, ``(out_channels, in_channels)``."""
        sites = self.merged_sites() if self.is_merged else ()
        shared = [site for site in self.sites if site not in sites]
        with torch.autocast(next(self.parameters()).device.type, enabled=False):
            of_shared = self._weights(shared, [self.maps[site.key] for site in shared])
            owners = [(task, site) for task in self.tasks for site in self.tail_sites]
            of_tails = self._weights([s for _, s in owners], [self.tails[task][site.key] for task, site in owners])
        tails: dict[str, dict[str, Tensor]] = {task: {} for task in self.tasks}
        for (owner, site), weight in zip(owners, of_tails):
            tails[owner][site.key] = weight
        return Weights({site.key: weight for site, weight in zip(shared, of_shared)}, tails)

    def substitutes(self, encoder: nn.Module, task: str | None, generated: Weights) -> dict[str, Tensor]:
        """The shared stream's weights."""
        return {self._names[key]: weight for key, weight in generated.shared.items()}

    def adapt(
        self, site: Site, inputs: Tensor, outputs: Tensor, task: str | None, generated: Any
    ) -> tuple[Tensor, Tensor | None]:
        if self.is_merged:
            self.refuse_training()
        if not self.dropout or not self.training:
            return outputs, None
        dropped = nn.functional.dropout(inputs, self.dropout)
        return nn.functional.linear(dropped, generated.shared[site.key], self._layers[site.key].bias), dropped

    def branch(
        self, site: Site, own: Tensor | None, shared: SharedLayer, task: str, generated: Any
    ) -> tuple[Tensor, Tensor | None]:
        inputs = (shared.inputs if shared.handed is None else shared.handed) if own is None else own
        return nn.functional.linear(inputs, generated.tails[task][site.key], self._layers[site.key].bias), None

    def train(self, mode: bool = True) -> DiTASK:
        """Set the mode, and decompose weights that have changed."""
        if self._layers and next(iter(self._layers.values())).weight.device.type != 'meta':
            for site in self.sites:
                self._spectrum(site)
        return super().train(mode)

    def merge_into(self, encoder: nn.Module) -> None:
        """Put the shared weights in the place of those of all layers that no tail passes."""
        weights = self.generate(None).shared
        for site in self.merged_sites():
            weight = encoder.layer_of(site).weight
            self._before_merging[site.key] = weight.clone()
            weight.copy_(weights[site.key])

    def take_out_of(self, encoder: nn.Module) -> None:
        """Put the former weights back.

        Raises:
            ValueError: It was merged when it was loaded, and they are not known.
        """
        sites = self.merged_sites()
        if any(site.key not in self._before_merging for site in sites):
            raise ValueError('DiTASK was merged when it was loaded: load weights from before merging instead')
        for site in sites:
            encoder.layer_of(site).weight.copy_(self._before_merging.pop(site.key))

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._kept = None

    @torch.no_grad()
    def _spectrum(self, site: Site) -> Spectrum:
        """The decomposition of a layer's weight, kept until that changes."""
        weight = self._layers[site.key].weight
        kept = self._spectra.get(site.key)
        if is_recording() and kept is not None:
            return kept[1]
        key = (weight.data_ptr(), weight._version, weight.dtype, weight.device)
        if kept is None or kept[0] != key:
            with torch.inference_mode(False):
                wide = weight.to(torch.promote_types(weight.dtype, torch.float32))
                parts = wide.unflatten(0, (3 if site.slot == 'qkv' else 1, -1))
                kept = self._spectra[site.key] = (key, Spectrum(*torch.linalg.svd(parts, full_matrices=False)))
        return kept[1]

    def _weights(self, sites: Sequence[Site], maps: Sequence[Diffeomorphism]) -> list[Tensor]:
        """Moved weights of some layers; all maps in one go, with fewer singular values filled up."""
        spectra = [self._spectrum(site) for site in sites]
        theta = torch.cat([m.theta.expand(len(s.values), -1) for m, s in zip(maps, spectra)])
        longest = max(s.values.shape[1] for s in spectra)
        points = [self._points(s.values).to(theta.dtype) for s in spectra]
        start = torch.cat([nn.functional.pad(p, (0, longest - p.shape[1])) for p in points])
        moved = (flow(theta, start) - start).split([len(p) for p in points])
        weights = []
        for site, spectrum, shift in zip(sites, spectra, moved):
            change = self._moved(spectrum.values, shift[:, : spectrum.values.shape[1]]) - spectrum.values
            change = (spectrum.left * change.unsqueeze(1)) @ spectrum.right
            weight = self._layers[site.key].weight.detach()
            weights.append(weight.to(change.dtype) + change.flatten(0, 1))
        return weights

    def _points(self, values: Tensor) -> Tensor:
        """Where singular values stand on the unit interval: their places, or they themselves."""
        if self.on == 'value':
            return values / values[:, :1]
        return torch.linspace(0, 1, values.shape[1], device=values.device).expand_as(values)

    def _moved(self, values: Tensor, shift: Tensor) -> Tensor:
        """Singular values after a shift of their points."""
        if self.on == 'value':
            return values + shift * values[:, :1]
        last = values.shape[1] - 1
        place = (torch.arange(last + 1, device=values.device) + shift * last).clamp(0, last)
        below = place.detach().floor().clamp(max=last - 1).long()
        low = values.gather(1, below)
        return low + (place - below) * (values.gather(1, below + 1) - low)
