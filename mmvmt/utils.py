"""What OpenMMLab packages have under this name: ``mmengine.hub.get_model`` and registries ask for it."""

from __future__ import annotations

from importlib import import_module

from mmengine.registry import init_default_scope as set_default_scope

_PACKAGES = ('adapters', 'datasets', 'engine', 'evaluation', 'models', 'structures', 'visualization')


def register_all_modules(init_default_scope: bool = True) -> None:
    """Import everything that registers itself.

    Only programs without a runner need it: a registry imports its own package at the first look-up.

    Args:
        init_default_scope: Whether scope ``mmvmt`` becomes the default one.
    """
    for package in _PACKAGES:
        import_module(f'mmvmt.{package}')
    if init_default_scope:
        set_default_scope('mmvmt')
