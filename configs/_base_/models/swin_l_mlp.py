# Swin-L, ImageNet-22k, with mmseg's published weights.
_base_ = './swin_mlp.py'
checkpoint = 'https://mmassets.onedl.ai/mmsegmentation/v0.5/pretrain/swin/swin_large_patch4_window7_224_22k_20220412-aeecf2aa.pth'
model = dict(
    backbone=dict(
        init_cfg=dict(type='Pretrained', checkpoint=checkpoint),
        embed_dims=192,
        depths=(2, 2, 18, 2),
        num_heads=(6, 12, 24, 48),
        drop_path_rate=0.1,
    ),
)
