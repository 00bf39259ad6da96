# Polyhistor-Lite, Swin V2-T, ImageNet-1k encoder, four tasks of PASCAL-Context.
_base_ = [
    '../_base_/models/swin_v2_t_mlp.py',
    '../_base_/datasets/pascal_context_mt.py',
    '../_base_/schedules/schedule_40k.py',
    '../_base_/default_runtime.py',
]
model = dict(
    backbone=dict(
        plugins=[dict(cfg=dict(type='mmvmt.PolyhistorLite', reduction=2, rank=18, unfreeze='norms'), position='ffn')]
    )
)
