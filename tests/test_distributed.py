import time

import mmengine.dist
import pytest
import torch
from distributed import run_ranks
from torch.multiprocessing import ProcessRaisedException


def sum_ranks(rank, world_size, offset):
    value = torch.tensor(rank + offset)
    mmengine.dist.all_reduce(value)
    return rank, world_size, int(value)


def fail_on_rank_1(rank, world_size):
    if rank == 1:
        raise ValueError('rank 1 gives up')
    time.sleep(600)


def hang(rank, world_size):
    time.sleep(600)


def test_results_come_in_the_order_of_ranks():
    assert run_ranks(sum_ranks, 2, 10) == [(0, 2, 21), (1, 2, 21)]


def test_failing_rank_fails_the_call_and_stops_the_others():
    with pytest.raises(ProcessRaisedException, match='rank 1 gives up'):
        run_ranks(fail_on_rank_1, 2)


def test_hanging_ranks_are_stopped():
    with pytest.raises(TimeoutError, match='hang: the ranks did not finish within 3 s'):
        run_ranks(hang, 2, timeout=3)


def test_function_must_be_found_again():
    with pytest.raises(ValueError, match='top level'):
        run_ranks(lambda rank, world_size: None, 2)
