# Full fine-tuning of the demo's encoder on normals alone: a reference of Delta_m.
_base_ = [
    '../_base_/models/swin_nano_mlp.py',
    '../_base_/datasets/synthetic_mt.py',
    '../_base_/schedules/schedule_synthetic.py',
    '../_base_/synthetic_runtime.py',
]
tasks = ['normals']
model = dict(
    backbone=dict(plugins=[dict(cfg=dict(type='mmvmt.FullFineTuning'))]),
    heads=dict(_delete_=True, normals={{_base_.model.heads.normals}}),
)
train_dataloader = dict(dataset=dict(tasks=tasks))
val_dataloader = dict(dataset=dict(tasks=tasks))
test_dataloader = val_dataloader
val_evaluator = dict(metrics=dict(_delete_=True, normals={{_base_.val_evaluator.metrics.normals}}))
test_evaluator = val_evaluator
# At the rate of the heads the encoder would forget what it was pretrained for.
optim_wrapper = dict(paramwise_cfg=dict(encoder_lr_mult=0.1))
