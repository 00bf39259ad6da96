# PASCAL_MT: PASCAL-Context with four dense tasks. Images are at most 500 pixels long, so a 512 x 512 crop holds any of them.
data_root = 'data/PASCAL_MT'
tasks = ['semseg', 'human_parts', 'saliency', 'normals']
train_pipeline = [
    dict(type='mmvmt.LoadMultiTaskImage'),
    dict(type='mmvmt.LoadMultiTaskAnnotations'),
    dict(type='mmvmt.MultiTaskRandomRotate', degree=20.0, prob=0.5),
    dict(type='mmvmt.MultiTaskRandomScaleCrop', scale_range=(0.75, 1.25), crop_size=(512, 512)),
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
        type='mmvmt.PASCALContextMT', data_root=data_root, split='train', tasks=tasks, pipeline=train_pipeline
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    # No padding of the last round: every image is scored once on any number of GPUs.
    sampler=dict(type='DefaultSampler', shuffle=False, round_up=False),
    dataset=dict(
        type='mmvmt.PASCALContextMT',
        data_root=data_root,
        split='val',
        tasks=tasks,
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(
    type='mmvmt.MultiTaskEvaluator',
    protocol='mti',
    metrics=dict(
        semseg=dict(type='mmvmt.IoUMetric', num_classes=21),
        human_parts=dict(type='mmvmt.IoUMetric', num_classes=7),
        saliency=dict(type='mmvmt.SaliencyMetric'),
        normals=dict(type='mmvmt.NormalsMetric'),
    ),
    # Single-task Swin-T as reported in TADFormer's public code. They were measured under another protocol than the one
    # above, so that there is no Delta_m until they are those of your own single-task runs: docs/evaluation.md.
    references=dict(semseg=67.21, human_parts=61.93, saliency=62.35, normals=17.97),
    references_protocol=dict(protocol='mtlora', truth='published', size=(448, 448)),
)
test_evaluator = val_evaluator
