import pytest
from mmengine.optim import build_optim_wrapper
from tiny import tiny_model

from mmvmt.models.parameter_groups import count

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


def test_unknown_multiplier_is_named():
    with pytest.raises(ValueError, match=r"unknown keys \['norm_decay_mult'\]; known: adapter_lr_mult"):
        groups_of(tiny_model(), paramwise_cfg=dict(norm_decay_mult=0.0))


def test_nothing_to_train_is_an_error():
    model = tiny_model()
    model.requires_grad_(False)
    with pytest.raises(ValueError, match='no trainable parameter'):
        groups_of(model)
