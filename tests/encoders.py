"""A tiny encoder of every family that a layout knows, and its own library's plain one."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from torch import Tensor, nn

from mmvmt.registry import MODELS

PYRAMID = dict(depths=(1, 2, 1, 1), num_heads=(1, 2, 2, 4))
COLUMN = dict(embed_dims=16, num_layers=4, num_heads=2)
TWINS = dict(
    embed_dims=[8, 16, 32, 64],
    num_heads=[1, 2, 4, 8],
    mlp_ratios=[2, 2, 2, 2],
    depths=[1, 2, 1, 1],
    sr_ratios=[8, 4, 2, 1],
    drop_path_rate=0.0,
)
TIMM_COLUMN = dict(img_size=32, patch_size=8, embed_dim=16, depth=4, num_heads=2, mlp_ratio=2, out_indices=(1, 3))

# Pyramids have the widths (8, 16, 32, 64) and the blocks (1, 2, 1, 1) of the contract suite's encoders, columns four
# blocks of width 16, of which the second and fourth end a stage.
ENCODERS: dict[str, dict[str, Any]] = {
    'mmseg.SwinTransformer': dict(
        type='mmseg.SwinTransformer', embed_dims=8, window_size=4, mlp_ratio=2, drop_path_rate=0.0, **PYRAMID
    ),
    'mmpretrain.SwinTransformerV2': dict(
        type='mmpretrain.SwinTransformerV2',
        arch=dict(embed_dims=8, depths=[1, 2, 1, 1], num_heads=[1, 2, 2, 4], extra_norm_every_n_blocks=0),
        img_size=64,
        window_size=4,
        out_indices=(0, 1, 2, 3),
        pad_small_map=True,
        drop_path_rate=0.0,
        stage_cfgs=dict(block_cfgs=dict(ffn_ratio=2)),
    ),
    'timm.SwinTransformerV2': dict(
        type='timm',
        model_name='swinv2_tiny_window8_256',
        img_size=64,
        embed_dim=8,
        window_size=4,
        mlp_ratio=2,
        drop_path_rate=0.0,
        out_indices=(0, 1, 2, 3),
        **PYRAMID,
    ),
    'mmseg.MixVisionTransformer': dict(
        type='mmseg.MixVisionTransformer',
        embed_dims=8,
        num_layers=[1, 2, 1, 1],
        num_heads=[1, 2, 4, 8],
        sr_ratios=[8, 4, 2, 1],
        mlp_ratio=2,
    ),
    'mmseg.PCPVT': dict(type='mmseg.PCPVT', **TWINS),
    'mmseg.SVT': dict(type='mmseg.SVT', windiow_sizes=[4, 4, 4, 4], **TWINS),
    'timm.PyramidVisionTransformerV2': dict(
        type='timm',
        model_name='pvt_v2_b0',
        embed_dims=(8, 16, 32, 64),
        mlp_ratios=(2, 2, 2, 2),
        out_indices=(0, 1, 2, 3),
        **PYRAMID,
    ),
    'timm.Hiera': dict(
        type='timm',
        model_name='hiera_tiny_224',
        img_size=64,
        embed_dim=8,
        stages=(1, 2, 1, 1),
        mlp_ratio=2,
        drop_path_rate=0.0,
        out_indices=(0, 1, 2, 3),
    ),
    'timm.MultiScaleVit': dict(type='timm', model_name='mvitv2_of_tests', img_size=64, out_indices=(0, 1, 2, 3)),
    'timm.ConvNeXt': dict(
        type='timm', model_name='convnext_tiny', depths=(1, 2, 1, 1), dims=(8, 16, 32, 64), out_indices=(0, 1, 2, 3)
    ),
    'mmpretrain.HiViT': dict(
        type='mmpretrain.HiViT',
        arch=dict(embed_dims=32, depths=[1, 1, 7], num_heads=2),
        img_size=64,
        mlp_ratio=2,
        stem_mlp_ratio=2,
        out_indices=[1, 4, 6],
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
    'mmseg.BEiT': dict(type='mmseg.BEiT', img_size=64, patch_size=8, mlp_ratio=2, out_indices=(1, 3), **COLUMN),
    'mmpretrain.VisionTransformer': dict(
        type='mmpretrain.VisionTransformer',
        arch=dict(feedforward_channels=32, **COLUMN),
        img_size=32,
        patch_size=8,
        out_type='featmap',
        out_indices=[1, 3],
        layer_scale_init_value=0.1,
    ),
    'mmpretrain.ViTEVA02': dict(
        type='mmpretrain.ViTEVA02',
        arch=dict(feedforward_channels=32, **COLUMN),
        img_size=32,
        patch_size=8,
        out_type='featmap',
        out_indices=[1, 3],
        sub_ln=True,
    ),
    'timm.VisionTransformer': dict(type='timm', model_name='vit_small_patch14_reg4_dinov2', **TIMM_COLUMN),
    'timm.Eva': dict(type='timm', model_name='vit_small_patch16_dinov3', **TIMM_COLUMN),
}
# Other models of a family, with parts that the one above does not have.
VARIANTS: dict[str, dict[str, Any]] = {
    'mmpretrain.HiViT, offsets': dict(rpe=True, ape=False, out_indices=[6]),
    'timm.VisionTransformer, CLIP': dict(model_name='vit_base_patch16_clip_224'),
    'timm.VisionTransformer, SigLIP': dict(model_name='vit_base_patch16_siglip_224'),
    'timm.VisionTransformer, MAE': dict(model_name='vit_base_patch16_224', global_pool='avg'),
    'timm.VisionTransformer, norms behind': dict(model_name='vit_base_patch16_rpn_224', init_values=0.1),
    'timm.Eva, EVA02': dict(model_name='eva02_tiny_patch14_224'),
    'timm.Eva, norms behind': dict(model_name='eva02_enormous_patch14_clip_224'),
    'timm.Eva, learned rotations': dict(model_name='vit_small_patch16_rope_mixed_224'),
    'timm.Hiera, windows': dict(model_name='hiera_base_abswin_256', num_heads=1),
    'timm.ConvNeXt, V2': dict(model_name='convnextv2_atto'),
    'timm.ConvNeXt, conv_mlp': dict(conv_mlp=True),
    'timm.MultiScaleVit, class token': dict(model_name='mvitv2_cls_of_tests'),
}

if find_spec('timm') is None:
    ENCODERS = {family: cfg for family, cfg in ENCODERS.items() if not family.startswith('timm.')}
    VARIANTS = {family: cfg for family, cfg in VARIANTS.items() if not family.startswith('timm.')}
else:
    from timm.models import mvitv2, register_model

    # Its sizes are no arguments of a model.
    def _mvitv2(pretrained: bool, use_cls_token: bool, **kwargs: Any) -> nn.Module:
        sizes = dict(depths=(1, 2, 1, 1), embed_dim=(8, 16, 32, 64), num_heads=(1, 2, 2, 4), mlp_ratio=2.0)
        mvitv2.model_cfgs['of_tests'] = mvitv2.MultiScaleVitCfg(use_cls_token=use_cls_token, **sizes)
        return mvitv2._create_mvitv2('mvitv2_tiny', 'of_tests', pretrained, **kwargs)

    @register_model
    def mvitv2_of_tests(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        return _mvitv2(pretrained, False, **kwargs)

    @register_model
    def mvitv2_cls_of_tests(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        return _mvitv2(pretrained, True, **kwargs)


def encoder_cfg(family: str, **changes: Any) -> dict[str, Any]:
    """Config of a family's encoder, or of a variant of one."""
    cfg = ENCODERS[family.partition(',')[0]] | VARIANTS.get(family, {}) | changes
    if not isinstance(cfg.get('out_indices'), list):
        return cfg
    # HiViT writes into it.
    return cfg | dict(out_indices=list(cfg['out_indices']))


