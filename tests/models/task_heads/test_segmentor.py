import pytest
import torch
import torch.nn.functional as F
from mmengine.structures import PixelData
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.registry import MODELS as MMSEG_MODELS
from mmseg.structures import SegDataSample
from test_mlp import WIDTHS
from tiny import (
    FCN,
    GN,
    OUTPUTS,
    UPER,
    batch,
    label_map,
    losses_of,
    mmseg_heads_cfg,
    perturb,
    segmentor_head,
)
from torch import nn

from mmvmt.models.parameter_groups import count, parameter_groups
from mmvmt.models.task_heads.fitting import in_mmseg
from mmvmt.registry import MODELS

ALL = dict(in_index=[0, 1, 2, 3])
SOME = dict(in_index=[0, 1, 3], input_transform='multiple_select')
COLUMN = (8, 8, 8, 8)
KERNELS = dict(
    type='KernelUpdateHead',
    num_classes=5,
    num_ffn_fcs=2,
    num_heads=2,
    num_mask_fcs=1,
    feedforward_channels=8,
    in_channels=8,
    out_channels=8,
    conv_kernel_size=1,
    ffn_act_cfg=dict(type='ReLU'),
    with_ffn=True,
    feat_transform_cfg=dict(conv_cfg=dict(type='Conv2d'), act_cfg=None),
    kernel_updator_cfg=dict(
        type='KernelUpdator', in_channels=8, feat_channels=8, out_channels=8, norm_cfg=dict(type='LN')
    ),
)
# Every decode head in mmseg's registry: the options with which it is a task's head, or why it cannot be.
HEADS = {
    'ANNHead': dict(in_index=[2, 3], project_channels=8),
    'APCHead': dict(pool_scales=(1, 2)),
    'ASPPHead': dict(dilations=(1, 2)),
    'CCHead': {},
    'DAHead': dict(pam_channels=4),
    'DDRHead': 'learns by a loss that it makes itself',
    'DMHead': dict(filter_sizes=(1, 3)),
    'DNLHead': dict(reduction=2, use_scale=True, mode='embedded_gaussian'),
    'DPTHead': dict(ALL, input_transform='multiple_select', embed_dims=8, post_process_channels=[8, 8, 8, 8]),
    'DepthwiseSeparableASPPHead': dict(c1_in_channels=8, c1_channels=4, dilations=(1, 2)),
    'DepthwiseSeparableFCNHead': {},
    'EMAHead': dict(ema_channels=8, num_bases=4, num_stages=2),
    'EncHead': dict(ALL, num_codes=4, use_se_loss=False),
    'FCNHead': dict(ALL, input_transform='resize_concat'),
    'FPNHead': dict(ALL, feature_strides=[4, 8, 16, 32]),
    'GCHead': {},
    'ISAHead': dict(isa_channels=8, down_factor=(2, 2)),
    'IterativeDecodeHead': dict(
        num_stages=2,
        kernel_generate_head=dict(FCN, num_classes=5, in_channels=32, concat_input=False),
        kernel_update_head=[KERNELS, KERNELS],
    ),
    'KernelUpdateHead': 'is no BaseDecodeHead',
    'LRASPPHead': dict(SOME, branch_channels=(4, 8)),
    'LightHamHead': dict(ALL, ham_channels=8, ham_kwargs=dict(MD_R=4)),
    'Mask2FormerHead': 'is no BaseDecodeHead',
    'MaskFormerHead': 'is no BaseDecodeHead',
    'NLHead': {},
    'OCRHead': 'works on the output of another head',
    'PIDHead': 'learns by a loss that it makes itself',
    'PSAHead': dict(mask_size=(8, 8)),
    'PSPHead': dict(pool_scales=(1, 2)),
    'PointHead': 'works on the output of another head',
    'SETRMLAHead': dict(ALL, mla_channels=2, up_scale=1),
    'SETRUPHead': {},
    'STDCHead': 'learns by a loss that it makes itself',
    'SegformerHead': ALL,
    'SegmenterMaskTransformerHead': dict(num_layers=1, num_heads=2, embed_dims=8, norm_cfg=dict(type='LN')),
    'SideAdapterCLIPHead': 'learns by a loss that it makes itself',
    'UPerHead': dict(ALL, pool_scales=(1, 2)),
    'VPDDepthHead': dict(
        in_channels=[16] * 4, embed_dim=4, feature_dim=32, num_deconv_layers=1, num_deconv_filters=(4,)
    ),
}
USABLE = sorted(name for name, options in HEADS.items() if isinstance(options, dict))
MAPS = {'DAHead': 3, 'IterativeDecodeHead': 3}
FROZEN = {'EMAHead': {'decode_head.ema_mid_conv.conv.weight', 'decode_head.ema_mid_conv.conv.bias'}}


