"""TADFormer against its formulas over mmseg's own layers; counts, filters, merging, and what is refused."""

import pytest
import torch
import torch.nn.functional as F
from mmseg.models.backbones.swin import SwinTransformer
from tiny import FOUR_TASKS, SWIN, tiny_swin

from mmvmt.adapters.tadformer import DynamicTaskFilter, StaticTaskFilter
from mmvmt.registry import MODELS

IMAGES = torch.randn(2, 3, 64, 72, generator=torch.Generator().manual_seed(1))
SIZE = SWIN['window_size']


def tad_swin(tasks=FOUR_TASKS, stages=(True,) * 4, **options):
    cfg = dict(type='mmvmt.TADFormer', **(dict(rank=3, scale=2.0) | options))
    return tiny_swin(tasks=tasks, plugins=[dict(cfg=cfg, stages=stages)])


def convolved(method, key, task, z):
    """``(M, r, h, w)`` through the filter of a layer, by PyTorch's convolution, map after map."""
    if method.filter == 'static':
        own = method.filters[task][key]
        return F.conv2d(z, own.weight.view(-1, 1, 3, 3), own.bias, padding=1, groups=z.shape[1])
    own, outs = method.filters[key], []
    for image in z:
        k = (own.kernel.weight @ image.mean((1, 2)) + own.kernel.bias).view(-1, 9)
        k = (k - k.mean(1, keepdim=True)) / (k.var(1, unbiased=True, keepdim=True).sqrt() + 1e-10)
        k = k * own.spread.view(-1, 9) + own.mean.view(-1, 9)
        outs.append(F.conv2d(image[None], k.view(-1, 1, 3, 3), padding=1, groups=len(k)))
    return torch.cat(outs)


