# VMT-Adapter on rendered scenes: the demo's main job. The encoder comes with mmvmt.
_base_ = [
    '../_base_/models/swin_nano_mlp.py',
    '../_base_/datasets/synthetic_mt.py',
    '../_base_/schedules/schedule_synthetic.py',
    '../_base_/synthetic_runtime.py',
]
model = dict(backbone=dict(plugins=[dict(cfg=dict(type='mmvmt.VMTAdapter', reduction=4), position='ffn')]))
# At the rate of heads that start from nothing, adapters move the features of the pretrained encoder too fast.
optim_wrapper = dict(paramwise_cfg=dict(adapter_lr_mult=0.2))
