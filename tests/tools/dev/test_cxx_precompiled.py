"""``cxx_precompiled.sh`` in front of the compiler of this machine, with a small header in the place of PyTorch's."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[3] / 'tools' / 'dev' / 'cxx_precompiled.sh'


def is_gcc():
    if shutil.which('c++') is None:
        return False
    return 'Free Software Foundation' in subprocess.run(['c++', '--version'], capture_output=True, text=True).stdout


pytestmark = pytest.mark.skipif(not is_gcc(), reason='GCC is needed')


@pytest.fixture
def compile_(tmp_path):
    (tmp_path / 'precompiled').mkdir()
    (tmp_path / 'with space' / 'torch').mkdir(parents=True)
    (tmp_path / 'with space' / 'torch' / 'types.h').write_text(
        '#include <vector>\ninline int answer() { return VALUE; }\n'
    )
    (tmp_path / 'a.cpp').write_text('int a() { return answer(); }\n')
    (tmp_path / 'main.cpp').write_text('int a();\nint main() { return a() + answer() - 42; }\n')
    environment = {**os.environ, 'REAL_CXX': 'c++ -fwrapv', 'PRECOMPILED': str(tmp_path / 'precompiled')}

    def run(*arguments):
        return subprocess.run([SCRIPT, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True)

    return run


FLAGS = ('-H', '-g', '-O2', '-DVALUE=21', '-I', 'with space')


def test_header_is_compiled_once_and_used(compile_, tmp_path):
    header = tmp_path / 'precompiled' / 'operators.h.gch'
    first = compile_('-MMD', '-MF', 'a.d', *FLAGS, '-c', 'a.cpp', '-o', 'a.o')
    assert first.returncode == 0, first.stderr
    written = header.stat().st_mtime_ns
    second = compile_('-MMD', '-MF', 'main.d', *FLAGS, '-c', 'main.cpp', '-o', 'main.o')
    assert header.stat().st_mtime_ns == written
    for result in (first, second):  # -H marks a precompiled header that was taken with an exclamation mark
        assert f'! {header}' in result.stderr
    assert compile_('a.o', 'main.o', '-o', 'program').returncode == 0
    assert subprocess.run([tmp_path / 'program']).returncode == 0
    assert b'.debug_info' not in (tmp_path / 'a.o').read_bytes()


def test_other_flags_take_the_header_itself(compile_):
    assert compile_(*FLAGS, '-c', 'a.cpp', '-o', 'a.o').returncode == 0
    other = compile_(*(flag.replace('21', '20') for flag in FLAGS), '-c', 'main.cpp', '-o', 'main.o')
    assert other.returncode == 0
    assert '\n! ' not in f'\n{other.stderr}'


def test_sources_without_the_header_compile(compile_, tmp_path):
    (tmp_path / 'alone.cpp').write_text('#include <vector>\nint f() { return 1; }\n')
    result = compile_('-c', 'alone.cpp', '-o', 'alone.o')
    assert result.returncode == 0
    assert (tmp_path / 'alone.o').exists()


def test_errors_are_the_compilers(compile_, tmp_path):
    (tmp_path / 'a.cpp').write_text('int a() { return nothing(); }\n')
    result = compile_(*FLAGS, '-c', 'a.cpp', '-o', 'a.o')
    assert result.returncode == 1
    assert 'nothing' in result.stderr
