import copy
import pickle
import sys

import pytest
import torch
import torch.nn.functional as F
from tiny import OUTPUTS, batch, losses_of, model_cfg, perturb
from torch import nn

from mmvmt.models.task_heads import DeformableHead, MLPHead
from mmvmt.models.task_heads.deformable import LevelAlignment
from mmvmt.registry import MODELS

WIDTHS = (6, 8, 12, 16)
GN = dict(type='GN', num_groups=2)


def features(levels=4, height=5, width=4, seed=1):
    generator = torch.Generator().manual_seed(seed)
    sizes = [(-(-height // 2**i), -(-width // 2**i)) for i in range(levels)]
    return [torch.randn(2, c, *size, generator=generator, requires_grad=True) for c, size in zip(WIDTHS, sizes)]


def build_head(levels=4, task='semseg', moved=True, **kwargs):
    torch.manual_seed(0)
    cfg = dict(type='mmvmt.DeformableHead', in_channels=WIDTHS[:levels], channels=4, output=OUTPUTS[task])
    head = MODELS.build(cfg | kwargs)
    if moved:
        # Sampling points between pixels: on the grid itself the bilinear kernel has no derivative.
        perturb(head, std=0.2)
    return head


def modulated_deformable_convolution(x, offsets, modulation, kernel, groups):
    """Zhu et al., equation 1, point by point; x(p) = sum_q max(0, 1 - |q_y - p_y|) max(0, 1 - |q_x - p_x|) x(q)."""
    images, _, height, width = x.shape
    rows, columns = torch.arange(height), torch.arange(width)
    result = []
    for image in range(images):
        for y in range(height):
            for x_ in range(width):
                value = 0
                for tap in range(9):
                    parts = []
                    for group, part in enumerate(x[image].chunk(groups)):
                        index = group * 9 + tap
                        p_y = y + tap // 3 - 1 + offsets[image, 2 * index, y, x_]
                        p_x = x_ + tap % 3 - 1 + offsets[image, 2 * index + 1, y, x_]
                        near_y = (1 - (rows - p_y).abs()).clamp(min=0)
                        near_x = (1 - (columns - p_x).abs()).clamp(min=0)
                        sample = torch.einsum('cyx,y,x->c', part, near_y, near_x)
                        parts.append(modulation[image, index, y, x_] * sample)
                    value = value + kernel[:, :, tap // 3, tap % 3] @ torch.cat(parts)
                result.append(value)
    return torch.stack(result).view(images, height, width, -1).permute(0, 3, 1, 2)


def reference(head, levels):
    """The head from its definition."""
    size = levels[0].shape[2:]
    maps = []
    for x, norm, linear in zip(levels, head.norms, head.linears):
        x = F.layer_norm(x.permute(0, 2, 3, 1), (x.shape[1],), norm.weight, norm.bias, norm.eps)
        x = torch.einsum('bhwc,oc->bohw', x, linear.weight) + linear.bias.view(1, -1, 1, 1)
        maps.append(F.interpolate(x, size=size, mode='bilinear', align_corners=False))
    aligned = maps[:1]
    for alignment, level in zip(head.alignments, maps[1:]):
        groups = alignment.convolution.deform_groups
        weight = torch.cat([alignment.from_level.weight, alignment.from_finest.weight], dim=1)
        points = F.conv2d(torch.cat([level, maps[0]], dim=1), weight, alignment.from_level.bias, padding=1)
        points = points / (9 * 2 * level.shape[1]) ** 0.5
        kernel = alignment.convolution.weight / (9 * level.shape[1]) ** 0.5
        kernel = kernel + nn.init.dirac_(torch.empty_like(kernel))
        offsets, modulation = points[:, : 18 * groups], 2 * torch.sigmoid(points[:, 18 * groups :])
        aligned.append(modulated_deformable_convolution(level, offsets, modulation, kernel, groups))
    x = torch.einsum('oc,bchw->bohw', head.fuse.weight[:, :, 0, 0], torch.cat(aligned, dim=1))
    x = head.fuse_norm(x).clamp(min=0)
    return torch.einsum('oc,bchw->bohw', head.predictor.weight[:, :, 0, 0], x) + head.predictor.bias.view(1, -1, 1, 1)


@pytest.mark.parametrize('norm_cfg', [dict(type='BN'), GN], ids=['BN', 'GN'])
@pytest.mark.parametrize('compose, deform_groups, levels', [(True, 1, 4), (True, 2, 3), (False, 2, 2), (True, 1, 1)])
def test_equals_the_definition_with_gradients(compose, deform_groups, levels, norm_cfg):
    options = dict(compose=compose, deform_groups=deform_groups, norm_cfg=norm_cfg, levels=levels)
    head, twin = build_head(**options).double(), build_head(**options).double()
    ours = [x.detach().double().requires_grad_() for x in features(levels)]
    theirs = [x.detach().requires_grad_() for x in ours]
    got, expected = head(ours), reference(twin, theirs)
    torch.testing.assert_close(got, expected, atol=1e-9, rtol=1e-9)
    got.square().mean().backward()
    expected.square().mean().backward()
    for a, b in zip(ours, theirs, strict=True):
        assert a.grad.any()
        torch.testing.assert_close(a.grad, b.grad, atol=1e-9, rtol=1e-7)
    for (name, a), b in zip(head.named_parameters(), twin.parameters(), strict=True):
        assert a.grad.any(), name
        torch.testing.assert_close(a.grad, b.grad, atol=1e-9, rtol=1e-7, msg=name)


@pytest.mark.parametrize('compose', [True, False])
def test_starts_as_the_all_mlp_head_and_learns_where_to_sample(compose):
    head = build_head(moved=False, norm_cfg=GN, compose=compose).eval()
    nn.init.normal_(head.predictor.weight)
    plain = build_head(type='mmvmt.MLPHead', moved=False, norm_cfg=GN).eval()
    plain.load_state_dict({name: value for name, value in head.state_dict().items() if 'alignments' not in name})
    torch.testing.assert_close(head(features()), plain(features()), atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        for alignment in head.alignments:
            # The taps beside the middle count as soon as the kernel is no longer the identity.
            nn.init.normal_(alignment.convolution.weight)
    head(features()).square().mean().backward()
    for alignment in head.alignments:
        for convolution in (alignment.from_level, alignment.from_finest):
            assert all(part.any() for part in convolution.weight.grad.split((18, 9)))


@pytest.mark.parametrize('name', ['from_level', 'from_finest'])
def test_points_depend_on_both_levels(name):
    alignment = LevelAlignment(4)
    nn.init.normal_(getattr(alignment, name).weight)
    level, finest = torch.randn(2, 2, 4, 6, 5).unbind()
    offsets, modulation = alignment.sampling(level, finest)
    assert offsets.shape == (2, 18, 6, 5)
    assert modulation.shape == (2, 9, 6, 5)
    assert offsets.std() > 0.5
    assert 0 <= modulation.min() < 1 < modulation.max() <= 2


@pytest.mark.parametrize('channels', [8, 128])
def test_a_step_of_adam_is_small_whatever_the_width(channels):
    torch.manual_seed(0)
    alignment = LevelAlignment(channels)
    level, finest = torch.randn(2, 1, channels, 6, 5).unbind()
    optimizer = torch.optim.Adam(alignment.parameters(), lr=1e-2)
    alignment(level, finest).square().mean().backward()
    optimizer.step()
    offsets, _ = alignment.sampling(level, finest)
    assert 0 < offsets.abs().max() < 1
    change = (alignment(level, finest) - level).square().mean() / level.square().mean()
    assert 0 < change < 0.25


def test_an_offset_of_one_pixel_shifts_the_map():
    alignment = LevelAlignment(1)
    with torch.no_grad():
        alignment.from_level.bias[8] = 1 / alignment.point_gain  # the tap in the middle: down
        alignment.from_level.bias[9] = 2 / alignment.point_gain  # and to the right
    level = torch.arange(20.0).view(1, 1, 4, 5)
    expected = F.pad(level[:, :, 1:, 2:], (0, 2, 0, 1))
    torch.testing.assert_close(alignment(level, torch.zeros_like(level)), expected)


@pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last])
def test_memory_layout_does_not_matter(memory_format):
    alignment = LevelAlignment(4, deform_groups=2)
    perturb(alignment)
    level, finest = torch.randn(2, 2, 4, 6, 5).unbind()
    expected = alignment(level, finest)
    alignment.to(memory_format=memory_format)
    got = alignment(level.to(memory_format=memory_format), finest.to(memory_format=memory_format))
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize('compose', [True, False])
def test_bfloat16_autocast_samples_in_float32(compose, monkeypatch):
    import mmcv.ops

    head = build_head(compose=compose, norm_cfg=GN)
    expected = head(features())
    operator, dtypes = mmcv.ops.modulated_deform_conv2d, set()

    def recorded(*args):
        dtypes.update(x.dtype for x in args if isinstance(x, torch.Tensor))
        return operator(*args)

    monkeypatch.setattr(mmcv.ops, 'modulated_deform_conv2d', recorded)
    with torch.autocast('cpu', torch.bfloat16):
        got = head(features())
    assert got.dtype == torch.bfloat16
    assert dtypes == {torch.float32}
    assert (got - expected).abs().max() < 0.05 * expected.abs().max()
    got.float().square().mean().backward()
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() and p.grad.any() for p in head.parameters())


def test_a_whole_head_in_bfloat16():
    head = build_head(norm_cfg=GN)
    expected = head(features())
    got = head.bfloat16()([x.bfloat16() for x in features()])
    assert got.dtype == torch.bfloat16
    assert (got - expected).abs().max() < 0.05 * expected.abs().max()


@pytest.mark.parametrize('training', [True, False])
def test_composition_changes_no_state(training):
    composed, plain = build_head(compose=True).train(training), build_head(compose=False).train(training)
    plain.load_state_dict(composed.state_dict())
    torch.testing.assert_close(composed(features()), plain(features()), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize('deform_groups', [0, 3])
def test_bad_deform_groups(deform_groups):
    with pytest.raises(ValueError, match=rf'deform_groups must divide channels=4, got {deform_groups}'):
        build_head(deform_groups=deform_groups)


def test_count_equals_the_formula():
    channels, groups, outputs = 8, 2, 5
    head = build_head(channels=channels, deform_groups=groups)
    norms = sum(2 * c for c in WIDTHS)
    linears = sum((c + 1) * channels for c in WIDTHS)
    alignment = 9 * channels**2 + 27 * groups * (9 * 2 * channels + 1)
    fusion = 4 * channels**2 + 2 * channels
    predictor = (channels + 1) * outputs
    assert sum(p.numel() for p in head.parameters()) == norms + linears + 3 * alignment + fusion + predictor


@pytest.mark.parametrize('task', ['semseg', 'saliency', 'normals', 'depth'])
def test_outputs_are_those_of_the_all_mlp_head(task):
    head = build_head(task=task)
    twin = MODELS.build(dict(type='mmvmt.MLPHead', in_channels=WIDTHS, channels=4, output=OUTPUTS[task]))
    logits = torch.randn(1, head.output.channels, 6, 5)
    assert isinstance(head, MLPHead)
    assert torch.equal(head.predict(logits), twin.predict(logits))


def test_trains_in_a_model():
    cfg = model_cfg()
    for head in cfg['heads'].values():
        head['type'] = 'mmvmt.DeformableHead'
    model = MODELS.build(cfg)
    model.init_weights()
    perturb(model)
    assert all(isinstance(head, DeformableHead) for head in model.heads.values())
    data = batch()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.01)
    first = sum(losses_of(model, data).values())
    first.backward()
    assert not [n for n, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    optimizer.step()
    assert sum(losses_of(model, data).values()) < first


def test_init_weights_keeps_the_identity():
    head = build_head(moved=False)
    head.init_weights()
    assert not any(parameter.any() for parameter in head.alignments.parameters())


def test_a_head_can_be_copied_and_pickled():
    head = build_head().eval()
    for twin in (copy.deepcopy(head), pickle.loads(pickle.dumps(head))):
        assert torch.equal(twin(features()), head(features()))


def test_missing_operators_are_explained_to_who_builds_the_head(monkeypatch):
    monkeypatch.setitem(sys.modules, 'mmcv.ops', None)
    with pytest.raises(ImportError, match=r'compiled operators of mmcv.*--no-build-isolation.*check_operators\.py'):
        build_head()
