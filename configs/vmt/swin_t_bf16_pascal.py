# VMT-Adapter, Swin-T, four tasks of PASCAL-Context, the weights of the frozen encoder stored in bfloat16; adapters, norms
# and heads stay in float32.
_base_ = [
    '../_base_/models/swin_t_mlp.py',
    '../_base_/datasets/pascal_context_mt.py',
    '../_base_/schedules/schedule_40k.py',
    '../_base_/default_runtime.py',
]
vmt = dict(type='mmvmt.VMTAdapter', reduction=4)
model = dict(backbone=dict(frozen_dtype='bfloat16', plugins=[dict(cfg=vmt, position='ffn')]))
