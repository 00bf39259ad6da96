"""Encoders of other libraries with filled slots: the outputs of the plain ones, the features of AdaptedSwin."""

from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from distributed import run_ranks
from encoders import ENCODERS, VARIANTS, adapted, plain
from mmengine.model import MMDistributedDataParallel
from tiny import SWIN, VMT, batch, losses_of, perturb, tiny_encoder, tiny_model
from torch import nn

from mmvmt.adapters import Method
from mmvmt.compat import RECORDS_GRAPHS
from mmvmt.models.backbones.layouts.attention import FusedAttention
from mmvmt.registry import MODELS

TASKS = ('semseg', 'normals')
SWINS = dict(type='mmvmt.AdaptedSwin', **(SWIN | dict(depths=(1, 2, 1, 1))))
LORA = dict(cfg=dict(type='mmvmt.LoRA', rank=2), position=['qkv', 'proj', 'fc1', 'fc2'])
VPT = dict(cfg=dict(type='mmvmt.VPTDeep', prompts=3))


def images(height=64, width=96, seed=1):
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(seed))


def same_weights(family):
    """The plain encoder and the adapted one without tasks, with the same random weights."""
    torch.manual_seed(0)
    theirs, ours = plain(family), MODELS.build(adapted(family)).eval()
    perturb(theirs)
    # What timm's models have besides, a classifier and its norm, is left out.
    ours.load_state_dict({name: value for name, value in theirs.state_dict().items() if name in ours.state_dict()})
    return theirs, ours


@pytest.fixture(params=sorted(ENCODERS))
def family(request):
    return request.param


# Sizes that their own library runs them at, where that is not any.
BUILT_FOR = {'mmseg.BEiT': [(64, 64)], 'timm.Hiera': [(64, 64)], 'timm.MultiScaleVit': [(64, 64)]}
BUILT_FOR['mmpretrain.HiViT, offsets'] = [(64, 64)]
# Where recording a graph or starting processes makes a test dear, and fewer blocks of them.
FOUR = {
    'mmseg.BEiT': dict(num_layers=2, out_indices=(0, 1)),
    'mmseg.MixVisionTransformer': dict(num_layers=[1, 1, 1, 1]),
    'timm.Eva': dict(depth=2, out_indices=(0, 1)),
    'timm.Hiera': dict(stages=(1, 1, 1, 1)),
}
FOUR = {family: fewer for family, fewer in FOUR.items() if family in ENCODERS}


@pytest.mark.parametrize('model', sorted({**ENCODERS, **VARIANTS}))
def test_without_tasks_it_is_the_plain_encoder(model):
    theirs, ours = same_weights(model)
    for size in BUILT_FOR.get(model, BUILT_FOR.get(model.partition(',')[0], ((64, 96), (32, 32)))):
        expected, got = theirs(images(*size)), ours(images(*size))
        assert isinstance(got, tuple)
        assert len(got) == len(expected)
        for a, b in zip(expected, got):
            torch.testing.assert_close(b, a, atol=1e-5, rtol=1e-5)
    for maps in (expected, got):
        sum((m * torch.linspace(-1, 1, m.numel()).view_as(m)).sum() for m in maps).backward()
    gradients = {name: p.grad for name, p in theirs.named_parameters()}
    for name, parameter in ours.named_parameters():
        a, b = gradients[name], parameter.grad
        assert (a is None or not a.any()) == (b is None or not b.any()), name
        if a is not None:
            torch.testing.assert_close(b, a, atol=1e-4, rtol=1e-3, msg=name)


