"""MTLoRA against its formulas over mmseg's own blocks; counts, merging, dropout, and what is refused."""

import pytest
import torch
import torch.nn.functional as F
from mmseg.models.backbones.swin import SwinTransformer
from tiny import FOUR_TASKS, SWIN, tiny_model, tiny_swin
from torch.utils.flop_counter import FlopCounterMode

from mmvmt.registry import MODELS

IMAGES = torch.randn(2, 3, 64, 72, generator=torch.Generator().manual_seed(1))


def mt_swin(method='MTLoRA', tasks=FOUR_TASKS, features_after_merging=False, **options):
    cfg = dict(type=f'mmvmt.{method}', **(dict(rank=3, task_rank=2) | options))
    return tiny_swin(tasks=tasks, plugins=[dict(cfg=cfg)], features_after_merging=features_after_merging)


def product(update, scale=4):
    return getattr(update, 'scale', scale) * update.up_weight @ update.down_weight


def reference(swin, task, own_stream=False, add_shared=False, features_after_merging=False, task_scale=4, **_):
    """Features of a task: mmseg's Swin with the shared updates in its weights, and the tails written out."""
    (method,) = swin.adapters
    frozen, plain = SwinTransformer(**SWIN).double(), SwinTransformer(**SWIN).double()
    names = {id(p): name for name, p in swin.own_parameters().items()}
    for encoder in (frozen, plain):
        encoder.eval()
        encoder.load_state_dict(swin.state_dict(), strict=False)
    with torch.no_grad():
        for site in method.sites:
            weight = plain.get_parameter(names[id(swin.layer_of(site).weight)])
            weight += product(method.updates[site.key])
    x, hw = plain.patch_embed(IMAGES.double())
    features = []
    for index, stage in enumerate(plain.stages):
        for block in stage.blocks[:-1]:
            x = block(x, hw)
        h, block, own = x, stage.blocks[-1], frozen.stages[index].blocks[-1]
        x = block(h, hw)
        # With a projection that is the identity, the attention puts out what enters the projection.
        handle = block.attn.w_msa.proj.register_forward_hook(lambda _, inputs, out: inputs[0])
        o = block.attn(block.norm1(h), hw)
        handle.remove()
        n = block.norm2(h + block.attn.w_msa.proj(o))
        g = F.gelu(block.ffn.layers[0][0](n))
        at = f'stage{index}_block{len(stage.blocks) - 1}_'
        change = {slot: product(method.tails[task][at + slot], task_scale) for slot in ('proj', 'fc1', 'fc2')}
        of_all = {slot: add_shared * product(method.updates[at + slot]).T for slot in ('proj', 'fc1', 'fc2')}
        u = h + own.attn.w_msa.proj(o) + o @ change['proj'].T + o @ of_all['proj']
        n_t = own.norm2(u)
        g_t = F.gelu(own.ffn.layers[0][0](n_t if own_stream else n) + n_t @ change['fc1'].T + n @ of_all['fc1'])
        y = u + own.ffn.layers[1](g_t if own_stream else g) + g_t @ change['fc2'].T + g @ of_all['fc2']
        merged = (y, hw) if stage.downsample is None else stage.downsample(y, hw)
        left, size = merged if features_after_merging else (y, hw)
        features.append(left.transpose(1, 2).unflatten(2, size))
        if stage.downsample is not None:
            x, hw = stage.downsample(x, hw)
    return features


@pytest.mark.parametrize('method', ['MTLoRA', 'MTLoRAPlus'])
@pytest.mark.parametrize(
    'options',
    [
        dict(),
        dict(own_stream=True),
        dict(add_shared=True),
        dict(features_after_merging=True),
        dict(trainable_scale=True),
        dict(task_scale=0.5),
    ],
    ids=str,
)
@pytest.mark.parametrize('order', ['sequential', 'stacked'])
def test_equals_the_formulas(method, options, order):
    swin = mt_swin(method, **options).double()
    swin.task_order = order
    features = swin(IMAGES.double())
    for task in FOUR_TASKS:
        for a, b in zip(features[task], reference(swin, task, **options)):
            torch.testing.assert_close(a, b, atol=1e-10, rtol=1e-10)
    assert not torch.allclose(features['semseg'][0], features['normals'][0])


@pytest.mark.parametrize(
    'method, rank, task_rank, expected',
    [
        ('MTLoRA', 16, 4, 3_006_522),
        ('MTLoRA', 32, 4, 4_137_018),
        ('MTLoRA', 64, 4, 6_398_010),
        ('MTLoRAPlus', 4, 4, 626_490),
        ('MTLoRAPlus', 8, 8, 1_201_722),
        ('MTLoRAPlus', 16, 16, 2_352_186),
        ('MTLoRAPlus', 16, 4, 1_522_746),
        ('MTLoRAPlus', 32, 4, 2_717_754),
        ('MTLoRAPlus', 64, 4, 5_107_770),
    ],
)
@pytest.mark.usefixtures('undrawn')
def test_swin_t_has_the_published_counts(method, rank, task_rank, expected):
    plugin = dict(cfg=dict(type=f'mmvmt.{method}', rank=rank, task_rank=task_rank))
    swin = MODELS.build(dict(type='mmvmt.AdaptedSwin', tasks=FOUR_TASKS, plugins=[plugin]))
    assert sum(p.numel() for p in swin.parameters() if p.requires_grad) == expected


def test_the_encoder_runs_once_and_tails_only_for_the_tasks_that_are_wanted():
    swin = mt_swin()
    (method,) = swin.adapters
    calls = []
    swin.patch_embed.register_forward_hook(lambda *_: calls.append('encoder'))
    for task in FOUR_TASKS:
        for update in method.tails[task].values():
            update.register_forward_hook(lambda *_, task=task: calls.append(task))
    swin(IMAGES, tasks=('normals',))
    assert calls == ['encoder'] + 12 * ['normals']


