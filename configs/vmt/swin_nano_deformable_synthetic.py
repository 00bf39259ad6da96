# VMT-Adapter on rendered scenes, with heads that align their levels by deformable convolution, at half the width of the
# all-MLP heads.
_base_ = [
    '../_base_/models/swin_nano_mlp.py',
    '../_base_/datasets/synthetic_mt.py',
    '../_base_/schedules/schedule_synthetic.py',
    '../_base_/synthetic_runtime.py',
]
head = dict(type='mmvmt.DeformableHead', channels=32)
model = dict(
    backbone=dict(plugins=[dict(cfg=dict(type='mmvmt.VMTAdapter', reduction=4), position='ffn')]),
    heads=dict(semseg=head, human_parts=head, saliency=head, normals=head),
)
# As for the all-MLP heads: adapters at the heads' rate would move the pretrained encoder's features too fast.
optim_wrapper = dict(paramwise_cfg=dict(adapter_lr_mult=0.2))
