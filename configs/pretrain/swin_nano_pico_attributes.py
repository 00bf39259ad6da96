# The encoders that ship, and for the scaling experiment the same ones after fewer pictures: small Swins that learn to say in words what rendered pictures show.
# No picture comes twice, no label is a map. All of them see the one stream: `nano_100k` is the encoder `nano` of a training that ends after 100 thousand.
custom_imports = dict(imports=['mmvmt'])
default_scope = 'mmvmt'
batch_size = 256
max_iters = 6000
# Iterations by name of a training: 25, 100 and 400 thousand pictures.
lengths = {'': max_iters, '_400k': 1600, '_100k': 400, '_25k': 100}
# Every fifth batch has the size of the scenes, whose stages windows of 5 divide without padding. Small pictures are rendered in half the time.
sizes = [80, 80, 80, 80, 160]
attributes = dict(subject=20, presence=20, count=5, setting=4, view=8, light=8, color=11, texture=11, pose=8)
nano = dict(
    type='mmvmt.AdaptedSwin',
    embed_dims=32,
    depths=(2, 2, 4, 2),
    num_heads=(2, 4, 8, 16),
    window_size=5,
    drop_path_rate=0.0,
    out_indices=(3,),
)
pico = dict(nano, embed_dims=16, depths=(2, 2, 2, 2), num_heads=(1, 2, 4, 8))
model = dict(
    type='mmvmt.AttributeClassifier',
    data_preprocessor=dict(type='ImgDataPreprocessor', mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375]),
    attributes=attributes,
    encoders={name + length: encoder for name, encoder in dict(nano=nano, pico=pico).items() for length in lengths},
)
train_dataloader = dict(
    batch_size=batch_size,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='SeededInfiniteSampler', shuffle=False),
    collate_fn=dict(type='default_collate'),
    dataset=dict(
        type='RenderedPictures', num_samples=batch_size * max_iters, size=sizes, batch_size=batch_size, seed=1
    ),
)
val_dataloader = dict(
    batch_size=100,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False, round_up=False),
    collate_fn=dict(type='default_collate'),
    dataset=dict(type='RenderedPictures', num_samples=2000, size=160, seed=2),
)
val_evaluator = dict(type='MeanMetric')
optim_wrapper = dict(
    type='OptimWrapper',
    constructor='SideBySideOptimWrapperConstructor',
    optimizer=dict(type='AdamW', lr=1.5e-3, weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0),
    clip_grad=dict(max_norm=5.0),
)
param_scheduler = {
    name + length: [
        dict(type='LinearLR', start_factor=1e-2, by_epoch=False, begin=0, end=min(300, iters // 5)),
        dict(type='CosineAnnealingLR', eta_min=0.0, by_epoch=False, begin=min(300, iters // 5), end=iters),
        # Done: mmengine's cosine ends a step before 0. The end is far off, since at its end the factor is taken back.
        dict(type='ConstantLR', factor=0.0, by_epoch=False, begin=iters, end=10**9),
    ]
    for name in ('nano', 'pico')
    for length, iters in lengths.items()
}
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=1000)
val_cfg = dict(type='ValLoop')
env_cfg = dict(cudnn_benchmark=True, mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0))
log_processor = dict(by_epoch=False)
log_level = 'INFO'
load_from = None
resume = False
randomness = dict(seed=0)
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50, log_metric_by_epoch=False),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='AtomicCheckpointHook', by_epoch=False, interval=500, max_keep_ckpts=2),
    sampler_seed=dict(type='DistSamplerSeedHook'),
)
custom_hooks = [dict(type='RandomnessHook')]
