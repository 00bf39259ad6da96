import logging
from types import SimpleNamespace

import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.optim import OptimWrapperDict, build_optim_wrapper
from mmseg.engine.optimizers import ForceDefaultOptimWrapperConstructor
from mmseg.models.backbones.swin import SwinTransformer
from tiny import SWIN, VMT, batch, losses_of, tiny_model

from mmvmt.engine import PEFTHook
from mmvmt.models.parameter_groups import count, parameter_groups

ADAMW = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=0.01, weight_decay=0.5))


class Decay(torch.optim.Optimizer):
    """An optimizer that decays what it holds, whether it has a gradient or not."""

    def __init__(self, params):
        super().__init__(params, {})

    def step(self, closure=None):
        with torch.no_grad():
            for group in self.param_groups:
                for parameter in group['params']:
                    parameter.mul_(0.5)


def runner_of(model, wrapper=ADAMW):
    return SimpleNamespace(
        model=model, optim_wrapper=build_optim_wrapper(model, wrapper) if isinstance(wrapper, dict) else wrapper
    )


def held(runner):
    return {id(p) for group in runner.optim_wrapper.optimizer.param_groups for p in group['params']}


def moved_frozen(model, step):
    before = {name: p.clone() for name, p in model.named_parameters() if not p.requires_grad}
    step()
    return [name for name, p in model.named_parameters() if name in before and not torch.equal(p, before[name])]


def test_the_default_constructor_hands_over_what_is_frozen_and_the_hook_takes_it_out():
    model = tiny_model()
    runner = runner_of(model)
    assert held(runner) == {id(p) for p in model.parameters()}
    PEFTHook().before_run(runner)
    assert held(runner) == {id(p) for p in model.parameters() if p.requires_grad}


def test_so_does_mmsegs_constructor_that_makes_a_group_of_every_parameter():
    model = tiny_model()
    constructor = ForceDefaultOptimWrapperConstructor(ADAMW, dict(norm_decay_mult=0.0))
    runner = SimpleNamespace(model=model, optim_wrapper=constructor(model))
    number = len(runner.optim_wrapper.optimizer.param_groups)
    assert held(runner) == {id(p) for p in model.parameters()}
    PEFTHook().before_run(runner)
    assert held(runner) == {id(p) for p in model.parameters() if p.requires_grad}
    assert len(runner.optim_wrapper.optimizer.param_groups) == number  # schedulers go through the groups by their order
    runner.optim_wrapper.step()


def test_weight_decay_reaches_no_frozen_parameter():
    model = tiny_model()
    runner = runner_of(model)

    def step(wrapper):
        wrapper.update_params(sum(losses_of(model, batch()).values()))

    # AdamW passes over parameters without a gradient, also where the hook is not used.
    assert moved_frozen(model, lambda: step(runner.optim_wrapper)) == []
    assert moved_frozen(model, Decay(model.parameters()).step)
    decay = SimpleNamespace(model=model, optim_wrapper=build_optim_wrapper(model, ADAMW))
    decay.optim_wrapper.optimizer = Decay(model.parameters())
    PEFTHook().before_run(decay)
    assert moved_frozen(model, decay.optim_wrapper.optimizer.step) == []


def test_several_optimizers():
    model = tiny_model()
    wrapper = OptimWrapperDict(
        encoder=build_optim_wrapper(model.backbone, ADAMW), heads=build_optim_wrapper(model.heads, ADAMW)
    )
    PEFTHook().before_run(runner_of(model, wrapper))
    groups = [group for single in wrapper.values() for group in single.optimizer.param_groups]
    assert {id(p) for group in groups for p in group['params']} == {
        id(p) for p in model.parameters() if p.requires_grad
    }


def test_reports_the_counts_by_group():
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logger = MMLogger.get_instance('peft_hook')
    logger.addHandler(handler)
    model = tiny_model()
    PEFTHook().before_run(runner_of(model))
    logger.removeHandler(handler)
    groups = {name: count(parameters) for name, parameters in parameter_groups(model).items()}
    (line,) = [line for line in lines if line.startswith('PEFT: ')]
    assert f'{sum(groups.values()) - groups["frozen"]:,} of {sum(groups.values()):,} parameters train' in line
    assert all(f'{name} {value:,}' in line for name, value in groups.items())
    assert f'{groups["frozen"]:,} frozen ones taken out of the optimizer' in line


def test_a_test_run_has_no_optimizer_and_is_left_alone():
    model = tiny_model(plugins=None)
    PEFTHook().before_run(SimpleNamespace(model=model, optim_wrapper=None))
    PEFTHook().before_run(SimpleNamespace(model=model, optim_wrapper=dict(ADAMW)))


def test_what_was_unfrozen_or_frozen_behind_the_plugins_is_refused():
    model = tiny_model()
    model.backbone.stages[1].blocks[0].norm1.weight.requires_grad = True
    with pytest.raises(ValueError, match=r"1 parameters .* train although .* 'stages\.1\.blocks\.0\.norm1\.weight'"):
        PEFTHook().before_run(runner_of(model))
    model = tiny_model()
    model.backbone.adapters.requires_grad_(False)
    with pytest.raises(ValueError, match=r"are declared to train but frozen, e\.g\. 'adapters\."):
        PEFTHook().before_run(runner_of(model))


def test_an_optimizer_without_the_heads_is_refused():
    model = tiny_model()
    runner = SimpleNamespace(model=model, optim_wrapper=build_optim_wrapper(model.backbone, ADAMW))
    with pytest.raises(ValueError, match=r"lacks \d+ parameters that are to train, e\.g\. 'heads\."):
        PEFTHook().before_run(runner)


def test_a_model_without_plugins_or_without_the_encoder_is_refused():
    with pytest.raises(ValueError, match='has no plugins, so nothing of it is frozen'):
        PEFTHook().before_run(runner_of(tiny_model(plugins=None)))
    model = tiny_model(plugins=[VMT])
    model.backbone = SwinTransformer(**SWIN)
    with pytest.raises(TypeError, match=r"has SwinTransformer; set model\.backbone\.type='mmvmt\.AdaptedSwin'"):
        PEFTHook().before_run(runner_of(model))
