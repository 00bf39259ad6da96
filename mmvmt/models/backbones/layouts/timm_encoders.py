"""Building encoders of timm."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn


def build_timm(cfg: Mapping[str, Any]) -> nn.Module:
    """Build an encoder of timm, without its classifier.

    Args:
        cfg: ``model_name``; ``out_indices``, the stages or blocks whose maps leave; and arguments of the model.

    Raises:
        ImportError: timm is not installed.
        ValueError: ``model_name`` is missing or unknown, or weights are asked for here.
    """
    try:
        import timm
    except ImportError:
        raise ImportError('encoders of timm need the package timm: pip install timm') from None
    options = {key: value for key, value in cfg.items() if key != 'type'}
    name, out_indices = options.pop('model_name', None), options.pop('out_indices', None)
    if not isinstance(name, str) or not timm.is_model(name):
        raise ValueError(
            f'model_name must be a model that timm {timm.__version__} knows, got {name!r}; see timm.list_models()'
        )
    if options.get('pretrained'):
        raise ValueError(
            f'{name}: weights come from init_cfg=dict(type="Pretrained", checkpoint=PATH_OR_URL), not from '
            f'pretrained=True'
        )
    if _has_option(timm.models.model_entrypoint(name), 'dynamic_img_size'):
        # Images of any size, whatever size it was built for.
        options['dynamic_img_size'] = True
    model = timm.create_model(name, num_classes=0, **options)
    model.out_indices = out_indices
    return model


def _has_option(entrypoint: Callable[..., nn.Module], option: str) -> bool:
    """Whether the models of a file of timm have an option."""
    kinds = [kind for kind in vars(sys.modules[entrypoint.__module__]).values() if inspect.isclass(kind)]
    own = [kind for kind in kinds if issubclass(kind, nn.Module) and kind.__module__ == entrypoint.__module__]
    return any(option in inspect.signature(kind).parameters for kind in own)
