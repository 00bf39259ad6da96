"""``setup_env.sh`` with a stub interpreter that plays Python and pip and records what pip is asked."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
REQUIREMENTS = ('upstream.txt', 'build.txt', 'dev.txt', 'optional.txt')
COPIED = (
    'tools/dev/setup_env.sh',
    'tools/dev/cxx_precompiled.sh',
    'requirements.txt',
    *(f'requirements/{name}' for name in REQUIREMENTS),
    'setup.py',
)

# Stands for every interpreter: $STATE holds what pip was asked and switches that break it. An environment made by
# `-m venv` contains the stub again.
STUB = r"""#!/bin/bash
case "$*" in
    *sys.version_info*'<'*) [[ ! -e $STATE/unfit ]] ;;
    *sys.version_info*) cat "$STATE/version" ;;
    *'import ensurepip'*) [[ ! -e $STATE/no_venv_module ]] ;;
    *Python.h*) [[ ! -e $STATE/no_headers ]] ;;
    '-m venv '*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" && echo venv >>"$STATE/log" ;;
    '-m pip --version') true ;;
    '-m pip freeze') echo ;;
    '-m pip show '*) [[ -e $STATE/other_opencv ]] ;;
    '-m pip check') echo "${PIP_CHECK:-onedl-mmcv 2 requires opencv-python, which is not installed.}" ;;
    '-m pip '*)
        echo "${*:3}  FORCE_CUDA=${FORCE_CUDA:-}" >>"$STATE/log"
        [[ -n ${PIP_FAILS_ON:-} && "$*" == *"$PIP_FAILS_ON"* ]] && exit 1
        [[ "$*" == *--verbose* ]] && printf '[%d/20] c++\n' {1..20}
        true ;;
    -) cat >/dev/null; cat "$STATE/wanted" ;;
    *torch.version.cuda*) echo 13.0 ;;
    *check_operators.py*)
        echo "${*:1}" >>"$STATE/log"
        left=$(cat "$STATE/broken_operators" 2>/dev/null || echo 0)
        ((left == 0)) && exit 0
        echo $((left - 1)) >"$STATE/broken_operators"
        echo 'mmcv.ops: no module _ext' >&2
        exit 1 ;;
    *'import mmcv.ops'*) true ;;
    *) echo "stub: unexpected $*" >&2; exit 99 ;;
