# mmsegmentation's DPT with a ViT-B/16 on ADE20K: the encoder is frozen and VMT-Adapter adapts it; all else is as it was.
_base_ = 'mmseg::dpt/dpt_vit-b16_8xb2-160k_ade20k-512x512.py'
custom_imports = dict(imports=['mmvmt'])
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmvmt.AdaptedBackbone',
        encoder={{_base_.model.backbone}},
        plugins=[dict(cfg=dict(type='mmvmt.VMTAdapter', reduction=4))],
    )
)
custom_hooks = [dict(type='mmvmt.PEFTHook')]
