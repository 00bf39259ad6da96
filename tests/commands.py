"""Run the project's command-line tools as a user does: in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from mmvmt.models.checkpoint import read_checkpoint

ROOT = Path(__file__).parents[1]


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
    """Run ``python ARGUMENTS`` in the project's folder.

    Raises:
        AssertionError: ``check`` is set and the command failed; the message holds its output.
    """
    return run_command([sys.executable, *map(str, arguments)], check, **more)


def run_command(command: Sequence[str], check: bool = True, **more: str) -> subprocess.CompletedProcess:
    """Run any command in the project's folder, see :func:`run`."""
    result = subprocess.run(command, cwd=ROOT, env=environment(**more), capture_output=True, text=True, timeout=300)
    if check:
        assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return result


def weights(work_dir: Path) -> dict[str, torch.Tensor]:
    """Weights of the last checkpoint of a run."""
    checkpoint = Path(work_dir, 'last_checkpoint').read_text()
    return read_checkpoint(checkpoint)['state_dict']
