"""Experiments made of commands: each is what a user would type, runs in a process of its own, and runs only once."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.fileio import load
from mmengine.registry import init_default_scope
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from mmvmt.engine.hooks.atomic_checkpoint_hook import write_atomically
from mmvmt.evaluation.constant_predictor import constant_predictions
from mmvmt.models.checkpoint import read_checkpoint
from mmvmt.registry import DATASETS, EVALUATOR
from mmvmt.structures import TASKS, MultiTaskDataSample

_POLL_SECONDS = 0.1
_TAIL_LINES = 15


@dataclass(frozen=True)
class Stage:
    """One command of an experiment.

    Args:
        name: Name of its log and record.
        title: What it does, for the progress display.
        arguments: What follows ``python`` on the command line.
        inputs: Hash of what the command reads besides, see :func:`fingerprint`.
        work_dir: Work dir of a training that goes on from its last checkpoint when it was interrupted. It belongs to
            the stage: a training that starts anew starts with an empty one.
        group: Stages of one group take about the same time per unit of ``work``.
        work: How much there is to do, such as iterations; for the estimate of the time that is left.
    """

    name: str
    title: str
    arguments: list[str]
    inputs: str = ''
    work_dir: Path | None = None
    group: str = ''
    work: float = 0.0

    @property
    def identity(self) -> dict[str, Any]:
        """What makes it the same stage as one that ran before."""
        return dict(arguments=self.arguments, inputs=self.inputs)


class Command:
    """A running ``python ARGUMENTS``, its output in a file.

    Args:
        arguments: What follows ``python``.
        log: File for the output.
        folder: Where it runs.
        environment: Its environment variables.
        keep_open: File descriptors that it inherits.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        log: Path,
        folder: Path,
        environment: Mapping[str, str],
        keep_open: Sequence[int] = (),
    ) -> None:
        self.peak_memory_mib = 0.0
        """Resident memory of the largest process of the command, once it has ended."""
        with open(log, 'w', encoding='utf-8') as output:
            self._process = subprocess.Popen(
                [sys.executable, *arguments],
                cwd=folder,
                env=dict(environment),
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=tuple(keep_open),
                # A process group of its own, so that its data workers can be ended with it.
                start_new_session=True,
            )
        self._output = open(log, encoding='utf-8', errors='replace')  # noqa: SIM115  it is read while the command runs

    def lines(self) -> list[str]:
        """Lines of output since the last call."""
        return self._output.readlines()

    def poll(self) -> int | None:
        """Exit code, None while it runs."""
        if self._process.returncode is None:
            pid, status, usage = os.wait4(self._process.pid, os.WNOHANG)
            if pid:
                self._process.returncode = os.waitstatus_to_exitcode(status)
                self.peak_memory_mib = usage.ru_maxrss / 1024  # Linux counts in KiB
                self._output.close()
        return self._process.returncode

    def stop(self, patience: float = 10.0) -> None:
        """End it and the processes it started: politely at first, by force after some seconds."""
        if self.poll() is None:
            self._signal(signal.SIGTERM)
            deadline = time.monotonic() + patience
            while self.poll() is None and time.monotonic() < deadline:
                time.sleep(_POLL_SECONDS)
        self._signal(signal.SIGKILL)
        while self.poll() is None:
            time.sleep(_POLL_SECONDS)

    def _signal(self, number: int) -> None:
        # The group is gone once its last process is.
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)


