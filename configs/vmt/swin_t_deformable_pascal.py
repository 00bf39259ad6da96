# VMT-Adapter, Swin-T, four tasks of PASCAL-Context, heads that align their levels by deformable convolution. At half the
# width of the all-MLP heads, the four decoders have 3.5 M parameters instead of 2.5 M.
_base_ = [
    '../_base_/models/swin_t_mlp.py',
    '../_base_/datasets/pascal_context_mt.py',
    '../_base_/schedules/schedule_40k.py',
    '../_base_/default_runtime.py',
]
head = dict(type='mmvmt.DeformableHead', channels=128)
model = dict(
    backbone=dict(plugins=[dict(cfg=dict(type='mmvmt.VMTAdapter', reduction=4), position='ffn')]),
    heads=dict(semseg=head, human_parts=head, saliency=head, normals=head),
)
