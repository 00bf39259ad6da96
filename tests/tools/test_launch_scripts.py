"""The launch scripts, with stubs of ``torchrun`` and ``srun`` that record how they were called."""

import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / 'tools'
SCRIPTS = ('dist_train.sh', 'dist_test.sh', 'slurm_train.sh', 'slurm_test.sh')
STUB = """#!/bin/bash
printf '%s\\0' "$0" "$@" >"$RECORD/arguments"
printf '%s' "$PYTHONPATH" >"$RECORD/pythonpath"
exit "${STUB_EXIT:-0}"
"""
POSITIONAL = {
    'dist_train.sh': ['config.py', '2'],
    'dist_test.sh': ['config.py', 'iter_10.pth', '2'],
    'slurm_train.sh': ['gpu', 'job', 'config.py'],
    'slurm_test.sh': ['gpu', 'job', 'config.py', 'iter_10.pth'],
}


class Launcher:
    """Runs a launch script in an empty folder with nothing but the stubs and what the scripts need on PATH."""

    def __init__(self, folder, stubs=('torchrun', 'srun')):
        self.folder = folder
        self.bin = folder / 'bin'
        self.bin.mkdir()
        for name in ('bash', 'dirname'):
            (self.bin / name).symlink_to(shutil.which(name))
        for name in stubs:
            stub = self.bin / name
            stub.write_text(STUB)
            stub.chmod(0o755)

    def run(self, script, *arguments, tools=TOOLS, **environment):
        variables = {'PATH': str(self.bin), 'RECORD': str(self.folder), **environment}
        return subprocess.run(
            [str(tools / script), *arguments], cwd=self.folder, env=variables, capture_output=True, text=True
        )

    def recorded(self):
        """Return the command line that reached the stub, split into its own options and what follows the program."""
        words = (self.folder / 'arguments').read_text().split('\0')[:-1]
        program = next(i for i, word in enumerate(words) if word.endswith(('train.py', 'test.py')))
        return Path(words[0]).name, words[1:program], words[program:]

    def python_path(self):
        return (self.folder / 'pythonpath').read_text()


@pytest.fixture
def launcher(tmp_path):
    return Launcher(tmp_path)


@pytest.mark.parametrize('script', SCRIPTS)
def test_is_executable(script):
    assert os.stat(TOOLS / script).st_mode & stat.S_IXUSR


def test_dist_train_defaults(launcher):
    result = launcher.run('dist_train.sh', 'config.py', '8')
    assert result.returncode == 0, result.stderr
    program, options, rest = launcher.recorded()
    assert program == 'torchrun'
    assert sorted(options) == [
        '--master_addr=127.0.0.1',
        '--master_port=29500',
        '--nnodes=1',
        '--node_rank=0',
        '--nproc_per_node=8',
    ]
    assert rest == [str(TOOLS / 'train.py'), 'config.py', '--launcher', 'pytorch']


def test_dist_test_defaults(launcher):
    result = launcher.run('dist_test.sh', 'config.py', 'iter_10.pth', '3', '--out', 'result.json')
    assert result.returncode == 0, result.stderr
    _, options, rest = launcher.recorded()
    assert '--nproc_per_node=3' in options
    assert rest == [
        str(TOOLS / 'test.py'),
        'config.py',
        'iter_10.pth',
        '--launcher',
        'pytorch',
        '--out',
        'result.json',
    ]


@pytest.mark.parametrize('script', ['dist_train.sh', 'dist_test.sh'])
def test_dist_on_several_nodes(launcher, script):
    launcher.run(script, *POSITIONAL[script], NNODES='3', NODE_RANK='2', MASTER_ADDR='10.0.0.7', PORT='12345')
    _, options, _ = launcher.recorded()
    assert sorted(options) == [
        '--master_addr=10.0.0.7',
        '--master_port=12345',
        '--nnodes=3',
        '--node_rank=2',
        '--nproc_per_node=2',
    ]


def test_slurm_train_defaults(launcher):
    result = launcher.run('slurm_train.sh', 'gpu', 'vmt', 'config.py', '--amp')
    assert result.returncode == 0, result.stderr
    program, options, rest = launcher.recorded()
    assert program == 'srun'
    assert sorted(options[:-2]) == [
        '--cpus-per-task=5',
        '--gres=gpu:4',
        '--job-name=vmt',
        '--kill-on-bad-exit=1',
        '--ntasks-per-node=4',
        '--ntasks=4',
        '--partition=gpu',
    ]
    assert options[-2:] == ['python', '-u']
    assert rest == [str(TOOLS / 'train.py'), 'config.py', '--launcher', 'slurm', '--amp']


def test_slurm_test_defaults(launcher):
    result = launcher.run('slurm_test.sh', 'gpu', 'vmt', 'config.py', 'iter_10.pth', '--out', 'result.json')
    assert result.returncode == 0, result.stderr
    _, options, rest = launcher.recorded()
    assert '--ntasks=4' in options
    assert rest == [str(TOOLS / 'test.py'), 'config.py', 'iter_10.pth', '--launcher', 'slurm', '--out', 'result.json']


