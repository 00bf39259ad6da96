# VMT-Adapter on rendered scenes, with heads of mmsegmentation: UPerHead for semseg, FCNHead for normals.
_base_ = [
    '../_base_/models/swin_nano_mlp.py',
    '../_base_/datasets/synthetic_mt.py',
    '../_base_/schedules/schedule_synthetic.py',
    '../_base_/synthetic_runtime.py',
]
norm = dict(type='BN')
model = dict(
    backbone=dict(plugins=[dict(cfg=dict(type='mmvmt.VMTAdapter', reduction=4), position='ffn')]),
    heads=dict(
        semseg=dict(
            _delete_=True,
            type='mmvmt.SegmentorHead',
            decode_head=dict(type='mmseg.UPerHead', channels=32, in_index=[0, 1, 2, 3], norm_cfg=norm),
            output=dict(type='mmvmt.ClassesOutput', num_classes=21),
        ),
        normals=dict(
            _delete_=True,
            type='mmvmt.SegmentorHead',
            decode_head=dict(
                type='mmseg.FCNHead',
                channels=32,
                in_index=[0, 1, 2, 3],
                input_transform='resize_concat',
                norm_cfg=norm,
            ),
            output=dict(
                type='mmvmt.UnitVectorOutput',
                loss=dict(type='mmvmt.L1PixelLoss', unit_vectors=True, loss_weight=10.0),
            ),
        ),
    ),
)
# As for the all-MLP heads: adapters at the heads' rate would move the pretrained encoder's features too fast.
optim_wrapper = dict(paramwise_cfg=dict(adapter_lr_mult=0.2))
