"""The one place for what differs between the two OpenMMLab distributions, ``onedl-*`` and upstream, and between their
releases of PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from inspect import signature
from itertools import repeat
from types import ModuleType
from typing import Any

import torch
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.utils import digit_version


def register_config_packages() -> None:
    """Let ``_base_ = 'mmseg::...'``, ``'mmpretrain::...'`` and ``'mmvmt::...'`` find the installed configs.

    mmengine looks a package's folder up by the name of its distribution. In the ``onedl-*`` distribution those names
    are others than in mmengine's table; there the import name, which mmengine tries next, finds the folder.
    """
    for module, package in MODULE2PACKAGE.items():
        if module != package and not _is_distribution(package) and find_spec(module) is not None:
            MODULE2PACKAGE[module] = module
    # Upstream's mmengine looks in site-packages alone for what is a distribution, and so misses an editable install. A
    # submodule is no distribution, so that both mmengines import it and take its folder.
    MODULE2PACKAGE['mmvmt'] = 'mmvmt.version'


def _is_distribution(name: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True


def operators(needed_by: str) -> ModuleType:
    """``mmcv.ops``, the compiled operators of mmcv.

    Args:
        needed_by: What cannot do without them, for the message.

    Raises:
        ImportError: mmcv was installed without them, or for another release of PyTorch.
    """
    try:
        return import_module('mmcv.ops')
    except ImportError as error:
        raise ImportError(
            f'{needed_by} needs the compiled operators of mmcv, but mmcv.ops cannot be imported: {error}. Build '
            'them against the installed torch: pip install -r requirements/build.txt, then pip install '
            '--no-build-isolation --no-cache-dir --no-deps --force-reinstall with the mmcv of requirements.txt '
            'or requirements/upstream.txt (make setup and make setup-upstream do it all); python '
            'tools/dev/check_operators.py tells whether they work'
        ) from error


RECORDS_GRAPHS = digit_version(torch.__version__) >= digit_version('2.7')
"""Whether PyTorch can record the models as graphs. That of 2.4 stumbles over what their Python code does, and over
sizes that are left open."""

if RECORDS_GRAPHS:
    from torch.compiler import is_exporting
else:

    def is_exporting() -> bool:
        """Whether ``torch.export`` is recording a graph."""
        return False


def is_recording() -> bool:
    """Whether a graph is recorded, by PyTorch's compiler or by ``torch.jit.trace``. Nothing in it may depend on what
    ran before, and a trace cannot be saved with functions that have a backward of their own."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


def check_records_graphs(needed_by: str) -> None:
    """Refuse an old PyTorch before it fails in the middle of a model.

    Args:
        needed_by: What cannot do without graphs, for the message.

    Raises:
        ImportError: PyTorch is older than 2.7.
    """
    if not RECORDS_GRAPHS:
        raise ImportError(f'{needed_by} needs torch 2.7 or later, this is torch {torch.__version__}')


def profile(activities: Sequence[Any], **options: Any) -> Any:
    """``torch.profiler.profile`` of one cycle; later releases warn unless they are told to keep the events of all."""
    if 'acc_events' in signature(torch.profiler.profile.__init__).parameters:
        options['acc_events'] = True
    return torch.profiler.profile(activities=activities, **options)


@contextmanager
def safe_globals(allowed: Sequence[type | Callable]) -> Iterator[None]:
    """Let ``torch.load(..., weights_only=True)`` use these classes and functions inside the block.

    PyTorch 2.4 knows them by name alone, and has no such block: there the list of all that is allowed is put back.
    """
    if hasattr(torch.serialization, 'safe_globals'):
        with torch.serialization.safe_globals(list(allowed)):
            yield
        return
    before = list(torch.serialization.get_safe_globals())
    torch.serialization.add_safe_globals(list(allowed))
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


def resume_batches(loop: Any, sampler: Any, reseeded: bool = False) -> None:
    """Let a training loop that goes on at iteration ``loop.iter`` draw its batches from the sampler as it is now.

    The onedl loop draws its first batch when it needs it, and calls ``sampler.skip``. Upstream's has been drawing since
    it was built, in the workers too, which is before the seed of the run was read from its checkpoint; and it reads
    every batch that was trained already only to pass over it. Here it passes over nothing, then draws anew.

    Args:
        loop: mmengine's training loop.
        sampler: The sampler of its data loader, with a method ``skip(num_samples)``.
        reseeded: Whether the sampler has another seed than the loop was built with.
    """
    drawing = getattr(loop, 'dataloader_iterator', None)
    # A loop by epochs draws when an epoch begins.
    if drawing is None or hasattr(drawing, 'skip_iter') or (loop.iter == 0 and not reseeded):
        return
    sampler.skip(loop.iter * loop.dataloader.batch_size)
    loop.dataloader_iterator = _after(loop.iter, type(drawing), loop.dataloader)


def _after(passed: int, draw: Callable[[Any], Iterator], dataloader: Any) -> Iterator:
    yield from repeat(None, passed)
    yield from draw(dataloader)
