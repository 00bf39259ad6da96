import pytest
import torch
import torch.nn.functional as F
from tiny import OUTPUTS, perturb

from mmvmt.registry import MODELS

WIDTHS = (8, 16, 32, 64)


def features(height=20, width=13, batch=2):
    generator = torch.Generator().manual_seed(1)
    sizes = [(-(-height // s), -(-width // s)) for s in (1, 2, 4, 8)]
    return [torch.randn(batch, c, *size, generator=generator, requires_grad=True) for c, size in zip(WIDTHS, sizes)]


def build_head(task='semseg', **kwargs):
    torch.manual_seed(0)
    head = MODELS.build(dict(type='mmvmt.MLPHead', in_channels=WIDTHS, channels=12, output=OUTPUTS[task], **kwargs))
    perturb(head, std=0.1)
    return head


def reference(head, levels):
    """SegFormer's head from its definition: linear per level, upsample, concatenate, fuse, norm, ReLU, predict."""
    size = levels[0].shape[2:]
    maps = []
    for x, norm, linear in zip(levels, head.norms, head.linears):
        mean = x.mean(dim=1, keepdim=True)
        var = x.var(dim=1, unbiased=False, keepdim=True)
        x = (x - mean) / (var + norm.eps).sqrt() * norm.weight.view(1, -1, 1, 1) + norm.bias.view(1, -1, 1, 1)
        x = torch.einsum('oc,bchw->bohw', linear.weight, x) + linear.bias.view(1, -1, 1, 1)
        maps.append(F.interpolate(x, size=size, mode='bilinear', align_corners=False))
    x = torch.einsum('oc,bchw->bohw', head.fuse.weight[:, :, 0, 0], torch.cat(maps, dim=1))
    x = head.fuse_norm(x).clamp(min=0)
    return torch.einsum('oc,bchw->bohw', head.predictor.weight[:, :, 0, 0], x) + head.predictor.bias.view(1, -1, 1, 1)


@pytest.mark.parametrize('compose', [True, False])
@pytest.mark.parametrize('training', [True, False])
def test_equals_the_definition_with_gradients(compose, training):
    head = build_head(compose=compose).train(training)
    twin = build_head(compose=compose).train(training)
    ours, theirs = features(), features()
    got, expected = head(ours), reference(twin, theirs)
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)
    got.square().mean().backward()
    expected.square().mean().backward()
    for a, b in zip(ours, theirs):
        torch.testing.assert_close(a.grad, b.grad, atol=1e-5, rtol=1e-3)
    for (name, a), b in zip(head.named_parameters(), twin.parameters()):
        torch.testing.assert_close(a.grad, b.grad, atol=1e-4, rtol=1e-3, msg=name)


def test_four_heads_of_swin_t_have_2549024_parameters():
    outputs = [
        (t, dict(OUTPUTS[t], num_classes=n) if n else OUTPUTS[t])
        for t, n in [('semseg', 21), ('human_parts', 7), ('saliency', None), ('normals', None)]
    ]
    heads = [MODELS.build(dict(type='mmvmt.MLPHead', in_channels=(96, 192, 384, 768), output=o)) for _, o in outputs]
    assert sum(p.numel() for head in heads for p in head.parameters()) == 2_549_024
    assert sum(p.numel() for head in heads for p in head.norms.parameters()) == 4 * 2_880


def test_dropout_acts_in_training_only():
    head = build_head(dropout=0.5)
    levels = features()
    assert not torch.equal(head.train()(levels), head(levels))
    assert torch.equal(head.eval()(levels), head(levels))


@pytest.mark.parametrize('norm_cfg', [dict(type='BN'), dict(type='SyncBN'), dict(type='GN', num_groups=3)])
def test_norms_of_the_config(norm_cfg):
    head = build_head(norm_cfg=norm_cfg).eval()
    assert head(features()).shape == (2, 5, 20, 13)
