"""Timing in turn, ratios, memory of fresh processes."""

import gc
import os
import re
from concurrent.futures.process import BrokenProcessPool
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.speed import measurement
from benchmarks.speed.measurement import (
    MIB,
    PEAK,
    TENSORS,
    alternate,
    count_flops,
    cpu_flags,
    in_fresh_process,
    largest_operations,
    memory_of,
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


@pytest.mark.parametrize('seconds, rounds', [(0, 2), (7.9, 2), (12.1, 3), (1000, 50)])
def test_rounds_stop_before_the_seconds_are_over(monkeypatch, seconds, rounds):
    clock = Clock(monkeypatch)
    times = alternate(dict(a=clock.case('a', 1.0), b=clock.case('b', 3.0)), seconds=seconds, least=2)
    assert [len(values) for values in times.values()] == [rounds, rounds]


def test_the_collector_rests_while_a_case_runs():
    states = []
    alternate(dict(a=lambda: states.append(gc.isenabled())), seconds=0, least=2, warmup=1)
    assert states == [False] * 3
    assert gc.isenabled()


def test_ratios_by_hand():
    # Medians 4 and 4; the rounds give 0.5, 1, 1.5.
    assert ratio_of([2.0, 4.0, 9.0], [4.0, 4.0, 6.0]) == [1.0, 0.75, 1.25]
    # Differences 1, 2, 3 over the median of 20.
    added = ratio_of([5.0, 6.0, 9.0], [10.0, 20.0, 30.0], less=[4.0, 4.0, 6.0])
    assert added == pytest.approx([0.1, 0.075, 0.125])
    assert ratio_of([1.0], [2.0]) == [0.5, 0.5, 0.5]
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
    cases = partial(prepare, 64, 48), partial(prepare, 1, 1)
    memory = in_fresh_process(memory_of, *cases, 'cpu', True, threads=1)
    # The ones and the sum with the model's first entry.
    assert memory['peak memory'] == memory['peak memory beyond model and inputs'] == pytest.approx(2 * 48, abs=8)
    assert memory['peak memory with model'] == pytest.approx(64 + 2 * 48, abs=8)
    assert memory[TENSORS] == pytest.approx(2 * 48, abs=0.01)
    assert memory[PEAK] > memory['peak memory with model']


def test_an_earlier_peak_of_the_process_does_not_count():
    torch.ones(200 * MIB // 4)
    memory = memory_of(partial(prepare, 1, 8), partial(prepare, 1, 8), 'cpu', False)
    assert memory['peak memory'] < 60
    assert TENSORS not in memory


def threads_and_sum(*values):
    return torch.get_num_threads(), sum(values)


def fail(text):
    raise KeyError(text)


def die():
    os._exit(7)


def test_a_fresh_process_answers():
    assert in_fresh_process(threads_and_sum, 1, 2, 3, threads=2) == (2, 6)


def test_a_failure_in_a_fresh_process_is_told():
    with pytest.raises(KeyError, match='no such thing'):
        in_fresh_process(fail, 'no such thing', threads=1)
    with pytest.raises(BrokenProcessPool, match='terminated abruptly'):
        in_fresh_process(die, threads=1)


def test_operations_by_hand():
    linear, x = nn.Linear(8, 4), torch.randn(3, 8, requires_grad=True)
    # The product, and in the backward pass one for the input and one for the weight.
    assert count_flops(lambda: linear(x).sum().backward()) == 3 * (2 * 3 * 8 * 4)
    q, k, v = (torch.randn(2, 3, 16, 8) for _ in range(3))
    mask = torch.zeros(1, 3, 16, 16)
    attention = 2 * (2 * 2 * 3 * 16 * 16 * 8)
    assert count_flops(lambda: F.scaled_dot_product_attention(q, k, v, attn_mask=mask)) == attention


def test_operations_are_named_by_their_share():
    a = torch.randn(300, 300)
    words = largest_operations(lambda: (a @ a).add_(1), 'cpu')
    assert re.match(r'mm \d+%, .*add_ \d+%.* of [\d.]+ ms$', words)


def test_cpu_flags_are_those_that_matter():
    flags = cpu_flags()
    assert flags == sorted(flags)
    assert not {'fpu', 'sse2', 'de'} & set(flags)
    with open('/proc/cpuinfo', encoding='utf-8') as file:
        assert ('avx2' in file.read().split()) == ('avx2' in flags)