class Stages:
    """Runs commands with a progress display; a command that finished before is not run again.

    Args:
        out: Folder for logs and records, in its subfolder ``stages``.
        console: Where the progress goes.
        root: Folder in which the commands run; the package is importable from there.
        facts: What every record says of the machine besides.
        keep_open: File descriptors that the commands inherit, such as that of a lock which is to last as long as they.
        launch: Starts a command; takes the arguments of :class:`Command`.
    """

    def __init__(
        self,
        out: Path,
        console: Console,
        root: Path,
        facts: Mapping[str, Any] | None = None,
        keep_open: Sequence[int] = (),
        launch: Callable[..., Command] = Command,
    ) -> None:
        self.folder = out / 'stages'
        self.console = console
        self.root = root
        self.facts = dict(facts or {})
        self.keep_open = keep_open
        self.launch = launch

    def record(self, stage: Stage) -> dict[str, Any] | None:
        """What is known of a finished stage with these very arguments and inputs: ``seconds`` of its last start,
        ``peak_memory_mib`` and ``facts``; None if it has not finished."""
        return self._read(stage, 'json')

    def run(self, *stages: Stage) -> list[float]:
        """Run stages side by side, the cores shared evenly among them.

        Returns:
            Seconds of each.

        Raises:
            SystemExit: A command failed; its last lines are shown.
        """
        waiting = [stage for stage in stages if self.record(stage) is None]
        for stage in stages:
            if stage not in waiting:
                self.console.print(f'[green]done before[/] {stage.title}: {self.record(stage)["seconds"]:.0f} s')
        for stage in waiting:
            command = shlex.join(['python', *stage.arguments])
            self.console.print(f'[dim]$ {command}[/]', highlight=False, soft_wrap=True)
        if waiting:
            failures = self.run_queue(waiting, jobs=len(waiting))
            for stage in waiting:
                if stage.name in failures:
                    how, _, tail = failures[stage.name].partition('\n')
                    self.console.print(tail, markup=False, highlight=False)
                    raise SystemExit(f'{stage.title} failed with {how}; the whole log is in {self.log(stage)}')
        return [self.record(stage)['seconds'] for stage in stages]

    def run_queue(
        self,
        stages: Sequence[Stage],
        jobs: int = 1,
        later: Sequence[tuple[str, float]] = (),
        on_end: Callable[[Stage, str | None], None] | None = None,
    ) -> dict[str, str]:
        """Run stages in their order, some of them side by side. One that fails does not stop the others.

        Args:
            stages: What to run; finished ones are left out.
            jobs: Commands at a time. Each gets its share of the cores, and of several GPUs one.
            later: ``(group, work)`` of what will follow in other calls, for the estimate of the time that is left.
            on_end: Called after each command with its stage and, if it failed, the reason.

        Returns:
            ``{name: reason}`` of stages that failed: exit code and the end of the log.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        waiting = deque(stage for stage in stages if self.record(stage) is None)
        display = _Display(self.console, len(waiting), jobs, later, self._speeds())
        failures: dict[str, str] = {}
        running: dict[int, tuple[Stage, Command, float]] = {}
        try:
            with display:
                while waiting or running:
                    for slot in range(jobs):
                        if slot not in running and waiting:
                            stage = waiting.popleft()
                            running[slot] = (stage, self._start(stage, slot, jobs), time.monotonic())
                            display.started(stage)
                    for slot, (stage, command, start) in list(running.items()):
                        display.read(stage, command.lines())
                        code = command.poll()
                        if code is None:
                            continue
                        del running[slot]
                        seconds = time.monotonic() - start
                        reason = self._finish(stage, code, seconds, command.peak_memory_mib)
                        if reason is not None:
                            failures[stage.name] = reason
                        display.ended(stage, seconds, reason, waiting)
                        if on_end is not None:
                            on_end(stage, reason)
                    if running:
                        time.sleep(_POLL_SECONDS)
        finally:
            for _, command, _ in running.values():
                command.stop()
        return failures

    def log(self, stage: Stage) -> Path:
        """File with the output of a stage."""
        return self.folder / f'{stage.name}.log'

    def _read(self, stage: Stage, suffix: str) -> dict[str, Any] | None:
        path = self.folder / f'{stage.name}.{suffix}'
        known = load(path, file_format='json') if path.is_file() else None
        same = known is not None and all(known.get(key) == value for key, value in stage.identity.items())
        return known if same else None

    def _speeds(self) -> dict[str, float]:
        """Seconds per unit of work of each group, from the records of finished stages."""
        totals: dict[str, list[float]] = {}
        for path in self.folder.glob('*.json'):
            known = load(path)
            if known.get('work'):
                total = totals.setdefault(known['group'], [0.0, 0.0])
                total[0] += known['seconds']
                total[1] += known['work']
        return {group: seconds / work for group, (seconds, work) in totals.items()}

    def _start(self, stage: Stage, slot: int, jobs: int) -> Command:
        arguments = list(stage.arguments)
        if stage.work_dir is not None:
            if self._read(stage, 'started') and (stage.work_dir / 'last_checkpoint').is_file():
                arguments.insert(1, '--resume')
            else:
                shutil.rmtree(stage.work_dir, ignore_errors=True)
                write_atomically(str(self.folder / f'{stage.name}.started'), json.dumps(stage.identity).encode())
        threads = int(os.environ.get('OMP_NUM_THREADS', os.cpu_count() or 1))
        python_path = os.pathsep.join([str(self.root), os.environ.get('PYTHONPATH', '')])
        environment = dict(os.environ, PYTHONPATH=python_path, OMP_NUM_THREADS=str(max(1, threads // jobs)))
        if torch.cuda.device_count() > 1:
            names = os.environ.get('CUDA_VISIBLE_DEVICES') or ','.join(map(str, range(torch.cuda.device_count())))
            devices = names.split(',')
            environment['CUDA_VISIBLE_DEVICES'] = devices[slot % len(devices)]
        return self.launch(arguments, self.log(stage), self.root, environment, self.keep_open)

    def _finish(self, stage: Stage, code: int, seconds: float, peak_memory_mib: float) -> str | None:
        if code:
            lines = self.log(stage).read_text(encoding='utf-8', errors='replace').splitlines()
            how = f'exit code {code}' if code > 0 else f'signal {-code}'
            return '\n'.join([how, *lines[-_TAIL_LINES:]])
        known = dict(stage.identity, seconds=seconds, peak_memory_mib=round(peak_memory_mib, 1), facts=self.facts)
        known |= dict(group=stage.group, work=stage.work)
        write_atomically(str(self.folder / f'{stage.name}.json'), json.dumps(known).encode())
        return None


class _Display:
    """What is running, what is left, and for how long: live bars on a terminal, one line per event elsewhere."""

    def __init__(
        self,
        console: Console,
        waiting: int,
        jobs: int,
        later: Sequence[tuple[str, float]],
        speeds: dict[str, float],
    ) -> None:
        self.console, self.jobs, self.later, self.speeds = console, jobs, later, speeds
        self.count, self.total = 0, waiting + len(later)
        self.state: dict[str, str] = {}
        self.bars: dict[str, Any] = {}
        columns = TextColumn('{task.description}'), BarColumn(), TextColumn('{task.fields[state]}')
        self.progress = Progress(*columns, TimeElapsedColumn(), console=console) if console.is_terminal else None
        if self.progress and self.total > 1:
            self.overall = self.progress.add_task('commands', total=self.total, state=f'{self.total} left')
        else:
            self.overall = None

    def __enter__(self) -> _Display:
        if self.progress:
            self.progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.progress:
            self.progress.stop()

    def started(self, stage: Stage) -> None:
        if self.progress:
            self.bars[stage.name] = self.progress.add_task(stage.title, total=None, state='')
        else:
            self.console.print(f'{time.strftime("%H:%M:%S")} started  {stage.title}', markup=False, highlight=False)

    def read(self, stage: Stage, lines: Sequence[str]) -> None:
        """Take the iteration and the loss from a log."""
        if not self.progress:
            return
        for line in lines:
            if match := re.search(r'(\w+)\)\s+\[\s*(\d+)/(\d+)\]', line):
                loss = re.search(r' loss: (\S+)', line)
                state = f'{match[1]} {match[2]}/{match[3]}' + (f', loss {loss[1]}' if loss else '')
                self.progress.update(self.bars[stage.name], completed=int(match[2]), total=int(match[3]), state=state)

    def ended(self, stage: Stage, seconds: float, reason: str | None, waiting: Sequence[Stage]) -> None:
        self.count += 1
        if stage.work and reason is None:
            self.speeds[stage.group] = seconds / stage.work
        left = self._left(waiting)
        if self.progress:
            state = 'done' if reason is None else 'failed'
            self.progress.update(self.bars[stage.name], completed=1, total=1, state=state)
            if self.overall is not None:
                self.progress.update(self.bars[stage.name], visible=reason is not None)
                self.progress.update(self.overall, completed=self.count, state=left)
            return
        word = 'finished' if reason is None else 'FAILED  '
        line = f'{time.strftime("%H:%M:%S")} {word} {stage.title}: {seconds:.0f} s ({left})'
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _left(self, waiting: Sequence[Stage]) -> str:
        text = f'{self.total - self.count} of {self.total} left'
        if not self.speeds or self.count == self.total:
            return text
        usual = sum(self.speeds.values()) / len(self.speeds)
        work = [(stage.group, stage.work) for stage in waiting] + list(self.later)
        seconds = sum(self.speeds.get(group, usual) * amount for group, amount in work) / self.jobs
        return f'{text}, about {duration(seconds)}'


def duration(seconds: float) -> str:
    """Seconds as text: ``'50 s'``, ``'12 min'`` or ``'2 h 05 min'``."""
    if seconds < 90:
        return f'{seconds:.0f} s'
    minutes = round(seconds / 60)
    return f'{minutes} min' if minutes < 60 else f'{minutes // 60} h {minutes % 60:02d} min'


def fingerprint(config: str | Path, *files: Path) -> str:
    """Hash of a config with all that it inherits, and of some files."""
    digest = hashlib.sha256(Config.fromfile(config).pretty_text.encode())
    for path in files:
        digest.update(Path(path).read_bytes())
    return digest.hexdigest()[:16]


def write_encoder(work_dir: Path, target: Path) -> None:
    """Keep only the encoder of a pretraining checkpoint."""
    checkpoint = (work_dir / 'last_checkpoint').read_text().strip()
    weights = read_checkpoint(checkpoint)['state_dict']
    torch.save({k: v for k, v in weights.items() if k.startswith('backbone.')}, target)


def schedule_options(iters: int | None, warm_up: float = 0.1) -> list[str]:
    """Config options for another length of training; none for the config's own length.

    Args:
        iters: Iterations; validation comes after the last one.
        warm_up: Share of them in which the learning rate rises.
    """
    if not iters:
        return []
    end = max(1, round(iters * warm_up))
    length = [f'train_cfg.max_iters={iters}', f'train_cfg.val_interval={iters}', f'param_scheduler.1.end={iters}']
    return [*length, f'param_scheduler.0.end={end}', f'param_scheduler.1.begin={end}']


class ValidationSamples(Sequence):
    """The validation set of a config as packed samples, each read when it is asked for.

    Args:
        config: Config file.
        data_root: Folder of the data set.
    """

    def __init__(self, config: str | Path, data_root: Path) -> None:
        init_default_scope('mmvmt')
        cfg = Config.fromfile(config)
        self._dataset = DATASETS.build(cfg.val_dataloader.dataset | dict(data_root=str(data_root)))

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> MultiTaskDataSample:
        if not 0 <= index < len(self):
            raise IndexError(f'sample {index} of {len(self)}')
        return self._dataset[index]['data_samples']


def score_constant_predictor(config: str | Path, data_root: Path) -> dict[str, float]:
    """Metrics of the best constant prediction per task, on the validation set of a config."""
    evaluator = EVALUATOR.build(Config.fromfile(config).val_evaluator)
    evaluator.dataset_meta = {}
    samples = ValidationSamples(config, data_root)
    for sample in constant_predictions(samples):
        evaluator.process([sample])
    return evaluator.evaluate(len(samples))


def main_figures(metrics: Mapping[str, float]) -> dict[str, float]:
    """``{task: main figure}``."""
    return {
        name: metrics[f'{name}/{task.main_metric}']
        for name, task in TASKS.items()
        if f'{name}/{task.main_metric}' in metrics
    }


def count_command(config: str) -> list[str]:
    """Arguments of the command whose last line of output is a JSON object with the parameter counts of a config."""
    return ['tools/analysis/count_params.py', config, '--json']


@dataclass(frozen=True)
class TrainingLog:
    """What a training wrote into its work dir.

    Args:
        metrics: Of the validation after the last iteration; None if there was none.
        seconds_per_iteration: Median over the logged iterations; None if none was logged.
        memory_mib: Largest memory on the GPU; None on a CPU.
        diverged_at: First logged iteration with a loss that is no number; None if there is none.
    """

    metrics: dict[str, float] | None
    seconds_per_iteration: float | None
    memory_mib: float | None
    diverged_at: int | None


def read_training_log(work_dir: Path, iters: int) -> TrainingLog:
    """Read the scalars of a training, of all its starts if it was interrupted.

    Args:
        work_dir: Work dir.
        iters: Length of the training.
    """
    entries = list(_scalars(work_dir))
    trained = [entry for entry in entries if 'loss' in entry]
    validated = [entry for entry in entries if entry.get('step') == iters and any('/' in key for key in entry)]
    metrics = {key: value for key, value in validated[-1].items() if '/' in key} if validated else None
    times = [entry['time'] for entry in trained if 'time' in entry]
    memory = [entry['memory'] for entry in entries if 'memory' in entry]
    diverged = [entry['step'] for entry in trained if not math.isfinite(entry['loss'])]
    return TrainingLog(
        metrics=metrics,
        seconds_per_iteration=statistics.median(times) if times else None,
        memory_mib=max(memory) if memory else None,
        diverged_at=diverged[0] if diverged else None,
    )


def _scalars(work_dir: Path) -> Iterator[dict[str, Any]]:
    for path in sorted(work_dir.glob('*/vis_data/scalars.json')):
        for line in path.read_text(encoding='utf-8').splitlines(keepends=True):
            # A run that was killed may leave half a line.
            if line.endswith('\n'):
                yield json.loads(line)
