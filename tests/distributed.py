"""Run a function on several ranks: real processes, joined by gloo, on the CPU."""

from __future__ import annotations

import gc
import importlib.util
import inspect
import os
import pickle
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import commands  # noqa: F401  sets what the server imports
import torch
import torch.distributed
import torch.multiprocessing

TIMEOUT = 120
"""Seconds after which the ranks are stopped and the test fails."""


def run_ranks(function: Callable[..., Any], world_size: int, *args: Any, timeout: float = TIMEOUT) -> list[Any]:
    """Call ``function(rank, world_size, *args)`` on every rank, inside an initialised process group.

    Args:
        function: Defined at the top level of a module; it is looked up there again in each process.
        world_size: Number of ranks.
        args: Further arguments; they and the results travel by pickle.
        timeout: Seconds for all ranks together, start-up included.

    Returns:
        The results, in the order of the ranks.

    Raises:
        torch.multiprocessing.ProcessRaisedException: A rank raised; the message holds its traceback.
        torch.multiprocessing.ProcessExitedException: A rank was killed.
        TimeoutError: The ranks did not finish in time.
    """
    if '.' in function.__qualname__:
        raise ValueError(f'{function.__qualname__} must be defined at the top level of its module')
    source = inspect.getfile(function)
    with tempfile.TemporaryDirectory(prefix='ranks_') as folder:
        # The server of commands.py has the packages imported.
        context = torch.multiprocessing.start_processes(
            _run_rank,
            (world_size, folder, source, function.__name__, args, timeout),
            nprocs=world_size,
            join=False,
            start_method='forkserver',
        )
        _join(context, function.__name__, timeout)
        return [pickle.loads(_result_file(folder, rank).read_bytes()) for rank in range(world_size)]


def _join(context: torch.multiprocessing.ProcessContext, name: str, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    try:
        while not context.join(timeout=1):
            if time.monotonic() > deadline:
                raise TimeoutError(f'{name}: the ranks did not finish within {timeout} s')
    finally:
        for process in context.processes:
            if process.is_alive():
                process.kill()
                process.join()


def _run_rank(rank: int, world_size: int, folder: str, source: str, name: str, args: tuple, timeout: float) -> None:
    gc.freeze()
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        'gloo',
        init_method=f'file://{folder}/rendezvous',
        rank=rank,
        world_size=world_size,
        timeout=timedelta(seconds=timeout),
    )
    try:
        # By path: test modules belong to no package, so pickle could not find them by name in a new process.
        spec = importlib.util.spec_from_file_location('rank_module', source)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        result = getattr(module, name)(rank, world_size, *args)
        _result_file(folder, rank).write_bytes(pickle.dumps(result))
        torch.distributed.barrier()
    finally:
        torch.distributed.destroy_process_group()
    # The result is safe. Without this, some processes abort after all Python code has run, while the libraries unload.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _result_file(folder: str, rank: int) -> Path:
    return Path(folder) / f'rank_{rank}.pickle'
