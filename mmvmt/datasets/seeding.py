"""Randomness of a sample that depends on a seed alone, whatever was drawn before."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def seeded_rng(seed: int) -> Iterator[None]:
    """Seed ``random``, ``numpy.random`` and torch's CPU generator inside the block and restore all three after it.

    Args:
        seed: Any integer; its lowest 64 bits count (32 for NumPy).
    """
    # torch.manual_seed would also seed the CUDA generators, which nothing here restores.
    torch_rng = torch.default_generator
    python_state, torch_state = random.getstate(), torch_rng.get_state()
    # The global state of NumPy, since transforms of other packages draw from it.
    numpy_state = np.random.get_state()  # noqa: NPY002
    seed = int(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    torch_rng.manual_seed(seed % 2**64)
    try:
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002
        torch_rng.set_state(torch_state)
