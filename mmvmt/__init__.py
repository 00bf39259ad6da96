"""One frozen Swin encoder, many dense tasks, about one percent of trainable parameters."""

from . import registry  # noqa: F401  the registries must exist before a config names scope ``mmvmt``
from .version import __version__

__all__ = ['__version__']
