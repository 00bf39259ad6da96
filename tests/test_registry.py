import mmengine.registry
import pytest

from mmvmt import registry


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