esac
"""


class Machine:
    """A checkout with the stub as its only interpreter."""

    def __init__(self, folder):
        self.checkout = folder / 'checkout'
        self.state = folder / 'state'
        self.bin = folder / 'bin'
        for path in (self.state, self.bin):
            path.mkdir()
        for name in COPIED:
            target = self.checkout / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target)
        for name in ('awk', 'bash', 'cat', 'cksum', 'cp', 'dirname', 'grep', 'mkdir', 'nproc', 'rm', 'sed', 'tail'):
            (self.bin / name).symlink_to(shutil.which(name))
        self.add_command('c++')
        self.add_command('python3.11', STUB)
        (self.state / 'version').write_text('3.11')
        (self.state / 'wanted').write_text('cpu')

    def add_command(self, name, text='#!/bin/bash\n'):
        (self.bin / name).write_text(text)
        (self.bin / name).chmod(0o755)

    def break_(self, *switches):
        for switch in switches:
            (self.state / switch).touch()

    def setup(self, *arguments, **environment):
        variables = {'PATH': str(self.bin), 'STATE': str(self.state), **environment}
        (self.state / 'log').write_text('')
        script = self.checkout / 'tools' / 'dev' / 'setup_env.sh'
        return subprocess.run([str(script), *arguments], env=variables, capture_output=True, text=True)

    def asked(self):
        return (self.state / 'log').read_text().splitlines()

    def stamp(self, venv='.venv'):
        return self.checkout / venv / 'setup.stamp'


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def position(lines, *words):
    """Return the index of the only line that contains all words."""
    (index,) = (i for i, line in enumerate(lines) if all(word in line for word in words))
    return index


@pytest.mark.parametrize(
    'arguments,mmcv,others',
    [
        ([], 'onedl-mmcv==', ['onedl-mmsegmentation==', 'onedl-mmpretrain==']),
        (['upstream'], ' mmcv==', [' mmsegmentation==', ' mmpretrain==']),
    ],
)
def test_installs_in_the_order_that_the_operators_need(machine, arguments, mmcv, others):
    result = machine.setup(*arguments)
    assert result.returncode == 0, result.stderr
    asked = machine.asked()
    assert asked[0] == 'venv'
    order = [
        position(asked, 'install', 'setuptools=='),
        position(asked, 'install', ' torch==', 'torchvision=='),
        position(asked, 'install', 'scipy==', 'pytest=='),
        position(asked, 'install', '--no-build-isolation', '--no-deps', mmcv),
        position(asked, 'check_operators.py'),
        position(asked, 'install', '--no-deps', *others),
        position(asked, 'install', '--no-deps', '--editable .'),
    ]
    assert order == sorted(order)
    assert result.stdout.count('==> [') == 6
    assert 'compiled 20 of 20 files' in result.stdout
    assert 'about 0 s more for the other 11 files' in result.stdout


def test_the_two_environments_stand_side_by_side(machine):
    assert machine.setup().returncode == 0
    assert not any(' mmcv==' in line or ' mmengine==' in line for line in machine.asked())
    assert machine.setup('upstream').returncode == 0
    assert not any('onedl-' in line for line in machine.asked())
    assert machine.stamp('.venv-upstream').exists()
    for arguments in ([], ['upstream']):
        result = machine.setup(*arguments)
        assert (result.returncode, result.stdout, machine.asked()) == (0, '', [])
    path = machine.checkout / 'requirements' / 'upstream.txt'
    path.write_text(path.read_text() + '# one more line\n')
    machine.setup()
    assert machine.asked() == []
    machine.setup('upstream')
    assert position(machine.asked(), '--editable .')


def test_unknown_environment(machine):
    result = machine.setup('downstream')
    assert result.returncode == 2
    assert 'setup_env.sh [upstream]' in result.stderr


def test_does_nothing_the_second_time(machine):
    assert machine.setup().returncode == 0
    result = machine.setup()
    assert (result.returncode, result.stdout, machine.asked()) == (0, '', [])


@pytest.mark.parametrize(
    'name',
    ['requirements.txt', 'requirements/build.txt', 'requirements/dev.txt', 'requirements/optional.txt', 'setup.py'],
)
def test_runs_again_when_requirements_change(machine, name):
    machine.setup()
    path = machine.checkout / name
    path.write_text(path.read_text() + '# one more line\n')
    assert machine.setup().returncode == 0
    assert 'venv' not in machine.asked(), 'an environment that works is kept'
    assert position(machine.asked(), '--editable .')
    machine.setup()
    assert machine.asked() == []


def test_runs_again_in_a_copied_checkout(machine, tmp_path):
    machine.setup()
    machine.checkout = machine.checkout.rename(tmp_path / 'elsewhere')
    assert machine.setup().returncode == 0
    assert position(machine.asked(), '--editable .')


@pytest.mark.parametrize(
    'fails_on', ['setuptools==', ' torch==', 'scipy==', 'onedl-mmcv==', 'onedl-mmpretrain==', '--editable']
)
def test_failed_step_says_so_and_is_repeated(machine, fails_on):
    result = machine.setup(PIP_FAILS_ON=fails_on)
    assert result.returncode == 1
    assert 'setup failed: ' in result.stderr
    assert fails_on.strip() in result.stderr
    assert not machine.stamp().exists()
    assert machine.setup().returncode == 0
    assert machine.stamp().exists()


def test_failed_update_leaves_no_stamp(machine):
    machine.setup()
    (machine.checkout / 'requirements/dev.txt').write_text('pytest==9.2.0\n')
    assert machine.setup(PIP_FAILS_ON='pytest==').returncode == 1
    assert not machine.stamp().exists()


def test_unusable_cached_wheel_is_compiled_anew(machine):
    (machine.state / 'broken_operators').write_text('1')
    result = machine.setup()
    assert result.returncode == 0, result.stderr
    assert 'mmcv.ops: no module _ext' in result.stderr
    assert 'compiling anew' in result.stdout
    asked = machine.asked()
    assert position(asked, 'cache remove onedl_mmcv') < position(asked, '--force-reinstall', 'onedl-mmcv==')


def test_operators_that_stay_broken_stop_the_setup(machine):
    (machine.state / 'broken_operators').write_text('2')
    result = machine.setup()
    assert result.returncode == 1
    assert 'mmcv.ops does not work' in result.stderr
    assert 'pip cache purge' in result.stderr
    assert not machine.stamp().exists()


@pytest.mark.parametrize(
    'wanted,operators,force,message',
    [
        ('cpu', 'check_operators.py', '0', 'kind: cpu'),
        ('cuda', 'check_operators.py --cuda', '1', 'kind: cuda'),
        ('gpu-without-nvcc', 'check_operators.py', '0', 'install the CUDA toolkit'),
    ],
)
def test_kind_of_operators(machine, wanted, operators, force, message):
    (machine.state / 'wanted').write_text(wanted)
    result = machine.setup()
    assert result.returncode == 0, result.stderr
    assert message in result.stdout
    assert f'tools/dev/{operators}' in machine.asked()
    assert machine.asked()[position(machine.asked(), 'onedl-mmcv==')].endswith(f'FORCE_CUDA={force}')


def test_forced_cuda_needs_nvcc(machine):
    (machine.state / 'wanted').write_text('forced-without-nvcc')
    result = machine.setup(FORCE_CUDA='1')
    assert result.returncode == 1
    assert 'Install the CUDA toolkit 13.0' in result.stderr


def test_forced_cuda_replaces_operators_for_the_cpu(machine):
    machine.setup()
    (machine.state / 'wanted').write_text('cuda')
    assert machine.setup(FORCE_CUDA='1').returncode == 0
    assert 'tools/dev/check_operators.py --cuda' in machine.asked()
    machine.setup(FORCE_CUDA='1')
    assert machine.asked() == []
    machine.setup()
    assert machine.asked() == []


def test_other_opencv_is_removed_first(machine):
    machine.break_('other_opencv')
    machine.setup()
    asked = machine.asked()
    assert position(asked, 'uninstall', 'opencv-python opencv-python-headless') < position(asked, 'install', 'scipy==')


def test_contradicting_pins_stop_the_setup(machine):
    result = machine.setup(PIP_CHECK='torchvision 1 has requirement torch==2, but you have torch 3.')
    assert result.returncode == 1
    assert 'torchvision 1 has requirement' in result.stderr
    assert not machine.stamp().exists()


@pytest.mark.parametrize(
    'switch,remedy',
    [
        ('unfit', 'make setup PYTHON='),
        ('no_venv_module', 'apt-get install python3.11-venv'),
        ('no_headers', 'apt-get install python3.11-dev'),
    ],
)
def test_unfit_python(machine, switch, remedy):
    machine.break_(switch)
    result = machine.setup()
    assert result.returncode == 1
    assert remedy in result.stderr
    assert machine.asked() == []


def test_chosen_python_does_not_fit(machine):
    machine.break_('unfit')
    (machine.state / 'version').write_text('3.8')
    result = machine.setup(PYTHON='python3.11')
    assert result.returncode == 1
    assert 'PYTHON=python3.11 is Python 3.8.' in result.stderr
    assert 'Python 3.11 or later is needed: make setup PYTHON=' in result.stderr
    result = machine.setup('upstream', PYTHON='python3.11')
    assert 'Python 3.11 or 3.12 is needed: make setup-upstream PYTHON=' in result.stderr


def test_chosen_python_is_missing(machine):
    result = machine.setup(PYTHON='python9')
    assert result.returncode == 1
    assert 'PYTHON=python9 is not a command' in result.stderr


def test_chosen_python_is_not_the_one_of_the_environment(machine):
    assert machine.setup(PIP_FAILS_ON='scipy==').returncode == 1
    machine.add_command('python3.12', '#!/bin/bash\n[[ "$*" != *print* ]] || echo 3.12\n')
    result = machine.setup(PYTHON='python3.12')
    assert result.returncode == 1
    assert '.venv has Python 3.11, python3.12 is 3.12' in result.stderr
    assert 'rm -rf .venv && make setup PYTHON=python3.12' in result.stderr


def test_missing_compiler(machine):
    os.remove(machine.bin / 'c++')
    result = machine.setup()
    assert result.returncode == 1
    assert 'no C++ compiler (c++)' in result.stderr
    assert 'apt-get install gcc g++' in result.stderr
