"""What files say of heads and necks of mmseg, beyond the shapes of their weights."""

import json

import pytest
import torch
from mmseg.models.decode_heads import FCNHead
from tiny import FCN, UPER, mmseg_heads_cfg, perturb

from mmvmt.engine.adapter_file import load_adapter, read_adapter, save_adapter
from mmvmt.models.head_records import head_records, neck_record, part_record
from mmvmt.registry import MODELS

FPN = dict(type='FPN', out_channels=8, num_outs=4)


def build(seed=0, semseg=UPER, normals=FCN, **kwargs):
    cfg = mmseg_heads_cfg(**kwargs)
    cfg['heads']['semseg']['decode_head'] = semseg
    cfg['heads']['normals']['decode_head'] = normals
    torch.manual_seed(0)
    model = MODELS.build(cfg)
    perturb(model.heads, seed)
    return model.eval()


def test_a_config_has_one_way_to_be_written():
    short = dict(type='FCNHead', channels=8, in_index=2, num_convs=1, norm_cfg=dict(type='BN'))
    long = dict(short, type=FCNHead, kernel_size=3, act_cfg=dict(type='ReLU'), norm_cfg=dict(type='SyncBN'))
    long |= dict(dropout_ratio=0.5, in_channels=32, align_corners=False, init_cfg=None)
    assert part_record(dict(short, type='mmseg.FCNHead')) == part_record(long) == short
    assert part_record(dict(long, dilation=2)) == dict(short, dilation=2)


def test_records_are_the_same_after_they_were_written_and_none_where_there_is_nothing():
    model = build(neck=FPN)
    records = head_records(model)
    assert json.loads(json.dumps(records)) == records
    assert records['semseg']['parts']['decode_head']['pool_scales'] == [1, 2]
    assert neck_record(model) == FPN
    assert neck_record(build()) is None


def test_an_adapter_file_holds_the_heads(tmp_path):
    path, source, target = tmp_path / 'adapter.safetensors', build(1, neck=FPN), build(2, neck=FPN)
    manifest = save_adapter(source, path)
    assert manifest['heads'] == head_records(source)
    assert manifest['neck'] == FPN
    names = read_adapter(path).tensors.keys()
    assert {'neck.layers.fpn_convs.0.conv.weight', 'heads.normals.decode_head.conv_seg.weight'} <= names
    load_adapter(target, path)
    images = torch.randn(1, 3, 64, 64)
    for task, logits in source(images).items():
        assert torch.equal(logits, target(images)[task])


@pytest.mark.parametrize(
    'change, message',
    [
        (
            dict(normals=dict(FCN, dilation=2)),
            r"another head of task 'normals', .*'dilation': None.*has .*'dilation': 2",
        ),
        (dict(semseg=dict(UPER, align_corners=True)), r"head of task 'semseg', .*has .*'align_corners': True"),
        (dict(neck=dict(FPN, upsample_cfg=dict(mode='bilinear'))), r"another neck, .*has .*'mode': 'bilinear'"),
        (dict(neck=None), r"another neck, {'type': 'FPN'.*has None"),
    ],
)
def test_another_function_of_the_same_weights_is_refused(change, message, tmp_path):
    path = tmp_path / 'adapter.safetensors'
    save_adapter(build(neck=FPN), path)
    with pytest.raises(ValueError, match=message):
        load_adapter(build(**(dict(neck=FPN) | change)), path)


def test_checkpoints_with_another_neck_load_on_request_alone():
    weights = build(1, neck=FPN).state_dict()
    with pytest.raises(ValueError, match=r'than this model: it has besides neck\.layers'):
        build().load_state_dict(weights)
    model = build(2, strict_heads=False, neck=dict(FPN, out_channels=4))
    before = model.neck.layers.fpn_convs[0].conv.weight.clone()
    model.load_state_dict(weights)
    assert torch.equal(model.neck.layers.fpn_convs[0].conv.weight, before)
    assert torch.equal(
        model.heads['normals'].decode_head.conv_seg.weight, weights['heads.normals.decode_head.conv_seg.weight']
    )
