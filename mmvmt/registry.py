"""Child registries of mmengine's roots, scope ``mmvmt``.

Each names the package that registers into it, and mmengine imports that package at the first look-up: that is why
``custom_imports = dict(imports=['mmvmt'])`` is all that a config needs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mmengine.registry import DATA_SAMPLERS as MMENGINE_DATA_SAMPLERS
from mmengine.registry import DATASETS as MMENGINE_DATASETS
from mmengine.registry import EVALUATOR as MMENGINE_EVALUATOR
from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import LOG_PROCESSORS as MMENGINE_LOG_PROCESSORS
from mmengine.registry import LOOPS as MMENGINE_LOOPS
from mmengine.registry import METRICS as MMENGINE_METRICS
from mmengine.registry import MODEL_WRAPPERS as MMENGINE_MODEL_WRAPPERS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS as MMENGINE_OPTIM_WRAPPER_CONSTRUCTORS
from mmengine.registry import OPTIM_WRAPPERS as MMENGINE_OPTIM_WRAPPERS
from mmengine.registry import OPTIMIZERS as MMENGINE_OPTIMIZERS
from mmengine.registry import PARAM_SCHEDULERS as MMENGINE_PARAM_SCHEDULERS
from mmengine.registry import RUNNER_CONSTRUCTORS as MMENGINE_RUNNER_CONSTRUCTORS
from mmengine.registry import RUNNERS as MMENGINE_RUNNERS
from mmengine.registry import TASK_UTILS as MMENGINE_TASK_UTILS
from mmengine.registry import TRANSFORMS as MMENGINE_TRANSFORMS
from mmengine.registry import VISBACKENDS as MMENGINE_VISBACKENDS
from mmengine.registry import VISUALIZERS as MMENGINE_VISUALIZERS
from mmengine.registry import WEIGHT_INITIALIZERS as MMENGINE_WEIGHT_INITIALIZERS
from mmengine.registry import Registry

_SCOPE = 'mmvmt'

# mmvmt.models
MODELS = Registry('model', parent=MMENGINE_MODELS, scope=_SCOPE, locations=['mmvmt.models'])
# mmvmt.adapters: parameter-efficient methods. A root of its own, because an adapter is built from the encoder's sites
# and cannot stand in a model config by itself.
ADAPTERS = Registry('adapter', scope=_SCOPE, locations=['mmvmt.adapters'])

# mmvmt.datasets
DATASETS = Registry('dataset', parent=MMENGINE_DATASETS, scope=_SCOPE, locations=['mmvmt.datasets'])
TRANSFORMS = Registry('transform', parent=MMENGINE_TRANSFORMS, scope=_SCOPE, locations=['mmvmt.datasets.transforms'])
DATA_SAMPLERS = Registry(
    'data sampler', parent=MMENGINE_DATA_SAMPLERS, scope=_SCOPE, locations=['mmvmt.datasets.samplers']
)
# Readers of label maps: a root of its own, because one is built for a task of a data set.
LABEL_READERS = Registry('label reader', scope=_SCOPE, locations=['mmvmt.datasets'])

# mmvmt.evaluation
METRICS = Registry('metric', parent=MMENGINE_METRICS, scope=_SCOPE, locations=['mmvmt.evaluation'])
EVALUATOR = Registry('evaluator', parent=MMENGINE_EVALUATOR, scope=_SCOPE, locations=['mmvmt.evaluation'])

# mmvmt.engine
HOOKS = Registry('hook', parent=MMENGINE_HOOKS, scope=_SCOPE, locations=['mmvmt.engine'])
OPTIM_WRAPPERS = Registry('optim_wrapper', parent=MMENGINE_OPTIM_WRAPPERS, scope=_SCOPE, locations=['mmvmt.engine'])
OPTIM_WRAPPER_CONSTRUCTORS = Registry(
    'optimizer wrapper constructor',
    parent=MMENGINE_OPTIM_WRAPPER_CONSTRUCTORS,
    scope=_SCOPE,
    locations=['mmvmt.engine'],
)

# mmvmt.visualization
VISUALIZERS = Registry('visualizer', parent=MMENGINE_VISUALIZERS, scope=_SCOPE, locations=['mmvmt.visualization'])

# Nothing of ours registers here; without them mmengine warns at each look-up under the scope.
LOG_PROCESSORS = Registry('log_processor', parent=MMENGINE_LOG_PROCESSORS, scope=_SCOPE)
LOOPS = Registry('loop', parent=MMENGINE_LOOPS, scope=_SCOPE)
MODEL_WRAPPERS = Registry('model_wrapper', parent=MMENGINE_MODEL_WRAPPERS, scope=_SCOPE)
OPTIMIZERS = Registry('optimizer', parent=MMENGINE_OPTIMIZERS, scope=_SCOPE)
PARAM_SCHEDULERS = Registry('parameter scheduler', parent=MMENGINE_PARAM_SCHEDULERS, scope=_SCOPE)
RUNNERS = Registry('runner', parent=MMENGINE_RUNNERS, scope=_SCOPE)
RUNNER_CONSTRUCTORS = Registry('runner constructor', parent=MMENGINE_RUNNER_CONSTRUCTORS, scope=_SCOPE)
TASK_UTILS = Registry('task util', parent=MMENGINE_TASK_UTILS, scope=_SCOPE)
VISBACKENDS = Registry('vis_backend', parent=MMENGINE_VISBACKENDS, scope=_SCOPE)
WEIGHT_INITIALIZERS = Registry('weight initializer', parent=MMENGINE_WEIGHT_INITIALIZERS, scope=_SCOPE)


# A config names a class, or in pure Python has it as it is imported: ``type='mmvmt.VMTAdapter'``, ``type=VMTAdapter``.


def class_of(registry: Registry, kind: str | type) -> type | None:
    """The class of an entry ``type`` of a config.

    Args:
        registry: Where a name is looked up.
        kind: Name or class.

    Returns:
        The class; None for an unknown name.
    """
    return registry.get(kind) if isinstance(kind, str) else kind


def type_name(cfg: Mapping[str, Any], default: str = '') -> str:
    """Name of the class that a config builds, without scope or module.

    Args:
        cfg: The config.
        default: For a config without ``type``.
    """
    kind = cfg.get('type', default)
    return kind.rpartition('.')[2] if isinstance(kind, str) else kind.__name__


def type_in_configs(kind: type | Callable) -> str:
    """How a config that is written to a file names a class or function, so that registries find it.

    Args:
        kind: A class, ours under the name that it is registered by, or a function.
    """
    if kind.__module__.partition('.')[0] == _SCOPE:
        return f'{_SCOPE}.{kind.__name__}'
    return f'{kind.__module__}.{kind.__qualname__}'
