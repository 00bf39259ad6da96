# Swin and one SegFormer all-MLP head per PASCAL-Context task; losses and weights as in the field's multi-task benchmark.
model = dict(
    type='mmvmt.MultiTaskEncoderDecoder',
    data_preprocessor=dict(
        type='mmvmt.MultiTaskDataPreProcessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
    ),
    backbone=dict(type='mmvmt.AdaptedSwin'),
    heads=dict(
        semseg=dict(
            type='mmvmt.MLPHead',
            channels=256,
            output=dict(
                type='mmvmt.ClassesOutput',
                num_classes=21,
                loss=dict(type='mmseg.CrossEntropyLoss', avg_non_ignore=True, loss_weight=1.0),
            ),
        ),
        human_parts=dict(
            type='mmvmt.MLPHead',
            channels=256,
            output=dict(
                type='mmvmt.ClassesOutput',
                num_classes=7,
                loss=dict(type='mmseg.CrossEntropyLoss', avg_non_ignore=True, loss_weight=2.0),
            ),
        ),
        saliency=dict(
            type='mmvmt.MLPHead',
            channels=256,
            output=dict(
                type='mmvmt.ProbabilityOutput',
                loss=dict(type='mmvmt.WeightedBCELoss', positive_weight='balanced', loss_weight=5.0),
            ),
        ),
        normals=dict(
            type='mmvmt.MLPHead',
            channels=256,
            output=dict(
                type='mmvmt.UnitVectorOutput',
                loss=dict(type='mmvmt.L1PixelLoss', unit_vectors=True, loss_weight=10.0),
            ),
        ),
    ),
    test_cfg=dict(mode='whole', resolution='original'),
)
