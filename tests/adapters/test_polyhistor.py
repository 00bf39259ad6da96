"""What Polyhistor and Polyhistor-Lite have of their own; their equations are tested with the other hypernetworks."""

import pytest
import torch
from tiny import FOUR_TASKS, tiny_swin

from mmvmt.adapters import Polyhistor, PolyhistorLite, Site
from mmvmt.registry import MODELS

SITES = [Site(0, 0, 'ffn', 8, 8), Site(0, 1, 'ffn', 8, 8), Site(1, 0, 'ffn', 16, 16), Site(2, 0, 'ffn', 32, 32)]
SIZES = dict(embedding=3, hidden=5, code=4, rank=2)
PER_TASK, PER_TASK_AND_BLOCK = 65 * 128 + 129 * 64, 129 * 128 + 129 * 64
"""Parameters of the embeddings' MLP with q = 128 and p = 64, for inputs of width e = 64 and 2 e."""
ENCODER_NORMS = 2 * 96 + 4 * 4_416 + 2 * 4 * (96 + 192 + 384)
OUTPUT_NORMS = 4 * 2 * (96 + 192 + 384 + 768)


def swin_t(**cfg):
    return MODELS.build(dict(type='mmvmt.AdaptedSwin', tasks=FOUR_TASKS, plugins=[dict(cfg=cfg)]))


def numel(parameters):
    return sum(p.numel() for p in parameters)


def trained(module):
    return numel(p for p in module.parameters() if p.requires_grad)


@pytest.mark.parametrize('embed_blocks, count', [(False, 6_370_528), (True, 6_469_600)])
@pytest.mark.usefixtures('undrawn')
def test_swin_t_with_four_tasks_has_polyhistors_count(embed_blocks, count):
    # Sum of widths over blocks 4,416; bottleneck d / 2, rank 6: two factors of (d + d / 2) 6 entries each.
    entries = 4_416 * 2 * 9 + 4_416 // 2 + 3 * 4_416
    assert count == 4 * 64 + 12 * (64 + PER_TASK_AND_BLOCK if embed_blocks else PER_TASK) + 65 * entries
    swin = swin_t(type='mmvmt.Polyhistor', embed_blocks=embed_blocks)
    assert numel(swin.adapter_parameters()) == count
    assert trained(swin) == count


def test_what_is_reported_of_polyhistor_counts_all_layer_norms():
    assert 6_370_528 + ENCODER_NORMS + OUTPUT_NORMS == 6_405_280
    assert f'{6_405_280 / 1e6:.2f}' == '6.41'
    # A tenth of HyperFormer's 71,219,728.
    assert 0.08 < 6_370_528 / 71_219_728 < 0.1


@pytest.mark.parametrize('shared_kernels, own', [(True, 388_656), (False, 390_544)])
@pytest.mark.usefixtures('undrawn')
def test_swin_t_with_four_tasks_has_polyhistor_lites_count(shared_kernels, own):
    blocks = {1: 2, 2: 2, 4: 6, 8: 2}
    template = 2 * (96 + 48) * 18 + 48 + 3 * 96
    cubes, squares = (sum(count * k**power for k, count in blocks.items() if k > 1) for power in (3, 2))
    assert (cubes, squares) == (1_424, 232)
    kernels = cubes + 2 * squares if shared_kernels else 2 * cubes + 4 * squares
    embeddings = 4 * 64 + 64 * sum(count * k for k, count in blocks.items())
    assert own == embeddings + PER_TASK_AND_BLOCK + 65 * template + kernels
    assert ENCODER_NORMS == 23_232
    assert 388_656 + ENCODER_NORMS == 411_888
    assert f'{(own + ENCODER_NORMS) / 1e6:.2f}' == '0.41'
    swin = swin_t(type='mmvmt.PolyhistorLite', unfreeze='norms', shared_kernels=shared_kernels)
    assert numel(swin.adapter_parameters()) == own
    assert trained(swin) == own + ENCODER_NORMS


SWIN_T = [
    Site(stage, block, 'ffn', 96 * 2**stage, 96 * 2**stage)
    for stage, depth in enumerate((2, 2, 6, 2))
    for block in range(depth)
]


@pytest.mark.parametrize(
    'options, difference, of_lite',
    [
        (dict(position='serial'), 0, 0),
        (dict(position='parallel', input='normed'), 0, 0),
        # Generators of scale and shift of every block, or of the template, and a coefficient (k, k, 1) where k > 1.
        (dict(norm='none'), 65 * 2 * 4_416, 65 * 2 * 96 + 232),
    ],
)
def test_options_change_the_count_by_what_they_leave_out(options, difference, of_lite):
    for method, count in ((Polyhistor, 6_370_528 - difference), (PolyhistorLite, 388_656 - of_lite)):
        assert numel(method(SWIN_T, FOUR_TASKS, **options).parameters()) == count


def test_ranks_of_the_generated_matrices():
    polyhistor = Polyhistor(SITES, FOUR_TASKS, **SIZES).generate('semseg')
    assert [torch.linalg.matrix_rank(polyhistor[site.key].down).item() for site in SITES] == [2, 2, 2, 2]
    lite = PolyhistorLite(SITES, FOUR_TASKS, **SIZES).generate('semseg')
    # Kernels of full rank k multiply the rank of the templates.
    assert torch.linalg.matrix_rank(lite[SITES[0].key].down).item() == 2
    assert torch.linalg.matrix_rank(lite[SITES[3].key].down).item() >= 8


def test_a_rank_that_grows_with_the_width():
    polyhistor = Polyhistor(SITES, FOUR_TASKS, growing_rank=True, **SIZES).generate('semseg')
    assert [torch.linalg.matrix_rank(polyhistor[site.key].down).item() for site in SITES] == [2, 2, 4, 8]
    with pytest.raises(ValueError, match='growing_rank must be True or False, got 2'):
        Polyhistor(SITES, FOUR_TASKS, growing_rank=2, **SIZES)
    with pytest.raises(ValueError, match='rank must be an integer from 1 to the bottleneck width, here 4; got 5'):
        Polyhistor(SITES, FOUR_TASKS, growing_rank=True, **(SIZES | dict(rank=5)))


def test_options_of_the_kernels_are_checked():
    with pytest.raises(ValueError, match='shared_kernels must be True or False, got None'):
        PolyhistorLite(SITES, FOUR_TASKS, shared_kernels=None, **SIZES)
    with pytest.raises(ValueError, match="product must be 'kernel_template' or 'template_kernel', got 'kron'"):
        PolyhistorLite(SITES, FOUR_TASKS, product='kron', **SIZES)


def test_lite_shares_its_hypernetwork_and_scales_with_kernels_where_blocks_are_wider():
    lite = PolyhistorLite(SITES, FOUR_TASKS, **SIZES)
    assert list(lite.scalings) == [site.key for site in SITES[2:]]
    assert [len(lite.block_embeddings[site.key]) for site in SITES] == [1, 1, 2, 4]
    for site, k in zip(SITES[2:], (2, 4)):
        shapes = {name: tuple(parameter.shape) for name, parameter in lite.scalings[site.key].named_parameters()}
        kernels = {'kernels.matrix': (k, k, k)}
        assert shapes == kernels | {'coefficients.bias': (k, k, 1), 'coefficients.norm': (k, k, 1)}
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
