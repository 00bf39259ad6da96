# Half the width of swin_nano_mlp.py and two blocks per stage; the same heads.
_base_ = './swin_mlp.py'
model = dict(
    backbone=dict(
        init_cfg=dict(type='Pretrained', checkpoint='{{ fileDirname }}/../../../demo/weights/swin_pico.safetensors'),
        embed_dims=16,
        depths=(2, 2, 2, 2),
        num_heads=(1, 2, 4, 8),
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
