# mmsegmentation's OCRNet on ADE20K, a CascadeEncoderDecoder, over Swin-T with VMT-Adapter.
_base_ = 'mmseg::ocrnet/ocrnet_hr18_4xb4-160k_ade20k-512x512.py'
custom_imports = dict(imports=['mmvmt'])
checkpoint = (
    'https://mmassets.onedl.ai/mmsegmentation/v0.5/pretrain/swin/swin_tiny_patch4_window7_224_20220317-1cdeb081.pth'
)
widths = [96, 192, 384, 768]
head = dict(
    in_channels=widths,
    in_index=(0, 1, 2, 3),
    input_transform='resize_concat',
    channels=512,
    dropout_ratio=-1,
    num_classes=150,
    norm_cfg=dict(type='SyncBN', requires_grad=True),
    align_corners=False,
)
model = dict(
    pretrained=None,
    backbone=dict(
        _delete_=True,
        type='mmvmt.AdaptedSwin',
        init_cfg=dict(type='Pretrained', checkpoint=checkpoint),
        embed_dims=96,
        depths=(2, 2, 6, 2),
        num_heads=(3, 6, 12, 24),
        drop_path_rate=0.1,
        plugins=[dict(cfg=dict(type='mmvmt.VMTAdapter', reduction=4))],
    ),
    decode_head=[
        dict(
            type='FCNHead',
            kernel_size=1,
            num_convs=1,
            concat_input=False,
            loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=0.4),
            **head,
        ),
        dict(
            type='OCRHead',
            ocr_channels=256,
            loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
            **head,
        ),
    ],
)
custom_hooks = [dict(type='mmvmt.PEFTHook')]
