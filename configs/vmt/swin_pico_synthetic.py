# VMT-Adapter on the smaller encoder of the scaling experiment.
_base_ = [
    '../_base_/models/swin_pico_mlp.py',
    '../_base_/datasets/synthetic_mt.py',
    '../_base_/schedules/schedule_synthetic.py',
    '../_base_/synthetic_runtime.py',
]
model = dict(backbone=dict(plugins=[dict(cfg=dict(type='mmvmt.VMTAdapter', reduction=4), position='ffn')]))