def cut(x, shift):
    """``(B, H, W, C)`` to ``(B, windows, N, C)``: padded, rolled, in rows of windows."""
    height, width = (-(-edge // SIZE) * SIZE for edge in x.shape[1:3])
    x = F.pad(x, (0, 0, 0, width - x.shape[2], 0, height - x.shape[1])).roll((-shift, -shift), (1, 2))
    x = x.view(len(x), height // SIZE, SIZE, width // SIZE, SIZE, -1).transpose(2, 3)
    return x.reshape(len(x), -1, SIZE * SIZE, x.shape[-1])


def join(windows, hw, shift):
    """The inverse, ``(B, H, W, C)``."""
    rows, columns = (-(-edge // SIZE) for edge in hw)
    x = (
        windows.view(len(windows), rows, columns, SIZE, SIZE, -1)
        .transpose(2, 3)
        .reshape(len(windows), rows * SIZE, columns * SIZE, -1)
    )
    return x.roll((shift, shift), (1, 2))[:, : hw[0], : hw[1]]


def masks(rows, columns, shift):
    """Which tokens of a window may see each other after the roll: those of the same region of the rolled map."""
    if not shift:
        return torch.zeros(rows * columns, SIZE**2, SIZE**2)
    region = torch.zeros(1, rows * SIZE, columns * SIZE, 1)
    for r, ys in enumerate((slice(0, -SIZE), slice(-SIZE, -shift), slice(-shift, None))):
        for c, xs in enumerate((slice(0, -SIZE), slice(-SIZE, -shift), slice(-shift, None))):
            region[:, ys, xs] = 3 * r + c
    ids = cut(region, 0)[0, :, :, 0]
    return torch.where(ids.unsqueeze(1) == ids.unsqueeze(2), 0.0, -100.0)


def reference(swin, tasks=FOUR_TASKS):
    """Features of all tasks by the formulas: mmseg's layers, windows cut here, prompts in front of every window."""
    (method,) = swin.adapters
    plain = SwinTransformer(**SWIN)
    plain.eval()
    plain.load_state_dict(swin.state_dict(), strict=False)
    x, hw = plain.patch_embed(IMAGES)
    prompts = torch.stack([method.prompts[task].vector for task in tasks]).expand(len(x), -1, -1)
    features = {task: [] for task in tasks}
    for index, stage in enumerate(plain.stages):
        for position, block in enumerate(stage.blocks):
            at = f'stage{index}_block{position}_'
            w_msa, (fc1, fc2) = block.attn.w_msa, (block.ffn.layers[0][0], block.ffn.layers[1])
            shift, heads = block.attn.shift_size, w_msa.num_heads

            def low(slot, x, at=at):
                return x @ method.updates[at + slot].down_weight.T

            def up(slot, z, at=at):
                return method.factor * z @ method.updates[at + slot].up_weight.T

            def layer(slot, linear, x, low=low, up=up):
                return linear(x) + up(slot, low(slot, x))

            def mlp(x, fc1=fc1, fc2=fc2, layer=layer):
                return layer('fc2', fc2, F.gelu(layer('fc1', fc1, x)))

            h = x
            windows = cut(block.norm1(h).unflatten(1, hw), shift)
            count, per_image = len(tasks), windows.shape[1]
            seen = torch.cat((block.norm1(prompts)[:, None].expand(-1, per_image, -1, -1), windows), 2)
            q, k, v = layer('qkv', w_msa.qkv, seen).unflatten(-1, (3, heads, -1)).permute(3, 0, 1, 4, 2, 5)
            bias = w_msa.relative_position_bias_table[w_msa.relative_position_index.view(-1)]
            bias = bias.view(SIZE**2, SIZE**2, -1).permute(2, 0, 1)
            bias = bias + masks(-(-hw[0] // SIZE), -(-hw[1] // SIZE), shift).unsqueeze(1)
            scores = w_msa.scale * q @ k.transpose(-1, -2) + F.pad(bias, (count, 0, count, 0))
            out = (scores.softmax(-1) @ v).transpose(2, 3).flatten(3)
            of_prompts, o = out[:, :, :count], out[:, :, count:]
            u = h + join(layer('proj', w_msa.proj, o), hw, shift).flatten(1, 2)
            n = block.norm2(u)
            g = F.gelu(layer('fc1', fc1, n))
            if position == len(stage.blocks) - 1:
                for t, task in enumerate(tasks):
                    raw = q[:, :, :, t : t + 1] @ k[:, :, :, count:].transpose(-1, -2)
                    alpha = F.gelu(raw).transpose(-1, -2)  # (B, windows, heads, N, 1)
                    f = (alpha * o.unflatten(-1, (heads, -1)).transpose(2, 3)).transpose(2, 3).flatten(3)
                    x_t = F.layer_norm(o + f, o.shape[-1:], *method.norms[at + 'proj'].parameters())
                    z = low('proj', x_t).flatten(0, 1).transpose(1, 2).unflatten(2, (SIZE, SIZE))
                    z = convolved(method, at + 'proj', task, z).flatten(2).transpose(1, 2).view(*o.shape[:3], -1)
                    u_t = h + join(w_msa.proj(o) + up('proj', z), hw, shift).flatten(1, 2)

                    def filtered(slot, x, task=task, at=at, low=low, up=up, hw=hw):
                        z = convolved(method, at + slot, task, low(slot, x).transpose(1, 2).unflatten(2, hw))
                        return up(slot, z.flatten(2).transpose(1, 2))

                    g_t = F.gelu(fc1(n) + filtered('fc1', block.norm2(u_t)))
                    y_t = u_t + fc2(g) + filtered('fc2', g_t)
                    skip = join(f if method.skip == 'features' else o + f, hw, shift).flatten(1, 2)
                    share = torch.sigmoid(method.gates[f'stage{index}'])
                    mixed = share * skip + (1 - share) * y_t
                    features[task].append(mixed.transpose(1, 2).unflatten(2, hw))
            x = u + layer('fc2', fc2, g)
            a = layer('proj', w_msa.proj, of_prompts).mean(1)
            prompts = prompts + mlp(block.norm2(a))
        if stage.downsample is not None:
            x, hw = stage.downsample(x, hw)
            prompts = prompts @ method.transitions[f'stage{index}'].weight.T
    return features


@pytest.mark.parametrize('order', ['sequential', 'stacked'])
@pytest.mark.parametrize('options', [dict(), dict(filter='static'), dict(skip='attention')], ids=str)
def test_equals_the_formulas(options, order):
    swin = tad_swin(**options)
    swin.task_order = order
    with torch.no_grad():
        features, expected = swin(IMAGES), reference(swin)
    for task in FOUR_TASKS:
        for a, b in zip(features[task], expected[task]):
            # The kernel of a filter is divided by the deviation of nine numbers, which magnifies rounding.
            torch.testing.assert_close(a, b, atol=2e-4, rtol=2e-4)
    assert not torch.allclose(features['semseg'][0], features['normals'][0])


@pytest.mark.parametrize(
    'options, expected',
    [
        (dict(rank=16), 1_604_926),
        (dict(rank=32), 2_823_550),
        (dict(rank=64), 5_426_686),
        (dict(rank=16, filter='static'), 1_579_774),
        (dict(rank=64, filter='static'), 4_994_302),
    ],
)
@pytest.mark.usefixtures('undrawn')
def test_swin_t_has_the_published_counts(options, expected):
    """The published counts less the norms of the eight blocks whose outputs nothing reads, 2 (4,416 - 1,440)."""
    plugin = dict(cfg=dict(type='mmvmt.TADFormer', **options))
    swin = MODELS.build(dict(type='mmvmt.AdaptedSwin', tasks=FOUR_TASKS, plugins=[plugin]))
    assert sum(p.numel() for p in swin.parameters() if p.requires_grad) == expected


@pytest.mark.parametrize('filter', [DynamicTaskFilter, StaticTaskFilter])
def test_filters_see_their_own_map_alone_and_zeros_around_it(filter):
    one = filter(3)
    z = torch.randn(2, 4, 5, 6, 3)
    torch.testing.assert_close(one(z)[1, 2], one(z[1, 2]))
    dot = torch.zeros(3, 3, 3)
    dot[0, 0] = 1.0
    assert not (one(dot)[2:] - one(torch.zeros(3, 3, 3))[2:]).any() or filter is DynamicTaskFilter


def test_prompts_start_as_published_and_no_update_is_there():
    (method,) = tad_swin().adapters
    method.reset_parameters()
    entries = torch.cat([prompt.vector for prompt in method.prompts.values()])
    assert entries.abs().max() <= 2
    assert 0.5 < entries.mean() < 1.3
    assert all(not update.up_weight.any() for update in method.updates.values())
    assert all(gate == 0 for gate in method.gates.values())


def test_the_encoder_runs_once_and_a_subset_of_tasks_has_the_same_features():
    swin, calls = tad_swin(), []
    swin.patch_embed.register_forward_hook(lambda *_: calls.append('encoder'))
    every, one = swin(IMAGES), swin(IMAGES, tasks=('normals',))
    assert calls == ['encoder'] * 2
    assert tuple(one) == ('normals',)
    assert all(torch.equal(a, b) for a, b in zip(every['normals'], one['normals']))


def test_the_shared_part_outside_of_the_tails_merges():
    swin = tad_swin().double()
    images = IMAGES.double()
    (method,) = swin.adapters
    with torch.no_grad():
        expected = swin(images)
        method.merge(swin)
        merged = swin(images)
        method.unmerge(swin)
        again = swin(images)
    for task in FOUR_TASKS:
        for a, b, c in zip(expected[task], merged[task], again[task]):
            torch.testing.assert_close(a, b)
            torch.testing.assert_close(a, c)


@pytest.mark.parametrize(
    'plugin, match',
    [
        (dict(cfg=dict(type='mmvmt.TADFormer', filter='wide')), r"filter must be 'dynamic' or 'static', got 'wide'"),
        (dict(cfg=dict(type='mmvmt.TADFormer', skip='none')), r"skip must be 'features' or 'attention'"),
        (dict(cfg=dict(type='mmvmt.TADFormer', rank=0)), r'rank must be an integer of at least 1'),
        (dict(cfg=dict(type='mmvmt.TADFormer'), position=['qkv', 'proj', 'fc1', 'fc2']), r"position lacks 'tokens'"),
        (dict(cfg=dict(type='mmvmt.TADFormer'), position=['qkv', 'proj', 'tokens']), r'position lacks fc1, fc2'),
        (dict(cfg=dict(type='mmvmt.TADFormer'), stages=(True, True, False, True)), r'block 0 of stage 2 is not filled'),
    ],
)
def test_refusals(plugin, match):
    with pytest.raises(ValueError, match=match):
        tiny_swin(plugins=[plugin])