def adapted(family: str, **changes: Any) -> dict[str, Any]:
    """Config of an adapted encoder of a family; changes to the encoder by keyword."""
    return dict(type='mmvmt.AdaptedBackbone', encoder=encoder_cfg(family, **changes))


def plain(family: str, **changes: Any) -> nn.Module:
    """The encoder of its own library in evaluation mode, with the maps that leave it as outputs."""
    cfg = encoder_cfg(family, **changes)
    if cfg['type'] == 'timm':
        options = {key: value for key, value in cfg.items() if key not in ('type', 'model_name', 'out_indices')}
        dynamic = dict(dynamic_img_size=True) if 'img_size' in options else {}
        import timm

        fixed = cfg['model_name'].startswith(('hiera', 'mvitv2'))
        encoder = timm.create_model(cfg['model_name'], num_classes=0, **options, **({} if fixed else dynamic))
        indices, maps = cfg['out_indices'], encoder.forward_intermediates
        encoder.forward = lambda image: tuple(maps(image, indices=indices, intermediates_only=True))
    elif cfg['type'] == 'mmpretrain.HiViT' and len(cfg['out_indices']) > 1:
        encoder = _hivit_with_first_stages(cfg)
    else:
        encoder = MODELS.build(dict(cfg))
    # mmseg's eval() returns None.
    encoder.eval()
    return encoder


def _hivit_with_first_stages(cfg: dict[str, Any]) -> nn.Module:
    """The library goes on with the map of a first stage in the place of its tokens, and breaks."""
    *first, last = cfg['out_indices']
    encoder, seen = MODELS.build(cfg | dict(out_indices=[last])), []
    for index in first:
        encoder.blocks[index].register_forward_hook(lambda block, inputs, x: seen.append(x))
    forward = encoder.forward

    def with_first_stages(image: Tensor) -> tuple[Tensor, ...]:
        seen.clear()
        maps, edges = forward(image), [edge // cfg.get('patch_size', 16) for edge in image.shape[2:]]
        # By patch, and row and column inside of it.
        taken = (x.unflatten(1, edges).permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3) for x in seen)
        return (*taken, *maps)

    encoder.forward = with_first_stages
    return encoder
