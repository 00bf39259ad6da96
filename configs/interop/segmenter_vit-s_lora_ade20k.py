# mmsegmentation's Segmenter with a ViT-S/16 on ADE20K: the encoder is frozen and LoRA adapts it; all else is as it was.
_base_ = 'mmseg::segmenter/segmenter_vit-s_mask_8xb1-160k_ade20k-512x512.py'
custom_imports = dict(imports=['mmvmt'])
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmvmt.AdaptedBackbone',
        encoder={{_base_.model.backbone}},
        plugins=[dict(cfg=dict(type='mmvmt.LoRA', rank=4, per_task=False), position=['qkv', 'proj'])],
    )
)
custom_hooks = [dict(type='mmvmt.PEFTHook')]
