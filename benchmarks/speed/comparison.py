"""Cases that are measured in turn, and the rows that compare them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import mmengine
import torch
from rich.console import Console

from .cases import QUICK, Settings, check_equal
from .measurement import (
    PEAK,
    TENSORS,
    Run,
    alternate,
    count_flops,
    in_fresh_process,
    largest_operations,
    memory_of,
    ratio_of,
)
from .report import Row, make_row

log = Console(stderr=True, log_path=False).log
Case = Callable[[Settings], Run]

TABLES = mmengine.load(Path(__file__).with_name('rows.yaml'))
"""What is measured, and what has to be reached."""

NOTES = {
    'operations': 'matrix products, convolutions and attention; what works element by element is not counted',
    'peak memory': 'beyond model and inputs',
}


@dataclass(frozen=True)
class Pair:
    """Two cases that are compared: a row for each quantity."""

    name: str  # of the row, with {} for the quantity
    ours: Any  # name of a case
    theirs: Any  # name of the case that it is compared with
    note: str = ''
    less: Any = None  # name of a case that is taken off ours within each round
    images: int | None = None  # number of images of what is timed, for rates
    equal: float | None = None  # largest difference of their outputs in single precision; None: they may differ
    quantities: Sequence[str] = ('time',)  # also 'operations', and what memory_of() measures
    curve: Mapping[str, str] | None = None  # method and part, for a picture over numbers of tasks
    points: Mapping[int, Any] = field(default_factory=dict)  # the cases of the curve by number of tasks


@dataclass
class Group:
    """Cases that are timed in turn, and the rows of their pairs. Where a package is missing, the rows say so."""

    settings: Settings
    title: str  # for the log
    cases: Mapping[Any, Case]  # by name; those whose memory is measured can be pickled
    pairs: Sequence[Pair]
    size: str = ''  # of what is run, for the notes
    seconds: float = 1.0  # how long it is timed, in multiples of the settings' seconds
    least: int | None = None  # rounds at least; None: as the settings say
    per: int = 1  # number of things that a run does; rows have the time of one
    profiled: bool = True  # whether a target that is missed is explained by PyTorch's operations

    def rows(self) -> list[Row]:
        """Measure everything."""
        log(self.title)
        torch.set_num_threads(self.settings.threads)
        try:
            self.runs = {name: prepare(self.settings) for name, prepare in self.cases.items()}
        except ImportError as error:
            return [make_row(pair.name, None, None, None, 'ms', note=f'not measured: {error}') for pair in self.pairs]
        self.differences = {}
        for pair in (pair for pair in self.pairs if pair.equal is not None):
            outputs = [self.runs[name](bfloat16=False) for name in (pair.ours, pair.theirs)]
            difference = check_equal(pair.name, *outputs, pair.equal)
            self.differences[pair.name] = f'outputs in single precision differ by {difference:.1g}'
        self.figures: dict[Any, dict[str, float]] = {name: {} for name in self.runs}
        counted = any('operations' in pair.quantities for pair in self.pairs)
        for name, run in self.runs.items() if counted else ():
            self.figures[name]['operations'] = count_flops(run) / 1e9
        seconds, least = self.settings.seconds * self.seconds, self.least or self.settings.least
        # Counting has warmed up everything.
        self.times = alternate(self.runs, seconds, least, warmup=not counted)
        for name, times in self.times.items():
            self.figures[name]['time'] = 1000 * median(times) / self.per
        for pair in self.pairs:
            for name in dict.fromkeys((pair.ours, pair.theirs, *pair.points.values())):
                if set(pair.quantities) - self.figures[name].keys():
                    log(f'{self.title}, memory of {name}')
                    self.figures[name] |= memory_of_case(self.cases[name], self.settings, TENSORS in pair.quantities)
        return [self._row(pair, quantity) for pair in self.pairs for quantity in pair.quantities]

    def _row(self, pair: Pair, quantity: str) -> Row:
        name, more, both = pair.name.format(quantity), {}, [self.figures[pair.ours], self.figures[pair.theirs]]
        ours, theirs = (figures[quantity] for figures in both)
        ratio, notes = ours / theirs, [NOTES.get(quantity, self.size)]
        if quantity == 'time':
            times = [self.times.get(case) for case in (pair.ours, pair.theirs, pair.less)]
            ratio, *more['spread'] = ratio_of(*times)
            more['repeats'], ours = len(times[0]), ours if pair.less is None else ratio * theirs
            notes += [pair.note, self.differences.get(pair.name)]
        elif quantity != 'operations':
            notes.append('peaks of the processes {:.0f} and {:.0f} MiB'.format(*(figures[PEAK] for figures in both)))
        if pair.images is not None:
            rates = [1000 * pair.images / value for value in (ours, theirs)]
            notes.insert(0, '{:.2f} against {:.2f} images/s'.format(*rates))
        if pair.curve is not None:
            points = {str(count): self.figures[case][quantity] for count, case in pair.points.items()}
            more['curve'] = dict(pair.curve, quantity=quantity.removeprefix('peak '), values=points)
        unit = dict(time='ms', operations='GFLOP').get(quantity, 'MiB')
        targets = (target for begin, target in TABLES['targets'].items() if name.startswith(begin))
        target = next(targets, (None, None))[self.settings.device == 'cuda']
        row = make_row(name, ratio, ours, theirs, unit, target=target, **more)
        if row['met'] is False and quantity == 'time' and self.profiled:
            notes.append(f'profile: {largest_operations(self.runs[pair.ours], self.settings.device)}')
        return row | dict(note='; '.join(filter(None, notes)))


def memory_of_case(prepare: Case, settings: Settings, tensors: bool) -> dict[str, float]:
    """Peak memory of a case, in a process of its own on a CPU; on a GPU the allocator counts exactly."""
    arguments = partial(prepare, settings), partial(prepare, replace(settings, **QUICK)), settings.device, tensors
    if settings.device == 'cuda':
        return memory_of(*arguments)
    return in_fresh_process(memory_of, *arguments, threads=settings.threads)
