# Frozen Swin V2-T, only the heads learn.
_base_ = [
    '../_base_/models/swin_v2_t_mlp.py',
    '../_base_/datasets/pascal_context_mt.py',
    '../_base_/schedules/schedule_40k.py',
    '../_base_/default_runtime.py',
]
model = dict(backbone=dict(plugins=[dict(cfg=dict(type='mmvmt.DecodersOnly'))]))
