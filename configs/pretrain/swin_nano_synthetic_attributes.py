# The encoder that ships: a small Swin that learns to say in words what rendered pictures show, by mmpretrain's classifier. No picture comes twice, no label is a map.
custom_imports = dict(imports=['mmvmt'])
default_scope = 'mmpretrain'
batch_size = 64
# Most pictures are small and quickly rendered; the last fifth has the size of the scenes, whose stages windows of 5 divide without padding.
max_iters = 24000
sizes = [(0, 80), (19200 * batch_size, 160)]
attributes = dict(subject=20, count=5, setting=4, view=8, light=8, color=11, texture=11, pose=8)
model = dict(
    type='mmpretrain.ImageClassifier',
    data_preprocessor=dict(
        type='mmpretrain.ClsDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        to_rgb=True,
    ),
    backbone=dict(
        type='mmvmt.AdaptedSwin',
        embed_dims=32,
        depths=(2, 2, 4, 2),
        num_heads=(2, 4, 8, 16),
        window_size=5,
        drop_path_rate=0.0,
        out_indices=(3,),
    ),
    neck=dict(type='mmpretrain.GlobalAveragePooling'),
    head=dict(
        type='mmpretrain.MultiTaskHead',
        in_channels=256,
        task_heads=dict(
            **{name: dict(type='mmpretrain.LinearClsHead', num_classes=values) for name, values in attributes.items()},
            presence=dict(
                type='mmpretrain.MultiLabelLinearClsHead',
                num_classes=20,
                # The sum over 20 classes, about as large as the other losses together without a weight.
                loss=dict(type='mmpretrain.CrossEntropyLoss', use_sigmoid=True, loss_weight=0.25),
            ),
        ),
    ),
)
pipeline = [dict(type='mmpretrain.PackMultiTaskInputs', multi_task_fields=('gt_label',))]
train_dataloader = dict(
    batch_size=batch_size,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='mmvmt.SeededInfiniteSampler', shuffle=False),
    collate_fn=dict(type='default_collate'),
    dataset=dict(
        type='mmvmt.RenderedPictures', num_samples=batch_size * max_iters, size=sizes, seed=1, pipeline=pipeline
    ),
)
val_dataloader = dict(
    batch_size=100,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False, round_up=False),
    collate_fn=dict(type='default_collate'),
    dataset=dict(type='mmvmt.RenderedPictures', num_samples=2000, size=160, seed=2, pipeline=pipeline),
)
val_evaluator = dict(
    type='mmpretrain.MultiTasksMetric',
    task_metrics=dict(
        **{name: [dict(type='mmpretrain.Accuracy', topk=(1,))] for name in attributes},
        presence=[dict(type='mmpretrain.MultiLabelMetric')],
    ),
)
optim_wrapper = dict(
    optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0),
    clip_grad=dict(max_norm=5.0),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-2, by_epoch=False, begin=0, end=500),
    dict(type='CosineAnnealingLR', eta_min=0.0, by_epoch=False, begin=500, end=max_iters),
]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=2000)
val_cfg = dict(type='ValLoop')
env_cfg = dict(cudnn_benchmark=True, mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0))
vis_backends = [dict(type='LocalVisBackend')]
visualizer = dict(type='mmpretrain.UniversalVisualizer', vis_backends=vis_backends)
log_processor = dict(by_epoch=False)
log_level = 'INFO'
load_from = None
resume = False
randomness = dict(seed=0)
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50, log_metric_by_epoch=False),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='mmvmt.AtomicCheckpointHook', by_epoch=False, interval=500, max_keep_ckpts=2),
    sampler_seed=dict(type='DistSamplerSeedHook'),
)
custom_hooks = [dict(type='mmvmt.RandomnessHook')]
