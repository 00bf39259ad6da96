"""A run that is killed and resumed ends with the weights of a run that was not."""

import random
import signal
import time

import commands
import pytest
import torch

ITERATIONS = 10
OPTIONS = [
    f'train_cfg.max_iters={ITERATIONS}',
    'default_hooks.checkpoint.interval=1',
    'default_hooks.checkpoint.max_keep_ckpts=2',
    # Drop path and augmentation make the outcome depend on every random draw; the seed is left open, as users do.
    'model.backbone.drop_path_rate=0.5',
    'randomness.seed=None',
    'val_cfg=None',
    'val_dataloader=None',
    'val_evaluator=None',
]


def arguments(config, work_dir, *more):
    return ['tools/train.py', config, '--work-dir', work_dir, '--cfg-options', *OPTIONS, *more]


@pytest.fixture(scope='module')
def seed():
    return random.SystemRandom().randrange(10_000)


def same(a, b):
    assert a.keys() == b.keys()
    return [name for name in a if not torch.equal(a[name], b[name])]


@pytest.fixture(scope='module')
def uninterrupted(tiny_config, tmp_path_factory, seed):
    work_dir = tmp_path_factory.mktemp('uninterrupted')
    commands.run(*arguments(tiny_config, work_dir, f'randomness.seed={seed}'))
    return commands.weights(work_dir)


def test_killed_while_saving_and_at_a_random_moment_and_moved(tiny_config, tmp_path, seed, uninterrupted):
    work_dir = tmp_path / 'killed'
    hook = "custom_hooks=[dict(type='mmvmt.RandomnessHook'),dict(type='mmvmt.KillWhileSaving',iteration=4)]"
    killer = tmp_path / 'killer.py'
    killer.write_text(
        f"_base_ = '{tiny_config}'\ncustom_imports = dict(imports=['mmvmt', 'kill_while_saving'])\n{hook}\n"
    )
    first = commands.run(*arguments(killer, work_dir, f'randomness.seed={seed}'), check=False)
    assert first.returncode == -signal.SIGKILL
    assert any(path.name.startswith('.partial-') for path in work_dir.iterdir())
    assert (work_dir / 'last_checkpoint').read_text().endswith('iter_3.pth')

    # The second part starts with another seed of its own and must take over that of the first.
    log, delay = tmp_path / 'log', random.SystemRandom().uniform(0, 1)
    process = commands.Forked([*arguments(tiny_config, work_dir), '--resume'], log)
    while 'Iter(train)' not in log.read_text() and process.poll() is None:
        time.sleep(0.02)
    time.sleep(delay)
    process.terminate()
    assert process.returncode in (-signal.SIGKILL, 0)

    work_dir = work_dir.rename(tmp_path / 'moved')
    last = commands.run(*arguments(tiny_config, work_dir), '--resume')
    assert 'resumed' in last.stdout + last.stderr
    assert same(commands.weights(work_dir), uninterrupted) == [], f'delay {delay}, seed {seed}'
    assert not any(path.name.startswith('.partial-') for path in work_dir.iterdir())


def test_another_seed_gives_other_weights(tiny_config, tmp_path, seed, uninterrupted):
    commands.run(*arguments(tiny_config, tmp_path / 'other', f'randomness.seed={seed + 1}'))
    assert same(commands.weights(tmp_path / 'other'), uninterrupted)
