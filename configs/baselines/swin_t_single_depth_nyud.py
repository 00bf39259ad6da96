# Full fine-tuning of one Swin-T on depth of NYUD-v2 alone: a reference of Delta_m.
_base_ = [
    '../_base_/models/swin_t_mlp_nyud.py',
    '../_base_/datasets/nyud_v2_mt.py',
    '../_base_/schedules/schedule_40k.py',
    '../_base_/default_runtime.py',
]
tasks = ['depth']
model = dict(
    backbone=dict(plugins=[dict(cfg=dict(type='mmvmt.FullFineTuning'))]),
    heads=dict(_delete_=True, depth={{_base_.model.heads.depth}}),
)
train_dataloader = dict(dataset=dict(tasks=tasks))
val_dataloader = dict(dataset=dict(tasks=tasks))
test_dataloader = val_dataloader
val_evaluator = dict(metrics=dict(_delete_=True, depth={{_base_.val_evaluator.metrics.depth}}))
test_evaluator = val_evaluator
