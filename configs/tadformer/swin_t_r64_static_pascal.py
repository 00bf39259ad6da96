# TADFormer, rank 64, fixed filters per task as in the published code, Swin-T, ImageNet-1k encoder, four tasks of PASCAL-Context.
_base_ = './swin_t_r64_pascal.py'
model = dict(backbone=dict(plugins=[dict(cfg=dict(type='mmvmt.TADFormer', rank=64, filter='static'))]))
