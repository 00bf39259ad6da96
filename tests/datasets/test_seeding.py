import random

import numpy as np
import pytest
import torch

from mmvmt.datasets import seeded_rng


def draw():
    return random.random(), np.random.rand(), float(torch.rand(()))  # noqa: NPY002


def seed_all(seed):
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)


def test_draws_depend_on_the_seed_alone():
    with seeded_rng(7):
        first = draw()
    draw()
    with seeded_rng(7):
        assert draw() == first
    with seeded_rng(8):
        other = draw()
    assert all(a != b for a, b in zip(first, other))


@pytest.mark.parametrize('fails', [False, True])
def test_states_are_restored(fails):
    seed_all(1)
    expected = draw()
    seed_all(1)
    try:
        with seeded_rng(3):
            draw()
            if fails:
                raise RuntimeError
    except RuntimeError:
        assert fails
    assert draw() == expected


@pytest.mark.parametrize('seed', [0, 2**32 - 1, 2**40 + 5, -3])
def test_any_integer_is_a_seed(seed):
    with seeded_rng(seed):
        first = draw()
    with seeded_rng(seed):
        assert draw() == first
