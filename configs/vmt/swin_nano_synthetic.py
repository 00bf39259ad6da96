# VMT-Adapter on rendered scenes: the demo's main job. The encoder comes from configs/pretrain/.
_base_ = [
    '../_base_/models/swin_nano_mlp.py',
    '../_base_/datasets/synthetic_mt.py',
    '../_base_/schedules/schedule_synthetic.py',
    '../_base_/default_runtime.py',
]
model = dict(
    backbone=dict(
        init_cfg=dict(type='Pretrained', checkpoint='work_dirs/swin_nano_synthetic_classification/encoder.pth'),
        plugins=[dict(cfg=dict(type='mmvmt.VMTAdapter', reduction=4), position='ffn')],
    ),
)
default_hooks = dict(logger=dict(interval=20), checkpoint=dict(interval=300))
