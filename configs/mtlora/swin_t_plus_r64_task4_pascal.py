# MTLoRA+, rank 64 shared and 4 per task (configs named "pertask" in the public code), Swin-T, ImageNet-1k encoder, four
# tasks of PASCAL-Context.
_base_ = './swin_t_plus_r4_pascal.py'
model = dict(backbone=dict(plugins=[dict(cfg=dict(type='mmvmt.MTLoRAPlus', rank=64, task_rank=4))]))
