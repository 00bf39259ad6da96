# TADFormer, rank 16, filters made from the image, Swin-T, ImageNet-1k encoder, four tasks of PASCAL-Context.
_base_ = [
    '../_base_/models/swin_t_mlp.py',
    '../_base_/datasets/pascal_context_mt.py',
    '../_base_/schedules/schedule_40k.py',
    '../_base_/default_runtime.py',
]
model = dict(backbone=dict(plugins=[dict(cfg=dict(type='mmvmt.TADFormer', rank=16))]))
