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
