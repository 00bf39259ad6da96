# The smaller encoder of the scaling experiment, pretrained as the demo's is.
_base_ = './swin_nano_synthetic_classification.py'
model = dict(
    backbone=dict(embed_dims=16, depths=(2, 2, 2, 2), num_heads=(1, 2, 4, 8)),
    head=dict(in_channels=128),
)
