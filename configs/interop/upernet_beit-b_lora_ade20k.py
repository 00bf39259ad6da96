# mmsegmentation's UPerNet with a BEiT-B on ADE20K: the encoder is frozen and LoRA adapts it; all else is as it was.
_base_ = 'mmseg::beit/beit-base_upernet_8xb2-160k_ade20k-640x640.py'
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
# The rate by depth that the config has is for encoders that train, and its constructor knows BEiT by that name alone.
optim_wrapper = dict(constructor='DefaultOptimWrapperConstructor', paramwise_cfg=None)
