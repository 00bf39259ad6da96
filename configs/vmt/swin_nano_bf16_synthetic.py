# VMT-Adapter on rendered scenes, the weights of the frozen encoder stored in bfloat16.
_base_ = './swin_nano_synthetic.py'
model = dict(backbone=dict(frozen_dtype='bfloat16'))