def build(decode_head, task='semseg', widths=WIDTHS, **kwargs):
    torch.manual_seed(0)
    return MODELS.build(segmentor_head(task, decode_head) | dict(in_channels=widths) | kwargs)


def features(widths=WIDTHS, edge=32, seed=1):
    generator = torch.Generator().manual_seed(seed)
    # Levels of one width are of one size, as those of a plain vision transformer.
    edges = [8 if widths == COLUMN else max(edge >> level, 1) for level in range(len(widths))]
    return [torch.randn(2, c, n, n, generator=generator, requires_grad=True) for c, n in zip(widths, edges)]


def labels(task='semseg', size=40):
    generator = torch.Generator().manual_seed(2)
    return torch.stack([label_map(task, size, size, generator) for _ in range(2)])


def test_the_table_has_every_decode_head_of_mmseg():
    found = {name for name, kind in MMSEG_MODELS.module_dict.items() if '.decode_heads.' in kind.__module__}
    # A part of K-Net's.
    assert found - {'KernelUpdator'} == HEADS.keys()
    assert len(USABLE) == 28


@pytest.mark.parametrize('name', USABLE)
def test_every_usable_head_learns_and_predicts(name):
    task = 'depth' if name == 'VPDDepthHead' else 'semseg'
    options = dict(channels=8, norm_cfg=GN) if name not in ('IterativeDecodeHead', 'VPDDepthHead') else {}
    widths = {'DPTHead': COLUMN, 'SETRMLAHead': COLUMN, 'VPDDepthHead': (16,) * 4}.get(name, WIDTHS)
    head = build(dict(type=name) | options | HEADS[name], task, widths)
    maps, channels = features(widths, edge=400 if name == 'LRASPPHead' else 64), head.output.channels

    logits = head.train()(maps)
    number = len(logits) if isinstance(logits, tuple) else 1
    assert number == MAPS.get(name, 1)
    losses = head.losses(logits, labels(task))
    assert len(losses) == number
    head.loss(logits, labels(task)).backward()
    assert {n for n, p in head.named_parameters() if not p.requires_grad} == FROZEN.get(name, set())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters() if p.requires_grad)
    assert tuple(index for index, x in enumerate(maps) if x.grad is not None) == head.levels_read

    head.eval()
    torch.manual_seed(0)
    logits = head(maps)
    assert logits.shape[:2] == (2, channels)
    assert head.predict(logits).shape[:2] == (2, 1)
    if name != 'VPDDepthHead':
        torch.manual_seed(0)
        own = head.decode_head([(x, None) for x in head.neck(maps)] if name == 'DPTHead' else head.neck(maps))
        assert torch.equal(logits, own[0] if isinstance(own, tuple) else own)


@pytest.mark.parametrize('name', sorted(HEADS.keys() - set(USABLE)))
def test_every_other_head_is_refused_with_the_reason(name):
    with pytest.raises(ValueError, match=rf'decode_head\.type cannot be {name}: it {HEADS[name]}'):
        build(dict(type=name, channels=8))


@pytest.mark.parametrize('task', ['semseg', 'saliency', 'normals', 'depth'])
@pytest.mark.parametrize('decode_head', [UPER, FCN], ids=['UPerHead', 'FCNHead'])
def test_every_kind_of_map_gets_its_channels(task, decode_head):
    head = build(decode_head, task)
    assert head.decode_head.conv_seg.out_channels == head.output.channels
    assert not hasattr(head.decode_head, 'loss_decode')
    prediction = head.eval().predict(F.interpolate(head(features()), size=(40, 40)))
    assert prediction.shape == labels(task).shape
    head.loss(head.train()(features()), labels(task)).backward()


