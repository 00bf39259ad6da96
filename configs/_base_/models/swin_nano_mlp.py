# A Swin small enough for two CPU cores: 2.7 M parameters, windows of 4 that divide 128 x 128 images without padding.
_base_ = './swin_mlp.py'
model = dict(
    backbone=dict(
        init_cfg=dict(type='Pretrained', checkpoint='work_dirs/demo/encoder.pth'),
        embed_dims=32,
        depths=(2, 2, 4, 2),
        num_heads=(2, 4, 8, 16),
        window_size=4,
        drop_path_rate=0.0,
    ),
    heads=dict(
        semseg=dict(channels=64),
        human_parts=dict(channels=64),
        saliency=dict(channels=64),
        normals=dict(channels=64),
    ),
)
