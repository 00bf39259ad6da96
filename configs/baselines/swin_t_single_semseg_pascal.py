# Full fine-tuning of one Swin-T on semseg alone: a reference of Delta_m.
_base_ = './swin_t_full_multitask_pascal.py'
tasks = ['semseg']
model = dict(heads=dict(_delete_=True, semseg={{_base_.model.heads.semseg}}))
train_dataloader = dict(dataset=dict(tasks=tasks))
val_dataloader = dict(dataset=dict(tasks=tasks))
test_dataloader = val_dataloader
val_evaluator = dict(
    metrics=dict(_delete_=True, semseg={{_base_.val_evaluator.metrics.semseg}}),
    references=dict(_delete_=True, semseg={{_base_.val_evaluator.references.semseg}}),
)
test_evaluator = val_evaluator
