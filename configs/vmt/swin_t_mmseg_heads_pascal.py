# VMT-Adapter, Swin-T, four tasks of PASCAL-Context, a head of mmsegmentation's for each but one: UPerHead with an auxiliary
# head for semseg, SegformerHead for human parts, FCNHead behind an FPN for normals; saliency keeps the all-MLP head. The
# decoders train at half the rate, the one of semseg, with the most parameters, at a quarter.
_base_ = [
    '../_base_/models/swin_t_mlp.py',
    '../_base_/datasets/pascal_context_mt.py',
    '../_base_/schedules/schedule_40k.py',
    '../_base_/default_runtime.py',
]
norm = dict(type='BN')  # on several GPUs sync_bn makes it SyncBatchNorm
levels = [0, 1, 2, 3]
model = dict(
    backbone=dict(plugins=[dict(cfg=dict(type='mmvmt.VMTAdapter', reduction=4), position='ffn')]),
    heads=dict(
        semseg=dict(
            _delete_=True,
            type='mmvmt.SegmentorHead',
            decode_head=dict(
                type='mmseg.UPerHead',
                channels=128,
                in_index=levels,
                norm_cfg=norm,
                loss_decode=dict(type='mmseg.CrossEntropyLoss', avg_non_ignore=True, loss_weight=1.0),
            ),
            auxiliary_head=dict(
                type='mmseg.FCNHead',
                channels=64,
                in_index=2,
                num_convs=1,
                concat_input=False,
                norm_cfg=norm,
                loss_decode=dict(type='mmseg.CrossEntropyLoss', avg_non_ignore=True, loss_weight=0.4),
            ),
            output=dict(type='mmvmt.ClassesOutput', num_classes=21),
        ),
        human_parts=dict(
            _delete_=True,
            type='mmvmt.SegmentorHead',
            decode_head=dict(type='mmseg.SegformerHead', channels=128, in_index=levels, norm_cfg=norm),
            output=dict(
                type='mmvmt.ClassesOutput',
                num_classes=7,
                loss=dict(type='mmseg.CrossEntropyLoss', avg_non_ignore=True, loss_weight=2.0),
            ),
        ),
        normals=dict(
            _delete_=True,
            type='mmvmt.SegmentorHead',
            neck=dict(type='mmseg.FPN', out_channels=128, num_outs=4),
            decode_head=dict(
                type='mmseg.FCNHead',
                channels=64,
                in_index=levels,
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
optim_wrapper = dict(paramwise_cfg=dict(decoder_lr_mult=0.5, task_lr_mult=dict(semseg=0.5)))