def operations(swin, tasks, images):
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        swin(images, tasks=tasks)
    return counter.get_total_flops()


def test_a_task_costs_its_own_updates_alone():
    swin = mt_swin()
    # Without padding in any stage: 32, 16, 8 and 4 tokens on a side.
    images = torch.randn(1, 3, 128, 128)
    tokens = dict(zip((8, 16, 32, 64), (32**2, 16**2, 8**2, 4**2)))
    rank, inner = 2, 2  # of the tasks' updates; the MLP's width over the block's
    of_task = sum(2 * n * rank * (2 * d + 2 * (1 + inner) * d) for d, n in tokens.items())
    one, four = (operations(swin, FOUR_TASKS[:count], images) for count in (1, 4))
    assert four - one == 3 * of_task


def test_tails_of_the_projection_see_what_the_shared_update_saw():
    swin = mt_swin(dropout=0.5).train()
    (method,) = swin.adapters
    seen = {}
    shared, own = (group['stage0_block0_proj'] for group in (method.updates, method.tails['semseg']))
    shared.of_dropped = lambda x: seen.setdefault('shared', x) @ shared.down_weight.T @ shared.up_weight.T
    own.register_forward_hook(lambda _, inputs, out: seen.setdefault('task', inputs[0]))
    swin(IMAGES)
    assert torch.equal(seen['shared'], seen['task'])
    assert (seen['task'] == 0).float().mean() > 0.4


def test_updates_start_as_published():
    swin = mt_swin()
    (method,) = swin.adapters
    method.reset_parameters()
    for update in (*method.updates.values(), *method.tails['semseg'].values()):
        bound = update.down_weight.shape[1] ** -0.5
        assert 0.6 * bound < update.down_weight.abs().max() <= bound
        assert not update.up_weight.any()


@pytest.mark.parametrize('trainable_scale', [False, True])
def test_the_shared_part_outside_of_the_tails_merges(trainable_scale):
    swin = mt_swin(trainable_scale=trainable_scale).double()
    images = IMAGES.double()
    expected, before = swin(images), {name: p.clone() for name, p in swin.own_parameters().items()}
    (method,) = swin.adapters
    method.merge(swin)
    moved = {name for name, p in swin.own_parameters().items() if not torch.equal(p, before[name])}
    assert len(moved) == len(method.merged_sites()) == 4 * 5 - 3 * 4
    for site in method.merged_sites():
        method.updates[site.key].up_weight.data.fill_(float('nan'))
    merged = swin(images)
    for task in FOUR_TASKS:
        for a, b in zip(expected[task], merged[task]):
            torch.testing.assert_close(b, a, atol=1e-11, rtol=1e-11)
    with pytest.raises(RuntimeError, match='MTLoRA is merged into the encoder and cannot train'):
        swin.train()(images)


def test_scales_that_train():
    swin = mt_swin(trainable_scale=True)
    (method,) = swin.adapters
    sum(m.sum() for maps in swin(IMAGES).values() for m in maps).backward()
    scales = {name: p for name, p in method.named_parameters() if name.endswith('scale')}
    assert len(scales) == 20 + 12 * 4
    assert all(bool(p.grad.any()) == (name != 'updates.stage3_block0_fc2.scale') for name, p in scales.items())
    method.reset_parameters()
    assert all(p.item() == 4 for name, p in method.named_parameters() if name.endswith('scale'))


def test_what_is_not_read_has_a_gradient_of_zero():
    swin = mt_swin()
    sum(m.sum() for maps in swin(IMAGES).values() for m in maps).backward()
    update = swin.adapters[0].updates['stage3_block0_fc2']
    assert all(p.grad is not None and not p.grad.any() for p in update.parameters())


def test_a_removed_task_leaves_the_others_as_they_are():
    swin = mt_swin()
    expected = swin(IMAGES)
    swin.remove_task('saliency')
    got = swin(IMAGES)
    for task in ('semseg', 'human_parts', 'normals'):
        assert all(torch.equal(a, b) for a, b in zip(expected[task], got[task]))


@pytest.mark.parametrize(
    'plugin, message',
    [
        (dict(position=['qkv', 'fc1']), 'has to fill them all; position lacks proj, fc2'),
        (dict(cfg=dict(rank=0)), 'rank must be an integer of at least 1, got 0'),
        (dict(cfg=dict(task_rank=1.5)), 'task_rank must be an integer of at least 1, got 1.5'),
        (dict(cfg=dict(dropout=1)), 'dropout must be a number of at least 0 and below 1, got 1'),
        (dict(cfg=dict(task_scale=-1)), 'task_scale must be a number of at least 0 and below inf, got -1'),
        (dict(cfg=dict(scale=-1)), 'scale must be a number of at least 0 and below inf, got -1'),
        (dict(cfg=dict(), position=['proj', 'fc1', 'fc2', 'downsample']), 'between stages twice'),
    ],
)
def test_what_does_not_fit_is_refused(plugin, message):
    with pytest.raises(ValueError, match=message):
        tiny_swin(plugins=[plugin | dict(cfg=dict(type='mmvmt.MTLoRA', **plugin.get('cfg', {})))])


def test_it_cannot_stand_beside_a_method_with_a_pass_per_task():
    plugins = [dict(cfg=dict(type=f'mmvmt.{name}')) for name in ('MTLoRA', 'NormTuning')]
    with pytest.raises(ValueError, match='NormTuning runs the encoder once per task and cannot be combined'):
        tiny_model(plugins=plugins)
