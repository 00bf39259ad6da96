import pytest
import torch
import torch.nn.functional as F
from test_mlp import WIDTHS
from test_segmentor import COLUMN, build, features
from tiny import FCN, UPER, batch, losses_of, mmseg_heads_cfg, model_cfg, perturb, tiny_model
from torch import nn

from mmvmt.models.parameter_groups import count, parameter_groups
from mmvmt.models.task_heads import Neck
from mmvmt.registry import MODELS

FPN = dict(type='mmseg.FPN', out_channels=12, num_outs=4)
# Every neck that gives maps of its own from maps alone: the widths of what goes in, and of what comes out.
NECKS = {
    'FPN': (FPN, WIDTHS, (12,) * 4),
    'Feature2Pyramid': (dict(type='Feature2Pyramid', norm_cfg=dict(type='BN')), COLUMN, COLUMN),
    'MultiLevelNeck': (dict(type='mmseg.MultiLevelNeck', out_channels=12, scales=[4, 2, 1, 0.5]), COLUMN, (12,) * 4),
    'MLANeck': (dict(type='mmseg.MLANeck', out_channels=12), COLUMN, (12,) * 4),
    'JPU': (
        dict(type='mmseg.JPU', in_channels=WIDTHS, mid_channels=4, start_level=1, dilations=(1, 2)),
        WIDTHS,
        (16, 32, 8),
    ),
    'ICNeck': (
        dict(type='mmseg.ICNeck', out_channels=4, norm_cfg=dict(type='BN'), align_corners=False),
        WIDTHS[:3],
        (4, 4, 4),
    ),
}


@pytest.mark.parametrize('name', sorted(NECKS))
def test_necks_are_built_for_the_features_and_say_what_they_give(name):
    cfg, widths, expected = NECKS[name]
    neck = Neck(widths, cfg)
    maps = neck(features(widths))
    assert neck.out_channels == tuple(x.shape[1] for x in maps) == expected
    normed = [F.layer_norm(x.permute(0, 2, 3, 1), (x.shape[1],)).permute(0, 3, 1, 2) for x in features(widths)]
    for x, y in zip(maps, neck.eval().layers([x.contiguous() for x in normed])):
        assert x.shape == y.shape
    assert torch.equal(neck(features(widths))[0], neck.layers([x.contiguous() for x in normed])[0])


class Pooled(nn.Module):
    """No neck: what it gives are no maps."""

    def forward(self, features):
        return [x.mean(dim=(2, 3)) for x in features]


@pytest.mark.parametrize(
    'cfg, message',
    [
        (dict(FPN, in_channels=[8, 16]), r'neck\.in_channels is \[8, 16\], but the features have \[8, 16, 32, 64\]'),
        (dict(FPN, num_outs=2), r'neck \(FPN\) cannot be built: AssertionError'),
        (dict(type='Feature2Pyramid', embed_dim=8), r'neck \(Feature2Pyramid\) cannot be run on features of \(8, 16'),
        (dict(type='mmseg.NoNeck'), r"neck\.type is 'mmseg\.NoNeck', which is not in the registry"),
        (dict(type=Pooled), r'neck \(Pooled\) gives no maps'),
    ],
)
def test_a_neck_that_does_not_fit_is_refused(cfg, message):
    with pytest.raises(ValueError, match=message):
        Neck(WIDTHS, cfg)


def test_a_neck_of_one_task_stands_in_its_head():
    head = build(dict(UPER, in_channels=[12] * 4), neck=FPN)
    assert [
        x.in_channels for x in (head.decode_head.lateral_convs[0].conv, head.neck.layers.lateral_convs[3].conv)
    ] == [
        12,
        64,
    ]
    logits = head(features())
    logits.sum().backward()
    assert all(p.grad is not None for p in head.parameters())
    with pytest.raises(ValueError, match=r'decode_head\.in_channels is \[8, 16, 32, 64\], but the features .*12, 12'):
        build(dict(UPER, in_channels=list(WIDTHS)), neck=FPN)
    with pytest.raises(ValueError, match=r'in_index is 4, but the features have the levels 0 to 3, of 12'):
        build(dict(FCN, in_index=4), neck=FPN)


