"""LoRA against loops over its equation; merging, and what may not be merged."""

import copy
import math

import pytest
import torch
from tiny import FOUR_TASKS, perturb, tiny_model, tiny_swin

from mmvmt.adapters import LoRA, Site
from mmvmt.registry import MODELS

IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
SITES = [Site(0, 0, 'qkv', 6, 18), Site(0, 0, 'fc1', 6, 12), Site(0, 1, 'fc2', 12, 6)]
TASKS = ('semseg', 'normals')
ALL_SLOTS = ['qkv', 'proj', 'fc1', 'fc2']


def plugin(position='qkv', stages=(True, True, True, True), **kwargs):
    return dict(cfg=dict(type='mmvmt.LoRA', **kwargs), position=position, stages=stages)


def lora_swin(tasks=('semseg',), position='qkv', **kwargs):
    return tiny_swin(tasks=tasks, plugins=[plugin(position, **kwargs)])


def assert_equal_maps(got, expected, tolerance=1e-5):
    """Equal up to a tolerance relative to the largest value of a map."""
    assert tuple(got) == tuple(expected)
    for task, maps in expected.items():
        for a, b in zip(got[task], maps):
            torch.testing.assert_close(a, b, atol=tolerance * b.abs().max().item(), rtol=0)


@pytest.mark.parametrize('per_task', [True, False])
@pytest.mark.parametrize('alpha, factor', [(None, 1.0), (3, 1.5), (0.5, 0.25)])
def test_equals_the_equation(per_task, alpha, factor):
    lora = LoRA(SITES, TASKS, rank=2, alpha=alpha, per_task=per_task).eval()
    perturb(lora, std=0.5)
    generator = torch.Generator().manual_seed(3)
    for site in SITES:
        inputs = torch.randn(3, site.in_channels, generator=generator)
        outputs = torch.randn(3, site.out_channels, generator=generator)
        for task in TASKS:
            update = lora.updates[task if per_task else 'shared'][site.key]
            adapted, tapped = lora.adapt(site, inputs, outputs, task if per_task else None, None)
            assert tapped is None
            a, b = update.down_weight.tolist(), update.up_weight.tolist()
            for row in range(3):
                low = [sum(w * x for w, x in zip(weights, inputs[row].tolist())) for weights in a]
                high = [sum(w * z for w, z in zip(weights, low)) for weights in b]
                expected = [y + factor * u for y, u in zip(outputs[row].tolist(), high)]
                assert adapted[row].tolist() == pytest.approx(expected, abs=1e-5)


def test_each_task_has_its_own_update_and_shared_tasks_one():
    own = lora_swin(TASKS)
    shared = lora_swin(TASKS, per_task=False)
    assert own.per_task
    assert not shared.per_task
    assert not torch.equal(own(IMAGES)['semseg'][0], own(IMAGES)['normals'][0])
    assert torch.equal(shared(IMAGES)['semseg'][0], shared(IMAGES)['normals'][0])
    twice = sum(p.numel() for p in own.adapter_parameters())
    assert twice == 2 * sum(p.numel() for p in shared.adapter_parameters())


def test_dropout_acts_on_the_input_of_the_update_in_training_alone():
    lora = LoRA(SITES[:1], ['semseg'], rank=2, dropout=0.5)
    perturb(lora, std=0.5)
    update = lora.updates['semseg'][SITES[0].key]
    inputs, outputs = torch.ones(4, 6), torch.zeros(4, 18)
    torch.manual_seed(0)
    got, _ = lora.train().adapt(SITES[0], inputs, outputs, 'semseg', None)
    torch.manual_seed(0)
    kept = torch.nn.functional.dropout(inputs, 0.5)
    assert set(kept.flatten().tolist()) == {0.0, 2.0}
    torch.testing.assert_close(got, kept @ update.down_weight.T @ update.up_weight.T)
    got, _ = lora.eval().adapt(SITES[0], inputs, outputs, 'semseg', None)
    torch.testing.assert_close(got, inputs @ update.down_weight.T @ update.up_weight.T)