@pytest.mark.parametrize('script', ['slurm_train.sh', 'slurm_test.sh'])
@pytest.mark.parametrize(
    'environment,per_node,total',
    [
        ({'GPUS': '16', 'GPUS_PER_NODE': '8'}, 8, 16),
        ({'GPUS': '16'}, 4, 16),
        ({'GPUS': '1'}, 1, 1),
        ({'GPUS_PER_NODE': '2'}, 2, 4),
    ],
)
def test_slurm_gpus(launcher, script, environment, per_node, total):
    launcher.run(script, *POSITIONAL[script], **environment)
    _, options, _ = launcher.recorded()
    expected = {f'--gres=gpu:{per_node}', f'--ntasks-per-node={per_node}', f'--ntasks={total}'}
    assert expected <= set(options)


@pytest.mark.parametrize('script', ['slurm_train.sh', 'slurm_test.sh'])
def test_slurm_arguments_from_environment(launcher, script):
    launcher.run(
        script,
        *POSITIONAL[script],
        '--work-dir',
        'last',
        CPUS_PER_TASK='9',
        SRUN_ARGS='--time=1:00:00 \n --exclude=node[1-3]',
        PY_ARGS='--amp --work-dir first',
    )
    _, options, rest = launcher.recorded()
    assert '--cpus-per-task=9' in options
    assert options[-4:-2] == ['--time=1:00:00', '--exclude=node[1-3]']
    # What is typed comes last, so that it wins over what the environment says.
    assert rest[-5:] == ['--amp', '--work-dir', 'first', '--work-dir', 'last']


@pytest.mark.parametrize('script', SCRIPTS)
def test_arguments_with_spaces_and_patterns_stay_whole(launcher, script):
    extra = ['--work-dir', 'my runs/first try', '--cfg-options', 'name=a b', '*', '']
    config = 'my configs/vmt tiny.py'
    positional = [config if word == 'config.py' else word for word in POSITIONAL[script]]
    launcher.run(script, *positional, *extra)
    _, _, rest = launcher.recorded()
    assert rest[1] == config
    assert rest[-len(extra) :] == extra


@pytest.mark.parametrize('script', SCRIPTS)
def test_runs_from_a_folder_with_spaces(launcher, script, tmp_path):
    tools = tmp_path / 'my checkout' / 'tools'
    tools.mkdir(parents=True)
    copy = tools / script
    copy.write_bytes((TOOLS / script).read_bytes())
    copy.chmod(0o755)
    result = launcher.run(script, *POSITIONAL[script], tools=tools)
    assert result.returncode == 0, result.stderr
    _, _, rest = launcher.recorded()
    assert Path(rest[0]).parent == tools
    assert launcher.python_path() == str(tmp_path / 'my checkout')


@pytest.mark.parametrize('script', SCRIPTS)
def test_python_path(launcher, script):
    launcher.run(script, *POSITIONAL[script])
    assert launcher.python_path() == str(ROOT)
    launcher.run(script, *POSITIONAL[script], PYTHONPATH='/somewhere/else')
    assert launcher.python_path() == f'{ROOT}:/somewhere/else'


@pytest.mark.parametrize('script', SCRIPTS)
def test_exit_status_is_passed_on(launcher, script):
    assert launcher.run(script, *POSITIONAL[script], STUB_EXIT='7').returncode == 7


@pytest.mark.parametrize(
    'script,missing',
    [(script, missing) for script, words in POSITIONAL.items() for missing in range(1, len(words) + 1)],
)
def test_missing_arguments(launcher, script, missing):
    given = POSITIONAL[script][:-missing]
    result = launcher.run(script, *given)
    assert result.returncode == 2
    assert f'got {len(given)} arguments' in result.stderr
    assert f'{script} ' in result.stderr.split('usage:')[1]
    assert not (launcher.folder / 'arguments').exists()


@pytest.mark.parametrize('gpus', ['0', '-1', 'two', '--amp', ''])
@pytest.mark.parametrize('script', ['dist_train.sh', 'dist_test.sh'])
def test_dist_gpus_must_be_a_number(launcher, script, gpus):
    result = launcher.run(script, *POSITIONAL[script][:-1], gpus)
    assert result.returncode == 2
    assert f'got "{gpus}"' in result.stderr
    assert not (launcher.folder / 'arguments').exists()


@pytest.mark.parametrize('script', ['slurm_train.sh', 'slurm_test.sh'])
def test_slurm_gpus_must_be_a_number(launcher, script):
    result = launcher.run(script, *POSITIONAL[script], GPUS='many')
    assert result.returncode == 2
    assert 'got "many"' in result.stderr


@pytest.mark.parametrize(
    'script,remedy',
    [
        ('dist_train.sh', 'source .venv/bin/activate'),
        ('dist_test.sh', 'source .venv/bin/activate'),
        ('slurm_train.sh', 'dist_train.sh'),
        ('slurm_test.sh', 'dist_test.sh'),
    ],
)
def test_missing_launcher_names_the_remedy(tmp_path, script, remedy):
    result = Launcher(tmp_path, stubs=()).run(script, *POSITIONAL[script])
    assert result.returncode == 127
    assert remedy in result.stderr
