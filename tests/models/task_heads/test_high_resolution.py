import pytest
import torch
import torch.nn.functional as F
from test_mlp import WIDTHS, features
from tiny import OUTPUTS, perturb

from mmvmt.registry import MODELS

SMALL = (2, 3, 4, 5)


def build(task='semseg', **kwargs):
    torch.manual_seed(0)
    head = dict(type='mmvmt.HighResolutionHead', in_channels=WIDTHS, widths=SMALL, output=OUTPUTS[task])
    return MODELS.build(head | kwargs)


def reference(head, levels):
    """From the definition, pixel by pixel as matrices."""
    size, maps = levels[0].shape[2:], []
    for x, projection in zip(levels, head.projections):
        x = torch.einsum('oc,bchw->bohw', projection.weight[:, :, 0, 0], x)
        maps.append(F.interpolate(x, size=size, mode='bilinear', align_corners=False))
    x = torch.einsum('oc,bchw->bohw', head.widen.weight[:, :, 0, 0], torch.cat(maps, dim=1))
    x = head.norm(x + head.widen.bias.view(1, -1, 1, 1)).clamp(min=0)
    return torch.einsum('oc,bchw->bohw', head.predictor.weight[:, :, 0, 0], x) + head.predictor.bias.view(1, -1, 1, 1)


@pytest.mark.parametrize('training', [True, False])
def test_equals_the_definition_with_gradients(training):
    head, twin = build().train(training), build().train(training)
    for each in (head, twin):
        perturb(each, std=0.1)
    ours, theirs = features(), features()
    got, expected = head(ours), reference(twin, theirs)
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)
    got.square().mean().backward()
    expected.square().mean().backward()
    for a, b in zip((*ours, *head.parameters()), (*theirs, *twin.parameters())):
        torch.testing.assert_close(a.grad, b.grad, atol=1e-4, rtol=1e-3)


def test_four_heads_behind_the_merging_of_swin_t_have_1946624_parameters():
    """What the authors of MTLoRA have for 21 + 7 + 1 + 3 logits."""
    total = 0
    for task, classes in (('semseg', 21), ('human_parts', 7), ('saliency', None), ('normals', None)):
        output = OUTPUTS[task] | (dict(num_classes=classes) if classes else {})
        head = build(task, in_channels=(192, 384, 768, 768), widths=(18, 36, 72, 144), output=output)
        logits = head.output.channels
        expected = 18 * 192 + 36 * 384 + 72 * 768 + 144 * 768 + 270 * 1080 + 1080 + 2 * 1080 + 1080 * logits + logits
        assert sum(p.numel() for p in head.parameters()) == expected
        total += expected
    assert total == 1_946_624


def test_there_is_a_width_for_each_level():
    with pytest.raises(ValueError, match=r'widths must be one for each of the 4 levels, got \[18, 36\]'):
        build(widths=(18, 36))
