import copy

import pytest
import torch
from mmseg.models.backbones.swin import SwinTransformer
from tiny import FOUR_TASKS, SWIN, VMT, perturb, tiny_swin

from mmvmt.adapters import SLOTS, Method
from mmvmt.registry import ADAPTERS, MODELS

BRANCHES_AND_LAYERS = tuple(slot for slot in SLOTS if slot != 'tokens')

IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def registered():
    """Register toy methods for one test."""
    names = []

    def register(method):
        ADAPTERS.register_module(module=method)
        names.append(method.__name__)
        return method

    yield register
    for name in names:
        del ADAPTERS.module_dict[name]


@pytest.mark.parametrize('size', [(64, 64), (97, 131), (33, 70), (5, 7)])
@pytest.mark.parametrize(
    'options',
    [
        SWIN,
        dict(embed_dims=12, depths=(2, 2, 2, 2), num_heads=(1, 2, 3, 6), window_size=7, qkv_bias=False, qk_scale=0.3),
        SWIN | dict(patch_norm=False, out_indices=(1, 3)),
    ],
)
def test_without_plugins_and_tasks_it_equals_mmseg(size, options):
    torch.manual_seed(0)
    theirs = SwinTransformer(**options)
    perturb(theirs, std=0.1)
    ours = MODELS.build(dict(type='mmvmt.AdaptedSwin', **options))
    ours.load_state_dict(theirs.state_dict(), strict=True)
    theirs.eval(), ours.eval()
    x = torch.randn(2, 3, *size)
    expected, got = theirs(x), ours(x)
    assert len(expected) == len(got)
    for a, b in zip(expected, got):
        assert b.is_contiguous()
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_gradients_equal_mmsegs():
    torch.manual_seed(0)
    theirs = SwinTransformer(**SWIN)
    perturb(theirs, std=0.1)
    ours = MODELS.build(dict(type='mmvmt.AdaptedSwin', **SWIN))
    ours.load_state_dict(theirs.state_dict())
    for swin in (theirs, ours):
        swin.train()
        sum(m.square().mean() for m in swin(IMAGES)).backward()
    for (name, a), b in zip(theirs.named_parameters(), ours.parameters()):
        torch.testing.assert_close(a.grad, b.grad, atol=1e-5, rtol=1e-4, msg=name)


def test_dropout_and_drop_path_act_in_training_only():
    swin = tiny_swin(tasks=None, plugins=None, drop_rate=0.2, attn_drop_rate=0.2, drop_path_rate=0.5)
    assert torch.equal(swin(IMAGES)[3], swin(IMAGES)[3])
    swin.train()
    assert not torch.equal(swin(IMAGES)[3], swin(IMAGES)[3])


def test_train_and_eval_return_self_and_frozen_stages_stay():
    swin = tiny_swin(tasks=None, plugins=None, frozen_stages=1)
    assert swin.train() is swin
    assert swin.eval() is swin
    swin.train()
    assert not swin.stages[0].training
    assert swin.stages[1].training


def test_the_encoder_runs_once_for_all_tasks():
    counts = []
    for tasks in (('semseg',), (*FOUR_TASKS, 'depth', 'edge')):
        swin = tiny_swin(tasks=tasks)
        calls = []
        for stage in swin.stages:
            for block in stage.blocks:
                block.attn.w_msa.qkv.register_forward_hook(lambda *_, calls=calls: calls.append('qkv'))
        swin(IMAGES)
        counts.append(len(calls))
    assert counts == [5, 5]


def masks_of(attn, batch=2, hw=(8, 8), dtype=torch.float32, **prompts):
    return attn.attention_masks(attn.windows(batch, hw, torch.device('cpu')), dtype, **prompts)


def test_mask_cache_follows_loading_editing_size_and_dtype():
    swin = tiny_swin()
    attn = swin.stages[1].blocks[1].attn
    first = masks_of(attn)
    assert masks_of(attn) is first
    assert masks_of(attn, dtype=torch.bfloat16)[0].dtype == torch.bfloat16
    assert masks_of(attn, prompts=3)[0].shape == (1, 2, 16, 19)
    assert masks_of(attn, prompts=3, carry=True)[0].shape == (1, 2, 19, 19)
    first = masks_of(attn)
    other = copy.deepcopy(swin)
    perturb(other, seed=3)
    swin.load_state_dict(other.state_dict())
    renewed = masks_of(attn)
    assert not any(torch.equal(a, b) for a, b in zip(first, renewed))
    for a, b in zip(renewed, masks_of(other.stages[1].blocks[1].attn)):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize('batch, hw', [(1, (8, 8)), (5, (8, 8)), (2, (33, 61))])
