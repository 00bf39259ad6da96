"""Time and memory of pieces of code, measured side by side."""

from __future__ import annotations

import ctypes
import gc
import itertools
import multiprocessing
import os
import signal
import statistics
from collections.abc import Callable, Mapping, Sequence
from concurrent import futures
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch.utils.benchmark.utils.timer import timer

from mmvmt.compat import profile

MIB = 2**20

Run = Callable[[], Any]
"""One measured run: everything it needs is built."""


def cpu_flags() -> list[str]:
    """Instruction sets of the processor that decide how fast matrix products are, bfloat16 ones above all."""
    with open('/proc/cpuinfo', encoding='utf-8') as file:
        lines = [line.split(':', 1)[1].split() for line in file if line.startswith(('flags', 'Features'))]
    flags = lines[0] if lines else []
    return sorted(f for f in flags if f in ('avx2', 'asimd', 'sve') or f.startswith(('avx512', 'amx')) or 'bf16' in f)


def alternate(
    cases: Mapping[Any, Run], seconds: float, least: int = 3, most: int = 50, warmup: int = 1
) -> dict[Any, list[float]]:
    """Time some cases in turn, A B A B ..., so that whatever else slows the machine down falls upon all of them.

    Python's garbage collection runs between the runs, not in them.

    Args:
        cases: What to run, by name.
        seconds: Stop before the round that would end later than this after the warm-up, in seconds.
        least: Number of rounds that run in any case.
        most: Largest number of rounds.
        warmup: Rounds that are not timed.

    Returns:
        Seconds of every round by name: entries of the same position belong to the same round.
    """
    for _ in range(warmup):
        for run in cases.values():
            run()
    times: dict[Any, list[float]] = {name: [] for name in cases}
    gc.collect()
    # What exists already need not be looked at again and again.
    gc.freeze()
    gc.disable()
    try:
        start = timer()
        for done in range(most):
            if done >= least and (timer() - start) * (done + 1) / done > seconds:
                break
            for name, run in cases.items():
                # What an earlier case left to the collector must not be paid for by this one.
                gc.collect()
                # PyTorch's timer waits for the work on a GPU.
                began = timer()
                run()
                times[name].append(timer() - began)
    finally:
        gc.unfreeze()
        gc.enable()
    return times


class Ratio(NamedTuple):
    """A ratio of two series of measurements, with the quartiles of the ratios within a round."""

    value: float
    low: float
    high: float


def ratio_of(ours: Sequence[float], theirs: Sequence[float]) -> Ratio:
    """Ratio of the medians of two series that were measured in turn."""
    paired = [a / b for a, b in zip(ours, theirs, strict=True)]
    return Ratio(statistics.median(ours) / statistics.median(theirs), *_quartiles(paired))


def added_ratio(more: Sequence[float], less: Sequence[float], unit: Sequence[float]) -> Ratio:
    """How much ``more`` takes than ``less`` within a round, as a part of the median of ``unit``."""
    whole = statistics.median(unit)
    differences = [(a - b) / whole for a, b in zip(more, less, strict=True)]
    return Ratio(statistics.median(differences), *_quartiles(differences))


def _quartiles(values: Sequence[float]) -> tuple[float, float]:
    low, _, high = statistics.quantiles(values, n=4, method='inclusive') if len(values) > 1 else (values * 3)
    return low, high


@dataclass(frozen=True)
class Memory:
    """Memory in MiB: resident memory of a process on the CPU, allocated tensors on a GPU.

    Args:
        empty: Before there is a model.
        before: With model and inputs, before the first run.
        peak: The most during the runs.
        tensors: The most that tensors made by a run hold at a time. On the CPU a process needs more: its allocator
            keeps some of what was freed, in pieces that fit nothing else. None: not measured.
    """

    empty: float
    before: float
    peak: float
    tensors: float | None = None

    @property
    def growth(self) -> float:
        """What the runs need beyond model and inputs."""
        return self.peak - self.before

    @property
    def with_model(self) -> float:
        """What the runs need, model and inputs included."""
        return self.peak - self.empty


def memory_of(
    prepare: Callable[[], Run], device: str = 'cpu', rehearse: Callable[[], Run] | None = None, tensors: bool = False
) -> Memory:
    """Peak memory of what ``prepare`` returns, in this process.

    It runs twice, so that the state of an optimizer, which the first step makes, is there when the second one has its
    peak. On the CPU, what other code of the process freed before may be used again unseen: :func:`peak_memory` starts
    from a fresh process.

    Args:
        prepare: Builds model and inputs and returns what to run.
        device: ``'cpu'`` or ``'cuda'``.
        rehearse: Something small of the same kind that is prepared and run first: the code of libraries is loaded when
            it is first run, and would count as memory of what runs it.
        tensors: Whether to run it once more for ``Memory.tensors``, which takes a while.
    """
    if rehearse is not None:
        rehearse()()
    empty = _in_use(device)
    run = prepare()
    before = _in_use(device)
    if device == 'cuda':
        torch.cuda.reset_peak_memory_stats()
    else:
        with open('/proc/self/clear_refs', 'w', encoding='utf-8') as file:
            file.write('5')
    run()
    run()
    if device == 'cuda':
        torch.cuda.synchronize()
        peak = torch.cuda.max_memory_allocated() / MIB
        return Memory(empty, before, peak, peak - before)
    peak = _status('VmHWM')
    return Memory(empty, before, peak, peak_of_tensors(run) if tensors else None)


