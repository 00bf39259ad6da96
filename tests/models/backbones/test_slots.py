"""What a method is called with in a slot, and which side of drop path it stands on."""

import pytest
import torch
from tiny import tiny_swin

from mmvmt.adapters import SLOTS, Method

BRANCHES_AND_LAYERS = tuple(slot for slot in SLOTS if slot != 'tokens')
IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


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
    assert order == [(block, slot) for block in (0, 1) for slot in per_block] + [(1, 'downsample')]
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


@pytest.fixture
def prompting(registered):
    """A method with tails that sees the scores of its prompts, to which nothing of the attention is added."""

    @registered
    class Prompting(Method):
        positions = ('proj', 'fc1', 'fc2', 'tokens')
        default_positions = positions
        branches = wants_prompt_scores = True
        carry_residual = False

        def __init__(self, sites, tasks):
            super().__init__(sites, tasks)
            self.shared, self.carried, self.merged = {}, [], []

        def tokens(self, site, carried, task):
            self.carried.append(carried)
            return torch.ones(3, site.in_channels) if carried is None else carried, site.stage < 3

        def merge_prompts(self, stage, prompts, merge):
            self.merged.append(stage)
            assert torch.equal(merge(prompts)[..., :1], merge(prompts + 0)[..., :1])
            return 2 * merge(prompts)

        def adapt(self, site, inputs, outputs, task, generated):
            return outputs, inputs + 1

        def branch(self, site, own, shared, task, generated):
            self.shared[site.slot, site.stage, task] = shared
            return shared.frozen, shared.inputs[..., :1] if site.slot == 'proj' else None

        def tap(self, stage, x, tapped, tasks):
            assert len(tapped) == 2 * len(tasks)
            assert [t.shape[-1] for t in tapped[len(tasks) :]] == [1] * len(tasks)
            return dict(zip(tasks, tapped))

    return [dict(cfg=dict(type='Prompting'))]


@pytest.mark.parametrize('order', ['sequential', 'stacked'])
def test_tails_see_what_the_shared_layers_did(prompting, order):
    swin = tiny_swin(tasks=('semseg', 'normals'), plugins=prompting, task_order=order)
    attention, outputs, of_qkv = swin.stages[1].blocks[1].attn.w_msa, {}, []
    attention.qkv.register_forward_hook(lambda _, inputs, out: of_qkv.append(out))
    for slot, layer in swin.slot_layers(1, 1).items():
        layer.register_forward_hook(
            lambda _, inputs, out, slot=slot: outputs.setdefault(slot, []).append((inputs, out))
        )
    features = swin(IMAGES)
    (method,) = swin.adapters
    for slot in ('proj', 'fc1', 'fc2'):
        shared = method.shared[slot, 1, 'normals']
        # The prompts went through the layer first.
        (inputs,), out = outputs[slot][-1]
        assert torch.equal(shared.inputs, inputs)
        assert torch.equal(shared.frozen, out)
        assert torch.equal(shared.handed, inputs + 1)
        assert shared.hw == ((4, 4) if slot == 'proj' else (8, 8))
        assert (shared.scores is None) == (slot != 'proj')
    image, prompts = of_qkv
    keys = image.unflatten(-1, (3, 2, -1))[..., 1, :, :].transpose(2, 3)
    queries = prompts[0].unflatten(-1, (3, 2, -1))[..., 0, :, :].transpose(1, 2)
    expected = queries @ keys.transpose(-1, -2)
    torch.testing.assert_close(method.shared['proj', 1, 'normals'].scores, expected.expand(4, 2, 2, 3, 16))
    # The tails put out what the frozen layers do, and nothing is added to the shared stream: both are the same.
    plain = tiny_swin(tasks=('semseg', 'normals'), plugins=None)
    assert features['semseg'][3].shape == plain(IMAGES)['semseg'][3].shape
    assert torch.equal(features['semseg'][3], features['normals'][3])


def test_prompts_are_carried_and_merged_as_the_method_says(prompting):
    swin = tiny_swin(tasks=('semseg',), plugins=prompting)
    block, of_proj = swin.stages[1].blocks[0], []
    block.attn.w_msa.proj.register_forward_hook(lambda _, inputs, out: of_proj.append(out))
    swin(IMAGES)
    (method,) = swin.adapters
    assert method.merged == [0, 1, 2]
    assert [None if c is None else tuple(c.shape) for c in method.carried] == [
        None,
        (2, 3, 16),
        (2, 3, 16),
        (2, 3, 32),
        (2, 3, 64),
    ]
    before, after, attended = method.carried[1], method.carried[2], of_proj[0].squeeze(0)
    (fc1, act, _), fc2, _ = block.ffn.layers
    torch.testing.assert_close(after, before + fc2(act(fc1(block.norm2(attended)))))


def test_tails_are_refused_where_blocks_run_none(registered, prompting, monkeypatch):
    monkeypatch.setattr(type(tiny_swin()), 'offers_branches', False)
    with pytest.raises(ValueError, match=r'Prompting runs a tail per task .* which blocks of AdaptedSwin do not offer'):
        tiny_swin(plugins=prompting)
