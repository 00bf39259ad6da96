# Swin V2-T of mmpretrain, ImageNet-1k at 256 pixels, windows of 8; with mmpretrain's published weights.
_base_ = './swin_mlp.py'
checkpoint = (
    'https://mmassets.onedl.ai/mmclassification/v0/swin-v2/swinv2-tiny-w8_3rdparty_in1k-256px_20220803-e318968f.pth'
)
model = dict(
    backbone=dict(
        type='mmvmt.AdaptedBackbone',
        init_cfg=dict(type='Pretrained', checkpoint=checkpoint),
        encoder=dict(
            type='mmpretrain.SwinTransformerV2',
            arch='tiny',
            img_size=256,
            window_size=8,
            drop_path_rate=0.2,
            out_indices=(0, 1, 2, 3),
        ),
    ),
)