@pytest.mark.parametrize('per_task, copies', [(True, 35_328), (False, 0)])
@pytest.mark.usefixtures('undrawn')
def test_swin_t_on_qkv_with_norms_has_the_derived_counts(per_task, copies):
    lora = plugin(rank=4, norms=True, per_task=per_task)
    swin = MODELS.build(dict(type='mmvmt.AdaptedSwin', tasks=FOUR_TASKS, plugins=[lora]))
    sets = 4 if per_task else 1
    assert sum(p.numel() for p in swin.adapter_parameters()) == sets * 70_656 + copies
    encoder = 0 if per_task else 8_832
    assert sum(p.numel() for p in swin.parameters() if p.requires_grad) == sets * 70_656 + copies + encoder


@pytest.mark.parametrize('per_task', [True, False])
def test_slots_that_share_a_norm_train_it_once(per_task):
    swin = lora_swin(TASKS, position=ALL_SLOTS, rank=2, norms=True, per_task=per_task)
    (lora,) = swin.adapters
    chosen = list(lora.copied_parameters(swin) if per_task else lora.encoder_parameters(swin))
    norms = [p for s in swin.stages for b in s.blocks for n in (b.norm1, b.norm2) for p in (n.weight, n.bias)]
    assert len(chosen) == len(norms)
    assert {id(p) for p in chosen} == {id(p) for p in norms}


@pytest.mark.parametrize('position', ['qkv', 'proj', 'fc1', 'fc2', ALL_SLOTS])
@pytest.mark.parametrize('per_task', [True, False])
def test_merged_outputs_are_the_same(position, per_task):
    tasks = ('semseg',) if per_task else FOUR_TASKS
    swin = lora_swin(tasks, position, rank=2, alpha=3, per_task=per_task, norms=True)
    weights = {name: p.clone() for name, p in swin.own_parameters().items()}
    expected = swin(IMAGES)
    (lora,) = swin.adapters

    lora.merge(swin)
    moved = {name for name, p in swin.own_parameters().items() if not torch.equal(p, weights[name])}
    layers = {id(swin.layer_of(site).weight) for site in lora.sites}
    if per_task:
        layers |= {id(p) for p in lora.copied_parameters(swin)}
    assert moved == {name for name, p in swin.own_parameters().items() if id(p) in layers}
    assert_equal_maps(swin(IMAGES), expected)

    # Nothing but the encoder computes now.
    for parameter in lora.parameters():
        parameter.data.fill_(math.nan)
    assert_equal_maps(swin(IMAGES), expected)


@pytest.mark.parametrize('per_task', [True, False])
def test_unmerging_restores(per_task):
    swin = lora_swin(('semseg',), ALL_SLOTS, rank=2, per_task=per_task, norms=True)
    before = {name: tensor.clone() for name, tensor in swin.state_dict().items()}
    expected = swin(IMAGES)
    (lora,) = swin.adapters
    lora.merge(swin)
    lora.unmerge(swin)
    assert_equal_maps(swin(IMAGES), expected)
    for name, tensor in swin.state_dict().items():
        torch.testing.assert_close(tensor, before[name], atol=1e-6, rtol=1e-6, msg=name)


def test_merging_is_exact():
    swin = lora_swin(position=ALL_SLOTS, rank=2, alpha=3, norms=True).double()
    expected = swin(IMAGES.double())
    swin.adapters[0].merge(swin)
    assert_equal_maps(swin(IMAGES.double()), expected, tolerance=1e-13)
    swin.adapters[0].unmerge(swin)
    assert_equal_maps(swin(IMAGES.double()), expected, tolerance=1e-13)


@pytest.mark.parametrize('norms', [True, False])
def test_several_tasks_with_their_own_updates_cannot_be_merged(norms):
    swin = lora_swin(FOUR_TASKS, norms=norms)
    before = copy.deepcopy(swin.state_dict())
    with pytest.raises(ValueError, match=r'each of 4 tasks \(semseg, .*\), and one weight .* per_task=False'):
        swin.adapters[0].merge(swin)
    assert all(torch.equal(tensor, before[name]) for name, tensor in swin.state_dict().items())


def test_merging_twice_and_unmerging_what_is_not_merged_are_refused():
    swin = lora_swin()
    (lora,) = swin.adapters
    with pytest.raises(ValueError, match='LoRA is not merged: call merge'):
        lora.unmerge(swin)
    lora.merge(swin)
    expected = swin(IMAGES)
    with pytest.raises(ValueError, match='LoRA is merged already: call unmerge'):
        lora.merge(swin)
    assert_equal_maps(swin(IMAGES), expected, tolerance=0)


