"""``check_operators.py`` passes with the installed mmcv and says what is wrong with a broken one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmcv.ops import get_compiling_cuda_version

SCRIPT = Path(__file__).resolve().parents[3] / 'tools' / 'dev' / 'check_operators.py'


def run(*arguments, python_path=''):
    environment = {**os.environ, 'PYTHONPATH': str(python_path)}
    return subprocess.run([sys.executable, SCRIPT, *arguments], env=environment, capture_output=True, text=True)


def test_installed_mmcv_works():
    result = run()
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
    result = run(python_path=tmp_path)
    assert result.returncode == 1
    assert message in result.stderr
