# VMT-Adapter, Swin-T, ImageNet-1k encoder, four tasks of PASCAL-Context.
_base_ = [
    '../_base_/models/swin_mlp.py',
    '../_base_/datasets/pascal_context_mt.py',
    '../_base_/schedules/schedule_40k.py',
    '../_base_/default_runtime.py',
]
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
        plugins=[dict(cfg=dict(type='mmvmt.VMTAdapter', reduction=4), position='ffn')],
    ),
)
