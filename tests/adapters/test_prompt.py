"""VPT against an encoder that loops over windows and heads, with the softmax over prompts and tokens spelt out."""

import math

import pytest
import torch
import torch.nn.functional as F
from tiny import FOUR_TASKS, SWIN, tiny_swin

from mmvmt.adapters import Site, VPTDeep, VPTShallow
from mmvmt.models.parameter_groups import no_decay_ids
from mmvmt.registry import MODELS

TASKS = ('semseg', 'normals')
WINDOW = SWIN['window_size']
TWO_STAGES = dict(depths=(2, 2), num_heads=(2, 4), strides=(4, 2), out_indices=(0, 1))
METHODS = [VPTShallow, VPTDeep]


def plugin(method, stages=(True,) * 4, **kwargs):
    return dict(cfg=dict(type=f'mmvmt.{method.__name__}', **kwargs), stages=stages)


def softmax(scores):
    weights = (scores - scores.max(-1, keepdim=True).values).exp()
    return weights / weights.sum(-1, keepdim=True)


def window_scores(block, head, ys, xs, height, width, shift):
    """Relative position bias and mask among the tokens of a window whose places in the shifted map are given."""
    table = block.attn.w_msa.relative_position_bias_table
    scores = torch.zeros(len(ys), len(ys), dtype=table.dtype)
    for i, (y, x) in enumerate(zip(ys, xs)):
        for j, (v, u) in enumerate(zip(ys, xs)):
            scores[i, j] = table[(y - v + WINDOW - 1) * (2 * WINDOW - 1) + x - u + WINDOW - 1, head]
            wrapped = [(a >= size - shift) != (b >= size - shift) for a, b, size in ((y, v, height), (x, u, width))]
            if any(wrapped):
                scores[i, j] -= 100
    return scores


def attend(block, tokens, prompts, shift):
    """Attention of one image: tokens (H, W, C) and prompts (P, C), both normed, to theirs."""
    w_msa, (height, width, channels), count = block.attn.w_msa, tokens.shape, len(prompts)
    tokens = F.pad(tokens, (0, 0, 0, -width % WINDOW, 0, -height % WINDOW))
    padded = tokens.shape[:2]
    out, of_prompts = torch.zeros_like(tokens), []
    for top in range(0, padded[0], WINDOW):
        for left in range(0, padded[1], WINDOW):
            ys, xs = zip(*[(top + dy, left + dx) for dy in range(WINDOW) for dx in range(WINDOW)])
            places = [((y + shift) % padded[0], (x + shift) % padded[1]) for y, x in zip(ys, xs)]
            entering = torch.cat([prompts, torch.stack([tokens[place] for place in places])])
            q, k, v = (entering @ w_msa.qkv.weight.T + w_msa.qkv.bias).split(channels, dim=-1)
            size = channels // w_msa.num_heads
            heads = []
            for head in range(w_msa.num_heads):
                part = slice(head * size, (head + 1) * size)
                scores = q[:, part] @ k[:, part].T / math.sqrt(size)
                scores[count:, count:] += window_scores(block, head, ys, xs, *padded, shift)
                heads.append(softmax(scores) @ v[:, part])
            left_window = torch.cat(heads, -1) @ w_msa.proj.weight.T + w_msa.proj.bias
            of_prompts.append(left_window[:count])
            for place, token in zip(places, left_window[count:]):
                out[place] = token
    return out[:height, :width], torch.stack(of_prompts).mean(0)


def run_block(block, tokens, prompts, shift):
    def mlp(x):
        fc1, fc2 = block.ffn.layers[0][0], block.ffn.layers[1]
        hidden = block.norm2(x) @ fc1.weight.T + fc1.bias
        return 0.5 * hidden * (1 + torch.erf(hidden / math.sqrt(2))) @ fc2.weight.T + fc2.bias

    attended, of_prompts = attend(block, block.norm1(tokens), block.norm1(prompts), shift)
    tokens, prompts = tokens + attended, prompts + of_prompts
    return tokens + mlp(tokens), prompts + mlp(prompts)