def test_values_get_their_channels():
    head = build(FCN, output=dict(type='mmvmt.ValuesOutput', channels=4))
    assert head.predict(head(features())).shape == (2, 4, 8, 8)
    target = torch.rand(2, 4, 40, 40)
    target[:, :, :20] = float('nan')
    loss = head.loss(head(features()), target)
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad is not None for p in head.parameters())


def test_learns_what_mmseg_learns():
    """The losses and gradients of mmseg's own functions: weighted, of several kinds, and of an auxiliary head."""
    losses = [dict(type='CrossEntropyLoss', class_weight=[1.0, 2.0, 3.0, 4.0, 5.0]), dict(type='DiceLoss')]
    main = dict(UPER, loss_decode=losses, align_corners=True, num_classes=5, in_channels=list(WIDTHS), dropout_ratio=0)
    auxiliary = dict(FCN, loss_decode=dict(type='CrossEntropyLoss', loss_weight=0.4), num_classes=5, dropout_ratio=0)
    ours = MODELS.build(
        dict(
            type='mmvmt.SegmentorHead',
            in_channels=WIDTHS,
            output=dict(type='mmvmt.ClassesOutput', num_classes=5),
            decode_head=main,
            auxiliary_head=auxiliary,
            norms=False,
        )
    )
    perturb(ours, std=0.05)
    theirs = [MODELS.build(in_mmseg(cfg)) for cfg in (main, dict(auxiliary, in_channels=WIDTHS[2]))]
    for head, own in zip(theirs, (ours.decode_head, ours.auxiliary_heads[0])):
        head.load_state_dict(own.state_dict())

    # Of ignored pixels mmseg's weights of classes cannot tell in every release.
    maps, others, target = features(), features(), labels().clamp(max=4)
    samples = [SegDataSample(gt_sem_seg=PixelData(data=label.long())) for label in target]
    got = ours.losses(ours(maps), target)
    expected = [head.loss(others, samples, {}) for head in theirs]
    assert list(got) == ['loss_ce', 'loss_dice', 'loss_ce_aux']
    assert sum(got.values()).item() == pytest.approx(
        sum(v.item() for e in expected for k, v in e.items() if 'loss' in k)
    )
    sum(got.values()).backward()
    sum(v for e in expected for k, v in e.items() if 'loss' in k).backward()
    for x, y in zip(maps, others):
        torch.testing.assert_close(x.grad, y.grad, atol=1e-7, rtol=1e-4)
    # At the size of the image too, corners stay where they are.
    assert ours.align_corners


def test_auxiliary_heads_without_losses_have_those_of_the_task():
    head = build(FCN, 'normals', auxiliary_head=[dict(FCN, in_index=1), dict(FCN, in_index=3)], auxiliary_weight=0.25)
    logits = head(features())
    assert [tuple(x.shape) for x in logits] == [(2, 3, 8, 8), (2, 3, 16, 16), (2, 3, 4, 4)]
    losses = head.losses(logits, labels('normals'))
    assert list(losses) == ['loss_l1', 'loss_l1_aux0', 'loss_l1_aux1']
    alone = head.output.losses(F.interpolate(logits[2], size=(40, 40), mode='bilinear'), labels('normals'))
    torch.testing.assert_close(losses['loss_l1_aux1'], 0.25 * alone['loss_l1'])
    assert head.levels_read == (1, 2, 3)
    assert head.eval()(features()).shape == (2, 3, 8, 8)


def test_norms_stand_in_front_of_the_levels_that_are_read():
    head, maps = build(FCN), features()
    assert [type(norm) for norm in head.neck.norms] == [nn.Identity, nn.Identity, nn.LayerNorm, nn.Identity]
    perturb(head)
    normed = F.layer_norm(maps[2].permute(0, 2, 3, 1), (32,), *head.neck.norms[2].parameters()).permute(0, 3, 1, 2)
    maps[2] = normed.contiguous()
    torch.testing.assert_close(head.eval()(features()), head.decode_head(maps))


