# VMT-Adapter, Swin-T, ImageNet-1k encoder, four tasks of PASCAL-Context and semantic edges.
_base_ = [
    '../_base_/models/swin_t_mlp.py',
    '../_base_/datasets/pascal_context_mt.py',
    '../_base_/schedules/schedule_40k.py',
    '../_base_/default_runtime.py',
]
tasks = ['semseg', 'human_parts', 'saliency', 'normals', 'edge']
model = dict(
    backbone=dict(plugins=[dict(cfg=dict(type='mmvmt.VMTAdapter', reduction=4), position='ffn')]),
    heads=dict(
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
val_evaluator = dict(
    metrics=dict(edge=dict(type='mmvmt.EdgeMetric', num_workers=4)),
    # None: what a single-task model reaches on edges is not known; train baselines/swin_t_single_edge_pascal.py for it.
    references=dict(edge=None),
)
test_evaluator = val_evaluator
