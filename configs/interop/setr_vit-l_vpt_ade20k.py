# mmsegmentation's SETR-PUP with a ViT-L/16 on ADE20K: the encoder is frozen and prompts adapt it; all else is as it was.
_base_ = 'mmseg::setr/setr_vit-l_pup_8xb2-160k_ade20k-512x512.py'
custom_imports = dict(imports=['mmvmt'])
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmvmt.AdaptedBackbone',
        encoder={{_base_.model.backbone}},
        plugins=[dict(cfg=dict(type='mmvmt.VPTDeep', prompts=50))],
    )
)
custom_hooks = [dict(type='mmvmt.PEFTHook')]