def merge_patches(layer, tokens):
    """(H, W, C) to (H / 2, W / 2, 2 C); the four neighbours of a channel stand side by side."""
    four = torch.stack([tokens[dy::2, dx::2] for dy in (0, 1) for dx in (0, 1)], dim=-1).flatten(-2)
    return layer.reduction(layer.norm(four))


def reference(swin, image, prompts_of):
    """Maps (H, W, C) of all stages for one image.

    Args:
        prompts_of: Gives the prompts of a block from its stage, its index and what the block before made of its own.
    """
    tokens, (height, width) = swin.patch_embed(image.unsqueeze(0))
    tokens, prompts, maps = tokens[0].view(height, width, -1), None, []
    for s, stage in enumerate(swin.stages):
        for b, block in enumerate(stage.blocks):
            prompts = prompts_of(s, b, prompts)
            entering = tokens.new_zeros(0, tokens.shape[-1]) if prompts is None else prompts
            tokens, of_prompts = run_block(block, tokens, entering, b % 2 * (WINDOW // 2))
            prompts = None if prompts is None else of_prompts
        maps.append(tokens)
        if stage.downsample is not None:
            tokens = merge_patches(stage.downsample, tokens)
            if prompts is not None:
                prompts = torch.stack([merge_patches(stage.downsample, p.expand(2, 2, -1))[0, 0] for p in prompts])
    return maps


@pytest.mark.parametrize('height, width', [(64, 64), (40, 56)])
@pytest.mark.parametrize('stages', [(True, True), (False, True)])
@pytest.mark.parametrize('method', METHODS)
@torch.no_grad()
def test_equals_the_reference(method, stages, height, width):
    swin = tiny_swin(TASKS, [plugin(method, stages, prompts=3)], **TWO_STAGES).double()
    stacked = tiny_swin(TASKS, [plugin(method, stages, prompts=3)], task_order='stacked', **TWO_STAGES).double()
    stacked.load_state_dict(swin.state_dict())
    images = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    in_order = [swin(images), stacked(images)]
    for task in TASKS:
        own = {key: prompts.embedding for key, prompts in swin.adapters[0].prompts[task].items()}

        def prompts_of(stage, block, carried, own=own):
            fresh = own.get(f'stage{stage}_block{block}_tokens')
            return carried if fresh is None else fresh

        for index, image in enumerate(images):
            expected = reference(swin, image, prompts_of)
            for features in in_order:
                for got, tokens in zip(features[task], expected):
                    torch.testing.assert_close(got[index].permute(1, 2, 0), tokens, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize('method', METHODS)
def test_each_task_has_its_own_prompts(method):
    swin = tiny_swin(TASKS, [plugin(method, prompts=3)])
    features = swin(torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1)))
    assert not torch.equal(features['semseg'][0], features['normals'][0])


@pytest.mark.parametrize('method', METHODS)
def test_prompts_change_the_frozen_network_from_the_start(method):
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    plain, prompted = tiny_swin(plugins=None), tiny_swin(plugins=[plugin(method, prompts=3)])
    prompted.load_state_dict(plain.state_dict(), strict=False)
    prompted.adapters[0].reset_parameters()
    assert not torch.allclose(plain(images)['semseg'][0], prompted(images)['semseg'][0], atol=1e-3)


def test_shallow_prompts_start_where_the_plugin_starts():
    swin = tiny_swin(plugins=[plugin(VPTShallow, (False, True, True, True), prompts=3)])
    assert {(n, tuple(p.shape)) for n, p in swin.adapters[0].prompts['semseg'].named_parameters()} == {
        ('stage1_block0_tokens.embedding', (3, 16))
    }


@pytest.mark.parametrize('name, count', [('VPTShallow', 19_200), ('VPTDeep', 883_200)])
@pytest.mark.usefixtures('undrawn')
def test_swin_t_with_50_prompts_and_four_tasks_has_the_derived_counts(name, count):
    swin = MODELS.build(
        dict(type='mmvmt.AdaptedSwin', tasks=FOUR_TASKS, plugins=[dict(cfg=dict(type=f'mmvmt.{name}'))])
    )
    assert sum(p.numel() for p in swin.adapter_parameters()) == count
    assert sum(p.numel() for p in swin.parameters() if p.requires_grad) == count


def test_prompts_start_uniform_in_xaviers_range():
    torch.manual_seed(0)
    vpt = VPTDeep([Site(0, 0, 'tokens', 96, 96)], ['semseg'], prompts=500)
    bound = math.sqrt(6 / (3 * 4 * 4 + 96))
    embedding = vpt.prompts['semseg']['stage0_block0_tokens'].embedding
    for _ in range(2):
        values = embedding.detach().clone()
        assert 0.999 * bound < values.abs().max() <= bound
        assert values.mean().abs() < 0.01 * bound
        assert values.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.01)
        vpt.reset_parameters()
        assert not torch.equal(values, embedding)