@pytest.mark.parametrize(
    'change, message',
    [
        (dict(in_index=4), r'decode_head\.in_index is 4, but the features have the levels 0 to 3, of 8, 16, 32, 64'),
        (dict(in_index=[0, -5]), r'in_index is \[0, -5\], but'),
        (dict(in_channels=16), r'decode_head\.in_channels is 16, but the features at in_index=2 have 32 channels'),
        (dict(num_classes=4), r'num_classes is 4, but the output \(ClassesOutput\) has 5 channels; leave it out'),
        (dict(out_channels=1), r'decode_head\.out_channels is 1, but'),
        (dict(threshold=0.3), r'decode_head\.threshold has no place here'),
        (dict(ignore_index=0), r'decode_head\.ignore_index must be that of the task, 255'),
        (dict(chanels=3), r"decode_head \(FCNHead\) cannot be built: TypeError.*unexpected keyword argument 'chanels'"),
        (dict(in_index=[1, 2]), r'decode_head \(FCNHead\) cannot be built: AssertionError: an assertion without'),
        (dict(type='mmseg.NoHead'), r"decode_head\.type is 'mmseg\.NoHead', which is not in the registry"),
        (dict(loss_decode=dict(type='SiLogLoss')), r'ClassesOutput cannot learn its 5 logits per pixel by SiLogLoss'),
    ],
)
def test_a_head_that_does_not_fit_is_refused_by_key(change, message):
    with pytest.raises(ValueError, match=message):
        build(dict(FCN, **change))


@pytest.mark.parametrize(
    'decode_head, widths, message',
    [
        (
            dict(type='EncHead', channels=8, **ALL, num_codes=4),
            WIDTHS,
            r'EncHead\) gives \(2, 5\) .* maps of 5 channels',
        ),
        (dict(HEADS['DPTHead'], type='DPTHead', channels=8, readout_type='add'), COLUMN, "readout_type is 'add'"),
        (dict(HEADS['DPTHead'], type='DPTHead', channels=8), WIDTHS, r'decode_head \(DPTHead\) cannot be run'),
        (
            dict(HEADS['SETRMLAHead'], type='SETRMLAHead', channels=8),
            WIDTHS,
            r'\(SETRMLAHead\) cannot be run on features of \(8, 16, 32, 64\) channels: RuntimeError: Sizes',
        ),
        (
            dict(type='LightHamHead', channels=8, **ALL, ham_channels=8, ham_kwargs=dict(MD_R=4, rand_init=False)),
            WIDTHS,
            r'hamburger\.ham\.bases would be there only after it has run',
        ),
    ],
)
def test_options_that_are_for_other_features_are_refused(decode_head, widths, message):
    with pytest.raises(ValueError, match=message):
        build(decode_head, widths=widths)


def test_losses_are_given_once_and_come_before_those_of_the_task():
    loss = dict(type='CrossEntropyLoss', loss_weight=2.0)
    head = segmentor_head('semseg', dict(FCN, loss_decode=loss))
    twice = dict(head, output=dict(OUTPUTS['semseg'], loss=dict(type='mmseg.CrossEntropyLoss')), in_channels=WIDTHS)
    with pytest.raises(ValueError, match=r'decode_head\.loss_decode and output\.loss are both given'):
        MODELS.build(twice)
    declared = dict(kind='classes', classes=5, loss=dict(type='mmseg.DiceLoss'))
    cfg = mmseg_heads_cfg()
    cfg |= dict(tasks=dict(fields=declared), heads=dict(fields=dict(head, output={})))
    model = MODELS.build(cfg)
    assert [loss.loss_weight for loss in model.heads['fields'].output.loss_decode] == [2.0]


# Two heads of mmseg in one model --------------------------------------------------------------------------------------


def uper_parameters(widths, channels, scales, classes):
    """UPerHead by its definition: pooled levels, laterals, 3x3 convolutions, with a norm of two vectors each."""
    *lower, top = widths

    def conv(inputs, kernel):
        return inputs * channels * kernel**2 + 2 * channels

    pooled = len(scales) * conv(top, 1) + conv(top + len(scales) * channels, 3)
    pyramid = sum(conv(width, 1) + conv(channels, 3) for width in lower) + conv(len(widths) * channels, 3)
    return pooled + pyramid + (channels + 1) * classes


