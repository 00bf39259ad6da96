"""Frozen weights in half precision: the same as autocast on float32 weights, bit for bit."""

import copy

import commands
import pytest
import torch
from tiny import FOUR_TASKS, VMT, batch, losses_of, model_cfg, perturb, tiny_model, tiny_swin
from torch import nn

from mmvmt.models.backbones.windows import attention
from mmvmt.registry import MODELS

IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
LORA = dict(cfg=dict(type='mmvmt.LoRA', rank=2, per_task=False))


def half_model(plugins=(VMT,)):
    """A model with frozen weights in bfloat16, and one that has the same weights in float32."""
    full = tiny_model(plugins=plugins)
    cfg = model_cfg(plugins=plugins)
    cfg['backbone']['frozen_dtype'] = 'bfloat16'
    half = MODELS.build(cfg)
    half.load_state_dict(full.state_dict())
    return half, full


def test_only_frozen_layers_are_stored_in_half_precision():
    half, _ = half_model()
    layers = [m for m in half.backbone.stages.modules() if isinstance(m, nn.Linear)]
    inside = {id(m.weight) for m in (*layers, half.backbone.patch_embed.projection)}
    for name, parameter in half.named_parameters():
        assert parameter.dtype == (torch.bfloat16 if id(parameter) in inside else torch.float32), name


@pytest.mark.parametrize('plugin', [VMT, LORA, dict(cfg=dict(type='mmvmt.BitFit'))])
def test_it_computes_what_autocast_computes_on_float32_weights(plugin):
    half, full = half_model((plugin,))
    gradients = []
    for model in (half, full):
        model.train()
        with torch.autocast('cpu', dtype=torch.bfloat16):
            loss = sum(losses_of(model, batch()).values())
        loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.requires_grad})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], atol=0, rtol=0, msg=name)


def test_outside_of_mixed_precision_the_heads_get_float32():
    swin = tiny_swin(frozen_dtype='bfloat16')
    features = swin(IMAGES)
    assert all(feature.dtype == torch.float32 for task in FOUR_TASKS for feature in features[task])
    assert all(feature.dtype == torch.float32 for feature in tiny_swin(tasks=None, frozen_dtype='bfloat16')(IMAGES))


def test_initial_weights_are_those_of_float32_rounded():
    torch.manual_seed(0)
    full = MODELS.build(dict(model_cfg()['backbone'], tasks=FOUR_TASKS))
    torch.manual_seed(0)
    half = MODELS.build(dict(model_cfg()['backbone'], tasks=FOUR_TASKS, frozen_dtype='bfloat16'))
    for swin in (full, half):
        torch.manual_seed(1)
        swin.init_weights()
    for (name, a), b in zip(full.named_parameters(), half.parameters()):
        assert torch.equal(a.to(b.dtype), b), name


def test_copies_and_checkpoints_keep_the_type(tmp_path):
    half, _ = half_model()
    torch.save(half.state_dict(), tmp_path / 'half.pth')
    twin = copy.deepcopy(half)
    perturb(twin, seed=7)
    twin.load_state_dict(torch.load(tmp_path / 'half.pth', weights_only=True))
    for (name, a), b in zip(half.named_parameters(), twin.parameters()):
        assert a.dtype == b.dtype, name
        assert torch.equal(a, b), name


def test_it_trains_from_a_config(tiny_config, tmp_path):
    options = ['model.backbone.frozen_dtype=bfloat16', 'train_cfg.max_iters=2', 'train_cfg.val_interval=2']
    commands.run('tools/train.py', tiny_config, '--work-dir', tmp_path, '--amp', '--cfg-options', *options)
    assert (tmp_path / 'last_checkpoint').is_file()


def test_merging_into_rounded_weights_is_refused():
    swin = tiny_swin(plugins=[LORA], frozen_dtype='bfloat16')
    with pytest.raises(ValueError, match=r'stores stage0_block0_qkv as torch\.bfloat16, which would round'):
        swin.adapters[0].merge(swin)


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="frozen_dtype must be one of bfloat16, float16, got 'int8'"):
        tiny_swin(frozen_dtype='int8')
    with pytest.raises(ValueError, match='without plugins nothing is frozen'):
        tiny_swin(plugins=None, frozen_dtype='bfloat16')


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_attention_in_half_precision_is_as_exact_as_its_type(dtype):
    generator = torch.Generator().manual_seed(3)
    q, k, v, gradient = (torch.randn(6, 2, 49, 32, generator=generator).to(dtype) for _ in range(4))
    mask = torch.randn(1, 2, 49, 49, generator=generator).to(dtype)

    def results(inputs, attend):
        inputs = [x.clone().requires_grad_() for x in inputs]
        out = attend(*inputs)
        return [out, *torch.autograd.grad(out, inputs, gradient.to(out.dtype))]

    def definition(q, k, v):
        return (q @ k.transpose(-2, -1) * 0.2 + mask.double()).softmax(-1) @ v

    exact = results([x.double() for x in (q, k, v)], definition)
    ours = results([q, k, v], lambda q, k, v: attention(q, k, v, mask, 0.0, 0.2))
    for name, value, reference in zip(('out', 'q', 'k', 'v'), ours, exact):
        assert value.dtype == dtype
        # Scores, weights and sums are each rounded to the type: a few units in the last place of the largest entry.
        error = (value.double() - reference).abs().max() / reference.abs().max()
        assert error < 4 * torch.finfo(dtype).eps, name
