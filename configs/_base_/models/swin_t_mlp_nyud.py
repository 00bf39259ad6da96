# Swin-T, ImageNet-1k, and one SegFormer all-MLP head per task of NYUD-v2; losses and weights as in the field's benchmark.
_base_ = './swin_mlp.py'
checkpoint = (
    'https://mmassets.onedl.ai/mmsegmentation/v0.5/pretrain/swin/swin_tiny_patch4_window7_224_20220317-1cdeb081.pth'
)
model = dict(
    backbone=dict(
        init_cfg=dict(type='Pretrained', checkpoint=checkpoint),
        embed_dims=96,
        depths=(2, 2, 6, 2),
        num_heads=(3, 6, 12, 24),
        drop_path_rate=0.1,
    ),
    heads=dict(
        _delete_=True,
        semseg=dict(
            type='mmvmt.MLPHead',
            channels=256,
            output=dict(
                type='mmvmt.ClassesOutput',
                num_classes=40,
                loss=dict(type='mmseg.CrossEntropyLoss', avg_non_ignore=True, loss_weight=1.0),
            ),
        ),
        depth=dict(
            type='mmvmt.MLPHead',
            channels=256,
            output=dict(type='mmvmt.DepthOutput', loss=dict(type='mmvmt.L1PixelLoss', loss_weight=1.0)),
        ),
        normals={{_base_.model.heads.normals}},
        edge=dict(
            type='mmvmt.MLPHead',
            channels=256,
            output=dict(
                type='mmvmt.ProbabilityOutput',
                loss=dict(type='mmvmt.WeightedBCELoss', positive_weight=0.95, loss_weight=50.0),
            ),
        ),
    ),
)
