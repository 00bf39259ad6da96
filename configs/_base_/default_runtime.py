# Logs, hooks, checkpoints, environment.
custom_imports = dict(imports=['mmvmt'])
default_scope = 'mmvmt'
env_cfg = dict(
    cudnn_benchmark=True,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'),
)
# BatchNorm of the heads sees the batches of all GPUs; on one GPU or on CPUs it stays as it is.
sync_bn = 'torch'
vis_backends = [dict(type='LocalVisBackend')]
visualizer = dict(type='mmvmt.MultiTaskVisualizer', vis_backends=vis_backends, name='visualizer')
log_processor = dict(by_epoch=False)
log_level = 'INFO'
load_from = None
resume = False
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50, log_metric_by_epoch=False),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='mmvmt.AtomicCheckpointHook', by_epoch=False, interval=4000, max_keep_ckpts=2),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    visualization=dict(type='mmvmt.MultiTaskVisualizationHook'),
)
custom_hooks = [
    dict(type='mmvmt.RandomnessHook'),
    dict(type='mmvmt.MethodRecordHook'),
    dict(type='mmvmt.AdapterCheckpointHook'),
]
