"""The one place for what differs between the two OpenMMLab distributions, ``onedl-*`` and upstream."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from types import ModuleType

from mmengine.config.utils import MODULE2PACKAGE


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
            '(make setup does it all); python tools/dev/check_operators.py tells whether they work'
        ) from error
