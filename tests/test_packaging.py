"""The wheel and the source distribution, built from a copy of the checkout; the pinned requirements; the gate."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = ('mmvmt', 'configs', 'tools', 'demo', 'requirements')
# Instruments are there in a clone, and in no distribution.
NOT_SHIPPED = ('benchmarks',)
# Import name of what the package may import although setup.py does not name it: both OpenMMLab distributions provide
# the first four under different names, and mmcv brings OpenCV.
PROVIDED = {'mmengine', 'mmcv', 'mmseg', 'mmpretrain', 'cv2'}
IMPORT_NAMES = {'pillow': 'PIL', 'scikit-image': 'skimage'}


def copy_checkout(target):
    """Copy what a distribution is made of, as a clone would have it, and give it one config and one stale build."""
    ignore = shutil.ignore_patterns('__pycache__', '.mim', '*.egg-info')
    for name in (*SHIPPED, *NOT_SHIPPED):
        shutil.copytree(ROOT / name, target / name, ignore=ignore)
    for path in ROOT.iterdir():
        if path.is_file() and not path.name.startswith('.'):
            shutil.copy2(path, target)
    probe = target / 'configs' / 'probe'
    probe.mkdir()
    (probe / 'probe.py').write_text("work_dir = 'from_the_wheel'\n")
    stale = target / 'build' / 'lib' / 'mmvmt'
    stale.mkdir(parents=True)
    (stale / 'deleted_long_ago.py').touch()
    return target


def run(*command, cwd):
    result = subprocess.run([str(word) for word in command], cwd=cwd, capture_output=True, text=True)
    assert result.returncode == 0, f'{command}\n{result.stdout}\n{result.stderr}'
    return result.stdout


def build_wheel(source, target):
    options = ('--no-deps', '--no-build-isolation', '--no-index', '--quiet', '--wheel-dir', target)
    run(sys.executable, '-m', 'pip', 'wheel', *options, source, cwd=target.parent)
    (wheel,) = target.glob('*.whl')
    return wheel


@pytest.fixture(scope='module')
def checkout(tmp_path_factory):
    return copy_checkout(tmp_path_factory.mktemp('checkout'))


@pytest.fixture(scope='module')
def wheel(checkout, tmp_path_factory):
    return build_wheel(checkout, tmp_path_factory.mktemp('build') / 'wheels')


@pytest.fixture(scope='module')
def content(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.fixture(scope='module')
def metadata(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith('.dist-info/METADATA'))
        return Parser().parsestr(archive.read(name).decode())


def files_under(checkout, folder, pattern):
    """Return the POSIX paths, relative to the checkout, of the files that match ``pattern`` in a folder of it."""
    files = [path.relative_to(checkout).as_posix() for path in (checkout / folder).rglob(pattern)]
    assert files, f'no {pattern} under {folder}'
    return files


def test_metadata(metadata):
    namespace = {}
    exec((ROOT / 'mmvmt' / 'version.py').read_text(), namespace)
    assert metadata['Name'] == 'mmvmt'
    assert metadata['Version'] == namespace['__version__']
    assert metadata['License'] == 'Apache-2.0'
    assert metadata['Requires-Python'] == '>=3.10'


def required_names(metadata, extra=None):
    """Names of what the package requires, or of what one of its extras requires besides."""
    lines = [line.partition(';') for line in metadata.get_all('Requires-Dist')]
    marker = '' if extra is None else f'extra == "{extra}"'
    return {re.match(r'[\w.-]+', name).group().lower() for name, _, marked in lines if marked.strip() == marker}


def test_requires_neither_openmmlab_distribution(metadata):
    assert not [name for name in required_names(metadata) if name.startswith(('mm', 'onedl', 'opencv'))]
    assert 'Requires-Dist: torch>=2.4' in str(metadata)


def imported_names(path, inside_functions=True):
    tree = ast.parse(path.read_text(encoding='utf-8'), filename=str(path))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    later = set() if inside_functions else {inner for function in functions for inner in ast.walk(function)}
    for node in set(ast.walk(tree)) - later:
        if isinstance(node, ast.Import):
            yield from (alias.name.partition('.')[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module.partition('.')[0]


def test_requirements_cover_what_the_package_imports(checkout, metadata):
    allowed = {IMPORT_NAMES.get(name, name) for name in required_names(metadata)}
    allowed |= PROVIDED | set(sys.stdlib_module_names) | {'mmvmt'}
    # What an extra brings is imported where it is used.
    extras = allowed | required_names(metadata, 'timm')
    missing = {
        f'{path}: {name}'
        for path in files_under(checkout, 'mmvmt', '*.py')
        for inside_functions, known in ((False, allowed), (True, extras))
        for name in imported_names(checkout / path, inside_functions)
        if name not in known
    }
    assert not missing, 'name these in install_requires of setup.py and pin them in requirements.txt'


@pytest.mark.parametrize('pattern', ['*.py', '*.json'])
def test_ships_the_whole_package(checkout, content, pattern):
    missing = set(files_under(checkout, 'mmvmt', pattern)) - content
    assert not missing, 'a folder without __init__.py is left out of a wheel'


def test_ships_no_leftovers(content):
    top = {name.partition('/')[0] for name in content}
    assert top == {'mmvmt', next(name for name in top if name.endswith('.dist-info'))}
    assert 'mmvmt/deleted_long_ago.py' not in content
    assert not [name for name in content if '__pycache__' in name or name.startswith('mmvmt/.mim/tools/dev/')]


def test_ships_configs_and_tools_for_mim(checkout, content, wheel):
    assert 'mmvmt/.mim/configs/probe/probe.py' in content
    sources = files_under(checkout, 'configs', '*.py')
    sources += [path for folder in ('tools', 'demo') for path in files_under(checkout, folder, '*.*')]
    expected = {f'mmvmt/.mim/{path}' for path in sources if not path.startswith('tools/dev/')}
    assert expected | {'mmvmt/.mim/model-index.yml'} <= content
    with zipfile.ZipFile(wheel) as archive:
        mode = archive.getinfo('mmvmt/.mim/tools/dist_train.sh').external_attr >> 16
    assert mode & 0o111


def test_build_leaves_the_sources_alone(checkout, wheel):
    assert not (checkout / 'mmvmt' / '.mim').exists()


def test_source_distribution_builds_the_same_wheel(checkout, content, tmp_path):
    builder = 'import setuptools.build_meta as backend, sys; print(backend.build_sdist(sys.argv[1]))'
    run(sys.executable, '-c', builder, tmp_path, cwd=checkout)
    (archive,) = tmp_path.glob('*.tar.gz')
    with tarfile.open(archive) as unpacked:
        unpacked.extractall(tmp_path, filter='data')
    (source,) = (path for path in tmp_path.iterdir() if path.is_dir())
    with zipfile.ZipFile(build_wheel(source, tmp_path / 'wheels')) as rebuilt:
        assert set(rebuilt.namelist()) == content


def test_installed_wheel_resolves_its_configs_and_has_their_encoders(wheel, tmp_path):
    site = tmp_path / 'site'
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    (tmp_path / 'child.py').write_text("_base_ = ['mmvmt::probe/probe.py', 'mmvmt::vmt/swin_nano_synthetic.py']\n")
    script = (
        'import mmengine.config.utils as utils\n'
        "utils.MODULE2PACKAGE['mmvmt'] = 'mmvmt'\n"
        'from mmengine.config import Config\n'
        "cfg = Config.fromfile('child.py')\n"
        'print(cfg.work_dir, cfg.model.backbone.init_cfg.checkpoint)\n'
    )
    environment = {**os.environ, 'PYTHONPATH': str(site)}
    result = subprocess.run(
        [sys.executable, '-c', script], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    work_dir, checkpoint = result.stdout.split()
    assert work_dir == 'from_the_wheel'
    assert Path(checkpoint).samefile(site / 'mmvmt/.mim/demo/weights/swin_nano.safetensors')


def test_editable_install_links_configs_and_tools(tmp_path):
    checkout = tmp_path / 'checkout'
    checkout.mkdir()
    copy_checkout(checkout)
    options = ('--no-deps', '--no-build-isolation', '--no-index', '--quiet', '--target', tmp_path / 'site')
    for _ in range(2):
        run(sys.executable, '-m', 'pip', 'install', *options, '--upgrade', '--editable', checkout, cwd=tmp_path)
    mim = checkout / 'mmvmt' / '.mim'
    assert (mim / 'configs').readlink() == Path('../../configs')
    assert (mim / 'configs' / 'probe' / 'probe.py').is_file()
    assert (mim / 'tools').readlink() == Path('../../tools')
    assert (mim / 'demo' / 'image_demo.py').is_file()


REQUIREMENTS = ('requirements.txt', 'requirements/build.txt', 'requirements/dev.txt', 'requirements/optional.txt')


def pins(name):
    """Return ``{distribution: version}`` of a requirements file, each line of which is checked on the way."""
    found = {}
    for number, line in enumerate((ROOT / name).read_text().splitlines(), 1):
        if not line or line.startswith('#'):
            continue
        match = re.fullmatch(r'([a-z0-9-]+)==([0-9][\w.]*)  # \S.+', line)
        assert match, f'{name}:{number}: write "distribution==version  # why", got {line!r}'
        assert match.group(1) not in found, f'{name}:{number}: {match.group(1)} is pinned twice'
        found[match.group(1)] = match.group(2)
    return found


def test_every_requirement_is_pinned_and_justified():
    merged = {}
    for name in REQUIREMENTS:
        for distribution, version in pins(name).items():
            assert merged.setdefault(distribution, version) == version, f'{name}: {distribution} is pinned differently'
    assert {'torch', 'torchvision', 'onedl-mmengine', 'onedl-mmcv', 'onedl-mmsegmentation'} <= set(merged)


def test_the_upstream_environment_differs_where_it_must():
    default, upstream = pins('requirements.txt'), pins('requirements/upstream.txt')
    onedl = {name for name in default if name.startswith('onedl-')}
    assert {name.removeprefix('onedl-') for name in onedl} == set(upstream) - set(default)
    assert onedl == set(default) - set(upstream)
    different = {name for name in set(default) & set(upstream) if default[name] != upstream[name]}
    assert different == {'torch', 'torchvision', 'numpy', 'opencv-python-headless'}


@pytest.mark.parametrize('name', ['requirements.txt', 'requirements/upstream.txt'])
def test_everything_that_setup_py_requires_is_pinned(metadata, name):
    assert required_names(metadata) <= set(pins(name))
    assert {'onnx', 'onnxruntime'} <= required_names(metadata, 'onnx') <= set(pins('requirements/optional.txt'))
    assert {'timm'} == required_names(metadata, 'timm') <= set(pins('requirements/dev.txt'))
    assert {'gradio'} == required_names(metadata, 'web') <= set(pins('requirements/optional.txt'))


def test_setuptools_still_has_pkg_resources():
    assert int(pins('requirements/build.txt')['setuptools'].partition('.')[0]) < 81


def test_one_version_of_ruff():
    hooks = (ROOT / '.pre-commit-config.yaml').read_text()
    assert re.findall(r'ruff-pre-commit\n\s+rev: v(\S+)', hooks) == [pins('requirements/dev.txt')['ruff']]


def test_gate_runs_lint_and_tests():
    gate = ROOT / '.ci' / 'run'
    assert os.access(gate, os.X_OK)
    assert gate.read_text().splitlines()[-3:] == ['make lint', 'make docs', 'make test']
    plan = run('make', '--no-print-directory', '--dry-run', 'lint', 'test', 'demo', cwd=ROOT).splitlines()
    assert plan[0] == 'tools/dev/setup_env.sh'
    expected = ('-m ruff format --check .', '-m ruff check .', '-m pytest', 'tools/demo.py')
    assert [word for word in expected if any(word in line for line in plan)] == list(expected)
