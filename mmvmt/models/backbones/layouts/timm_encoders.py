"""Building encoders of timm."""

from __future__ import annotations

from collections.abc import Mapping
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
    model = timm.create_model(name, num_classes=0, **options)
    model.out_indices = out_indices
    return model
