"""Gradient accumulation, averaged weights and compilation, as a config asks for them."""

import argparse

import commands
import pytest
import torch
from mmengine.optim import build_optim_wrapper
from tiny import VMT, batch, losses_of, tiny_model, tiny_swin

from mmvmt.compat import RECORDS_GRAPHS
from mmvmt.engine.run_config import add_run_arguments, load_run_config

IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
WRAPPER = dict(
    type='OptimWrapper',
    constructor='mmvmt.PEFTOptimWrapperConstructor',
    optimizer=dict(type='SGD', lr=0.1),
)


def test_accumulated_gradients_are_the_mean_of_those_of_the_parts():
    parts = [batch(seed=0), batch(seed=1)]
    reference = tiny_model().train()
    (sum(sum(losses_of(reference, part).values()) for part in parts) / 2).backward()
    expected = {name: p - 0.1 * p.grad for name, p in reference.named_parameters() if p.requires_grad}

    model = tiny_model().train()
    wrapper = build_optim_wrapper(model, WRAPPER | dict(accumulative_counts=2))
    wrapper.initialize_count_status(model, 0, 2)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    model.train_step(parts[0], wrapper)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    model.train_step(parts[1], wrapper)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter, expected.get(name, before[name]), atol=1e-5, rtol=1e-4, msg=name)


def weights(path, key='state_dict'):
    return torch.load(path, map_location='cpu', weights_only=False)[key]


def test_averaged_weights_follow_their_definition(tiny_config, tmp_path):
    options = [
        'train_cfg.max_iters=3',
        'default_hooks.checkpoint.interval=1',
        'default_hooks.checkpoint.max_keep_ckpts=3',
    ]
    config = tmp_path / 'ema.py'
    config.write_text(
        f'_base_ = {str(tiny_config)!r}\n'
        "custom_hooks = [dict(type='mmvmt.RandomnessHook'), dict(type='EMAHook', momentum=0.25)]\n"
    )
    commands.run('tools/train.py', config, '--work-dir', tmp_path / 'run', '--cfg-options', *options)
    # The hook swaps: state_dict holds the averages, ema_state_dict the trained weights.
    files = [tmp_path / 'run' / f'iter_{step}.pth' for step in (1, 2, 3)]
    trained = [{k.removeprefix('module.'): v for k, v in weights(f, 'ema_state_dict').items()} for f in files]
    averaged = [weights(f) for f in files]
    moved = 0
    for name, value in averaged[2].items():
        if value.is_floating_point():
            expected = 0.75 * averaged[1][name] + 0.25 * trained[2][name]
            torch.testing.assert_close(value, expected, atol=1e-6, rtol=1e-5, msg=name)
            moved += not torch.equal(averaged[1][name], value)
    assert moved > 0


@pytest.mark.skipif(not RECORDS_GRAPHS, reason='needs torch 2.7, which records graphs of the models')
@pytest.mark.parametrize('training', [True, False])
def test_encoder_and_heads_are_one_graph(training):
    model = tiny_model(('semseg', 'normals')).train(training)
    compiled = torch.compile(model.encode_decode, backend='eager', fullgraph=True)
    expected, got = model.encode_decode(IMAGES), compiled(IMAGES)
    assert tuple(got) == ('semseg', 'normals')
    for task, logits in got.items():
        torch.testing.assert_close(logits, expected[task], atol=1e-5, rtol=1e-5)
    torch._dynamo.reset()


@pytest.mark.skipif(not RECORDS_GRAPHS, reason='needs torch 2.7, which records graphs of the models')
def test_a_compiled_training_ends_with_the_weights_of_one_that_is_not(tiny_config, tmp_path):
    config = tmp_path / 'compiled.py'
    config.write_text(
        f'_base_ = {str(tiny_config)!r}\n'
        "custom_hooks = [dict(type='mmvmt.RandomnessHook'), dict(type='mmvmt.CompileHook', backend='eager')]\n"
    )
    options = ['--cfg-options', 'train_cfg.max_iters=2', 'default_hooks.checkpoint.interval=2']
    logs = [
        commands.run('tools/train.py', path, '--work-dir', tmp_path / path.stem, *options).stdout
        for path in (tiny_config, config)
    ]
    assert ['are compiled' in log for log in logs] == [False, True]
    plain, compiled = (weights(tmp_path / path.stem / 'iter_2.pth') for path in (tiny_config, config))
    assert plain.keys() == compiled.keys()
    for name, value in plain.items():
        torch.testing.assert_close(compiled[name], value, atol=1e-5, rtol=1e-4, msg=name)


def test_the_option_adds_the_hook(tiny_config):
    parser = argparse.ArgumentParser()
    parser.add_argument('config')
    add_run_arguments(parser)
    cfg = load_run_config(parser.parse_args([str(tiny_config), '--compile']))
    assert cfg.custom_hooks[-1] == dict(type='mmvmt.CompileHook')


def test_channels_last_images_give_the_same_features():
    swin = tiny_swin(plugins=[VMT])
    expected, got = swin(IMAGES), swin(IMAGES.to(memory_format=torch.channels_last))
    for task, maps in expected.items():
        for a, b in zip(maps, got[task]):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
            # Tokens become maps without a copy: channels lie beside each other.
            assert b.is_contiguous(memory_format=torch.channels_last)
