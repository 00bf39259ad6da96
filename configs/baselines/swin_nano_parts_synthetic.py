# Patch embedding, LayerNorms, position tables and merging, without any adapter, on the demo's encoder.
_base_ = [
    '../_base_/models/swin_nano_mlp.py',
    '../_base_/datasets/synthetic_mt.py',
    '../_base_/schedules/schedule_synthetic.py',
    '../_base_/synthetic_runtime.py',
]
model = dict(backbone=dict(plugins=[dict(cfg=dict(type='mmvmt.PartTuning', merging=True))]))
