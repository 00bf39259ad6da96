"""Hypernetworks that generate the weights of bottleneck adapters from embeddings of task and block: what HyperFormer
(arXiv 2106.04489) and Polyhistor (arXiv 2210.03265) have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import Method, Site, bottleneck_width, build_activation, norm_parameters
from .bottleneck import check_rank

GENERATOR_STD = 0.01
"""Standard deviation of the generators' weights at the start."""

NORM_EPS = 1e-5
"""Added to the variance in the generated LayerNorm."""


class AdapterWeights(NamedTuple):
    """Weights of an adapter of width d and bottleneck r, or of several along a leading dimension.

    Args:
        down: ``(r, d)``.
        down_bias: ``(r,)``.
        up: ``(d, r)``.
        up_bias: ``(d,)``.
        gamma: ``(d,)``, scale of the LayerNorm behind; None without one.
        beta: ``(d,)``, its shift; None without one.
    """

    down: Tensor
    down_bias: Tensor
    up: Tensor
    up_bias: Tensor
    gamma: Tensor | None = None
    beta: Tensor | None = None

    def select(self, index: int | slice) -> AdapterWeights:
        """One adapter, or some, of several."""
        return AdapterWeights(*(None if tensor is None else tensor[index] for tensor in self))


class VectorGenerator(nn.Module):
    """A linear layer from codes to vectors.

    Args:
        code: Width p of a code.
        size: Entries of a vector.
        zero: Whether the vectors are zero at the start.
    """

    def __init__(self, code: int, size: int, zero: bool) -> None:
        super().__init__()
        self.zero = zero
        self.weight = nn.Parameter(torch.empty(size, code))
        self.bias = nn.Parameter(torch.empty(size))

    def reset_parameters(self) -> None:
        """Bias zero; weight normal with :data:`GENERATOR_STD`, or zero."""
        nn.init.normal_(self.weight, std=0.0 if self.zero else GENERATOR_STD)
        nn.init.zeros_(self.bias)

    def forward(self, codes: Tensor) -> Tensor:
        """``(N, p)`` to ``(N, size)``."""
        return F.linear(codes, self.weight, self.bias)


class MatrixGenerator(nn.Module):
    """A linear layer from codes to the entries of matrices.

    Args:
        code: Width p of a code.
        rows: Rows of a matrix.
        columns: Columns of a matrix, its fan-in.
        zero: Whether the matrices are zero at the start.
    """

    def __init__(self, code: int, rows: int, columns: int, zero: bool) -> None:
        super().__init__()
        self.shape = (rows, columns)
        self.zero = zero
        self.weight = nn.Parameter(torch.empty(rows * columns, code))
        self.bias = nn.Parameter(torch.empty(rows * columns))

    def reset_parameters(self) -> None:
        """Weight normal with :data:`GENERATOR_STD`, bias normal with variance 1 / columns; or both zero."""
        nn.init.normal_(self.weight, std=0.0 if self.zero else GENERATOR_STD)
        nn.init.normal_(self.bias, std=0.0 if self.zero else self.shape[1] ** -0.5)

    def forward(self, codes: Tensor) -> Tensor:
        """``(N, p)`` to ``(N, rows, columns)``."""
        return F.linear(codes, self.weight, self.bias).unflatten(-1, self.shape)


