# VMT-Adapter on rendered scenes, the weights of the frozen encoder stored in bfloat16.
_base_ = [
    '../_base_/models/swin_nano_mlp.py',
    '../_base_/datasets/synthetic_mt.py',
    '../_base_/schedules/schedule_synthetic.py',
    '../_base_/synthetic_runtime.py',
]
vmt = dict(type='mmvmt.VMTAdapter', reduction=4)
model = dict(backbone=dict(frozen_dtype='bfloat16', plugins=[dict(cfg=vmt, position='ffn')]))
# As without bfloat16.
optim_wrapper = dict(paramwise_cfg=dict(adapter_lr_mult=0.2))
