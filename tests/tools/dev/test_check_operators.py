"""``check_operators.py`` passes with the installed mmcv and says what is wrong with a broken one."""

import sys

import commands
import pytest
import torch
from mmcv.ops import get_compiling_cuda_version


def run(*arguments):
    return commands.run('tools/dev/check_operators.py', *arguments, check=False)


def test_installed_mmcv_works():
    # As set-up does, in an interpreter of its own.
    result = commands.run_command([sys.executable, 'tools/dev/check_operators.py'], check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout == 'mmcv.ops: works on the CPU\n'


@pytest.mark.skipif(get_compiling_cuda_version() != 'not available', reason='mmcv has CUDA operators')
def test_operators_without_cuda_are_told():
    result = run('--cuda')
    assert result.returncode == 1
    assert 'mmcv was compiled without CUDA' in result.stderr


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
def test_cuda_operators_work():
    result = run('--cuda')
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    'operators,message',
    [
        ("raise ImportError('undefined symbol')", 'ImportError: undefined symbol'),
        (
            'get_compiling_cuda_version = None\n'
            'def modulated_deform_conv2d(x, *rest):\n    return x.new_zeros(1, 3, 6, 6)\n',
            'is off by',
        ),
    ],
)
def test_broken_operators_are_told(tmp_path, operators, message):
    package = tmp_path / 'mmcv'
    package.mkdir()
    (package / '__init__.py').touch()
    (package / 'ops.py').write_text(operators)
    script = tmp_path / 'with_these.py'
    script.write_text(
        'import runpy, sys\n'
        "for name in [name for name in sys.modules if name.split('.')[0] == 'mmcv']:\n"
        '    del sys.modules[name]\n'
        f'sys.path.insert(0, {str(tmp_path)!r})\n'
        "runpy.run_path('tools/dev/check_operators.py', run_name='__main__')\n"
    )
    result = commands.run(script, check=False)
    assert result.returncode == 1
    assert message in result.stderr