class FactorGenerator(nn.Module):
    """A linear layer from codes to the two factors of matrices of low rank, ``W = A B``.

    Args:
        code: Width p of a code.
        rows: Rows of W, which A has too.
        columns: Columns of W, which B has too: the fan-in of W.
        zero: Whether A, and so W, is zero at the start.
        rank: Columns of A and rows of B.

    Raises:
        ValueError: ``rank`` is no integer from 1 to the smaller side of W.
    """

    def __init__(self, code: int, rows: int, columns: int, zero: bool, rank: int) -> None:
        super().__init__()
        check_rank(rank, min(rows, columns), 'the bottleneck width')
        self.left = (rows, rank)
        self.right = (rank, columns)
        self.zero = zero
        size = (rows + columns) * rank
        self.weight = nn.Parameter(torch.empty(size, code))
        self.bias = nn.Parameter(torch.empty(size))

    def reset_parameters(self) -> None:
        """Weight normal with :data:`GENERATOR_STD`; bias normal, 1 / rank for A and 1 / columns for B.

        The bias alone then gives W variance 1 / columns. With ``zero``, both are zero where they make A.
        """
        (rows, rank), (_, columns) = self.left, self.right
        size = rows * rank
        nn.init.normal_(self.weight, std=GENERATOR_STD)
        nn.init.normal_(self.bias[:size], std=rank**-0.5)
        nn.init.normal_(self.bias[size:], std=columns**-0.5)
        if self.zero:
            nn.init.zeros_(self.weight[:size])
            nn.init.zeros_(self.bias[:size])

    def forward(self, codes: Tensor) -> Tensor:
        """``(N, p)`` to ``(N, rows, columns)``."""
        factors = F.linear(codes, self.weight, self.bias)
        sizes = [rows * columns for rows, columns in (self.left, self.right)]
        a, b = factors.split(sizes, dim=-1)
        return a.unflatten(-1, self.left) @ b.unflatten(-1, self.right)


class AdapterGenerators(nn.Module):
    """One generator for each weight of an adapter.

    Args:
        code: Width p of a code.
        width: Block width d.
        bottleneck: Bottleneck width r.
        matrix: Makes the generator of a matrix, from p, rows, columns, and whether it starts at zero.
        norm: Whether scale and shift of a LayerNorm are generated too.
    """

    def __init__(self, code: int, width: int, bottleneck: int, matrix: Callable[..., nn.Module], norm: bool) -> None:
        super().__init__()
        # One of the two is zero at the start: the generated norm or, without it, what goes up. Not both: at a vector
        # of zeros the gradient of the norm is as large as 1 / sqrt(NORM_EPS).
        self.down = matrix(code, bottleneck, width, False)
        self.down_bias = VectorGenerator(code, bottleneck, False)
        self.up = matrix(code, width, bottleneck, not norm)
        self.up_bias = VectorGenerator(code, width, not norm)
        if norm:
            self.gamma = VectorGenerator(code, width, True)
            self.beta = VectorGenerator(code, width, True)

    def forward(self, codes: Tensor) -> AdapterWeights:
        """``(N, p)`` to the weights of N adapters."""
        return AdapterWeights(**{name: generator(codes) for name, generator in self.named_children()})


