# Full fine-tuning of one Swin-T on edges alone: a reference of Delta_m.
_base_ = '../vmt/swin_t_edge_pascal.py'
tasks = ['edge']
model = dict(
    backbone=dict(plugins=[dict(cfg=dict(type='mmvmt.FullFineTuning'))]),
    heads=dict(_delete_=True, edge={{_base_.model.heads.edge}}),
)
train_dataloader = dict(dataset=dict(tasks=tasks))
val_dataloader = dict(dataset=dict(tasks=tasks))
test_dataloader = val_dataloader
val_evaluator = dict(metrics=dict(_delete_=True, edge={{_base_.val_evaluator.metrics.edge}}), references=None)
test_evaluator = val_evaluator
