# A Swin small enough for two CPU cores: 2.7 M parameters, windows of 5 that divide 160 x 160 images without padding.
_base_ = './swin_mlp.py'
model = dict(
    backbone=dict(
        # Beside this folder in a clone and in an installed package, wherever a run is started.
        init_cfg=dict(type='Pretrained', checkpoint='{{ fileDirname }}/../../../demo/weights/swin_nano.safetensors'),
        embed_dims=32,
        depths=(2, 2, 4, 2),
        num_heads=(2, 4, 8, 16),
        window_size=5,
        drop_path_rate=0.0,
    ),
    heads=dict(
        semseg=dict(channels=64),
        human_parts=dict(channels=64),
        saliency=dict(channels=64),
        normals=dict(channels=64),
    ),
)
