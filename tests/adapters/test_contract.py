"""What every registered method must keep, whatever it is: driven by one table and by the registry."""

import io

import pytest
import torch
from tiny import FOUR_TASKS, batch, losses_of, perturb, tiny_model, tiny_swin

import mmvmt.adapters  # noqa: F401
from mmvmt.adapters import Adapter
from mmvmt.models.parameter_groups import no_decay_ids, parameter_groups
from mmvmt.registry import ADAPTERS

# One row per method: its config, and the number of its own parameters on the tiny encoder (widths 8, 16, 32, 64;
# 1, 2, 1, 1 blocks; four tasks) by its formula.
WIDTHS = (8, 16, 16, 32, 64)
CASES = {
    'VMTAdapter': (
        dict(type='mmvmt.VMTAdapter', reduction=2),
        sum(2 * d * (d // 2) + d // 2 + d + 4 * 2 * d for d in WIDTHS),
    ),
    'VMTAdapterLite': (
        dict(type='mmvmt.VMTAdapterLite', reduction=2),
        sum(d * (d // 2) + d // 2 + d + 4 * 2 * d for d in WIDTHS),
    ),
    'DecodersOnly': (dict(type='mmvmt.DecodersOnly'), 0),
    'FullFineTuning': (dict(type='mmvmt.FullFineTuning'), 0),
}
IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def test_every_registered_method_has_a_row():
    assert set(ADAPTERS.module_dict) == set(CASES)
    assert all(issubclass(method, Adapter) for method in ADAPTERS.module_dict.values())


@pytest.fixture(params=sorted(CASES))
def method(request):
    return request.param


def plugins_of(method):
    return [dict(cfg=CASES[method][0])]


def test_starts_from_the_frozen_network(method):
    plain = tiny_swin(plugins=None)
    adapted = tiny_swin(plugins=plugins_of(method))
    adapted.load_state_dict(plain.state_dict(), strict=False)
    for adapter in adapted.adapters:
        adapter.reset_parameters()
    expected, got = plain(IMAGES), adapted(IMAGES)
    for task in FOUR_TASKS:
        for a, b in zip(expected[task], got[task]):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_own_parameters_equal_the_formula(method):
    assert sum(p.numel() for p in tiny_swin(plugins=plugins_of(method)).adapter_parameters()) == CASES[method][1]


def test_only_declared_parameters_move(method):
    model = tiny_model(plugins=plugins_of(method)).train()
    declared = {id(p) for p in model.heads.parameters()} | {id(p) for p in model.backbone.adapter_parameters()}
    for adapter in model.backbone.adapters:
        declared.update(id(p) for p in adapter.encoder_parameters(model.backbone))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    sum(losses_of(model, batch()).values()).backward()
    optimizer.step()
    for name, parameter in model.named_parameters():
        moved = not torch.equal(before[name], parameter)
        assert moved == (id(parameter) in declared), name


def test_every_trainable_parameter_gets_a_gradient(method):
    model = tiny_model(plugins=plugins_of(method)).train()
    sum(losses_of(model, batch()).values()).backward()
    missing = [n for n, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert missing == []
    assert all(p.grad is None for p in model.parameters() if not p.requires_grad)


def test_learning_starts_at_initialisation(method):
    model = tiny_model(plugins=plugins_of(method)).train()
    for adapter in model.backbone.adapters:
        adapter.reset_parameters()
    sum(losses_of(model, batch()).values()).backward()
    own = model.backbone.adapter_parameters()
    assert not own or any(p.grad.abs().sum() > 0 for p in own)


def test_save_and_load_round_trip(method):
    first, second = tiny_model(plugins=plugins_of(method)), tiny_model(plugins=plugins_of(method), seed=5)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second.load_state_dict(torch.load(file, weights_only=True))
    for task, logits in first(IMAGES).items():
        assert torch.equal(logits, second(IMAGES)[task]), task


def test_groups_hold_every_parameter_once(method):
    model = tiny_model(plugins=plugins_of(method))
    grouped = [id(p) for group in parameter_groups(model).values() for p in group]
    assert sorted(grouped) == sorted(id(p) for p in model.parameters())


def test_biases_norms_scales_and_shifts_get_no_decay(method):
    model = tiny_model(plugins=plugins_of(method))
    ids = no_decay_ids(model)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and (parameter.ndim == 1 or name.endswith(('.scale', '.shift'))):
            assert id(parameter) in ids, name
        if name.endswith(('linears.0.weight', 'fuse.weight', 'down_weight', 'up_weight')):
            assert id(parameter) not in ids, name


def test_gradient_checkpointing_changes_nothing(method):
    plain = tiny_model(plugins=plugins_of(method)).train()
    checkpointed = tiny_model(plugins=plugins_of(method)).train()
    for stage in checkpointed.backbone.stages:
        for block in stage.blocks:
            block.with_cp = True
    for model in (plain, checkpointed):
        sum(losses_of(model, batch()).values()).backward()
    for (name, a), b in zip(plain.named_parameters(), checkpointed.parameters()):
        if a.requires_grad:
            torch.testing.assert_close(a.grad, b.grad, msg=name)


def test_bfloat16_autocast_runs_and_trains(method):
    model = tiny_model(plugins=plugins_of(method)).train()
    with torch.autocast('cpu', dtype=torch.bfloat16):
        loss = sum(losses_of(model, batch()).values())
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize('tasks', [('semseg',), ('depth', 'edge'), (*FOUR_TASKS, 'depth', 'edge')])
def test_any_number_of_tasks(method, tasks):
    swin = tiny_swin(tasks=tasks, plugins=plugins_of(method))
    assert tuple(swin(IMAGES)) == tasks


def test_without_tasks_it_drops_into_mmseg(method):
    swin = tiny_swin(tasks=None, plugins=plugins_of(method))
    maps = swin(IMAGES)
    assert [tuple(m.shape) for m in maps] == [(2, 8, 16, 16), (2, 16, 8, 8), (2, 32, 4, 4), (2, 64, 2, 2)]
    assert all(p.requires_grad for i in range(4) for p in getattr(swin, f'norm{i}').parameters())


def test_copies_are_independent(method):
    from copy import deepcopy

    swin = tiny_swin(plugins=plugins_of(method))
    twin = deepcopy(swin)
    before = twin(IMAGES)
    perturb(swin, seed=9)
    after = twin(IMAGES)
    for task in FOUR_TASKS:
        assert all(torch.equal(a, b) for a, b in zip(before[task], after[task]))
