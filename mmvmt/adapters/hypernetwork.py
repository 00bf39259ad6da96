"""Hypernetworks that generate the weights of bottleneck adapters from embeddings of task and block: what HyperFormer
(arXiv 2106.04489) and Polyhistor (arXiv 2210.03265) have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import Method, Site
from .generators import GENERATOR_STD, AdapterGenerators, AdapterWeights
from .parts import bottleneck_width, build_activation, check_choice, check_flag, norm_parameters

NORM_EPS = 1e-5
"""Added to the variance in the generated LayerNorm."""


class Hypernetwork(nn.Module):
    """``E = MLP(v)`` and the generators that take E: from embeddings of task, or of task and block, to an adapter.

    Args:
        embedding: Width of v.
        hidden: Hidden width q of the MLP.
        code: Width p of E.
        embedding_norm: Whether a LayerNorm follows the MLP.
        width: Block width d of the adapter.
        bottleneck: Its bottleneck width r.
        matrix: Makes the generators of its matrices, see :class:`AdapterGenerators`.
        norm: Whether its LayerNorm is generated.
    """

    def __init__(
        self,
        embedding: int,
        hidden: int,
        code: int,
        embedding_norm: bool,
        width: int,
        bottleneck: int,
        matrix: Callable[..., nn.Module],
        norm: bool,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Linear(embedding, hidden), nn.ReLU(), nn.Linear(hidden, code)]
        self.mlp = nn.Sequential(*layers, *([nn.LayerNorm(code)] if embedding_norm else []))
        self.generators = AdapterGenerators(code, width, bottleneck, matrix, norm)

    def reset_parameters(self, start: str) -> None:
        """Start as :class:`HypernetworkMethod` says.

        Args:
            start: ``'zero'`` or ``'authors'``.
        """
        for module in (*self.mlp, *self.generators.children()):
            if start == 'authors' and not isinstance(module, (nn.ReLU, nn.LayerNorm)):
                nn.init.normal_(module.weight, std=GENERATOR_STD)
                nn.init.zeros_(module.bias)
            elif not isinstance(module, nn.ReLU):
                module.reset_parameters()

    def forward(self, embeddings: Tensor) -> AdapterWeights:
        """Generate adapters: ``(N, e)`` or ``(N, 2 e)`` to the weights of N of them."""
        return self.generators(self.mlp(embeddings))


class HypernetworkMethod(Method):
    r"""Base class of methods whose adapters stand at a branch and are generated for every task.

    .. math::
        E &= \mathrm{MLP}(v_t) \text{ or } \mathrm{MLP}([v_t\,; u_l]) \\
        W_{down}, b_{down}, W_{up}, b_{up}, \gamma, \beta &= \text{linear in } E \\
        a &= W_{up}\, \mathrm{act}(W_{down} x + b_{down}) + b_{up} \\
        y' &= y + \gamma \odot \mathrm{LN}(a) + \beta

    y is what the branch puts out; x is y itself or, in parallel, the stream before the branch or what the branch reads
    of it; LN has no parameters of its own; with ``norm='none'``, y' = y + a. The encoder runs once per task; the
    weights of a task are generated once per pass, in the parameters' precision.

    With ``start='zero'`` y' = y exactly at the start: with the generated norm, gamma and beta are zero and W_up is
    healthy; without it W_up and b_up are zero. The generators' weights are normal with :data:`GENERATOR_STD`; their
    biases are normal so that matrices that are not zero have variance 1 / fan-in. With ``start='authors'`` all linear
    layers are normal with :data:`GENERATOR_STD` and have no bias, and nothing is zero: y' is near y.

    Args:
        sites: Branches to fill, in the encoder's order.
        tasks: Task names.
        matrix: Makes the generators of the matrices, see :class:`AdapterGenerators`.
        reduction: Block width over bottleneck width; the bottleneck is ``floor(d / reduction)``.
        activation: ``'gelu'``, ``'relu'``, ``'silu'`` or ``'identity'``.
        embedding: Width e of the embeddings.
        hidden: Hidden width q of the MLP.
        code: Width p of E.
        norm: ``'generated'``, or ``'none'`` for adapters without a LayerNorm.
        embedding_norm: Whether E goes through a LayerNorm, with parameters of its own.
        position: ``'serial'``, x is y; or ``'parallel'``, x is what ``input`` says.
        input: In parallel, ``'stream'``: x is the stream before the branch and its norm; or ``'normed'``: x is what the
            branch's attention or MLP reads, behind the norm.
        inside_drop_path: Whether drop path drops the adapter along with the branch.
        start: ``'zero'`` or ``'authors'``.
        unfreeze: ``'none'``, or ``'norms'`` to train the encoder's LayerNorms too, the same for all tasks.

    Raises:
        ValueError: An argument is out of its range.
    """

    positions = ('ffn', 'attn')
    per_task = True

    def __init__(
        self,
        sites: Sequence[Site],
        tasks: Sequence[str],
        *,
        matrix: Callable[..., nn.Module],
        reduction: float,
        activation: str = 'gelu',
        embedding: int = 64,
        hidden: int = 128,
        code: int = 64,
        norm: str = 'generated',
        embedding_norm: bool = False,
        position: str = 'serial',
        input: str = 'stream',
        inside_drop_path: bool = True,
        start: str = 'zero',
        unfreeze: str = 'none',
    ) -> None:
        super().__init__(sites, tasks)
        for key, size in (('embedding', embedding), ('hidden', hidden), ('code', code)):
            if not isinstance(size, int) or isinstance(size, bool) or size < 1:
                raise ValueError(f'{key} must be a positive integer, got {size!r}')
        check_choice('norm', norm, ('generated', 'none'))
        check_choice('position', position, ('serial', 'parallel'))
        check_choice('input', input, ('stream', 'normed'))
        if input == 'normed' and position == 'serial':
            raise ValueError(
                "input='normed' is for adapters beside the branch, position='parallel'; with position='serial' they "
                'read what the branch puts out'
            )
        check_choice('start', start, ('zero', 'authors'))
        check_choice('unfreeze', unfreeze, ('none', 'norms'))
        check_flag('embedding_norm', embedding_norm)
        check_flag('inside_drop_path', inside_drop_path)
        self.matrix = matrix
        self.reduction = reduction
        self.activation = build_activation(activation)
        self.embedding = embedding
        self.hidden = hidden
        self.code = code
        self.norm = norm
        self.embedding_norm = embedding_norm
        self.position = position
        self.reads_normed = input == 'normed'
        self.inside_drop_path = inside_drop_path
        self.start = start
        self.unfreeze = unfreeze
        self.task_embeddings = nn.ParameterDict({task: nn.Parameter(torch.empty(embedding)) for task in self.tasks})
        self.block_embeddings = nn.ParameterDict()

    def build_hypernetwork(self, width: int, embeddings: int) -> Hypernetwork:
        """A hypernetwork of the method's sizes, for adapters of a width.

        Args:
            width: Block width d.
            embeddings: Number of embeddings that it sees, side by side.

        Raises:
            ValueError: ``reduction``, or the rank of the generated matrices, does not fit the width.
        """
        bottleneck = bottleneck_width(width, self.reduction)
        sizes = (embeddings * self.embedding, self.hidden, self.code)
        return Hypernetwork(*sizes, self.embedding_norm, width, bottleneck, self.matrix, self.norm == 'generated')

    def reset_parameters(self) -> None:
        """Start as ``start`` says, with embeddings from a normal distribution."""
        super().reset_parameters()
        for embedding in (*self.task_embeddings.values(), *self.block_embeddings.values()):
            nn.init.normal_(embedding)
        for module in self.modules():
            if isinstance(module, Hypernetwork):
                module.reset_parameters(self.start)

    def task_parts(self) -> Sequence[nn.ParameterDict]:
        return (self.task_embeddings,)

    def reset_task(self, task: str) -> None:
        nn.init.normal_(self.task_embeddings[task])

    def generate(self, task: str | None) -> dict[str, AdapterWeights]:
        """The adapters of a task by site.

        Raises:
            ValueError: The method was not built for the task.
        """
        if task not in self.tasks:
            raise ValueError(
                f'{type(self).__name__} has no embedding of task {task!r}; it was built for {", ".join(self.tasks)}'
            )
        embedding = self.task_embeddings[task]
        # A code is one row: to cast the generators' weights would take longer than to multiply with them.
        with torch.autocast(embedding.device.type, enabled=False):
            return self.generate_adapters(embedding)

    def generate_adapters(self, embedding: Tensor) -> dict[str, AdapterWeights]:
        """The adapters by site of the task with an embedding ``(e,)``."""
        raise NotImplementedError(f'{type(self).__name__} does not define generate_adapters()')

    def adapt(
        self, site: Site, inputs: Tensor, outputs: Tensor, task: str | None, generated: dict[str, AdapterWeights]
    ) -> tuple[Tensor, Tensor | None]:
        weights = generated[site.key]
        x = inputs if self.position == 'parallel' else outputs
        z = self.activation(F.linear(x, weights.down, weights.down_bias))
        a = F.linear(z, weights.up, weights.up_bias)
        if weights.gamma is not None:
            a = F.layer_norm(a, a.shape[-1:], weights.gamma, weights.beta, NORM_EPS)
        return outputs + a.to(outputs.dtype), None

    def encoder_parameters(self, encoder: nn.Module) -> Iterable[nn.Parameter]:
        return norm_parameters(encoder) if self.unfreeze == 'norms' else ()

    def no_decay_parameters(self) -> Iterable[nn.Parameter]:
        yield from super().no_decay_parameters()
        yield from self.block_embeddings.values()


class BlockwiseHypernetworks(HypernetworkMethod):
    """Base class of methods with a hypernetwork for every block; only the task embeddings are common to all.

    Args: as :class:`HypernetworkMethod`, and
        embed_blocks: Whether the hypernetwork of a block sees an embedding u_l of the block beside that of the
            task.
    """

    former_defaults: ClassVar[dict[str, Any]] = dict(embed_blocks=True, inside_drop_path=False)

    def __init__(self, sites: Sequence[Site], tasks: Sequence[str], *, embed_blocks: bool = False, **kwargs) -> None:
        super().__init__(sites, tasks, **kwargs)
        check_flag('embed_blocks', embed_blocks)
        self.embed_blocks = embed_blocks
        self.hypernetworks = nn.ModuleDict()
        for site in self.sites:
            if embed_blocks:
                self.block_embeddings[site.key] = nn.Parameter(torch.empty(1, self.embedding))
            self.hypernetworks[site.key] = self.build_hypernetwork(site.in_channels, 1 + embed_blocks)
        self.reset_parameters()

    def generate_adapters(self, embedding: Tensor) -> dict[str, AdapterWeights]:
        adapters = {}
        for key, hypernetwork in self.hypernetworks.items():
            seen = embedding.unsqueeze(0)
            if self.embed_blocks:
                seen = torch.cat((seen, self.block_embeddings[key]), dim=-1)
            adapters[key] = hypernetwork(seen).select(0)
        return adapters

    def structure_of(self, names: Iterable[str]) -> dict[str, Any]:
        parts = {name.split('.')[0] for name in names}
        return dict(embed_blocks='block_embeddings' in parts) if 'hypernetworks' in parts else {}