def peak_of_tensors(run: Run) -> float:
    """Most MiB that tensors on the CPU gain during a run, from every allocation and release."""
    with profile([torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == '[memory]']
    held = itertools.accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns()))
    return max(held, default=0) / MIB


def peak_memory(
    prepare: Callable[[], Run],
    device: str = 'cpu',
    rehearse: Callable[[], Run] | None = None,
    tensors: bool = False,
    threads: int | None = None,
) -> Memory:
    """:func:`memory_of` in a fresh process; on a GPU in this one, where the allocator counts exactly."""
    if device == 'cuda':
        return memory_of(prepare, device, rehearse)
    return in_fresh_process(memory_of, prepare, device, rehearse, tensors, threads=threads)


def _in_use(device: str) -> float:
    gc.collect()
    if device == 'cuda':
        return torch.cuda.memory_allocated() / MIB
    # glibc keeps what was freed; used again by a run, it would be missing from the growth.
    ctypes.CDLL(None).malloc_trim(0)
    return _status('VmRSS')


def _status(key: str) -> float:
    """An entry of this process's status in MiB.

    ``getrusage`` will not do: its peak is that of the largest program that the process ever was, and one that was
    started by a large process starts as a copy of that.
    """
    with open('/proc/self/status', encoding='utf-8') as file:
        for line in file:
            if line.startswith(f'{key}:'):
                return int(line.split()[1]) / 1024
    raise RuntimeError(f'/proc/self/status has no {key}: memory on the CPU is measured on Linux only')


def in_fresh_process(
    function: Callable[..., Any], *args: Any, threads: int | None = None, limit: float | None = None
) -> Any:
    """Call a function in a process that did nothing before but import the package.

    It is forked from a server that only imports, so that it starts in a fraction of a second.

    Args:
        function: A function of a module, or a picklable object.
        *args: Its arguments, picklable.
        threads: Number of threads of PyTorch; None: its own choice.
        limit: Most seconds it may take.

    Returns:
        What the function returns; what it raises is raised here.

    Raises:
        TimeoutError: It took longer than ``limit``; it and all processes that it started are ended.
        RuntimeError: Its process ended without a result.
    """
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(['benchmarks.speed.cases'])
    pool = futures.ProcessPoolExecutor(1, context, _lead_group, (threads,))
    leader, name = pool.submit(os.getpid).result(), getattr(function, '__name__', repr(function))
    try:
        return pool.submit(function, *args).result(limit)
    except futures.TimeoutError:
        raise TimeoutError(f'{name} took longer than {limit:.0f} s') from None
    except BrokenProcessPool as error:
        raise RuntimeError(
            f'the process of {name} ended without a result, most often because memory ran out: it was killed'
        ) from error
    finally:
        with suppress(ProcessLookupError):
            os.killpg(leader, signal.SIGKILL)
        pool.shutdown()


def _lead_group(threads: int | None) -> None:
    # A group of its own: compilers that it starts can be ended with it.
    os.setsid()
    if threads is not None:
        torch.set_num_threads(threads)


def operation_times(run: Run, device: str = 'cpu') -> dict[str, float]:
    """Seconds on a device that each operation takes in one run, without those that it calls."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device == 'cuda':
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with profile(activities) as profiler:
        run()
    key = 'self_device_time_total' if device == 'cuda' else 'self_cpu_time_total'
    return {event.key: getattr(event, key) / 1e6 for event in profiler.key_averages() if getattr(event, key)}


def largest_operations(times: Mapping[str, float], than: Mapping[str, float] | None = None, top: int = 6) -> str:
    """The operations that take most, in words.

    Args:
        times: What :func:`operation_times` gave.
        than: The same of something smaller, which is taken off.
        top: How many to name.
    """
    left = {name: seconds - (than or {}).get(name, 0.0) for name, seconds in times.items()}
    # What became quicker by chance or by design is no part of what was added.
    left = {name: seconds for name, seconds in left.items() if seconds > 0}
    if not left:
        return 'no operation takes longer'
    total = sum(left.values())
    largest = sorted(left.items(), key=lambda item: -item[1])[:top]
    shares = [f'{name.removeprefix("aten::")} {100 * seconds / total:.0f} %' for name, seconds in largest]
    return f'{", ".join(shares)} of {1000 * total:.1f} ms'