class Hypernetwork(nn.Module):
    """``E = MLP([v_t ; u])`` and the generators that take E: from embeddings of task and block to an adapter.

    Args:
        embedding: Width e of either embedding.
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
        layers: list[nn.Module] = [nn.Linear(2 * embedding, hidden), nn.ReLU(), nn.Linear(hidden, code)]
        self.mlp = nn.Sequential(*layers, *([nn.LayerNorm(code)] if embedding_norm else []))
        self.generators = AdapterGenerators(code, width, bottleneck, matrix, norm)

    def reset_parameters(self) -> None:
        """Start from adapters that leave the branch as it is."""
        for module in (*self.mlp, *self.generators.children()):
            if not isinstance(module, nn.ReLU):
                module.reset_parameters()

    def forward(self, task: Tensor, blocks: Tensor) -> AdapterWeights:
        """Generate adapters.

        Args:
            task: ``(e,)``, embedding of the task.
            blocks: ``(N, e)``, embeddings of blocks.

        Returns:
            The weights of N adapters.
        """
        return self.generators(self.mlp(torch.cat((task.expand_as(blocks), blocks), dim=-1)))


class HypernetworkMethod(Method):
    r"""Base class of methods whose adapters stand behind a branch and are generated for every task.

    .. math::
        E_{t,l} &= \mathrm{MLP}([v_t\,; u_l]) \\
        W_{down}, b_{down}, W_{up}, b_{up}, \gamma, \beta &= \text{linear in } E_{t,l} \\
        a &= W_{up}\, \mathrm{act}(W_{down} y + b_{down}) + b_{up} \\
        y' &= y + \gamma \odot \mathrm{LN}(a) + \beta

    y is what the branch puts out, LN has no parameters of its own; with ``norm='none'``, y' = y + a. The encoder runs
    once per task; the weights of a task are generated once per pass, in the parameters' precision.

    At the start y' = y exactly. With the generated norm, gamma and beta are zero and W_up is healthy; without it W_up
    and b_up are zero. The generators' weights are normal with :data:`GENERATOR_STD`; their biases are normal so that
    matrices that are not zero have variance 1 / fan-in.

    Args:
        sites: Branches to fill, in the encoder's order.
        tasks: Task names.
        matrix: Makes the generators of the matrices, see :class:`AdapterGenerators`.
        reduction: Block width over bottleneck width; the bottleneck is ``floor(d / reduction)``.
        activation: ``'gelu'``, ``'relu'``, ``'silu'`` or ``'identity'``.
        embedding: Width e of the embeddings v_t and u_l.
        hidden: Hidden width q of the MLP.
        code: Width p of E.
        norm: ``'generated'``, or ``'none'`` for adapters without a LayerNorm.
        embedding_norm: Whether E goes through a LayerNorm, with parameters of its own.
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
        unfreeze: str = 'none',
    ) -> None:
        super().__init__(sites, tasks)
        for key, size in (('embedding', embedding), ('hidden', hidden), ('code', code)):
            if not isinstance(size, int) or isinstance(size, bool) or size < 1:
                raise ValueError(f'{key} must be a positive integer, got {size!r}')
        for key, value, known in (('norm', norm, ('generated', 'none')), ('unfreeze', unfreeze, ('none', 'norms'))):
            if value not in known:
                raise ValueError(f'{key} must be {known[0]!r} or {known[1]!r}, got {value!r}')
        if not isinstance(embedding_norm, bool):
            raise ValueError(f'embedding_norm must be True or False, got {embedding_norm!r}')
        self.matrix = matrix
        self.reduction = reduction
        self.activation = build_activation(activation)
        self.embedding = embedding
        self.hidden = hidden
        self.code = code
        self.norm = norm
        self.embedding_norm = embedding_norm
        self.unfreeze = unfreeze
        self.task_embeddings = nn.ParameterDict({task: nn.Parameter(torch.empty(embedding)) for task in self.tasks})
        self.block_embeddings = nn.ParameterDict()

    def build_hypernetwork(self, width: int) -> Hypernetwork:
        """A hypernetwork of the method's sizes, for adapters of a width.

        Raises:
            ValueError: ``reduction``, or the rank of the generated matrices, does not fit the width.
        """
        bottleneck = bottleneck_width(width, self.reduction)
        sizes = (self.embedding, self.hidden, self.code)
        return Hypernetwork(*sizes, self.embedding_norm, width, bottleneck, self.matrix, self.norm == 'generated')

    def reset_parameters(self) -> None:
        """Start from the frozen network, with embeddings from a normal distribution."""
        super().reset_parameters()
        for embedding in (*self.task_embeddings.values(), *self.block_embeddings.values()):
            nn.init.normal_(embedding)
        for module in self.modules():
            if isinstance(module, Hypernetwork):
                module.reset_parameters()

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
        z = self.activation(F.linear(outputs, weights.down, weights.down_bias))
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

    Args: as :class:`HypernetworkMethod`.
    """

    def __init__(self, sites: Sequence[Site], tasks: Sequence[str], **kwargs) -> None:
        super().__init__(sites, tasks, **kwargs)
        self.hypernetworks = nn.ModuleDict()
        for site in self.sites:
            self.block_embeddings[site.key] = nn.Parameter(torch.empty(1, self.embedding))
            self.hypernetworks[site.key] = self.build_hypernetwork(site.in_channels)
        self.reset_parameters()

    def generate_adapters(self, embedding: Tensor) -> dict[str, AdapterWeights]:
        return {
            key: hypernetwork(embedding, self.block_embeddings[key]).select(0)
            for key, hypernetwork in self.hypernetworks.items()
        }
