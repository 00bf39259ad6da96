"""One frozen Swin encoder, many dense tasks, about one percent of trainable parameters."""

from importlib import import_module
from typing import Any

from . import registry  # noqa: F401  the registries must exist before a config names scope ``mmvmt``
from .compat import register_config_packages
from .version import __version__

register_config_packages()

_LAZY = {
    'add_task': 'mmvmt.apis.tasks',
    'declare_tasks': 'mmvmt.structures',
    'load_adapter': 'mmvmt.engine.adapter_file',
    'register_task': 'mmvmt.structures',
    'remove_task': 'mmvmt.apis.tasks',
    'save_adapter': 'mmvmt.engine.adapter_file',
}

__all__ = ['__version__', *_LAZY]


def __getattr__(name: str) -> Any:
    # Imported when asked for: the models behind these functions take seconds to import, and a config needs none of it.
    if name not in _LAZY:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(import_module(_LAZY[name]), name)