def fcn_parameters(width, channels, classes):
    """FCNHead with one convolution, whose output is concatenated with its input and convolved."""
    return 9 * channels * width + 9 * channels * (width + channels) + 4 * channels + (channels + 1) * classes


def test_two_heads_of_mmseg_in_one_model_have_the_parameters_of_their_formulas():
    groups = parameter_groups(MODELS.build(mmseg_heads_cfg()))
    norms = 2 * sum(WIDTHS) + 2 * WIDTHS[2]
    expected = uper_parameters(WIDTHS, 8, (1, 2), 5) + fcn_parameters(WIDTHS[2], 8, 3) + norms
    assert count(groups['decoders']) == expected
    assert count(groups['norms_biases']) == count(groups['encoder_weights']) == 0


def test_two_heads_of_mmseg_in_one_model_have_the_gradients_of_their_definitions():
    """Features from the encoder, mmseg's heads and losses of their own put together by hand."""
    cfg = mmseg_heads_cfg()
    cfg['heads']['semseg']['decode_head'] |= dict(dropout_ratio=0.0)
    cfg['heads']['normals']['decode_head'] = dict(FCN, dropout_ratio=0.0)
    torch.manual_seed(0)
    model = MODELS.build(cfg)
    perturb(model, std=0.1)
    data = batch(('semseg', 'normals'))
    losses = losses_of(model, data)
    sum(losses.values()).backward()
    got = {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}

    model.zero_grad()
    packed = model.data_preprocessor(data, True)
    total = 0
    for task, maps in model.backbone(packed['inputs']).items():
        head = model.heads[task]
        normed = [F.layer_norm(x.permute(0, 2, 3, 1), (x.shape[1],)).permute(0, 3, 1, 2) for x in maps]
        for index, norm in enumerate(head.neck.norms):
            if isinstance(norm, nn.LayerNorm):
                normed[index] = normed[index] * norm.weight.view(1, -1, 1, 1) + norm.bias.view(1, -1, 1, 1)
        assert isinstance(head.decode_head, BaseDecodeHead)
        logits = F.interpolate(head.decode_head([x.contiguous() for x in normed]), size=(64, 64), mode='bilinear')
        target = torch.stack([sample.gt.get(task) for sample in packed['data_samples']])
        if task == 'semseg':
            total = total + F.cross_entropy(logits, target[:, 0].long(), ignore_index=255)
        else:
            known = (target != 0).any(dim=1)
            distance = (F.normalize(logits, dim=1) - target).abs().movedim(1, -1)[known]
            total = total + distance.mean()
    total.backward()
    assert total.item() == pytest.approx(sum(losses.values()).item(), rel=1e-5)
    assert got.keys() == {name for name, p in model.named_parameters() if p.requires_grad}
    for name, p in model.named_parameters():
        if p.requires_grad:
            torch.testing.assert_close(got[name], p.grad, atol=1e-6, rtol=1e-3, msg=name)


def test_the_model_names_task_and_key():
    cfg = mmseg_heads_cfg()
    cfg['heads']['normals']['decode_head'] = dict(FCN, num_classes=4)
    with pytest.raises(ValueError, match=r'model\.heads\.normals: decode_head\.num_classes is 4, but the output'):
        MODELS.build(cfg)


def test_predicts_by_its_own_corners_and_without_auxiliary_heads():
    cfg = mmseg_heads_cfg()
    cfg['heads']['semseg']['decode_head'] = dict(UPER, align_corners=True)
    cfg['heads']['normals']['auxiliary_head'] = FCN
    model = MODELS.build(cfg).eval()
    images = model.data_preprocessor(batch(('semseg', 'normals')))['inputs']
    logits = model.full_logits(images, [])
    with torch.no_grad():
        own = model.heads['semseg'](model.extract_feat(images)['semseg'])
    torch.testing.assert_close(logits['semseg'], F.interpolate(own, (64, 64), mode='bilinear', align_corners=True))
    # In training mode as well, the prediction is that of the decode head.
    assert model.train().full_logits(images, [])['normals'].shape == (2, 3, 64, 64)
