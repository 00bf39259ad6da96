# SegFormer's MiT-B2 of mmseg, ImageNet-1k, with mmseg's published weights.
_base_ = './swin_mlp.py'
checkpoint = 'https://mmassets.onedl.ai/mmsegmentation/v0.5/pretrain/segformer/mit_b2_20220624-66e8bf70.pth'
model = dict(
    backbone=dict(
        type='mmvmt.AdaptedBackbone',
        init_cfg=dict(type='Pretrained', checkpoint=checkpoint),
        encoder=dict(
            type='mmseg.MixVisionTransformer',
            embed_dims=64,
            num_layers=[3, 4, 6, 3],
            num_heads=[1, 2, 5, 8],
            drop_path_rate=0.1,
        ),
    ),
)
