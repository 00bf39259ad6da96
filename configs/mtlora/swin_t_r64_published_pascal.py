# MTLoRA, rank 64 shared and 4 per task, as published: features behind patch merging, the authors' heads. Swin-T,
# ImageNet-1k encoder, four tasks of PASCAL-Context.
_base_ = [
    '../_base_/models/swin_t_mlp.py',
    '../_base_/datasets/pascal_context_mt.py',
    '../_base_/schedules/schedule_40k.py',
    '../_base_/default_runtime.py',
]
head = dict(_delete_=True, type='mmvmt.HighResolutionHead')
model = dict(
    backbone=dict(features_after_merging=True, plugins=[dict(cfg=dict(type='mmvmt.MTLoRA', rank=64, task_rank=4))]),
    heads=dict(
        semseg=dict(head, output={{_base_.model.heads.semseg.output}}),
        human_parts=dict(head, output={{_base_.model.heads.human_parts.output}}),
        saliency=dict(head, output={{_base_.model.heads.saliency.output}}),
        normals=dict(head, output={{_base_.model.heads.normals.output}}),
    ),
)
