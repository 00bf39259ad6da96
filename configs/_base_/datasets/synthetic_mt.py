# Rendered scenes in the PASCAL_MT layout, 160 x 160; see tools/dataset/make_synthetic.py.
_base_ = './pascal_context_mt.py'
train_pipeline = [
    dict(type='mmvmt.LoadMultiTaskImage'),
    dict(type='mmvmt.LoadMultiTaskAnnotations'),
    dict(type='mmvmt.MultiTaskRandomScaleCrop', scale_range=(0.75, 1.25), crop_size=(160, 160)),
    dict(type='mmvmt.MultiTaskRandomFlip', prob=0.5),
    dict(type='mmvmt.PackMultiTaskInputs'),
]
data_root = 'data/synthetic'
train_dataloader = dict(
    batch_size=8,
    num_workers=1,
    dataset=dict(type='mmvmt.SyntheticMT', data_root=data_root, pipeline=train_pipeline),
)
val_dataloader = dict(batch_size=10, num_workers=1, dataset=dict(type='mmvmt.SyntheticMT', data_root=data_root))
test_dataloader = val_dataloader
# No single-task references: Delta_m is taken against the run that one wants to compare with.
val_evaluator = dict(references=None)
test_evaluator = val_evaluator