def test_sizes_that_patches_do_not_divide(family):
    encoder = tiny_encoder(adapted(family), TASKS)
    maps = encoder(images(50, 67))['semseg']
    edge = encoder.patch_size
    assert maps[0].shape[2:] == (-(-50 // edge), -(-67 // edge))
    assert all(m.isfinite().all() for m in maps)


@pytest.mark.parametrize(
    'plugin',
    [
        VMT,
        LORA,
        dict(cfg=dict(type='mmvmt.BitFit')),
        dict(cfg=dict(type='mmvmt.Adapter')),
        dict(cfg=dict(type='mmvmt.RelativePositionBias')),
        dict(cfg=dict(type='mmvmt.MTLoRAPlus', rank=2, task_rank=1, dropout=0.0, scale=1.0)),
    ],
    ids=lambda plugin: plugin['cfg']['type'],
)
def test_the_hooked_swin_equals_adapted_swin(plugin):
    hooked = tiny_model(TASKS, [plugin], adapted('mmseg.SwinTransformer')).train()
    native = tiny_model(TASKS, [plugin], SWINS).train()
    assert list(hooked.state_dict()) == list(native.state_dict())
    native.load_state_dict(hooked.state_dict())
    for a, b in zip(*(m for model in (hooked, native) for m in [sum(model.backbone(images()).values(), ())])):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    for model in (hooked, native):
        sum(losses_of(model, batch(TASKS)).values()).backward()
    for (name, a), b in zip(hooked.named_parameters(), native.parameters()):
        assert (a.grad is None) == (b.grad is None), name
        if a.grad is not None:
            torch.testing.assert_close(a.grad, b.grad, atol=1e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize('inside', [True, False])
def test_drop_path_drops_what_stands_inside_it(family, inside, registered):
    @registered
    class Shift(Method):
        positions = ('ffn',)
        inside_drop_path = inside

        def __init__(self, sites, tasks):
            super().__init__(sites, tasks)
            self.bias = nn.Parameter(torch.zeros(()))

        def adapt(self, site, inputs, outputs, task, generated):
            return outputs + self.bias, None

    stages = len(MODELS.build(adapted(family)).stage_blocks())
    plugin = dict(cfg=dict(type='Shift'), stages=(*[False] * (stages - 1), True))
    encoder = tiny_encoder(adapted(family, drop_path_rate=0.5), TASKS, [plugin]).train()
    for block in encoder.stage_blocks()[-1]:
        block.block.get_submodule(encoder.layout.branches['ffn'][1]).drop_prob = 1 - 1e-9
    maps = []
    for value in (0.0, 1.0):
        encoder.adapters[0].bias.data.fill_(value)
        torch.manual_seed(3)
        maps.append(encoder(images())['semseg'][-1])
    assert torch.equal(*maps) == inside


@pytest.mark.parametrize('plugin', [VMT, VPT], ids=['vmt', 'vpt'])
def test_copies_checkpointing_and_half_precision(family, plugin):
    if plugin is VPT and 'tokens' not in MODELS.build(adapted(family)).slots:
        pytest.skip('no prompts here')
    model = tiny_model(TASKS, [plugin], adapted(family)).train()
    twin, checkpointed = deepcopy(model), deepcopy(model)
    for blocks in checkpointed.backbone.stage_blocks():
        for block in blocks:
            block.with_cp = True
    for one in (model, checkpointed):
        sum(losses_of(one, batch(TASKS)).values()).backward()
    for (name, a), b in zip(model.named_parameters(), checkpointed.named_parameters()):
        if a.grad is not None:
            torch.testing.assert_close(a.grad, b[1].grad, msg=name)
    with torch.no_grad():
        before = twin.backbone(images())
        perturb(model, seed=9)
        after, changed = twin.backbone(images()), model.backbone(images())
    for task in TASKS:
        assert all(torch.equal(a, b) for a, b in zip(before[task], after[task]))
    assert not torch.equal(changed['semseg'][0], before['semseg'][0])

    half = tiny_encoder(adapted(family), TASKS, [plugin], frozen_dtype='bfloat16')
    full = tiny_encoder(adapted(family), TASKS, [plugin])
    full.load_state_dict({name: value.float() for name, value in half.state_dict().items()})
    with torch.autocast('cpu', dtype=torch.bfloat16), torch.no_grad():
        expected = full(images())
    with torch.no_grad():
        for a, b in zip(expected['normals'], half(images())['normals']):
            torch.testing.assert_close(a.float(), b, atol=5e-2, rtol=5e-2)


@pytest.mark.filterwarnings('ignore::torch.jit.TracerWarning')
def test_traces_as_it_computes(family):
    encoder, given = tiny_encoder(adapted(family), TASKS), images(32, 32)[:1]
    with torch.no_grad():
        expected = encoder(given)
        traced = torch.jit.trace(encoder, given, strict=False, check_trace=False)
        for task, maps in traced(given).items():
            for a, b in zip(maps, expected[task]):
                torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


@pytest.mark.skipif(not RECORDS_GRAPHS, reason='needs torch 2.7, which records graphs of the models')
@pytest.mark.parametrize('family', FOUR)
def test_compiles_into_one_graph(family):
    cfg = adapted(family, **FOUR[family])
    plugins = [VMT] if 'qkv' not in MODELS.build(cfg).slots else [LORA]
    encoder = tiny_encoder(cfg, TASKS, plugins, task_order='stacked')
    compiled = torch.compile(encoder.train(), backend='eager', fullgraph=True)
    for got, expected in zip(compiled(images(32, 32)).values(), encoder(images(32, 32)).values(), strict=True):
        for a, b in zip(got, expected, strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    torch._dynamo.reset()


def two_steps_on_a_rank(rank, world_size):
    """Trained parameters on every encoder after two steps; a parameter without gradient would stop DDP."""
    results = {}
    for family in FOUR:
        model = tiny_model(TASKS, [VMT], adapted(family)).train()
        wrapped = MMDistributedDataParallel(model, device_ids=None, find_unused_parameters=False)
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-3)
        for step in range(2):
            data = model.data_preprocessor(batch(TASKS, seed=2 * step + rank), True)
            loss = sum(wrapped(**data, mode='loss').values())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        results[family] = [p.detach() for p in model.backbone.parameters() if p.requires_grad]
    return results


def test_two_ranks_train_encoders():
    first, second = run_ranks(two_steps_on_a_rank, 2)
    assert list(first) == list(FOUR)
    for family, parameters in first.items():
        assert all(torch.equal(a, b) for a, b in zip(parameters, second[family])), family


def layer_norm(x, norm):
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + norm.eps).sqrt() * norm.weight + norm.bias


def block_of_formula(block, z, heads):
    """Multi-head attention and MLP of a pre-norm transformer block, with mmpretrain's LayerScale."""
    qkv = layer_norm(z, block.ln1) @ block.attn.qkv.weight.T + block.attn.qkv.bias
    q, k, v = qkv.chunk(3, dim=-1)
    size, outs = q.shape[-1] // heads, []
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        weights = (q[..., part] @ k[..., part].transpose(1, 2) / size**0.5).exp()
        outs.append(weights / weights.sum(-1, keepdim=True) @ v[..., part])
    out = torch.cat(outs, -1) @ block.attn.proj.weight.T + block.attn.proj.bias
    z = z + block.attn.gamma1.weight * out
    (fc1, _, _), fc2, _ = block.ffn.layers
    hidden = F.gelu(layer_norm(z, block.ln2) @ fc1.weight.T + fc1.bias)
    return z + block.ffn.gamma2.weight * (hidden @ fc2.weight.T + fc2.bias)


@pytest.mark.parametrize('name', ['VPTShallow', 'VPTDeep'])
def test_vpt_in_a_vision_transformer_is_that_of_the_paper(name):
    """Equations 4 and 5 (shallow), 6 (deep) of arXiv 2203.12119: prompts stand between class token and patches."""
    plugin = dict(cfg=dict(type=f'mmvmt.{name}', prompts=3))
    encoder = tiny_encoder(adapted('mmpretrain.VisionTransformer'), TASKS, [plugin])
    encoder.adapters[0].reset_parameters()
    given = images(32, 32)
    with torch.no_grad():
        z, _ = encoder.layout.embed(given)
        for task in TASKS:
            prompts = [of_block().expand(2, -1, -1) for of_block in encoder.adapters[0].prompts[task].values()]
            cls, patches, expected, kept = z[:, :1], z[:, 1:], [], prompts[0]
            for index, block in enumerate(encoder.layout.encoder.layers):
                kept = prompts[index] if name == 'VPTDeep' else kept
                cls, kept, patches = block_of_formula(block, torch.cat((cls, kept, patches), 1), 2).split((1, 3, 16), 1)
                if index in (1, 3):
                    expected.append(patches.transpose(1, 2).unflatten(2, (4, 4)))
            for a, b in zip(expected, encoder(given)[task]):
                torch.testing.assert_close(b, a, atol=1e-5, rtol=1e-4)
    # The paper draws prompts in Xavier's range for a layer from a patch to the width.
    bound = (6 / (3 * 8 * 8 + 16)) ** 0.5
    drawn = torch.cat([p.flatten() for p in encoder.adapters[0].prompts.parameters()])
    assert 0.9 * bound < drawn.abs().max() <= bound


def test_an_unknown_encoder_is_refused_with_those_that_are_known():
    with pytest.raises(
        ValueError, match=r'no layout knows the encoder mmseg\.ResNet; known are mmpretrain\.HiViT, .*docs'
    ):
        MODELS.build(dict(type='mmvmt.AdaptedBackbone', encoder=dict(type='mmseg.ResNet', depth=18)))


@pytest.mark.parametrize(
    'kind, options, message',
    [
        ('mmpretrain.VisionTransformer', dict(out_type='cls_token'), r"set encoder\.out_type='featmap'"),
        ('mmseg.VisionTransformer', dict(out_origin=True), r'set encoder\.out_origin=False'),
        ('timm.VisionTransformer', dict(out_indices=(3, 1)), r'out_indices must be blocks in their order, from 0 to 3'),
        ('timm.VisionTransformer', dict(out_indices=None), r'out_indices must be blocks in their order'),
        ('timm.VisionTransformer', dict(model_name='no_such_model'), r"timm .* knows, got 'no_such_model'"),
        ('mmpretrain.HiViT', dict(out_indices=[2, 6]), r'must be last blocks of the first stages, \[1, 4\], and'),
        ('timm.Eva', dict(rope_jitter_coords=1.2), r'moved at random in training'),
        ('timm.Hiera', dict(patch_drop_rate=0.1), r'set encoder\.patch_drop_rate=0\.0'),
        ('timm.VisionTransformer', dict(pretrained=True), r'weights come from init_cfg'),
        ('timm.VisionTransformer', dict(model_name='vit_relpos_small_patch16_224'), r'no layout knows .*timm'),
    ],
)
def test_options_that_give_no_maps_are_refused(kind, options, message):
    with pytest.raises(ValueError, match=message):
        MODELS.build(adapted(kind, **options))


def test_class_tokens_leave_beside_the_maps_as_heads_such_as_dpt_read_them():
    theirs, ours = (make('mmseg.VisionTransformer', output_cls_token=True) for make in (plain, adapted))
    ours = MODELS.build(ours).eval()
    perturb(theirs)
    ours.load_state_dict(theirs.state_dict())
    for (a_map, a_token), (b_map, b_token) in zip(theirs(images()), ours(images())):
        torch.testing.assert_close(b_map, a_map, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(b_token, a_token, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match=r'class token beside every map.* set encoder\.output_cls_token=False'):
        tiny_encoder(adapted('mmseg.VisionTransformer', output_cls_token=True), TASKS)


def test_slots_that_a_family_lacks_are_refused_by_name():
    for family, slot, method in (
        ('mmseg.MixVisionTransformer', 'fc1', 'LoRA'),
        ('timm.PyramidVisionTransformerV2', 'qkv', 'LoRA'),
        ('mmseg.SwinTransformer', 'tokens', 'VPTDeep'),
    ):
        with pytest.raises(ValueError, match=rf'blocks of {family} have no {slot!r}; they offer attn, ffn'):
            tiny_encoder(adapted(family), TASKS, [dict(cfg=dict(type=f'mmvmt.{method}'), position=slot)])


def test_blocks_behind_the_last_map_are_left_out_with_the_norm_behind_them():
    encoder = MODELS.build(adapted('mmseg.VisionTransformer', out_indices=(0, 2)))
    assert [len(blocks) for blocks in encoder.stage_blocks()] == [1, 2]
    assert not any(name.startswith(('layers.3.', 'ln1.')) for name in encoder.state_dict())
    theirs = plain('mmseg.VisionTransformer', out_indices=(0, 2))
    encoder.load_state_dict(theirs.state_dict(), strict=False)
    for a, b in zip(theirs(images()), encoder.eval()(images())):
        torch.testing.assert_close(b, a, atol=1e-5, rtol=1e-5)


def test_attention_of_pytorch_is_fused_and_its_projection_merges():
    encoder = tiny_encoder(
        adapted('mmseg.VisionTransformer'),
        ('semseg',),
        [dict(cfg=dict(type='mmvmt.LoRA', rank=2), position=['qkv', 'proj', 'fc1'])],
    )
    assert all(type(layer.attn.attn) is FusedAttention for layer in encoder.layout.encoder.layers)
    with torch.no_grad():
        before = encoder(images())['semseg']
        encoder.adapters[0].merge(encoder)
        for a, b in zip(before, encoder(images())['semseg']):
            torch.testing.assert_close(b, a, atol=1e-5, rtol=1e-5)
        # Nothing is left for hooks to do.
        encoder.adapters[0].unmerge(encoder)
        for a, b in zip(before, encoder(images())['semseg']):
            torch.testing.assert_close(b, a, atol=1e-5, rtol=1e-5)


def test_nothing_is_hooked_where_nothing_is_filled(family):
    encoder = MODELS.build(adapted(family))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in encoder.modules())


def test_methods_that_mix_neighbours_see_the_map_without_the_tokens_in_front(registered, family):
    sizes = []

    @registered
    class Mixing(Method):
        positions = ('ffn', 'fc1')

        def adapt_map(self, site, inputs, outputs, task, generated, hw):
            sizes.append((outputs.shape[1], hw))
            return outputs, None

    slots = MODELS.build(adapted(family)).slots
    position = [slot for slot in ('ffn', 'fc1') if slot in slots]
    encoder = tiny_encoder(adapted(family), TASKS, [dict(cfg=dict(type='Mixing'), position=position)])
    encoder(images(32, 64))
    prefix = encoder.layout.prefix
    assert {count for count, hw in sizes if hw is None} == ({prefix} if prefix else set())
    assert all(count == hw[0] * hw[1] for count, hw in sizes if hw is not None)
    assert any(hw is not None for _, hw in sizes)
