# PVT v2-B2 of timm, ImageNet-1k, with the weights of its authors.
_base_ = './swin_mlp.py'
checkpoint = 'https://github.com/whai362/PVT/releases/download/v2/pvt_v2_b2.pth'
model = dict(
    backbone=dict(
        type='mmvmt.AdaptedBackbone',
        init_cfg=dict(type='Pretrained', checkpoint=checkpoint),
        encoder=dict(type='timm', model_name='pvt_v2_b2', out_indices=(0, 1, 2, 3), drop_path_rate=0.1),
    ),
)
