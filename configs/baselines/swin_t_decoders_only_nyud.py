# Frozen Swin-T, only the heads learn, on NYUD-v2.
_base_ = [
    '../_base_/models/swin_t_mlp_nyud.py',
    '../_base_/datasets/nyud_v2_mt.py',
    '../_base_/schedules/schedule_40k.py',
    '../_base_/default_runtime.py',
]
model = dict(backbone=dict(plugins=[dict(cfg=dict(type='mmvmt.DecodersOnly'))]))