def test_what_nothing_reads_of_a_neck_is_frozen():
    """The convolutions of three outputs: without a gradient they would stop a training on several ranks."""
    head = build(dict(FCN, in_index=0), neck=FPN)
    frozen = {name for name, p in head.named_parameters() if not p.requires_grad}
    assert frozen == {f'neck.layers.fpn_convs.{n}.conv.{part}' for n in (1, 2, 3) for part in ('weight', 'bias')}
    head(features()).sum().backward()
    assert all((p.grad is None) == (name in frozen) for name, p in head.named_parameters())


def with_neck(plugins=(), **kwargs):
    cfg = mmseg_heads_cfg(plugins=plugins, neck=FPN, **kwargs)
    for head in cfg['heads'].values():
        head['norms'] = False
    return cfg


def test_tasks_share_a_neck_of_the_model():
    torch.manual_seed(0)
    model = MODELS.build(with_neck())
    assert isinstance(model.heads['semseg'].neck.norms[0], nn.Identity)
    groups = parameter_groups(model)
    assert count(groups['decoders']) == count(p for part in (model.heads, model.neck) for p in part.parameters())
    calls = []
    model.neck.register_forward_hook(lambda *_: calls.append(1))
    data, gradients = batch(('semseg', 'normals')), []
    for at_once in (True, False):
        model.gradients_at_once = at_once
        model.zero_grad()
        torch.manual_seed(1)
        sum(losses_of(model, data).values()).backward()
        gradients.append([p.grad.clone() for p in (*model.neck.parameters(), *model.heads.parameters())])
    for a, b in zip(*gradients):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)
    # Without adapters the tasks have the same features: one run each.
    assert len(calls) == 2


def test_a_neck_runs_once_for_every_task_with_features_of_its_own():
    model = MODELS.build(with_neck(plugins=[dict(cfg=dict(type='mmvmt.VMTAdapter', reduction=2))])).eval()
    perturb(model)
    images = torch.randn(1, 3, 64, 64)
    got = model(images)
    for task, maps in model.backbone(images).items():
        torch.testing.assert_close(got[task], model.heads[task](model.neck(maps)))
    assert not torch.allclose(*(maps[0] for maps in model.extract_feat(images).values()))


def test_levels_that_no_head_reads_are_frozen_in_a_shared_neck():
    cfg = with_neck()
    cfg['heads'] = dict(normals=dict(cfg['heads']['normals'], decode_head=dict(FCN, in_index=1)))
    model = MODELS.build(cfg)
    frozen = {name for name, p in model.neck.named_parameters() if not p.requires_grad}
    assert frozen == {f'layers.fpn_convs.{n}.conv.{part}' for n in (0, 2, 3) for part in ('weight', 'bias')} | {
        f'layers.lateral_convs.0.conv.{part}' for part in ('weight', 'bias')
    } | {'norms.0.weight', 'norms.0.bias'}


def test_heads_of_our_own_stand_behind_a_neck_too():
    model = tiny_model(('semseg',), plugins=(), neck=FPN)
    assert model.heads['semseg'].in_channels == (12,) * 4
    assert model(torch.randn(1, 3, 64, 64))['semseg'].shape == (1, 5, 16, 16)


def test_a_shared_neck_rests_while_single_tasks_train():
    model = MODELS.build(with_neck() | dict(train_cfg=dict(tasks=['normals'])))
    assert not model.neck.training
    assert not any(p.requires_grad for p in model.neck.parameters())
    model.set_trained_tasks()
    assert model.neck.training
    assert all(p.requires_grad for p in model.neck.parameters())


def test_a_neck_of_the_model_is_named_in_errors():
    with pytest.raises(ValueError, match=r'model\.neck \(FPN\) cannot be built'):
        MODELS.build(model_cfg(neck=dict(FPN, num_outs=1)))
