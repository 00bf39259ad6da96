# mmsegmentation's SegFormer head on ADE20K, over Swin-T with VMT-Adapter.
_base_ = 'mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py'
custom_imports = dict(imports=['mmvmt'])
checkpoint = (
    'https://mmassets.onedl.ai/mmsegmentation/v0.5/pretrain/swin/swin_tiny_patch4_window7_224_20220317-1cdeb081.pth'
)
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmvmt.AdaptedSwin',
        init_cfg=dict(type='Pretrained', checkpoint=checkpoint),
        embed_dims=96,
        depths=(2, 2, 6, 2),
        num_heads=(3, 6, 12, 24),
        drop_path_rate=0.1,
        plugins=[dict(cfg=dict(type='mmvmt.VMTAdapter', reduction=4))],
    ),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
)
custom_hooks = [dict(type='mmvmt.PEFTHook')]
