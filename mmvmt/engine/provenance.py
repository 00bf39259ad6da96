"""What a result file says of the run that made it."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterable
from importlib import import_module
from typing import Any

import torch

from mmvmt.version import __version__

_PACKAGES = ('torch', 'torchvision', 'numpy', 'mmengine', 'mmcv', 'mmseg', 'mmpretrain')


def _cpu_name() -> str:
    try:
        with open('/proc/cpuinfo', encoding='utf-8') as file:
            names = [line.split(':', 1)[1].strip() for line in file if line.startswith('model name')]
    except FileNotFoundError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def hardware() -> dict[str, Any]:
    """Processor, cores, memory in GiB, and GPUs."""
    pages = os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
    return dict(
        cpu=_cpu_name(),
        cores=os.cpu_count(),
        memory_gib=round(pages / 2**30, 1),
        gpus=[torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    )


def package_versions(packages: Iterable[str] = _PACKAGES) -> dict[str, str]:
    """Versions of Python, mmvmt and the packages that a result depends on, by import name."""
    versions = {name: import_module(name).__version__ for name in packages}
    return dict(python=platform.python_version(), mmvmt=__version__, **versions)


def run_record(seed: int | None = None) -> dict[str, Any]:
    """Command, seed, versions and hardware of this process, for a result file.

    Args:
        seed: Seed of the run.
    """
    return dict(
        command=' '.join([os.path.basename(sys.executable), *sys.argv]),
        seed=seed,
        versions=package_versions(),
        hardware=hardware(),
    )
