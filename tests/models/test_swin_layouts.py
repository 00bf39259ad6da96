"""Weights of others load into AdaptedSwin, and give the features of the model that they come from."""

import re
import runpy
from pathlib import Path

import mmseg
import pytest
import torch
from mmpretrain.models.backbones import SwinTransformer as MMPretrainSwin
from safetensors.torch import save_file
from tiny import FOUR_TASKS, SWIN, perturb

from mmvmt.models.checkpoint import read_checkpoint
from mmvmt.models.swin_layouts import architecture_of, layout_of, to_mmseg_layout
from mmvmt.registry import MODELS

timm_swin = pytest.importorskip('timm.models.swin_transformer')

# Large enough for four stages whose maps are at least as large as a window: below that, timm takes smaller windows.
IMAGES = torch.randn(2, 3, 128, 128, generator=torch.Generator().manual_seed(1))
ARCHITECTURE = dict(embed_dims=SWIN['embed_dims'], depths=SWIN['depths'], num_heads=SWIN['num_heads'])


@pytest.fixture(scope='module')
def timm():
    torch.manual_seed(0)
    model = timm_swin.SwinTransformer(
        img_size=128,
        patch_size=4,
        embed_dim=SWIN['embed_dims'],
        depths=SWIN['depths'],
        num_heads=SWIN['num_heads'],
        window_size=SWIN['window_size'],
        mlp_ratio=SWIN['mlp_ratio'],
        num_classes=3,
        norm_layer=torch.nn.LayerNorm,  # the epsilon of timm's own depends on its release
    )
    perturb(model)
    return model.eval()


def microsoft_names(timm_weights):
    """Timm's weights under the names, and with the buffers, of the files that Microsoft published."""
    weights = {}
    for name, value in timm_weights.items():
        merging = re.match(r'layers\.(\d)\.(downsample\..*)', name)
        weights[f'layers.{int(merging[1]) - 1}.{merging[2]}' if merging else name.replace('head.fc', 'head')] = value
    weights['layers.1.blocks.1.attn_mask'] = torch.zeros(4, 16, 16)
    weights['layers.0.blocks.0.attn.relative_position_index'] = torch.zeros(16, 16, dtype=torch.long)
    return weights


def load(path, **kwargs):
    swin = MODELS.build(
        dict(type='mmvmt.AdaptedSwin', init_cfg=dict(type='Pretrained', checkpoint=str(path)), **kwargs, **SWIN)
    )
    swin.init_weights()
    return swin.eval()


@torch.no_grad()
def stages_of(timm):
    """Outputs of timm's stages, ``(B, C, H, W)``, before patch merging."""
    x, maps = timm.patch_embed(IMAGES), []
    for layer in timm.layers:
        x = layer(x)
        maps.append(x.permute(0, 3, 1, 2))
    return maps


