import pytest
import torch
from mmseg.models.backbones.swin import SwinTransformer
from tiny import SWIN, perturb, tiny_swin

from mmvmt.models import AdaptedSwin
from mmvmt.registry import MODELS

IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


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


def test_frozen_stages_with_tasks_but_not_with_plugins():
    swin = tiny_swin(plugins=None, frozen_stages=2).train()
    trains = [all(p.requires_grad for p in stage.parameters()) for stage in swin.stages]
    assert trains == [False, False, True, True]
    assert not any(p.requires_grad for p in swin.patch_embed.parameters())
    with pytest.raises(ValueError, match='frozen_stages=0 cannot be combined with plugins'):
        tiny_swin(frozen_stages=0)


def test_it_keeps_what_mmsegs_own_tests_ask_of_its_swin():
    with pytest.raises(TypeError, match='pretrained must be a str or None'):
        AdaptedSwin(pretrained=123)
    with pytest.raises(AssertionError, match='non-overlapping'):
        AdaptedSwin(strides=(2, 2, 2, 2), patch_size=4)
    with pytest.raises(AssertionError, match='should have length 1 or 2'):
        AdaptedSwin(pretrain_img_size=(64, 64, 64))
    assert AdaptedSwin((64,), use_abs_pos_embed=True, **SWIN).absolute_pos_embed.shape == (1, 16 * 16, 8)


@pytest.mark.parametrize('options', [dict(pretrain_img_size=64, use_abs_pos_embed=True), dict(patch_norm=False)])
def test_position_embedding_and_patches_without_norm_equal_mmsegs(options):
    torch.manual_seed(0)
    theirs, ours = SwinTransformer(**SWIN, **options), AdaptedSwin(**SWIN, **options)
    ours.init_weights()
    theirs.load_state_dict(ours.state_dict())
    theirs.eval(), ours.eval()
    for a, b in zip(theirs(IMAGES), ours(IMAGES)):
        torch.testing.assert_close(b, a, atol=1e-5, rtol=1e-5)
    # Both draw the same numbers from scratch: the modules are the same, in the same order.
    torch.manual_seed(1)
    theirs.init_weights()
    torch.manual_seed(1)
    ours.init_weights()
    for (name, a), b in zip(theirs.named_parameters(), ours.parameters()):
        assert torch.equal(a, b), name


def test_sizes_of_the_maps_of_mmsegs_own_tests():
    swin = AdaptedSwin().eval()
    with torch.no_grad():
        maps = swin(torch.randn(1, 3, 112, 137))
    assert [m.shape for m in maps] == [(1, 96, 28, 35), (1, 192, 14, 18), (1, 384, 7, 9), (1, 768, 4, 5)]


def test_arguments_by_position_are_those_of_mmseg():
    ours, theirs = (cls(64, 1, 8, 4, 4, 2, (1, 2), (1, 2), (4, 2), (0, 1)) for cls in (AdaptedSwin, SwinTransformer))
    shapes = [{name: value.shape for name, value in swin.state_dict().items()} for swin in (ours, theirs)]
    assert shapes[0] == shapes[1]
    assert shapes[0]['patch_embed.projection.weight'] == (8, 1, 4, 4)
