# Full fine-tuning of one Swin-T on saliency alone: a reference of Delta_m.
_base_ = './swin_t_full_multitask_pascal.py'
tasks = ['saliency']
model = dict(heads=dict(_delete_=True, saliency={{_base_.model.heads.saliency}}))
train_dataloader = dict(dataset=dict(tasks=tasks))
val_dataloader = dict(dataset=dict(tasks=tasks))
test_dataloader = val_dataloader
val_evaluator = dict(
    metrics=dict(_delete_=True, saliency={{_base_.val_evaluator.metrics.saliency}}),
    references=dict(_delete_=True, saliency={{_base_.val_evaluator.references.saliency}}),
)
test_evaluator = val_evaluator