@pytest.mark.parametrize('method', METHODS)
def test_dropout_drops_entries_of_prompts_in_training_alone(method):
    site = Site(0, 0, 'tokens', 8, 8)
    vpt = method([site], ['semseg'], prompts=100, dropout=0.25)
    embedding = vpt.prompts['semseg'][site.key].embedding
    torch.manual_seed(0)
    dropped, _ = vpt.train().tokens(site, None, 'semseg')
    kept = dropped != 0
    assert kept.double().mean().item() == pytest.approx(0.75, abs=0.05)
    torch.testing.assert_close(dropped[kept], embedding[kept] / 0.75)
    assert torch.equal(vpt.eval().tokens(site, None, 'semseg')[0], embedding)


@pytest.mark.parametrize('method', METHODS)
def test_prompts_get_no_decay(method):
    swin = tiny_swin(plugins=[plugin(method, prompts=3)])
    prompts = {id(p) for p in swin.adapter_parameters()}
    assert prompts
    assert prompts <= no_decay_ids(swin)


@pytest.mark.parametrize('method', METHODS)
def test_prompts_cannot_be_merged(method):
    swin = tiny_swin(plugins=[plugin(method, prompts=3)])
    with pytest.raises(ValueError, match=f'{method.__name__} cannot be merged'):
        swin.adapters[0].merge(swin)


@pytest.mark.parametrize(
    'stages, gap, first',
    [
        ((True, False, True, True), 'block 0 of stage 1', 0),
        ((False, True, False, True), 'block 0 of stage 2', 1),
        ((True, True, True, False), 'block 0 of stage 3', 0),
    ],
)
def test_shallow_prompts_need_all_later_blocks(stages, gap, first):
    message = f'but {gap} is not filled; fill all stages from stage {first} on'
    with pytest.raises(ValueError, match=message):
        tiny_swin(plugins=[plugin(VPTShallow, stages)])
    deep = tiny_swin(plugins=[plugin(VPTDeep, stages, prompts=3)])
    assert {site.stage for site in deep.adapters[0].sites} == {stage for stage, filled in enumerate(stages) if filled}


@pytest.mark.parametrize('method', METHODS)
def test_windows_of_one_token_are_refused(method):
    with pytest.raises(ValueError, match='prompts need windows of at least 2 x 2 tokens, but window_size is 1'):
        tiny_swin(plugins=[plugin(method)], window_size=1)


@pytest.mark.parametrize('method', METHODS)
@pytest.mark.parametrize(
    'key, value, message',
    [
        ('prompts', 0, 'prompts must be an integer of at least 1, got 0'),
        ('prompts', -5, 'prompts must be an integer of at least 1, got -5'),
        ('prompts', 1.5, 'prompts must be an integer of at least 1, got 1.5'),
        ('prompts', True, 'prompts must be an integer of at least 1, got True'),
        ('dropout', 1.0, 'dropout must be at least 0 and below 1, got 1.0'),
        ('dropout', '0', "dropout must be at least 0 and below 1, got '0'"),
    ],
)
def test_wrong_options_are_quoted(method, key, value, message):
    with pytest.raises(ValueError, match=message):
        method([Site(0, 0, 'tokens', 8, 8)], TASKS, **{key: value})
