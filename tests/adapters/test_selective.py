"""Methods that train a part of the encoder: against plain encoders whose parameters were changed by hand."""

import pytest
import torch
from tiny import FOUR_TASKS, perturb, tiny_swin
from torch import nn

from mmvmt.adapters import RelativePositionBias
from mmvmt.registry import MODELS

IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def is_bias(swin, name):
    return name.endswith('.bias')


def is_table(swin, name):
    return name.endswith('relative_position_bias_table')


def is_norm(swin, name):
    return isinstance(swin.get_submodule(name.rpartition('.')[0]), nn.LayerNorm)


CHOSEN = [('BitFit', is_bias), ('RelativePositionBias', is_table), ('NormTuning', is_norm)]


def plugin(method, **options):
    return dict(cfg=dict(type=f'mmvmt.{method}', **options))


@pytest.mark.parametrize('method, chosen', CHOSEN)
def test_every_task_runs_an_encoder_of_its_own(method, chosen):
    swin = tiny_swin(plugins=[plugin(method)])
    frozen = {name: p for name, p in swin.named_parameters() if not name.startswith('adapters')}
    with torch.no_grad():
        features = swin(IMAGES)
        again = swin(IMAGES)
    offsets = swin.adapters[0].offsets
    for task in FOUR_TASKS:
        plain = tiny_swin(plugins=None)
        changed = 0
        state = {name: p.detach().clone() for name, p in frozen.items()}
        for name in state:
            if chosen(plain, name):
                state[name] += offsets[task][name.replace('.', '-')].detach()
                changed += 1
        assert changed == len(offsets[task]) > 0
        plain.load_state_dict(state, strict=False)
        with torch.no_grad():
            expected = plain(IMAGES)[task]
        for a, b, c in zip(expected, features[task], again[task]):
            torch.testing.assert_close(b, a, atol=1e-4, rtol=1e-4)
            assert torch.equal(b, c)


@pytest.mark.parametrize('method, chosen', CHOSEN)
def test_shared_by_all_tasks_it_trains_the_encoder_itself_in_one_pass(method, chosen):
    swin = tiny_swin(plugins=[plugin(method, per_task=False)])
    assert not swin.per_task
    assert swin.adapter_parameters() == []
    trained = {name for name, p in swin.named_parameters() if p.requires_grad}
    assert trained == {name for name, _ in swin.named_parameters() if chosen(swin, name)}


def test_without_tasks_output_norms_are_trained_once_and_not_copied():
    swin = tiny_swin(tasks=None, plugins=[plugin('BitFit')])
    assert not any(key.startswith('norm') for key in swin.adapters[0].offsets['default'])
    assert all(getattr(swin, f'norm{index}').bias.requires_grad for index in range(4))


def test_a_table_in_evaluation_follows_its_offset():
    swin = tiny_swin(plugins=[plugin('RelativePositionBias')])
    with torch.no_grad():
        before = swin(IMAGES)['semseg']
        perturb(swin.adapters[0], seed=4)
        after = swin(IMAGES)['semseg']
    assert not torch.allclose(before[3], after[3])


def test_blocks_below_the_first_copy_run_once():
    swin = tiny_swin(plugins=[plugin('RelativePositionBias')])
    calls = []
    swin.patch_embed.register_forward_hook(lambda *_: calls.append('patches'))
    swin.stages[0].blocks[0].norm1.register_forward_hook(lambda *_: calls.append('block'))
    swin(IMAGES)
    assert calls == ['patches'] + ['block'] * 4
    calls.clear()
    swin = tiny_swin(plugins=[plugin('BitFit')])
    swin.patch_embed.register_forward_hook(lambda *_: calls.append('patches'))
    swin(IMAGES)
    assert calls == ['patches'] * 4


def test_two_methods_cannot_copy_the_same_parameter():
    swin = tiny_swin(plugins=[plugin('BitFit'), plugin('NormTuning')])
    with pytest.raises(ValueError, match=r"two plugins have copies of 'patch_embed\.norm\.bias'"):
        swin(IMAGES)


def test_an_unknown_order_is_refused():
    with pytest.raises(ValueError, match="task_order must be one of sequential, stacked, got 'parallel'"):
        tiny_swin(task_order='parallel')


def test_what_an_encoder_does_not_have_is_refused(monkeypatch):
    monkeypatch.setattr(RelativePositionBias, 'selected', lambda self, encoder: iter(()))
    with pytest.raises(ValueError, match='RelativePositionBias trains nothing: AdaptedSwin has no such parameters'):
        tiny_swin(plugins=[dict(cfg=dict(type='mmvmt.RelativePositionBias'))])


@pytest.mark.parametrize('merging, expected', [(False, 51_258), (True, 1_599_546)])
@pytest.mark.usefixtures('undrawn')
def test_parts_of_swin_t_have_the_published_counts(merging, expected):
    swin = MODELS.build(
        dict(type='mmvmt.AdaptedSwin', tasks=FOUR_TASKS, plugins=[plugin('PartTuning', merging=merging)])
    )
    assert sum(p.numel() for p in swin.parameters() if p.requires_grad) == expected
    assert swin.adapter_parameters() == []


@pytest.mark.parametrize('part', ['patch_embed', 'norms', 'position_bias', 'merging'])
@pytest.mark.parametrize('tasks', [FOUR_TASKS, None])
def test_each_part_is_what_its_name_says(part, tasks):
    chosen = dict.fromkeys(('patch_embed', 'norms', 'position_bias', 'merging'), False) | {part: True}
    swin = tiny_swin(tasks=tasks, plugins=[plugin('PartTuning', **chosen)])
    belongs = dict(
        patch_embed=lambda name: name.startswith('patch_embed.projection.'),
        norms=lambda name: is_norm(swin, name),
        position_bias=lambda name: is_table(swin, name),
        merging=lambda name: name.endswith('downsample.reduction.weight'),
    )[part]
    own = swin.own_parameters()
    trained = {name for name, p in own.items() if p.requires_grad}
    assert trained == {name for name in own if belongs(name)} != set()


def test_no_part_at_all_is_refused():
    none = dict.fromkeys(('patch_embed', 'norms', 'position_bias', 'merging'), False)
    with pytest.raises(ValueError, match='PartTuning has nothing to train: set one of patch_embed, norms'):
        tiny_swin(plugins=[plugin('PartTuning', **none)])