def test_masks_are_four_windows_large_whatever_the_batch_and_the_size(batch, hw):
    swin = tiny_swin()
    plain, shifted = (block.attn for block in swin.stages[1].blocks)
    assert [mask.shape for mask in masks_of(plain, batch, hw)] == [(1, 2, 16, 16)]
    assert [mask.shape for mask in masks_of(shifted, batch, hw)] == [(1, 2, 16, 16)] * 4


@pytest.mark.parametrize('hw', [(8, 8), (9, 7), (3, 13), (4, 4), (1, 1)])
@pytest.mark.parametrize('shifted', [0, 1])
def test_every_token_stands_in_one_window(hw, shifted):
    attn = tiny_swin().stages[1].blocks[shifted].attn
    windows = attn.windows(3, hw, torch.device('cpu'))
    tokens = 3 * hw[0] * hw[1]
    assert torch.equal(windows.to_windows[windows.to_tokens], torch.arange(tokens))
    padding = windows.to_windows == tokens
    assert padding.sum() == len(windows.to_windows) - tokens
    assert sum(windows.groups) == windows.count
    assert len(windows.to_windows) == windows.count * 3 * 16


def test_a_trained_bias_table_gets_its_gradient_after_an_evaluation():
    swin = tiny_swin(plugins=[dict(cfg=dict(type='mmvmt.FullFineTuning'))])
    with torch.no_grad():
        swin(IMAGES)
    swin.train()
    sum(m.square().mean() for m in swin(IMAGES)['semseg']).backward()
    assert all(b.attn.w_msa.relative_position_bias_table.grad is not None for s in swin.stages for b in s.blocks)


def test_every_slot_is_called_with_its_widths(registered):
    @registered
    class Probe(Method):
        positions = BRANCHES_AND_LAYERS

        def __init__(self, sites, tasks):
            super().__init__(sites, tasks)
            self.seen = []

        def adapt(self, site, inputs, outputs, task, generated):
            self.seen.append(site)
            assert inputs.shape[-1] == site.in_channels
            assert outputs.shape[-1] == site.out_channels
            return outputs + 1, None

    plain = tiny_swin(plugins=None)
    swin = tiny_swin(
        plugins=[dict(cfg=dict(type='Probe'), position=BRANCHES_AND_LAYERS, stages=(False, True, False, False))]
    )
    swin.load_state_dict(plain.state_dict(), strict=False)
    out = swin(IMAGES)['semseg']
    order = [(site.block, site.slot) for site in swin.adapters[0].seen]
    per_block = ['qkv', 'proj', 'attn', 'fc1', 'fc2', 'ffn']
    assert order == [(block, slot) for block in (0, 1) for slot in per_block]
    expected = plain(IMAGES)['semseg']
    torch.testing.assert_close(out[0], expected[0])
    assert not torch.allclose(out[1], expected[1])


@pytest.mark.parametrize('inside', [False, True])
def test_drop_path_takes_the_methods_along_that_stand_inside_of_it(registered, inside):
    @registered
    class Constant(Method):
        positions = ('ffn', 'attn')
        inside_drop_path = inside
        value = 0.0

        def adapt(self, site, inputs, outputs, task, generated):
            return torch.full_like(outputs, self.value), None

    last = dict(stages=(False, False, False, True), position=['attn', 'ffn'])
    swin = tiny_swin(plugins=[dict(cfg=dict(type='Constant')) | last], drop_path_rate=0.5)
    assert swin.stages[3].blocks[0].drop_path.drop_prob == 0.5
    images = IMAGES.repeat(8, 1, 1, 1)

    def last_stage(value):
        Constant.value = value
        torch.manual_seed(2)
        return swin(images)['semseg'][3]

    # The two branches add 1 each; inside of drop path each is either dropped or, for its half of the images, doubled.
    added = {round(entry) for entry in (last_stage(1.0) - last_stage(0.0)).flatten().tolist()}
    assert added == {2}
    swin.train()
    added = {round(entry) for entry in (last_stage(1.0) - last_stage(0.0)).flatten().tolist()}
    assert added == ({0, 2, 4} if inside else {2})


def test_a_per_task_method_runs_the_encoder_per_task_from_its_first_slot_on(registered):
    @registered
    class Shift(Method):
        positions = ('ffn',)
        per_task = True

        def adapt(self, site, inputs, outputs, task, generated):
            return outputs + 1 + self.tasks.index(task), None

    swin = tiny_swin(
        tasks=('semseg', 'normals'), plugins=[dict(cfg=dict(type='Shift'), stages=(False, False, True, True))]
    )
    calls = []
    for index, stage in enumerate(swin.stages):
        for block in stage.blocks:
            block.norm1.register_forward_hook(lambda *_, index=index: calls.append(index))
    features = swin(IMAGES)
    assert calls == [0, 1, 1, 2, 3, 2, 3]
    assert torch.equal(features['semseg'][1], features['normals'][1])
    assert not torch.allclose(features['semseg'][2], features['normals'][2])


