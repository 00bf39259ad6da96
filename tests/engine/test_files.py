import os
import shutil

import pytest

from mmvmt.engine.files import latest_checkpoint, renew_pointer


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run in ``work_dirs/a``, with the pointer as mmengine writes it: from the folder where the command was given."""
    monkeypatch.chdir(tmp_path)
    os.makedirs('work_dirs/a')
    for name in ('iter_1.pth', 'iter_2.pth'):
        write('work_dirs/a/' + name, 'a')
    write('work_dirs/a/last_checkpoint', 'work_dirs/a/iter_2.pth')
    return tmp_path


def write(path, text):
    with open(path, 'w') as file:
        file.write(text)


def pointer(folder):
    with open(f'{folder}/last_checkpoint') as file:
        return file.read()


def test_a_run_that_stays_keeps_its_pointer(run):
    renew_pointer('work_dirs/a')
    assert latest_checkpoint('work_dirs/a') == pointer('work_dirs/a') == 'work_dirs/a/iter_2.pth'


def test_a_folder_without_a_run_has_none(run):
    assert latest_checkpoint('work_dirs') is None
    renew_pointer('work_dirs')
    assert os.listdir('work_dirs') == ['a']


@pytest.mark.parametrize('move', [os.rename, shutil.copytree])
def test_a_moved_run_and_a_copied_one_have_their_own(run, move):
    """A copy's pointer names a file that is there, of the run that it was copied from."""
    move('work_dirs/a', 'work_dirs/b')
    assert latest_checkpoint('work_dirs/b') == 'work_dirs/b/iter_2.pth'
    renew_pointer('work_dirs/b')
    assert pointer('work_dirs/b') == 'work_dirs/b/iter_2.pth'


def test_from_another_folder_too(run, monkeypatch):
    monkeypatch.chdir('work_dirs')
    assert latest_checkpoint('a') == 'a/iter_2.pth'
    renew_pointer('a')
    assert pointer('a') == 'a/iter_2.pth'


def test_checkpoints_in_a_folder_of_their_own_stay_there(run):
    """``out_dir`` of the hook: the pointer is in the work dir, which may hold an older file of the same name."""
    os.makedirs('large/a')
    write('large/a/iter_2.pth', 'new')
    write('work_dirs/a/last_checkpoint', 'large/a/iter_2.pth')
    os.rename('work_dirs/a', 'work_dirs/b')
    renew_pointer('work_dirs/b')
    assert latest_checkpoint('work_dirs/b') == pointer('work_dirs/b') == 'large/a/iter_2.pth'


@pytest.mark.parametrize('recorded', ['work_dirs/a/iter_9.pth', 's3://bucket/a/iter_9.pth'])
def test_what_is_nowhere_is_named_as_it_was_recorded(run, recorded):
    write('work_dirs/a/last_checkpoint', recorded)
    renew_pointer('work_dirs/a')
    assert latest_checkpoint('work_dirs/a') == pointer('work_dirs/a') == recorded
