"""What HyperFormer has of its own; its equations are tested with the other hypernetworks."""

import pytest
import torch
from tiny import FOUR_TASKS

from mmvmt.adapters import HyperFormer, Site
from mmvmt.registry import MODELS

SITES = [Site(0, 0, 'ffn', 8, 8), Site(0, 1, 'ffn', 8, 8), Site(1, 0, 'ffn', 16, 16)]


@pytest.mark.parametrize('embed_blocks, count', [(False, 71_219_728), (True, 71_219_728 + 99_072)])
@pytest.mark.usefixtures('undrawn')
def test_swin_t_with_four_tasks_has_the_derived_count(embed_blocks, count):
    plugin = dict(cfg=dict(type='mmvmt.HyperFormer', embed_blocks=embed_blocks))
    swin = MODELS.build(dict(type='mmvmt.AdaptedSwin', tasks=FOUR_TASKS, plugins=[plugin]))
    # Sum of widths over blocks 4,416, of squares 2,156,544; e = 64, q = 128, p = 64, bottleneck d / 4.
    entries = 2_156_544 // 2 + 4_416 // 4 + 3 * 4_416
    per_block = 64 + 129 * 128 if embed_blocks else 65 * 128
    assert count == 4 * 64 + 12 * (per_block + 129 * 64) + 65 * entries
    assert abs(count / 72.77e6 - 1) < 0.05
    assert sum(p.numel() for p in swin.adapter_parameters()) == count
    assert sum(p.numel() for p in swin.parameters() if p.requires_grad) == count


@pytest.mark.parametrize('embed_blocks', [False, True])
def test_blocks_share_the_tasks_embeddings_and_nothing_else(embed_blocks):
    sizes = dict(embedding=3, hidden=5, code=4)
    torch.manual_seed(0)  # of few hidden units all may be switched off
    adapter = HyperFormer(SITES, ('semseg', 'normals'), reduction=2, embed_blocks=embed_blocks, **sizes)
    first, second = SITES[0].key, SITES[1].key
    assert list(adapter.block_embeddings) == ([site.key for site in SITES] if embed_blocks else [])
    before = adapter.generate('semseg')
    of_block = [adapter.block_embeddings[first]] if embed_blocks else []
    with torch.no_grad():
        for parameter in (*adapter.hypernetworks[first].parameters(), *of_block):
            parameter.add_(1)
    after = adapter.generate('semseg')
    assert not any(torch.equal(a, b) for a, b in zip(before[first], after[first], strict=True))
    assert all(torch.equal(a, b) for a, b in zip(before[second], after[second], strict=True))
    with torch.no_grad():
        adapter.task_embeddings['semseg'].add_(1)
    again = adapter.generate('semseg')
    assert not any(torch.equal(after[site.key].down, again[site.key].down) for site in SITES)


def test_it_has_no_rank():
    with pytest.raises(TypeError, match='rank'):
        HyperFormer(SITES, FOUR_TASKS, rank=6)