def test_no_gradient_below_the_first_trainable_parameter():
    swin = tiny_swin(plugins=[VMT | dict(stages=(False, False, True, True))]).train()
    inputs = []
    swin.stages[1].blocks[0].norm1.register_forward_hook(lambda m, i, o: inputs.append(o.requires_grad))
    swin.stages[3].blocks[0].norm1.register_forward_hook(lambda m, i, o: inputs.append(o.requires_grad))
    swin(IMAGES)
    assert inputs == [False, True]


@pytest.mark.parametrize(
    'plugin, message',
    [
        (dict(cfg=dict(type='mmvmt.VMTAdapter'), position='attn'), "matches no slot: it cannot fill position 'attn'"),
        (dict(cfg=dict(type='mmvmt.VMTAdapter'), position='mlp'), "cannot fill position 'mlp'"),
        (dict(cfg=dict(type='mmvmt.VMTAdapter'), stages=(False,) * 4), 'matches no slot: stages='),
        (dict(cfg=dict(type='mmvmt.VMTAdapter'), stages=(True,) * 3), 'names 3 stages .* the encoder has 4'),
        (dict(cfg=dict(type='mmvmt.DecodersOnly'), position='ffn'), "cannot fill position 'ffn'; it fills none"),
        (dict(cfg=dict(type='mmvmt.NoSuch')), "unknown adapter 'mmvmt.NoSuch'; known: .*VMTAdapter"),
        (dict(type='mmvmt.VMTAdapter'), r'a plugin needs cfg=dict\(type=...\)'),
        (dict(cfg=dict(type='mmvmt.VMTAdapter'), where='ffn'), r"unknown keys \['where'\]"),
    ],
)
def test_wrong_plugins_are_refused(plugin, message):
    with pytest.raises(ValueError, match=message):
        tiny_swin(plugins=[plugin])


def test_two_tapping_plugins_are_refused():
    lite = dict(cfg=dict(type='mmvmt.VMTAdapterLite', reduction=2))
    with pytest.raises(ValueError, match='only one plugin can make the features of the tasks'):
        tiny_swin(plugins=[VMT, lite])


@pytest.mark.parametrize(
    'tasks, error, message',
    [
        (('semseg', 'semantics'), ValueError, "unknown task 'semantics'; known tasks are semseg"),
        (('semseg', 'semseg'), ValueError, "task 'semseg' is listed twice"),
        ((), ValueError, 'tasks is empty'),
        ('semseg', TypeError, "got the string 'semseg'"),
    ],
)
def test_wrong_tasks_are_refused(tasks, error, message):
    with pytest.raises(error, match=message):
        tiny_swin(tasks=tasks)


def test_two_plugins_may_share_the_stages_between_them():
    early = VMT | dict(stages=(True, True, False, False))
    late = dict(cfg=dict(type='mmvmt.VMTAdapterLite', reduction=2), stages=(False, False, True, True))
    swin = tiny_swin(plugins=[early, late])
    perturb(swin, seed=4)
    features = swin(IMAGES)
    for level in range(4):
        assert not torch.allclose(features['semseg'][level], features['normals'][level])


def test_a_position_named_twice_is_refused():
    with pytest.raises(ValueError, match='names a position twice'):
        tiny_swin(plugins=[VMT | dict(position=['ffn', 'ffn'])])


def test_frozen_stages_with_tasks_but_not_with_plugins():
    swin = tiny_swin(plugins=None, frozen_stages=2).train()
    trains = [all(p.requires_grad for p in stage.parameters()) for stage in swin.stages]
    assert trains == [False, False, True, True]
    assert not any(p.requires_grad for p in swin.patch_embed.parameters())
    with pytest.raises(ValueError, match='frozen_stages=0 cannot be combined with plugins'):
        tiny_swin(frozen_stages=0)


def test_inference_mode_leaves_nothing_behind_that_training_trips_over():
    swin = tiny_swin()
    with torch.inference_mode():
        swin(IMAGES)
    swin.train()
    sum(m.square().mean() for m in swin(IMAGES)['semseg']).backward()


def test_changing_the_mode_forgets_masks_of_weights_that_were_swapped():
    swin = tiny_swin(plugins=None)
    attn = swin.stages[0].blocks[0].attn
    with torch.no_grad():
        (before,) = masks_of(attn, 1, (4, 4))
        attn.w_msa.relative_position_bias_table.data.add_(1)
        swin.eval()
        torch.testing.assert_close(masks_of(attn, 1, (4, 4))[0], before + 1)
