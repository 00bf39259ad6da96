"""Run the project's command-line tools as a user does: in processes of their own."""

from __future__ import annotations

import gc
import multiprocessing
import os
import random
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmvmt.models.checkpoint import read_checkpoint

ROOT = Path(__file__).parents[1]


TIMEOUT = 300
"""Seconds after which a command is stopped and the test fails."""

# Importing the packages takes longer than most tools work: this server does it once, and each tool is a fork of it.
multiprocessing.set_forkserver_preload(
    ['mmvmt.apis', 'mmcv.ops', 'mmpretrain', 'mmseg.apis', 'scipy.io', 'matplotlib.pyplot']
)


def environment(**more: str) -> dict[str, str]:
    """Environment of a tool: one thread, this interpreter first on PATH, and the test helpers importable."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ['PATH']])
    python_path = os.pathsep.join([str(ROOT), str(ROOT / 'tests')])
    return os.environ | dict(OMP_NUM_THREADS='1', PATH=path, PYTHONPATH=python_path) | more


def start(*arguments: Any, **more: str) -> subprocess.Popen:
    """Start ``python ARGUMENTS`` in the project's folder; its output comes line by line."""
    return subprocess.Popen(
        [sys.executable, '-u', *map(str, arguments)],
        cwd=ROOT,
        env=environment(**more),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run(*arguments: Any, check: bool = True, **more: str) -> subprocess.CompletedProcess:
    """Run ``python ARGUMENTS`` in the project's folder: a program of the project in a process that has the packages
    imported already, unless variables of the environment are given, which must be there before.

    Raises:
        AssertionError: ``check`` is set and the command failed; the message holds its output.
    """
    words = [str(argument) for argument in arguments]
    if more or not words[0].endswith('.py'):
        return run_command([sys.executable, *words], check, **more)
    with tempfile.TemporaryDirectory(prefix='command_') as folder:
        files = Path(folder, 'stdout'), Path(folder, 'stderr')
        process = _start_program(words, environment(), *files)
        process.join(TIMEOUT)
        if process.is_alive():
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(words, TIMEOUT)
        output = [file.read_text(encoding='utf-8') for file in files]
    return _checked(subprocess.CompletedProcess(words, process.exitcode, *output), check)


class Forked:
    """A running program with the interface of ``subprocess.Popen``, started as in :func:`run`.

    Args:
        arguments: The program and its arguments.
        log: File for the output.
        threads: Threads of PyTorch.
        more: Variables of the environment.
    """

    def __init__(self, arguments: Sequence[Any], log: Path, threads: int = 1, **more: str) -> None:
        log.write_text('')
        variables = environment(OMP_NUM_THREADS=str(threads), **more)
        self._process = _start_program([str(word) for word in arguments], variables, log, log)

    @property
    def returncode(self) -> int | None:
        """Exit code, None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """Exit code, None while it runs."""
        return self._process.exitcode

    def wait(self) -> int:
        """Exit code, once it has ended."""
        self._process.join(TIMEOUT)
        return self._process.exitcode

    def terminate(self) -> None:
        """End it."""
        self._process.kill()
        self._process.join()


def _start_program(
    arguments: Sequence[str], variables: Mapping[str, str], stdout: Path, stderr: Path
) -> multiprocessing.Process:
    context = multiprocessing.get_context('forkserver')
    process = context.Process(target=_run_program, args=(arguments, variables, stdout, stderr))
    process.start()
    return process


def _run_program(arguments: Sequence[str], variables: Mapping[str, str], *outputs: Path) -> None:
    """What ``python ARGUMENTS`` does once the interpreter has started."""
    # What the server imported stays: every data set of mmengine has all of the rest looked through for garbage.
    gc.freeze()
    for path, descriptor in zip(outputs, (1, 2)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, descriptor)
        os.close(file)
    os.chdir(ROOT)
    os.environ.clear()
    os.environ.update(variables)
    torch.set_num_threads(int(variables['OMP_NUM_THREADS']))
    # Forks of one server would all draw the same, such as the seed of a run whose config has none.
    random.seed()
    np.random.seed()  # noqa: NPY002  the generator that mmengine draws from
    sys.path[:0] = [str(ROOT / Path(arguments[0]).parent), *variables['PYTHONPATH'].split(os.pathsep)]
    sys.argv[:] = arguments
    runpy.run_path(arguments[0], run_name='__main__')


def run_command(command: Sequence[str], check: bool = True, **more: str) -> subprocess.CompletedProcess:
    """Run any command in the project's folder, see :func:`run`."""
    result = subprocess.run(command, cwd=ROOT, env=environment(**more), capture_output=True, text=True, timeout=TIMEOUT)
    return _checked(result, check)


def _checked(result: subprocess.CompletedProcess, check: bool) -> subprocess.CompletedProcess:
    if check:
        assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return result


def weights(work_dir: Path) -> dict[str, torch.Tensor]:
    """Weights of the last checkpoint of a run."""
    checkpoint = Path(work_dir, 'last_checkpoint').read_text()
    return read_checkpoint(checkpoint)['state_dict']
