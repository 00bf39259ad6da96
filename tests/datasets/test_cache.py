import multiprocessing
import os
import random

import numpy as np
import pytest

from mmvmt.datasets import cache
from mmvmt.datasets.cache import LabelCache, check_cache_dir

SHAPE = (6, 7)


@pytest.fixture
def source(tmp_path):
    path = tmp_path / 'root' / '2008_000001.mat'
    path.parent.mkdir()
    path.write_bytes(b'some labels')
    return path


@pytest.fixture
def warnings(monkeypatch):
    messages = []
    monkeypatch.setattr(cache, 'print_log', lambda message, **_: messages.append(message))
    return messages


class Reader:
    """Makes a map, and counts how often it is asked to."""

    def __init__(self, value=3, dtype=np.uint16):
        self.label = np.full(SHAPE, value, dtype=dtype)
        self.label[2:, 3:] = 7
        self.calls = 0

    def __call__(self):
        self.calls += 1
        return self.label.copy()


@pytest.mark.parametrize('dtype', [np.uint8, np.uint16])
def test_a_file_is_read_once(tmp_path, source, dtype):
    read = Reader(dtype=dtype)
    first = LabelCache(str(tmp_path / 'cache')).load('edge', str(source), SHAPE, read)
    second = LabelCache(str(tmp_path / 'cache')).load('edge', str(source), SHAPE, read)
    assert read.calls == 1
    for label in (first, second):
        np.testing.assert_array_equal(label, read.label)
        assert label.dtype == dtype


def test_changing_a_map_leaves_the_cache_alone(tmp_path, source):
    read, store = Reader(), LabelCache(str(tmp_path / 'cache'))
    for _ in range(3):
        label = store.load('edge', str(source), SHAPE, read)
        np.testing.assert_array_equal(label, read.label)
        label[:] = 0
    assert read.calls == 1


def test_kinds_and_files_have_entries_of_their_own(tmp_path, source):
    store = LabelCache(str(tmp_path / 'cache'))
    twin = tmp_path / source.name
    twin.write_bytes(source.read_bytes())
    os.utime(twin, ns=(source.stat().st_atime_ns, source.stat().st_mtime_ns))
    maps = {('edge', source): 1, ('human_parts', source): 2, ('edge', twin): 3}
    for _ in range(2):
        for (kind, path), value in maps.items():
            assert store.load(kind, str(path), SHAPE, Reader(value))[0, 0] == value
    assert len(list((tmp_path / 'cache').rglob('*.npz'))) == 3


