# Full fine-tuning of one Swin-T on edges alone: a reference of Delta_m.
_base_ = [
    '../_base_/models/swin_t_mlp.py',
    '../_base_/datasets/pascal_context_mt.py',
    '../_base_/schedules/schedule_40k.py',
    '../_base_/default_runtime.py',
]
tasks = ['edge']
model = dict(
    backbone=dict(plugins=[dict(cfg=dict(type='mmvmt.FullFineTuning'))]),
    heads=dict(
        _delete_=True,
        edge=dict(
            type='mmvmt.MLPHead',
            channels=256,
            output=dict(
                type='mmvmt.ProbabilityOutput',
                loss=dict(type='mmvmt.WeightedBCELoss', positive_weight=0.95, loss_weight=50.0),
            ),
        ),
    ),
)
train_dataloader = dict(dataset=dict(tasks=tasks))
val_dataloader = dict(dataset=dict(tasks=tasks))
test_dataloader = val_dataloader
val_evaluator = dict(metrics=dict(_delete_=True, edge=dict(type='mmvmt.EdgeMetric', num_workers=4)), references=None)
test_evaluator = val_evaluator
