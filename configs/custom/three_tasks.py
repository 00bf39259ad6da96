# Template for tasks and data of your own: three tasks that the package does not know, each with labels for some images.
# Copy it, then change what is described below; docs/tutorial.md goes through it from a folder of pictures to a model.

# Logs, hooks, checkpoints and environment of all configs; nothing in there depends on tasks or data.
_base_ = ['../_base_/default_runtime.py']

# The tasks, declared once. `tasks` goes to the model, the data sets and the evaluator below; kind is one of classes,
# binary, vectors, metric and values. docs/tasks.md has all fields of a declaration.
tasks = dict(
    # Every pixel is of one class. Background is a class like others; the order is that of the indices in the files.
    crops=dict(
        kind='classes', classes=['soil', 'wheat', 'maize'], palette=[[90, 70, 50], [230, 200, 80], [60, 160, 60]]
    ),
    # Yes or no.
    lanes=dict(kind='binary'),
    # Numbers without a rule, here reflectance in red, green and blue.
    albedo=dict(kind='values', channels=3),
)

# The folder that all paths below are relative to; --data-root of every tool replaces it.
data_root = 'data/fields'
# Where the pictures are: {id} stands for what tells an image from the others, folders included. Without an ending, any.
images = 'photos/{id}'
# Where the label maps of each task are, and what their numbers mean. A path alone is enough where files are as the kind
# of the task has them: indices for classes, black and white for binary. mmvmt.datasets.LabelReader has all options.
labels = dict(
    # Two places are tried in this order for each image.
    crops=['crops/checked/{id}.png', 'crops/raw/{id}.png'],
    # missing='ignore': an image without the file has no label in this task, and counts there in no loss and no score.
    lanes=dict(path='lanes/{id}_mask.png', missing='ignore'),
    # `key` names the array in the file, `scale` turns percent into fractions: heads learn numbers about 1 best.
    albedo=dict(path='albedo/{id}.npz', key='albedo', scale=1 / 100, missing='ignore'),
    # Described, but not yet among the tasks: added to the trained model later. 16-bit PNG with millimetres, 0 unknown.
    height=dict(path='height/{id}.png', scale=1 / 1000, unit='m', missing='ignore'),
)

# What happens to a training image. All label maps follow the picture: classes by the nearest pixel, and so on.
train_pipeline = [
    dict(type='mmvmt.LoadMultiTaskImage'),
    dict(type='mmvmt.LoadMultiTaskAnnotations'),
    # Scaled by a random factor, then a window of this size (height, width); smaller pictures are padded.
    dict(type='mmvmt.MultiTaskRandomScaleCrop', scale_range=(0.5, 2.0), crop_size=(512, 512)),
    dict(type='mmvmt.MultiTaskRandomFlip', prob=0.5),
    # Colours change, labels do not. Leave it out where a task is about colours, as albedo would be on real data.
    dict(type='mmseg.PhotoMetricDistortion'),
    # The last one: turns arrays into what the model takes.
    dict(type='mmvmt.PackMultiTaskInputs'),
]
# What happens to a test image: it keeps its size, and predictions are compared with the label maps as they are.
test_pipeline = [
    dict(type='mmvmt.LoadMultiTaskImage'),
    dict(type='mmvmt.LoadMultiTaskAnnotations'),
    dict(type='mmvmt.PackMultiTaskInputs'),
]
# With `tools/test.py --tta`: means over sizes and mirror images. The labels come last, so that they stay as they are.
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

# What training and test data have in common.
dataset = dict(type='mmvmt.MultiTaskDataset', data_root=data_root, images=images, labels=labels, tasks=tasks)
train_dataloader = dict(
    # Images per GPU and step, and processes that load them.
    batch_size=8,
    num_workers=4,
    persistent_workers=True,
    # An endless stream in random order that an interrupted training goes on with, bit for bit.
    sampler=dict(type='mmvmt.SeededInfiniteSampler', shuffle=True),
    # ann_file lists one ID per line; without it all pictures in the folder are taken.
    dataset=dict(dataset, ann_file='lists/train.txt', pipeline=train_pipeline),
)
val_dataloader = dict(
    # One at a time, since test images may differ in size.
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    # Every image is scored once, on any number of GPUs.
    sampler=dict(type='DefaultSampler', shuffle=False, round_up=False),
    # test_mode keeps images without any label, so that predictions can be made of all.
    dataset=dict(dataset, ann_file='lists/val.txt', test_mode=True, pipeline=test_pipeline),
)
test_dataloader = val_dataloader

# metrics=None: each task is scored by the metric of its kind; dict(crops=dict(...), lanes=..., albedo=...) changes them.
val_evaluator = dict(type='mmvmt.MultiTaskEvaluator', metrics=None, tasks=tasks)
test_evaluator = val_evaluator

# The model: one encoder for all tasks, adapters in it, and a head per task.
model = dict(
    type='mmvmt.MultiTaskEncoderDecoder',
    tasks=tasks,
    # Colours are brought to mean and spread of ImageNet's, as the encoder was pretrained with.
    data_preprocessor=dict(type='mmvmt.MultiTaskDataPreProcessor'),
    # The encoder, Swin-T: it stays frozen, but for the adapters in its blocks, which all tasks share.
    backbone=dict(
        type='mmvmt.AdaptedSwin',
        init_cfg=dict(
            type='Pretrained',
            # Weights from ImageNet, fetched at the first start; a local path does as well.
            checkpoint='https://mmassets.onedl.ai/mmsegmentation/v0.5/pretrain/swin/'
            'swin_tiny_patch4_window7_224_20220317-1cdeb081.pth',
        ),
        embed_dims=96,
        depths=(2, 2, 6, 2),
        num_heads=(3, 6, 12, 24),
        drop_path_rate=0.1,
        # What trains in the encoder: VMT-Adapter beside every MLP. docs/README.md lists the other methods.
        plugins=[dict(cfg=dict(type='mmvmt.VMTAdapter', reduction=4), position='ffn')],
    ),
    # One head of this kind for every task; its output and its loss follow from the declaration of the task. For heads
    # that differ: heads=dict(crops=dict(...), lanes=dict(...), albedo=dict(...)).
    heads=dict(type='mmvmt.MLPHead', channels=256),
    # Predictions of the whole picture, at its own size; large pictures: dict(mode='slide', crop_size=..., stride=...).
    test_cfg=dict(mode='whole', resolution='original'),
)

# Length of the training in steps, and how often it is validated.
max_iters = 10000
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=2000)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
# How often a checkpoint is written.
default_hooks = dict(checkpoint=dict(interval=2000))
# What trains, and how: all methods of this package train with these.
optim_wrapper = dict(
    type='OptimWrapper',
    # Takes the parameters that train, and no weight decay for norms and biases.
    constructor='mmvmt.PEFTOptimWrapperConstructor',
    optimizer=dict(type='AdamW', lr=5e-4, betas=(0.9, 0.999), weight_decay=0.05),
    clip_grad=dict(max_norm=5.0),
)
# The learning rate rises over the first steps, then falls to zero along a cosine.
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=500),
    dict(type='CosineAnnealingLR', eta_min=0.0, by_epoch=False, begin=500, end=max_iters),
]
