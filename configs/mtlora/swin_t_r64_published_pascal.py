# MTLoRA, rank 64 shared and 4 per task, as published: features behind patch merging, the authors' heads. Swin-T,
# ImageNet-1k encoder, four tasks of PASCAL-Context.
_base_ = './swin_t_r64_pascal.py'
head = dict(_delete_=True, type='mmvmt.HighResolutionHead')
model = dict(
    backbone=dict(features_after_merging=True),
    heads=dict(
        semseg=dict(head, output={{_base_.model.heads.semseg.output}}),
        human_parts=dict(head, output={{_base_.model.heads.human_parts.output}}),
        saliency=dict(head, output={{_base_.model.heads.saliency.output}}),
        normals=dict(head, output={{_base_.model.heads.normals.output}}),
    ),
)
