# mmsegmentation's UPerNet-Swin-T on ADE20K: of the encoder the biases train; all else is as it was.
_base_ = 'mmseg::swin/swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512.py'
custom_imports = dict(imports=['mmvmt'])
model = dict(backbone=dict(type='mmvmt.AdaptedSwin', plugins=[dict(cfg=dict(type='mmvmt.BitFit', per_task=False))]))
custom_hooks = [dict(type='mmvmt.PEFTHook')]
