"""The shipped configs of other encoders, made small: they train, resume, test and are exported on rendered scenes."""

import importlib.util

import commands
import pytest
import torch

from mmvmt.compat import RECORDS_GRAPHS

CONFIG = """
_base_ = {base!r}
head = dict(channels=8, norm_cfg=dict(type='GN', num_groups=2))
model = dict(
    backbone=dict(init_cfg=None, encoder=dict({encoder})),
    heads=dict(semseg=head, human_parts=head, saliency=head, normals=head),
)
train_cfg = dict(max_iters=2, val_interval=100)
param_scheduler = [dict(type='PolyLR', eta_min=0.0, power=1.0, begin=0, end=10, by_epoch=False)]
"""
DINOV2 = """_delete_=True, type='mmpretrain.VisionTransformer', img_size=28, patch_size=14, layer_scale_init_value=1e-5,
    arch=dict(embed_dims=16, num_layers=4, num_heads=2, feedforward_channels=32), out_indices=[0, 1, 2, 3],
    out_type='featmap'"""
ENCODERS = {
    'dinov2_s': DINOV2,
    'pvt_v2_b2': 'depths=(1, 1, 1, 1), embed_dims=(8, 16, 32, 64), num_heads=(1, 2, 4, 8), mlp_ratios=(2, 2, 2, 2)',
}
CROP = 'train_dataloader.dataset.pipeline.3.crop_size=(64,64)'


@pytest.fixture(scope='module')
def export_onnx():
    spec = importlib.util.spec_from_file_location('export_onnx', commands.ROOT / 'tools/deployment/export_onnx.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize('name', sorted(ENCODERS))
def test_a_shipped_config_trains_resumes_tests_and_is_exported(name, scenes, tmp_path, export_onnx):
    if name == 'pvt_v2_b2':
        pytest.importorskip('timm')
    config, run = tmp_path / 'small.py', tmp_path / 'run'
    config.write_text(CONFIG.format(base=str(commands.ROOT / f'configs/vmt/{name}_pascal.py'), encoder=ENCODERS[name]))
    train = ['tools/train.py', config, '--data-root', scenes, '--work-dir', run]
    options = ['--cfg-options', CROP, 'train_dataloader.batch_size=2', 'train_dataloader.num_workers=1']
    first = commands.run(*train, *options)
    assert 'optimizer group adapters: ' in first.stdout + first.stderr
    resumed = commands.run(*train, '--resume', *options, 'train_cfg.max_iters=3')
    assert 'resumed epoch: 0, iter: 2' in resumed.stdout + resumed.stderr
    assert (run / 'iter_3.pth').is_file()

    weights = commands.weights(run)
    adapter = run / 'adapter.safetensors'
    for trained in (run / 'iter_3.pth', adapter):
        tested = commands.run(
            *('tools/test.py', config, trained, '--data-root', scenes, '--work-dir', tmp_path / 'test'),
            *('--cfg-options', 'test_dataloader.num_workers=1', 'randomness.seed=0'),
            check=False,
        )
        if trained == adapter:
            # Its encoder started from scratch, which no file holds: the adapter file says so.
            assert 'init_cfg' in tested.stderr
        else:
            assert tested.returncode == 0, tested.stderr
            assert 'semseg' in tested.stdout + tested.stderr
    assert any(key.startswith('backbone.adapters.') for key in weights)

    if RECORDS_GRAPHS:
        pytest.importorskip('onnxruntime')
        pytest.importorskip('onnxscript')
        out = tmp_path / 'model.onnx'
        # Here, where what records graphs is imported once; of one head, since all are alike.
        size = ['--height', '64', '--width', '64', '--tasks', 'semseg']
        assert export_onnx.main([str(config), str(run / 'iter_3.pth'), str(out), *size]) == 0
        assert out.stat().st_size > 0
    assert torch.isfinite(sum(value.double().sum() for value in weights.values() if value.is_floating_point()))
