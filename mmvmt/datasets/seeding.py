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
    python_state, numpy_state, torch_state = random.getstate(), np.random.get_state(), torch_rng.get_state()
    seed = int(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch_rng.manual_seed(seed % 2**64)
    try:
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        torch_rng.set_state(torch_state)
