# Full fine-tuning of the demo's encoder on four tasks.
_base_ = [
    '../_base_/models/swin_nano_mlp.py',
    '../_base_/datasets/synthetic_mt.py',
    '../_base_/schedules/schedule_synthetic.py',
    '../_base_/synthetic_runtime.py',
]
model = dict(backbone=dict(plugins=[dict(cfg=dict(type='mmvmt.FullFineTuning'))]))
# At the rate of the heads the encoder would forget what it was pretrained for.
optim_wrapper = dict(paramwise_cfg=dict(encoder_lr_mult=0.1))
