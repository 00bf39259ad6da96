"""A tiny encoder of every family that a layout knows, and its own library's plain one."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from torch import nn

from mmvmt.registry import MODELS

PYRAMID = dict(depths=(1, 2, 1, 1), num_heads=(1, 2, 2, 4))
COLUMN = dict(embed_dims=16, num_layers=4, num_heads=2)

# Pyramids have the widths (8, 16, 32, 64) and the blocks (1, 2, 1, 1) of the contract suite's encoders, columns four
# blocks of width 16, of which the second and fourth end a stage.
ENCODERS: dict[str, dict[str, Any]] = {
    'mmseg.SwinTransformer': dict(
        type='mmseg.SwinTransformer', embed_dims=8, window_size=4, mlp_ratio=2, drop_path_rate=0.0, **PYRAMID
    ),
    'mmseg.MixVisionTransformer': dict(
        type='mmseg.MixVisionTransformer',
        embed_dims=8,
        num_layers=[1, 2, 1, 1],
        num_heads=[1, 2, 4, 8],
        sr_ratios=[8, 4, 2, 1],
        mlp_ratio=2,
    ),
    'timm.PyramidVisionTransformerV2': dict(
        type='timm',
        model_name='pvt_v2_b0',
        embed_dims=(8, 16, 32, 64),
        mlp_ratios=(2, 2, 2, 2),
        out_indices=(0, 1, 2, 3),
        **PYRAMID,
    ),
    'mmseg.VisionTransformer': dict(
        type='mmseg.VisionTransformer',
        img_size=32,
        patch_size=8,
        mlp_ratio=2,
        out_indices=(1, 3),
        final_norm=True,
        **COLUMN,
    ),
    'mmpretrain.VisionTransformer': dict(
        type='mmpretrain.VisionTransformer',
        arch=dict(feedforward_channels=32, **COLUMN),
        img_size=32,
        patch_size=8,
        out_type='featmap',
        out_indices=[1, 3],
        layer_scale_init_value=0.1,
    ),
    'timm.VisionTransformer': dict(
        type='timm',
        model_name='vit_small_patch14_reg4_dinov2',
        img_size=32,
        patch_size=8,
        embed_dim=16,
        depth=4,
        num_heads=2,
        mlp_ratio=2,
        out_indices=(1, 3),
    ),
}


if find_spec('timm') is None:
    ENCODERS = {family: cfg for family, cfg in ENCODERS.items() if not family.startswith('timm.')}


def adapted(family: str, **changes: Any) -> dict[str, Any]:
    """Config of an adapted encoder of a family; changes to the encoder by keyword."""
    return dict(type='mmvmt.AdaptedBackbone', encoder=ENCODERS[family] | changes)


def plain(family: str, **changes: Any) -> nn.Module:
    """The encoder of its own library in evaluation mode, with the maps that leave it as outputs."""
    cfg = ENCODERS[family] | changes
    if cfg['type'] == 'timm':
        options = {key: value for key, value in cfg.items() if key not in ('type', 'model_name')}
        dynamic = dict(dynamic_img_size=True) if 'img_size' in options else {}
        import timm

        encoder = timm.create_model(cfg['model_name'], num_classes=0, features_only=True, **options, **dynamic)
    else:
        encoder = MODELS.build(dict(cfg))
    # mmseg's eval() returns None.
    encoder.eval()
    return encoder