@torch.no_grad()
def assert_features(path, timm):
    """With tasks the maps leave the encoder unnormed; without, the last one has the norm of the classifier."""
    expected = stages_of(timm)
    maps = load(path, tasks=FOUR_TASKS, plugins=[dict(cfg=dict(type='mmvmt.DecodersOnly'))])(IMAGES)['semseg']
    for ours, theirs in zip(maps, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
    normed = timm.norm(expected[-1].permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    torch.testing.assert_close(load(path)(IMAGES)[-1], normed, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_timm(timm, tmp_path, suffix):
    path, weights = tmp_path / f'model{suffix}', timm.state_dict()
    torch.save(weights, path) if suffix == '.pth' else save_file(weights, path)
    assert layout_of(weights) == 'timm'
    assert_features(path, timm)


def test_microsoft(timm, tmp_path):
    weights = microsoft_names(timm.state_dict())
    torch.save(dict(model=weights), tmp_path / 'swin.pth')
    assert layout_of(weights) == 'microsoft'
    assert_features(tmp_path / 'swin.pth', timm)


@torch.no_grad()
def test_microsofts_own_segmentors_and_detectors(timm, tmp_path):
    """An output norm for every stage, other parts beside the encoder, the position embedding as a map."""
    weights = {
        f'backbone.{name}': value
        for name, value in microsoft_names(timm.state_dict()).items()
        if not name.startswith(('norm.', 'head'))
    }
    widths = [SWIN['embed_dims'] * 2**stage for stage in range(4)]
    norms = {
        f'norm{stage}.{kind}': torch.randn(width) for stage, width in enumerate(widths) for kind in ('weight', 'bias')
    }
    weights |= {f'backbone.{name}': value for name, value in norms.items()}
    weights |= {'decode_head.conv_seg.weight': torch.ones(2), 'roi_head.bbox_head.fc_cls.weight': torch.ones(2)}
    position = torch.randn(1, SWIN['embed_dims'], 32, 32)
    torch.save(dict(state_dict=weights), tmp_path / 'upernet.pth')
    for stage, (ours, expected) in enumerate(zip(load(tmp_path / 'upernet.pth')(IMAGES), stages_of(timm), strict=True)):
        norm = norms[f'norm{stage}.weight'], norms[f'norm{stage}.bias']
        normed = torch.nn.functional.layer_norm(expected.permute(0, 2, 3, 1), widths[stage : stage + 1], *norm)
        torch.testing.assert_close(ours, normed.permute(0, 3, 1, 2), atol=1e-5, rtol=1e-4)
    torch.save(dict(state_dict=weights | {'backbone.absolute_pos_embed': position}), tmp_path / 'position.pth')
    embedded = load(tmp_path / 'position.pth', use_abs_pos_embed=True, pretrain_img_size=128).absolute_pos_embed
    assert torch.equal(embedded, position.flatten(2).transpose(1, 2))
    with pytest.raises(ValueError, match=r"e\.g\. 'absolute_pos_embed'.*use_abs_pos_embed=True; this encoder is"):
        load(tmp_path / 'position.pth')


@pytest.mark.parametrize('layout', ['mmseg', 'microsoft', 'timm'])
def test_a_larger_encoder_is_refused_in_every_layout(layout, timm, tmp_path):
    timms = timm.state_dict()
    timms |= {
        name.replace('layers.2.blocks.0.', f'layers.2.blocks.{block}.'): value
        for name, value in timm.state_dict().items()
        for block in (1, 2)
    }
    weights = {'mmseg': to_mmseg_layout, 'microsoft': microsoft_names, 'timm': dict}[layout](timms)
    torch.save(weights, tmp_path / 'large.pth')
    with pytest.raises(
        ValueError, match=r"have no place in this one, e\.g\. 'stages\.2\.blocks\.1.*depths=\(1, 2, 3, 1\)"
    ):
        load(tmp_path / 'large.pth')


@pytest.mark.parametrize(
    'width, depth, name', [(96, 6, 'Swin-T'), (96, 18, 'Swin-S'), (128, 18, 'Swin-B'), (64, 18, 'a')]
)
def test_architectures_have_names(width, depth, name):
    weights = {
        f'stages.{stage}.blocks.{block}.norm1.bias': torch.ones(1)
        for stage, blocks in enumerate((2, 2, depth, 2))
        for block in range(blocks)
    }
    weights |= {'patch_embed.projection.weight': torch.empty(width, 3, 4, 4), 'patch_embed.norm.weight': torch.ones(1)}
    assert architecture_of(weights).split(' ')[0] == name
    assert f'embed_dims={width}, depths=(2, 2, {depth}, 2)' in architecture_of(weights)


def test_the_conversion_that_mmseg_ships_gives_the_same(timm):
    script = Path(mmseg.__file__).parent / '.mim' / 'tools' / 'model_converters' / 'swin2mmseg.py'
    weights = microsoft_names(timm.state_dict())
    theirs = runpy.run_path(str(script))['convert_swin'](weights)
    ours = to_mmseg_layout(weights)
    # mmseg leaves the classifier's norm under its name and the buffers in place.
    assert set(theirs) - set(ours) == {
        'norm.weight',
        'norm.bias',
        'stages.1.blocks.1.attn_mask',
        'stages.0.blocks.0.attn.w_msa.relative_position_index',
    }
    assert set(ours) - set(theirs) == {'norm3.weight', 'norm3.bias'}
    for name in set(ours) & set(theirs):
        assert torch.equal(ours[name], theirs[name]), name


@pytest.mark.parametrize('prefix', ['', 'backbone.'])
@torch.no_grad()
def test_mmpretrain(tmp_path, prefix):
    torch.manual_seed(0)
    hidden = [SWIN['embed_dims'] * 2**stage * SWIN['mlp_ratio'] for stage in range(4)]
    source = MMPretrainSwin(
        arch=ARCHITECTURE,
        img_size=128,
        window_size=SWIN['window_size'],
        out_indices=(0, 1, 2, 3),
        pad_small_map=True,
        drop_path_rate=0.0,
        stage_cfgs=[dict(block_cfgs=dict(ffn_cfgs=dict(feedforward_channels=width))) for width in hidden],
    )
    perturb(source)
    weights = {prefix + name: value for name, value in source.state_dict().items()}
    torch.save(dict(state_dict=weights | {'head.fc.weight': torch.ones(3, 64)}), tmp_path / 'swin.pth')
    source.eval()  # which returns None
    for ours, theirs in zip(load(tmp_path / 'swin.pth')(IMAGES), source(IMAGES), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_an_encoder_of_one_stage_has_no_patch_merging():
    weights = {'layers.0.blocks.0.attn.qkv.weight': torch.ones(3, 1), 'norm.bias': torch.ones(1)}
    assert set(to_mmseg_layout(weights)) == {'stages.0.blocks.0.attn.w_msa.qkv.weight', 'norm0.bias'}


def test_the_second_version_of_swin_is_refused(timm, tmp_path):
    weights = microsoft_names(timm.state_dict()) | {'layers.0.blocks.0.attn.logit_scale': torch.ones(1, 1, 1)}
    torch.save(weights, tmp_path / 'v2.pth')
    with pytest.raises(ValueError, match=r"v2\.pth.* cannot be loaded: '.*logit_scale' is no weight of a Swin"):
        load(tmp_path / 'v2.pth')


def test_a_layout_that_the_keys_contradict_is_refused(timm):
    with pytest.raises(ValueError, match="have the layout 'timm', not 'microsoft'"):
        to_mmseg_layout(timm.state_dict(), 'microsoft')
    with pytest.raises(ValueError, match="layout must be one of mmseg, microsoft, timm, got 'caffe'"):
        to_mmseg_layout({}, 'caffe')


def test_a_broken_safetensors_file_is_named(tmp_path):
    (tmp_path / 'broken.safetensors').write_bytes(b'nothing of the kind')
    with pytest.raises(ValueError, match=r'broken\.safetensors.* is not a readable file of weights'):
        read_checkpoint(str(tmp_path / 'broken.safetensors'))
    with pytest.raises(FileNotFoundError, match=r'gone\.safetensors.* does not exist'):
        read_checkpoint(str(tmp_path / 'gone.safetensors'))
