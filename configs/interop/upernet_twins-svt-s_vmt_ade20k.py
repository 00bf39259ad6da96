# mmsegmentation's UPerNet with Twins-SVT-S on ADE20K: the encoder is frozen and VMT-Adapter adapts it; all else is as it was.
_base_ = 'mmseg::twins/twins_svt-s_uperhead_8xb2-160k_ade20k-512x512.py'
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
