# Cityscapes with classes and depth from disparity: crops of 512 x 1024 to train, whole images of 1024 x 2048 to validate.
data_root = 'data/cityscapes'
tasks = ['semseg', 'depth']
labels = dict(
    # The smallest disparities lie tens of kilometres away. Which bound others take is not known; this one is 1.7 pixels.
    depth=dict(
        type='mmvmt.CityscapesDepthReader',
        path='disparity/{split}/{id}_disparity.png',
        beside=['camera/{split}/{id}_camera.json'],
        max_depth=300.0,
    ),
)
train_pipeline = [
    dict(type='mmvmt.LoadMultiTaskImage'),
    dict(type='mmvmt.LoadMultiTaskAnnotations'),
    dict(type='mmvmt.MultiTaskRandomScaleCrop', scale_range=(0.5, 2.0), crop_size=(512, 1024)),
    dict(type='mmvmt.MultiTaskRandomFlip', prob=0.5),
    dict(type='mmseg.PhotoMetricDistortion'),
    dict(type='mmvmt.PackMultiTaskInputs'),
]
test_pipeline = [
    dict(type='mmvmt.LoadMultiTaskImage'),
    dict(type='mmvmt.LoadMultiTaskAnnotations'),
    dict(type='mmvmt.PackMultiTaskInputs'),
]
# With --tta. Annotations come last, so that labels keep the size and the direction of the file.
tta_pipeline = [
    dict(type='mmvmt.LoadMultiTaskImage'),
    dict(
        type='mmcv.TestTimeAug',
        transforms=[
            [dict(type='mmcv.Resize', scale_factor=ratio, keep_ratio=True) for ratio in (0.75, 1.0, 1.25)],
            [dict(type='mmvmt.MultiTaskRandomFlip', prob=0.0), dict(type='mmvmt.MultiTaskRandomFlip', prob=1.0)],
            [dict(type='mmvmt.LoadMultiTaskAnnotations')],
            [dict(type='mmvmt.PackMultiTaskInputs')],
        ],
    ),
]
train_dataloader = dict(
    batch_size=8,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='mmvmt.SeededInfiniteSampler', shuffle=True),
    dataset=dict(
        type='mmvmt.CityscapesMT',
        data_root=data_root,
        split='train',
        tasks=tasks,
        labels=labels,
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    # No padding of the last round: every image is scored once on any number of GPUs.
    sampler=dict(type='DefaultSampler', shuffle=False, round_up=False),
    dataset=dict(
        type='mmvmt.CityscapesMT',
        data_root=data_root,
        split='val',
        tasks=tasks,
        labels=labels,
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
# No single-task references are known: Delta_m is taken against your own single-task runs, docs/evaluation.md.
val_evaluator = dict(
    type='mmvmt.MultiTaskEvaluator',
    protocol='mti',
    metrics=dict(semseg=dict(type='mmvmt.IoUMetric', num_classes=19), depth=dict(type='mmvmt.DepthMetric')),
)
test_evaluator = val_evaluator
