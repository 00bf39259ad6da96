# VMT-Adapter, Swin-T, ImageNet-1k encoder, classes and depth of Cityscapes.
_base_ = [
    '../_base_/models/swin_t_mlp_cityscapes.py',
    '../_base_/datasets/cityscapes_mt.py',
    '../_base_/schedules/schedule_40k.py',
    '../_base_/default_runtime.py',
]
model = dict(backbone=dict(plugins=[dict(cfg=dict(type='mmvmt.VMTAdapter', reduction=4), position='ffn')]))
