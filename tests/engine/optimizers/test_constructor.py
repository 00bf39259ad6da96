import pytest
from mmengine.optim import build_optim_wrapper
from tiny import mmseg_heads_cfg, tiny_model

from mmvmt.models.parameter_groups import count
from mmvmt.registry import MODELS

CFG = dict(
    type='OptimWrapper',
    constructor='mmvmt.PEFTOptimWrapperConstructor',
    optimizer=dict(type='AdamW', lr=0.1, weight_decay=0.05),
)


def groups_of(model, **cfg):
    wrapper = build_optim_wrapper(model, CFG | cfg)
    return {group['name']: group for group in wrapper.optimizer.param_groups}


def test_the_optimizer_gets_exactly_the_trainable_parameters():
    model = tiny_model()
    given = [id(p) for group in groups_of(model).values() for p in group['params']]
    assert len(given) == len(set(given))
    assert set(given) == {id(p) for p in model.parameters() if p.requires_grad}
    assert count(model.parameters()) > count(p for p in model.parameters() if p.requires_grad)


def test_no_decay_and_multipliers():
    model = tiny_model(plugins=[dict(cfg=dict(type='mmvmt.VMTAdapter', reduction=2, unfreeze='norms'))])
    groups = groups_of(model, paramwise_cfg=dict(adapter_lr_mult=2.0, decoder_lr_mult=0.5))
    assert {name: (group['lr'], group['weight_decay']) for name, group in groups.items()} == {
        'adapters': (0.2, 0.05),
        'adapters_no_decay': (0.2, 0.0),
        'norms_biases_no_decay': (0.1, 0.0),
        'decoders': (0.05, 0.05),
        'decoders_no_decay': (0.05, 0.0),
    }
    names = {id(p): name for name, p in model.named_parameters()}
    decayed = [names[id(p)] for group in groups.values() if group['weight_decay'] for p in group['params']]
    assert all(n.endswith('weight') and '.norms.' not in n and 'fuse_norm' not in n for n in decayed)


def test_rates_and_decay_by_task():
    model = MODELS.build(mmseg_heads_cfg())
    factors = dict(decoder_lr_mult=0.5, task_lr_mult=dict(semseg=0.1), task_decay_mult=dict(semseg=2.0, normals=0.0))
    groups = groups_of(model, paramwise_cfg=factors)
    assert {name: (group['lr'], group['weight_decay']) for name, group in groups.items()} == {
        'adapters': (0.1, 0.05),
        'adapters_no_decay': (0.1, 0.0),
        'adapters.semseg_no_decay': (pytest.approx(0.01), 0.0),
        'adapters.normals_no_decay': (0.1, 0.0),
        'decoders.semseg': (pytest.approx(0.005), 0.1),
        'decoders.semseg_no_decay': (pytest.approx(0.005), 0.0),
        'decoders.normals': (0.05, 0.0),
        'decoders.normals_no_decay': (0.05, 0.0),
    }
    given = [id(p) for group in groups.values() for p in group['params']]
    assert sorted(given) == sorted(id(p) for p in model.parameters() if p.requires_grad)
    of_semseg = {id(p) for name in groups if '.semseg' in name for p in groups[name]['params']}
    assert {id(p) for p in model.heads['semseg'].parameters()} < of_semseg
    assert not of_semseg & {id(p) for p in model.heads['normals'].parameters()}


@pytest.mark.parametrize(
    'factors, message',
    [
        (dict(task_lr_mult=dict(depth=0.1)), "the model has no task 'depth'; its tasks are semseg, human_parts"),
        (dict(task_lr_mult=0.1), r'task_lr_mult must be a dictionary such as dict\(semseg=0\.1\), got 0\.1'),
    ],
)
def test_wrong_factors_of_tasks_are_named(factors, message):
    with pytest.raises(ValueError, match=message):
        groups_of(tiny_model(), paramwise_cfg=factors)


def test_factors_of_a_decay_that_is_not_given():
    optimizer = dict(type='AdamW', lr=0.1)
    with pytest.raises(ValueError, match=r'task_decay_mult multiplies optimizer\.weight_decay, which is not given'):
        groups_of(tiny_model(), optimizer=optimizer, paramwise_cfg=dict(task_decay_mult=dict(semseg=0.0)))


def test_unknown_multiplier_is_named():
    with pytest.raises(ValueError, match=r"unknown keys \['norm_decay_mult'\]; known: adapter_lr_mult"):
        groups_of(tiny_model(), paramwise_cfg=dict(norm_decay_mult=0.0))


def test_nothing_to_train_is_an_error():
    model = tiny_model()
    model.requires_grad_(False)
    with pytest.raises(ValueError, match='no trainable parameter'):
        groups_of(model)
