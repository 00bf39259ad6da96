"""What Polyhistor and Polyhistor-Lite have of their own; their equations are tested with the other hypernetworks."""

import pytest
import torch
from tiny import FOUR_TASKS, tiny_swin

from mmvmt.adapters import Polyhistor, PolyhistorLite, Site
from mmvmt.registry import MODELS

SITES = [Site(0, 0, 'ffn', 8, 8), Site(0, 1, 'ffn', 8, 8), Site(1, 0, 'ffn', 16, 16), Site(2, 0, 'ffn', 32, 32)]
SIZES = dict(embedding=3, hidden=5, code=4, rank=2)
MLP = 129 * 128 + 129 * 64
"""Parameters of the embeddings' MLP with e = 64, q = 128, p = 64."""


def swin_t(**cfg):
    return MODELS.build(dict(type='mmvmt.AdaptedSwin', tasks=FOUR_TASKS, plugins=[dict(cfg=cfg)]))


def numel(parameters):
    return sum(p.numel() for p in parameters)


def trained(module):
    return numel(p for p in module.parameters() if p.requires_grad)


def test_swin_t_with_four_tasks_has_polyhistors_count():
    # Sum of widths over blocks 4,416; bottleneck d / 2, rank 6: two factors of (d + d / 2) 6 entries each.
    entries = 4_416 * 2 * 9 + 4_416 // 2 + 3 * 4_416
    count = 4 * 64 + 12 * (64 + MLP) + 65 * entries
    assert count == 6_469_600
    assert abs(count / 6.41e6 - 1) < 0.05
    # A tenth of HyperFormer's 71,318,800.
    assert 0.08 < count / 71_318_800 < 0.1
    swin = swin_t(type='mmvmt.Polyhistor')
    assert numel(swin.adapter_parameters()) == count
    assert trained(swin) == count


def test_swin_t_with_four_tasks_has_polyhistor_lites_count():
    blocks = {1: 2, 2: 2, 4: 6, 8: 2}
    template = 2 * (96 + 48) * 18 + 48 + 3 * 96
    kernels = sum(count * (2 * k**3 + 4 * k**2) for k, count in blocks.items() if k > 1)
    own = 4 * 64 + 64 * sum(count * k for k, count in blocks.items()) + MLP + 65 * template + kernels
    norms = 2 * 96 + 4 * 4_416 + 2 * 4 * (96 + 192 + 384)
    assert (own, norms, own + norms) == (390_544, 23_232, 413_776)
    assert abs((own + norms) / 0.41e6 - 1) < 0.05
    swin = swin_t(type='mmvmt.PolyhistorLite', unfreeze='norms')
    assert numel(swin.adapter_parameters()) == own
    assert trained(swin) == own + norms


def test_ranks_of_the_generated_matrices():
    polyhistor = Polyhistor(SITES, FOUR_TASKS, **SIZES).generate('semseg')
    assert [torch.linalg.matrix_rank(polyhistor[site.key].down).item() for site in SITES] == [2, 2, 2, 2]
    lite = PolyhistorLite(SITES, FOUR_TASKS, **SIZES).generate('semseg')
    # Kernels of full rank k multiply the rank of the templates.
    assert torch.linalg.matrix_rank(lite[SITES[0].key].down).item() == 2
    assert torch.linalg.matrix_rank(lite[SITES[3].key].down).item() >= 8


def test_lite_shares_its_hypernetwork_and_scales_with_kernels_where_blocks_are_wider():
    lite = PolyhistorLite(SITES, FOUR_TASKS, **SIZES)
    assert list(lite.scalings) == [site.key for site in SITES[2:]]
    assert [len(lite.block_embeddings[site.key]) for site in SITES] == [1, 1, 2, 4]
    assert [tuple(lite.scalings[site.key].kernels['up'].shape) for site in SITES[2:]] == [(2, 2, 2), (4, 4, 4)]
    assert [tuple(lite.scalings[site.key].coefficients['beta'].shape) for site in SITES[2:]] == [(2, 2, 1), (4, 4, 1)]
    before = lite.generate('semseg')
    with torch.no_grad():
        lite.hypernetwork.generators.down.bias.add_(1)
    after = lite.generate('semseg')
    assert not any(torch.equal(before[site.key].down, after[site.key].down) for site in SITES)
    shapes = [tuple(after[site.key].up.shape) for site in SITES]
    assert shapes == [(8, 4), (8, 4), (16, 8), (32, 16)]


def test_lite_of_one_stage_has_no_kernels():
    plugin = dict(cfg=dict(type='mmvmt.PolyhistorLite', **SIZES), stages=(False, False, True, False))
    lite = tiny_swin(plugins=[plugin]).adapters[0]
    assert len(lite.scalings) == 0
    assert lite.generate('semseg')['stage2_block0_ffn'].down.shape == (16, 32)


@pytest.mark.parametrize('widths, wrong', [((8, 12), 12), ((16, 8, 20), 20), ((24, 16), 24)])
def test_widths_that_are_no_multiples_are_refused(widths, wrong):
    sites = [Site(stage, 0, 'ffn', width, width) for stage, width in enumerate(widths)]
    message = (
        f'width {wrong} of stage{widths.index(wrong)}_block0_ffn is no multiple of {min(widths)}, the narrowest width '
        'that PolyhistorLite fills here.* or use Polyhistor'
    )
    with pytest.raises(ValueError, match=message):
        PolyhistorLite(sites, FOUR_TASKS, **SIZES)
    assert Polyhistor(sites, FOUR_TASKS, **SIZES).generate('semseg')[sites[0].key].down.shape[1] == widths[0]


@pytest.mark.parametrize('method', [Polyhistor, PolyhistorLite])
@pytest.mark.parametrize('rank', [0, -1, 5, 2.0, True, None])
def test_a_rank_that_the_templates_cannot_have_is_refused(method, rank):
    with pytest.raises(
        ValueError, match=f'rank must be an integer from 1 to the bottleneck width, here 4; got {rank!r}'
    ):
        method(SITES, FOUR_TASKS, **(SIZES | dict(rank=rank)))
