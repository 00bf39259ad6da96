"""Where tokens stand among shifted windows, and the masks of the attention."""

import copy

import pytest
import torch
from tiny import perturb, tiny_swin

IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


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
