import mmengine.registry
import pytest
import torch
from mmengine.dataset import pseudo_collate
from mmengine.registry import MODELS as ROOT
from mmengine.registry import Registry
from mmseg.models.backbones import SwinTransformer

from mmvmt import registry
from mmvmt.adapters import VMTAdapter
from mmvmt.utils import register_all_modules


@pytest.mark.parametrize(
    'root, name',
    [
        ('MODELS', 'AdaptedSwin'),
        ('DATASETS', 'PASCALContextMT'),
        ('TRANSFORMS', 'PackMultiTaskInputs'),
        ('DATA_SAMPLERS', 'SeededInfiniteSampler'),
        ('METRICS', 'SaliencyMetric'),
        ('EVALUATOR', 'MultiTaskEvaluator'),
        ('HOOKS', 'RandomnessHook'),
        ('OPTIM_WRAPPERS', 'CPUAmpOptimWrapper'),
        ('OPTIM_WRAPPER_CONSTRUCTORS', 'PEFTOptimWrapperConstructor'),
        ('VISUALIZERS', 'MultiTaskVisualizer'),
    ],
)
def test_classes_are_found_from_mmengines_roots_by_scope(root, name):
    found = getattr(mmengine.registry, root).get(f'mmvmt.{name}')
    assert found is getattr(registry, root).get(name)
    assert found.__name__ == name


def test_methods_are_found_with_and_without_scope():
    assert registry.ADAPTERS.get('mmvmt.VMTAdapter') is registry.ADAPTERS.get('VMTAdapter')


def test_every_class_of_ours_is_found_by_the_name_that_configs_get():
    register_all_modules(init_default_scope=False)
    ours = [r for r in vars(registry).values() if isinstance(r, Registry) and r.scope == 'mmvmt' and r.module_dict]
    assert len(ours) >= 8
    for each in ours:
        for kind in each.module_dict.values():
            if kind.__module__.startswith('mmvmt.'):
                assert each.get(registry.type_in_configs(kind)) is kind


@pytest.mark.parametrize('kind', [SwinTransformer, pseudo_collate, torch.optim.AdamW])
def test_classes_and_functions_of_others_are_named_by_where_they_are(kind):
    assert ROOT.get(registry.type_in_configs(kind)) is kind


def test_a_class_in_a_config_is_as_good_as_its_name():
    assert registry.class_of(registry.ADAPTERS, 'mmvmt.VMTAdapter') is VMTAdapter
    assert registry.class_of(registry.ADAPTERS, VMTAdapter) is VMTAdapter
    for kind in ('VMTAdapter', 'mmvmt.VMTAdapter', 'mmvmt.adapters.vmt.VMTAdapter', VMTAdapter):
        assert registry.type_name(dict(type=kind)) == 'VMTAdapter'
    assert registry.type_name({}, 'OptimWrapper') == 'OptimWrapper'
