import commands
import pytest


def run(*args):
    return commands.run('tools/dataset/make_synthetic.py', *args, check=False)


def test_scenes_are_written_and_summed_up(tmp_path):
    out = tmp_path / 'set'
    arguments = (out, '--train', 2, '--val', 1, '--size', 48, '--seed', 3, '--jobs', 1)
    first = run(*arguments)
    assert first.returncode == 0, first.stderr
    assert f'{out}: 2 train and 1 val scenes in the PASCAL_MT layout, 48 x 48 pixels, seed 3' in first.stdout
    assert 'written 3, already there 0' in first.stdout
    assert 'images/s per core' in first.stdout
    assert len(list((out / 'JPEGImages').iterdir())) == 3
    assert 'written 0, already there 3' in run(*arguments).stdout
    other = run(*arguments[:-3], 4)
    assert other.returncode == 1
    assert other.stderr.startswith('make_synthetic.py: ')
    assert '--overwrite' in other.stderr
    assert 'Traceback' not in other.stderr
    assert run(*arguments[:-3], 4, '--overwrite').returncode == 0


@pytest.mark.parametrize(
    'arguments, message',
    [(('--train', -1), 'train is -1'), (('--size', 8), 'size 8 is too small'), (('--seed', -1), 'seed is -1')],
)
def test_bad_arguments_are_one_line(tmp_path, arguments, message):
    done = run(tmp_path / 'set', *arguments)
    assert done.returncode == 1
    assert done.stderr.startswith(f'make_synthetic.py: {message}')
    assert len(done.stderr.strip().splitlines()) == 1
