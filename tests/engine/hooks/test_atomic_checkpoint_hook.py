import os
import shutil
from pathlib import Path

import pytest
from mmengine.fileio import LocalBackend, get_file_backend
from mmengine.logging import MessageHub, MMLogger
from mmengine.runner import find_latest_checkpoint

from mmvmt.engine import AtomicCheckpointHook
from mmvmt.engine.hooks.atomic_checkpoint_hook import write_atomically


class Recorder:
    """A runner as far as the hook needs one, which notes in which order files appear."""

    def __init__(self, folder):
        self.work_dir = str(folder)
        self.logger = MMLogger.get_instance('atomic')
        self.message_hub = MessageHub.get_instance(f'atomic_{folder.parent.name}_{folder.name}')
        self.iter, self.epoch = 0, 0
        self.fail = False

    def save_checkpoint(self, out_dir, filename, backend_args=None, **kwargs):
        if self.fail:
            raise OSError('no space left on device')
        backend = get_file_backend(os.path.join(out_dir, filename), backend_args=backend_args)
        backend.put(f'iteration {self.iter}'.encode(), os.path.join(out_dir, filename))


@pytest.fixture
def runner(tmp_path):
    return Recorder(tmp_path)


def hook_for(runner, **kwargs):
    hook = AtomicCheckpointHook(interval=1, by_epoch=False, **kwargs)
    hook.before_train(runner)
    return hook


def files(runner):
    return sorted(os.listdir(runner.work_dir))


def save(hook, runner, iteration):
    runner.iter = iteration - 1
    hook._save_checkpoint(runner)


def test_keeps_the_latest_and_points_to_the_last(runner):
    hook = hook_for(runner, max_keep_ckpts=2)
    for iteration in (1, 2, 3):
        save(hook, runner, iteration)
    assert files(runner) == ['iter_2.pth', 'iter_3.pth', 'last_checkpoint']
    pointer = Path(runner.work_dir, 'last_checkpoint').read_text()
    assert pointer == os.path.join(runner.work_dir, 'iter_3.pth')


def test_a_failed_save_keeps_the_old_file_and_the_pointer(runner):
    hook = hook_for(runner, max_keep_ckpts=1)
    save(hook, runner, 1)
    runner.fail = True
    with pytest.raises(OSError, match='no space left'):
        save(hook, runner, 2)
    assert files(runner) == ['iter_1.pth', 'last_checkpoint']
    pointer = Path(runner.work_dir, 'last_checkpoint').read_text()
    assert pointer.endswith('iter_1.pth')


def test_the_previous_best_goes_only_after_the_new_one_is_there(runner):
    hook = hook_for(runner, save_best='score', rule='greater', max_keep_ckpts=1)
    runner.iter = 1
    hook.after_val_epoch(runner, dict(score=1.0))
    assert files(runner) == ['best_score_iter_1.pth']
    runner.iter, runner.fail = 2, True
    with pytest.raises(OSError, match='no space left'):
        hook.after_val_epoch(runner, dict(score=2.0))
    assert files(runner) == ['best_score_iter_1.pth']


@pytest.mark.parametrize('scores', [('score',), ('score', 'other')])
@pytest.mark.parametrize('move', [os.rename, shutil.copytree])
def test_the_best_of_a_moved_run_is_its_own(tmp_path, move, scores):
    """A checkpoint records whole paths; those in a copy are of the run that it was copied from."""
    first = Recorder(tmp_path / 'first')
    options = dict(save_best=list(scores), rule='greater')
    hook = hook_for(first, **options)
    first.iter = 1
    hook.after_val_epoch(first, dict.fromkeys(scores, 1.0))
    kept = [f'best_{score}_iter_1.pth' for score in scores]
    assert files(first) == sorted(kept)

    move(first.work_dir, tmp_path / 'second')
    second = Recorder(tmp_path / 'second')
    second.message_hub.load_state_dict(first.message_hub.state_dict())
    hook = hook_for(second, **options)
    second.iter = 2
    hook.after_val_epoch(second, dict.fromkeys(scores, 2.0))
    assert files(second) == sorted(f'best_{score}_iter_2.pth' for score in scores)
    if move is shutil.copytree:
        assert files(first) == sorted(kept)


def test_a_best_that_was_not_copied_is_not_looked_for_elsewhere(tmp_path):
    first, second = Recorder(tmp_path / 'first'), Recorder(tmp_path / 'second')
    hook = hook_for(first, save_best='score', rule='greater')
    first.iter = 1
    hook.after_val_epoch(first, dict(score=1.0))
    os.mkdir(second.work_dir)
    second.message_hub.load_state_dict(first.message_hub.state_dict())
    hook = hook_for(second, save_best='score', rule='greater')
    assert hook.best_ckpt_path is None
    hook.after_val_epoch(second, dict(score=2.0))
    assert files(first) == ['best_score_iter_1.pth']


def test_mmengine_resumes_a_moved_run(tmp_path):
    """By its own reading of the pointer, as in mmsegmentation's own tools."""
    first = Recorder(tmp_path / 'first')
    save(hook_for(first), first, 2)
    shutil.copytree(first.work_dir, tmp_path / 'second')
    second = Recorder(tmp_path / 'second')
    AtomicCheckpointHook(interval=1).before_run(second)
    assert find_latest_checkpoint(second.work_dir) == f'{second.work_dir}/iter_2.pth'
    assert find_latest_checkpoint(first.work_dir) == f'{first.work_dir}/iter_2.pth'


def test_a_write_that_dies_leaves_the_old_content(tmp_path, monkeypatch):
    path = tmp_path / 'file'
    write_atomically(str(path), b'old')

    def die(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, 'fsync', die)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(str(path), b'new')
    assert path.read_bytes() == b'old'
    assert os.listdir(tmp_path) == ['file']


def test_leftovers_of_a_killed_write_are_removed_at_the_next_start(runner):
    hook_for(runner)
    leftover = os.path.join(runner.work_dir, '.partial-abc')
    Path(leftover).touch()
    hook_for(runner)
    assert files(runner) == []


def test_own_storage_arguments_are_kept():
    assert AtomicCheckpointHook(interval=1, backend_args=dict(backend='local')).backend_args == dict(backend='local')
    default = get_file_backend('/x', backend_args=AtomicCheckpointHook(interval=1).backend_args)
    assert isinstance(default, LocalBackend)
    assert type(default) is not LocalBackend
