# DINOv2's ViT-B/14 of mmpretrain, of which the blocks up to each of four end a stage; images are padded to whole patches.
_base_ = './swin_mlp.py'
checkpoint = 'https://mmassets.onedl.ai/mmpretrain/v1.0/dinov2/vit-base-p14_dinov2-pre_3rdparty_20230426-ba246503.pth'
model = dict(
    backbone=dict(
        type='mmvmt.AdaptedBackbone',
        init_cfg=dict(type='Pretrained', checkpoint=checkpoint),
        encoder=dict(
            type='mmpretrain.VisionTransformer',
            arch='base',
            img_size=518,
            patch_size=14,
            layer_scale_init_value=1e-5,
            drop_path_rate=0.1,
            out_indices=[2, 5, 8, 11],
            out_type='featmap',
        ),
    ),
)
