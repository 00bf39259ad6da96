"""Linear layers that turn a code into the weights of a bottleneck adapter, for :mod:`mmvmt.adapters.hypernetwork`."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .bottleneck import check_rank

GENERATOR_STD = 0.01
"""Standard deviation of the generators' weights at the start."""


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
