# VMT-Adapter, Swin-T, four tasks of PASCAL-Context, the weights of the frozen encoder stored in bfloat16; adapters, norms
# and heads stay in float32.
_base_ = './swin_t_pascal.py'
model = dict(backbone=dict(frozen_dtype='bfloat16'))
