# The frozen encoder of the demo, only the heads learn.
_base_ = '../vmt/swin_nano_synthetic.py'
model = dict(backbone=dict(plugins=[dict(cfg=dict(type='mmvmt.DecodersOnly'))]))