@pytest.mark.parametrize('change', ['size', 'time', 'shape', 'format'])
def test_an_outdated_entry_is_replaced(tmp_path, source, change, monkeypatch, warnings):
    store, shape = LabelCache(str(tmp_path / 'cache')), SHAPE
    store.load('edge', str(source), shape, Reader(1))
    stat = source.stat()
    if change == 'size':
        source.write_bytes(b'some other labels')
        os.utime(source, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    elif change == 'time':
        os.utime(source, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    elif change == 'shape':
        shape = (7, 6)
    else:
        monkeypatch.setattr(cache, '_FORMAT', cache._FORMAT + 1)
    read = Reader(2)
    for _ in range(2):
        assert store.load('edge', str(source), shape, read)[0, 0] == 2
    assert read.calls == 1
    assert len(list((tmp_path / 'cache').rglob('*.npz'))) == 1
    assert not warnings


def test_a_missing_file_is_not_served_from_the_cache(tmp_path, source):
    store = LabelCache(str(tmp_path / 'cache'))
    store.load('edge', str(source), SHAPE, Reader())
    source.unlink()

    def read():
        raise FileNotFoundError(f'missing file {source}')

    with pytest.raises(FileNotFoundError, match='missing file'):
        store.load('edge', str(source), SHAPE, read)


def test_an_error_of_the_reader_leaves_no_entry(tmp_path, source):
    store = LabelCache(str(tmp_path / 'cache'))

    def read():
        raise ValueError('size mismatch')

    with pytest.raises(ValueError, match='size mismatch'):
        store.load('edge', str(source), SHAPE, read)
    assert not (tmp_path / 'cache').exists()


def damage(data):
    """Cut at every length or so, replaced by a text, one bit changed in every second byte."""
    rng = random.Random(0)
    yield from (data[:length] for length in range(0, len(data), 11))
    yield b'a text'
    for position in range(0, len(data), 2):
        changed = bytearray(data)
        changed[position] ^= 1 << rng.randrange(8)
        yield bytes(changed)


def test_no_damage_gives_a_wrong_map(tmp_path, source, warnings):
    store, read = LabelCache(str(tmp_path / 'cache')), Reader()
    store.load('edge', str(source), SHAPE, read)
    entry = store.entry('edge', str(source))
    with open(entry, 'rb') as file:
        intact = file.read()
    detected = 0
    for data in damage(intact):
        with open(entry, 'wb') as file:
            file.write(data)
        calls = read.calls
        np.testing.assert_array_equal(store.load('edge', str(source), SHAPE, read), read.label)
        detected += read.calls - calls
    # The rest changed what carries no data, such as the time that the archive notes of its members.
    assert detected > len(intact) / 4
    assert len(warnings) == detected
    assert all(f'damaged cache file {entry}' in message for message in warnings)


def test_the_damaged_file_is_made_anew(tmp_path, source, warnings):
    store, read = LabelCache(str(tmp_path / 'cache')), Reader()
    store.load('edge', str(source), SHAPE, read)
    with open(store.entry('edge', str(source)), 'wb') as file:
        file.write(b'PK damaged')
    for _ in range(3):
        np.testing.assert_array_equal(store.load('edge', str(source), SHAPE, read), read.label)
    assert read.calls == 2
    assert len(warnings) == 1


@pytest.mark.parametrize('failing', ['makedirs', 'replace'])
def test_a_failing_write_is_explained_and_leaves_nothing(tmp_path, source, monkeypatch, failing):
    def fail(*_, **__):
        raise OSError('No space left on device')

    monkeypatch.setattr(cache.os, failing, fail)
    store = LabelCache(str(tmp_path / 'cache'))
    with pytest.raises(OSError, match=r'cannot write the cache file .*2008_000001.*No space left.*leave out cache_dir'):
        store.load('edge', str(source), SHAPE, Reader())
    assert not [path for path in (tmp_path / 'cache').rglob('*') if path.is_file()]


def read_and_write(folder, paths, barrier, seed):
    """Load every file many times over, each time with an entry that is missing, damaged or outdated."""
    store, rng = LabelCache(folder), random.Random(seed)
    barrier.wait(timeout=30)
    for _ in range(40):
        for value, path in enumerate(paths):
            label = store.load('edge', path, SHAPE, Reader(value))
            assert label[0, 0] == value
            assert label[2, 3] == 7
            if rng.random() < 0.3:
                os.utime(path, ns=(rng.randrange(10**9), rng.randrange(10**9)))


def test_several_processes_share_a_folder(tmp_path):
    context = multiprocessing.get_context('fork')
    paths = [str(tmp_path / f'{name}.mat') for name in range(3)]
    for path in paths:
        with open(path, 'wb') as file:
            file.write(b'labels')
    folder, barrier = str(tmp_path / 'cache'), context.Barrier(4)
    processes = [context.Process(target=read_and_write, args=(folder, paths, barrier, seed)) for seed in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=60)
    assert [process.exitcode for process in processes] == [0] * 4
    assert sorted(path.suffix for path in (tmp_path / 'cache').rglob('*.*')) == ['.npz'] * 3


@pytest.mark.parametrize('inside', ['.', 'cache', 'a/b', '../root', '../root/cache'])
def test_a_cache_inside_the_data_is_refused(tmp_path, inside):
    root = tmp_path / 'root'
    root.mkdir()
    with pytest.raises(ValueError, match=r"cache_dir '.*' lies inside data_root '.*root'.*outside"):
        check_cache_dir(str(root / inside), str(root))


def test_a_cache_inside_the_data_by_way_of_a_link_is_refused(tmp_path):
    (tmp_path / 'root/cache').mkdir(parents=True)
    (tmp_path / 'link').symlink_to(tmp_path / 'root')
    for cache_dir, root in (('link/cache', 'root'), ('root/cache', 'link'), ('link/new/one', 'root')):
        with pytest.raises(ValueError, match='lies inside data_root'):
            check_cache_dir(str(tmp_path / cache_dir), str(tmp_path / root))


def test_a_cache_beside_the_data_is_allowed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert check_cache_dir('root-cache', 'root') == str(tmp_path / 'root-cache')
    assert check_cache_dir('~/labels', 'root') == os.path.expanduser('~/labels')
