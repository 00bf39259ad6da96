# TADFormer, rank 64, fixed filters per task as in the published code, Swin-T, ImageNet-1k encoder, four tasks of PASCAL-Context.
_base_ = [
    '../_base_/models/swin_t_mlp.py',
    '../_base_/datasets/pascal_context_mt.py',
    '../_base_/schedules/schedule_40k.py',
    '../_base_/default_runtime.py',
]
model = dict(backbone=dict(plugins=[dict(cfg=dict(type='mmvmt.TADFormer', rank=64, filter='static'))]))
