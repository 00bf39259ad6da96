"""Timing in turn, ratios, memory of fresh processes."""

import gc
import itertools
import os
import subprocess
import time
from functools import partial
from pathlib import Path

import pytest
import torch

from benchmarks.speed import measurement
from benchmarks.speed.measurement import (
    MIB,
    added_ratio,
    alternate,
    cpu_flags,
    in_fresh_process,
    largest_operations,
    memory_of,
    operation_times,
    peak_memory,
    ratio_of,
)


class Clock:
    """A clock that only the cases move."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        self.ran, self.read_after = [], []
        monkeypatch.setattr(measurement, 'timer', self.read)

    def read(self):
        self.read_after.append(len(self.ran))
        return self.now

    def case(self, name, seconds):
        def run():
            self.ran.append(name)
            self.now += seconds

        return run


def test_cases_run_in_turn_and_only_their_own_time_counts(monkeypatch):
    clock = Clock(monkeypatch)
    cases = dict(a=clock.case('a', 1.0), b=clock.case('b', 3.0))
    times = alternate(cases, seconds=0, least=3, warmup=2)
    assert clock.ran == ['a', 'b'] * 5
    assert times == dict(a=[1.0] * 3, b=[3.0] * 3)
    # The clock, which waits for a GPU, is read before and after each timed run.
    assert {count for run in range(4, 10) for count in (run, run + 1)} <= set(clock.read_after)


@pytest.mark.parametrize('seconds, rounds', [(0, 2), (7.9, 2), (12.1, 3), (1000, 5)])
def test_rounds_stop_before_the_seconds_are_over(monkeypatch, seconds, rounds):
    clock = Clock(monkeypatch)
    times = alternate(dict(a=clock.case('a', 1.0), b=clock.case('b', 3.0)), seconds=seconds, least=2, most=5)
    assert [len(values) for values in times.values()] == [rounds, rounds]


def test_the_collector_rests_while_a_case_runs():
    states = []
    alternate(dict(a=lambda: states.append(gc.isenabled())), seconds=0, least=2, warmup=1)
    assert states == [True, False, False]
    assert gc.isenabled()


def test_ratios_by_hand():
    ratio = ratio_of([2.0, 4.0, 9.0], [4.0, 4.0, 6.0])
    # Medians 4 and 4; the rounds give 0.5, 1, 1.5.
    assert ratio == (1.0, 0.75, 1.25)
    added = added_ratio([5.0, 6.0, 9.0], [4.0, 4.0, 6.0], [10.0, 20.0, 30.0])
    # Differences 1, 2, 3 over the median of 20.
    assert added == pytest.approx((0.1, 0.075, 0.125))
    assert ratio_of([1.0], [2.0]) == (0.5, 0.5, 0.5)
    with pytest.raises(ValueError, match='longer than argument 1'):
        ratio_of([1.0], [1.0, 2.0])


def prepare(model_mib, step_mib):
    """A model of known size whose step needs a known size and frees it again."""
    model = torch.ones(model_mib * MIB // 4)

    def run():
        return (model[:1] + torch.ones(step_mib * MIB // 4)).sum()

    return run


def test_memory_of_a_known_allocation():
    # What this process had before must not count in the other.
    torch.ones(300 * MIB // 4)
    memory = peak_memory(partial(prepare, 64, 48), rehearse=partial(prepare, 1, 1), threads=1, tensors=True)
    # The ones and the sum with the model's first entry.
    assert memory.growth == pytest.approx(2 * 48, abs=8)
    assert memory.with_model == pytest.approx(64 + 2 * 48, abs=8)
    assert memory.peak - memory.growth == memory.before
    assert memory.tensors == pytest.approx(2 * 48, abs=0.01)


def test_an_earlier_peak_of_the_process_does_not_count():
    torch.ones(200 * MIB // 4)
    memory = memory_of(partial(prepare, 1, 8), rehearse=partial(prepare, 1, 8))
    assert memory.growth < 60


def threads_and_sum(*values):
    return torch.get_num_threads(), sum(values)


def fail(text):
    raise KeyError(text)


def die():
    os._exit(7)


def start_another_and_wait(file):
    process = subprocess.Popen(['sleep', '60'])
    Path(file).write_text(str(process.pid))
    time.sleep(60)


def test_a_fresh_process_answers():
    assert in_fresh_process(threads_and_sum, 1, 2, 3, threads=2) == (2, 6)


def test_a_failure_in_a_fresh_process_is_told():
    with pytest.raises(KeyError, match='no such thing'):
        in_fresh_process(fail, 'no such thing')
    with pytest.raises(RuntimeError, match='the process of die ended without a result'):
        in_fresh_process(die)


def is_running(pid):
    """Whether a process is there and no zombie."""
    status = Path(f'/proc/{pid}/stat')
    return status.exists() and status.read_text().rsplit(')', 1)[1].split()[0] != 'Z'


def test_a_process_that_takes_too_long_is_ended_with_those_it_started(tmp_path):
    file = tmp_path / 'pid'
    with pytest.raises(TimeoutError, match='start_another_and_wait took longer than 3 s'):
        in_fresh_process(start_another_and_wait, str(file), limit=3)
    pid = int(file.read_text())
    for _ in itertools.takewhile(lambda _: is_running(pid), range(100)):
        time.sleep(0.05)
    assert not is_running(pid)


def test_operations_are_named_by_their_share():
    a = torch.randn(300, 300)
    times = operation_times(lambda: a @ a)
    assert 'aten::mm' in times
    assert all(seconds > 0 for seconds in times.values())
    assert largest_operations({'aten::mm': 0.003, 'aten::add': 0.001}) == 'mm 75 %, add 25 % of 4.0 ms'
    slower = {'aten::mm': 0.003, 'x': 0.001, 'y': 0.002}
    assert largest_operations(slower, {'x': 0.0005, 'y': 0.01}, top=1) == 'mm 86 % of 3.5 ms'
    assert largest_operations(slower, slower) == 'no operation takes longer'


def test_cpu_flags_are_those_that_matter():
    flags = cpu_flags()
    assert flags == sorted(flags)
    assert not {'fpu', 'sse2', 'de'} & set(flags)
    with open('/proc/cpuinfo', encoding='utf-8') as file:
        assert ('avx2' in file.read().split()) == ('avx2' in flags)