def test_a_merged_model_refuses_to_train_until_it_is_unmerged():
    swin = lora_swin(norms=True)
    (lora,) = swin.adapters
    lora.merge(swin)
    swin.train()
    with pytest.raises(RuntimeError, match=r'merged into the encoder and cannot train: call unmerge\(encoder\)'):
        swin(IMAGES)
    with pytest.raises(ValueError, match='merged and cannot be initialised'):
        lora.reset_parameters()
    lora.unmerge(swin)
    sum(m.square().mean() for m in swin(IMAGES)['semseg']).backward()
    assert all(p.grad.any() for p in lora.parameters())


@pytest.mark.parametrize('saved', [True, False])
@pytest.mark.parametrize('loading', [True, False])
@pytest.mark.parametrize('strict', [True, False])
def test_a_checkpoint_knows_whether_it_is_merged(saved, loading, strict):
    first = tiny_model(('semseg',), [plugin(norms=True)])
    second = tiny_model(('semseg',), [plugin(norms=True)], seed=5)
    expected = first(IMAGES)
    for model, merged in ((first, saved), (second, loading)):
        if merged:
            model.backbone.adapters[0].merge(model.backbone)
    second.load_state_dict(copy.deepcopy(first.state_dict()), strict=strict)
    assert second.backbone.adapters[0].is_merged == saved
    assert_equal_maps({'semseg': [second(IMAGES)['semseg']]}, {'semseg': [expected['semseg']]})
    if saved:
        second.backbone.adapters[0].unmerge(second.backbone)
        assert_equal_maps({'semseg': [second(IMAGES)['semseg']]}, {'semseg': [expected['semseg']]})


def test_a_copy_of_a_merged_model_is_merged():
    swin = lora_swin(norms=True)
    expected = swin(IMAGES)
    swin.adapters[0].merge(swin)
    twin = copy.deepcopy(swin)
    twin.adapters[0].unmerge(twin)
    assert swin.adapters[0].is_merged
    assert_equal_maps(twin(IMAGES), expected)


@pytest.mark.parametrize(
    'position, stages, message',
    [
        ('ffn', (True, True, True, True), "cannot fill position 'ffn'; it fills qkv, proj, fc1, fc2"),
        ('query', (True, True, True, True), "matches no slot: it cannot fill position 'query'"),
        ('qkv', (False, False, False, False), 'matches no slot: stages='),
    ],
)
def test_a_target_that_matches_nothing_is_refused(position, stages, message):
    with pytest.raises(ValueError, match=message):
        tiny_swin(plugins=[plugin(position, stages)])


def test_rank_above_the_width_names_the_layer():
    message = 'rank 9 is above the width of stage0_block0_qkv, a layer from 8 to 24 channels; it can be at most 8'
    with pytest.raises(ValueError, match=message):
        lora_swin(rank=9)
    assert lora_swin(rank=8).adapters[0].updates


@pytest.mark.parametrize(
    'key, value, message',
    [
        ('rank', 0, 'rank must be an integer of at least 1, got 0'),
        ('rank', 2.5, 'rank must be an integer of at least 1, got 2.5'),
        ('rank', True, 'rank must be an integer of at least 1, got True'),
        ('alpha', 0, 'alpha must be a positive finite number, or None for the rank, got 0'),
        ('alpha', -1, 'alpha must be a positive finite number, .* got -1'),
        ('alpha', math.inf, 'alpha must be a positive finite number, .* got inf'),
        ('alpha', math.nan, 'alpha must be a positive finite number, .* got nan'),
        ('alpha', 'rank', "alpha must be a positive finite number, .* got 'rank'"),
        ('dropout', 1, 'dropout must be at least 0 and below 1, got 1'),
        ('dropout', -0.1, 'dropout must be at least 0 and below 1, got -0.1'),
        ('dropout', None, 'dropout must be at least 0 and below 1, got None'),
    ],
)
def test_wrong_options_are_quoted(key, value, message):
    with pytest.raises(ValueError, match=message):
        LoRA(SITES, TASKS, **{key: value})
