# NYUD-v2 with four dense tasks, 480 x 640, in any of the three archives that the field uses.
data_root = 'data/NYUD_MT'
tasks = ['semseg', 'depth', 'normals', 'edge']
train_pipeline = [
    dict(type='mmvmt.LoadMultiTaskImage'),
    dict(type='mmvmt.LoadMultiTaskAnnotations'),
    dict(type='mmvmt.MultiTaskRandomRotate', degree=20.0, prob=0.5),
    dict(type='mmvmt.MultiTaskRandomScaleCrop', scale_range=(0.75, 1.25), crop_size=(480, 640)),
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
    dataset=dict(type='mmvmt.NYUDv2MT', data_root=data_root, split='train', tasks=tasks, pipeline=train_pipeline),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    # No padding of the last round: every image is scored once on any number of GPUs.
    sampler=dict(type='DefaultSampler', shuffle=False, round_up=False),
    dataset=dict(
        type='mmvmt.NYUDv2MT', data_root=data_root, split='val', tasks=tasks, test_mode=True, pipeline=test_pipeline
    ),
)
test_dataloader = val_dataloader
# No single-task references are known: Delta_m is taken against your own single-task runs, docs/evaluation.md.
val_evaluator = dict(
    type='mmvmt.MultiTaskEvaluator',
    protocol='mti',
    metrics=dict(
        semseg=dict(type='mmvmt.IoUMetric', num_classes=40),
        # As peers bound predictions; it matters to the logarithm alone.
        depth=dict(type='mmvmt.DepthMetric', min_depth=1e-9),
        normals=dict(type='mmvmt.NormalsMetric'),
        edge=dict(type='mmvmt.EdgeMetric', max_dist=0.011, num_workers=4),
    ),
)
test_evaluator = val_evaluator
