"""Time, memory and operations of pieces of code, measured side by side."""

import ctypes
import gc
import itertools
import multiprocessing
import timeit
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity
from torch.utils.benchmark.utils.timer import timer
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from mmvmt.compat import profile

MIB = 2**20

Run = Callable[[], Any]
"""One measured run: everything it needs is built."""


def cpu_flags() -> list[str]:
    """Instruction sets of the processor that decide how fast matrix products are, bfloat16 ones above all."""
    lines = Path('/proc/cpuinfo').read_text(encoding='utf-8').splitlines()
    flags = next((line.split(':', 1)[1].split() for line in lines if line.startswith(('flags', 'Features'))), [])
    return sorted(f for f in flags if f in ('avx2', 'asimd', 'sve') or f.startswith(('avx512', 'amx')) or 'bf16' in f)


def alternate(cases: Mapping[Any, Run], seconds: float, least: int, warmup: int = 1) -> dict[Any, list[float]]:
    """Seconds of some cases in every round: in turn, A B A B ..., so that whatever else slows the machine down falls on
    all of them; at least so many rounds, and more while the next one is over within the seconds. Python's garbage
    collection runs between the runs."""
    # Python's own timer with PyTorch's clock, which waits for the work on a GPU.
    timers = {name: timeit.Timer(run, timer=timer) for name, run in cases.items()}
    for each in [*timers.values()] * warmup:
        each.timeit(1)
    times: dict[Any, list[float]] = {name: [] for name in cases}
    gc.collect()
    # What exists already need not be looked at again and again.
    gc.freeze()
    start = timer()
    for done in range(50):
        if done >= least and (timer() - start) * (done + 1) / done > seconds:
            break
        for name, each in timers.items():
            # What an earlier case left to the collector must not be paid for by this one.
            gc.collect()
            times[name].append(each.timeit(1))
    gc.unfreeze()
    return times


def ratio_of(ours: Sequence[float], theirs: Sequence[float], less: Sequence[float] | None = None) -> list[float]:
    """Ratio of the medians of two series that were measured in turn, and the quartiles of the ratios within a round; of
    a difference, if a third series is taken off ours within each round."""
    if less is None:
        paired, value = [a / b for a, b in zip(ours, theirs, strict=True)], median(ours) / median(theirs)
    else:
        paired = [(a - b) / median(theirs) for a, b in zip(ours, less, strict=True)]
        value = median(paired)
    low, _, high = quantiles(paired, n=4, method='inclusive') if len(paired) > 1 else paired * 3
    return [value, low, high]


PEAK, TENSORS = 'peak of the process', 'peak of all tensors'


def memory_of(prepare: Callable[[], Run], rehearse: Callable[[], Run], device: str, tensors: bool) -> dict[str, float]:
    """Peak memory in MiB of what is built and run: of this process, which should be a fresh one, since what other code
    freed before is used again unseen; on a GPU of tensors. First something small of the same kind runs, since libraries
    load their code when they first run it; then it runs twice, since the first step makes the state of an optimizer;
    and on demand once more, to see what tensors hold. A process needs more: its allocator keeps some of what was freed.
    """
    rehearse()()
    empty = _in_use(device)
    run = prepare()
    before = _in_use(device)
    if device == 'cuda':
        torch.cuda.reset_peak_memory_stats()
    else:
        Path('/proc/self/clear_refs').write_text('5')
    run()
    run()
    peak = torch.cuda.max_memory_allocated() / MIB if device == 'cuda' else _status('VmHWM')
    memory = {PEAK: peak, 'peak memory': peak - before, 'peak memory with model': peak - empty}
    memory['peak memory beyond model and inputs'] = memory['peak memory']
    if tensors:
        memory[TENSORS] = peak - before if device == 'cuda' else peak_of_tensors(run)
    return memory


def peak_of_tensors(run: Run) -> float:
    """Most MiB that tensors on the CPU gain during a run, from every allocation and release."""
    with profile([ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == '[memory]']
    held = itertools.accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns()))
    return max(held, default=0) / MIB


def _in_use(device: str) -> float:
    gc.collect()
    if device == 'cuda':
        return torch.cuda.memory_allocated() / MIB
    # glibc keeps what was freed; used again by a run, it would be missing from the growth.
    ctypes.CDLL(None).malloc_trim(0)
    return _status('VmRSS')


def _status(key: str) -> float:
    """An entry of this process's status in MiB. The peak of ``getrusage`` will not do: a process that a large one
    starts begins as a copy of it."""
    entries = dict(line.split(':', 1) for line in Path('/proc/self/status').read_text(encoding='utf-8').splitlines())
    return int(entries[key].split()[0]) / 1024


def in_fresh_process(function: Callable[..., Any], *args: Any, threads: int) -> Any:
    """Call a function of a module in a process that did nothing before but import the package, forked from a server,
    with some number of threads of PyTorch."""
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(['benchmarks.speed.subcommands'])
    with ProcessPoolExecutor(1, context, torch.set_num_threads, (threads,)) as pool:
        return pool.submit(function, *args).result()


_ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_ATTENTION_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
UNKNOWN_TO_PYTORCH = {
    _ATTENTION: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v),
    _ATTENTION_BACKWARD: lambda gradient, q, k, v, *_, **__: sdpa_backward_flop_count(gradient, q, k, v),
}


def count_flops(run: Run) -> int:
    """Floating-point operations of matrix products, convolutions and attention."""
    with FlopCounterMode(display=False, custom_mapping=UNKNOWN_TO_PYTORCH) as counter:
        run()
    return counter.get_total_flops()


def largest_operations(run: Run, device: str) -> str:
    """The operations that take most of a run on a device, without those that they call, in words."""
    key, activities = 'self_cpu_time_total', [ProfilerActivity.CPU]
    if device == 'cuda':
        key, activities = 'self_device_time_total', [*activities, ProfilerActivity.CUDA]
    with profile(activities) as profiler:
        run()
    # On a GPU an operation's kernels and annotations are events too, whose time would count twice.
    operations = [event for event in profiler.key_averages() if event.device_type == DeviceType.CPU]
    microseconds = {event.key.removeprefix('aten::'): getattr(event, key) for event in operations}
    total, largest = sum(microseconds.values()), sorted(microseconds, key=microseconds.get, reverse=True)[:6]
    return f'{", ".join(f"{name} {microseconds[name] / total:.0%}" for name in largest)} of {total / 1000:.1f} ms'
