"""Write what the documentation takes from the code: docs/api.md, docs/configs.md, and the tables of configs in
docs/methods/. Counts come from the metafiles and from docs/parameters.md, which have tools of their own."""

import argparse
import ast
import importlib
import importlib.util
import inspect
import pkgutil
import re
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml
from mmengine.registry import Registry

import mmvmt
from mmvmt import registry

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / 'docs'
MARKS = '<!-- configs:begin -->', '<!-- configs:end -->'
"""Between these, a page under docs/methods/ has its table."""
WRITER = '<!-- Written by python tools/dev/write_docs.py. -->'

API_INTRODUCTION = """\
Every name that a package exports and every class that a config can name, by the package to import it from. In a config
a registered class is `mmvmt.` and its name, whatever the package: `type='mmvmt.MLPHead'`. `mmvmt.__version__` is the
release. Arguments, shapes and errors are in the docstrings; methods have [pages of their own](README.md#methods)."""
CONFIGS_INTRODUCTION = """\
Every file under [configs](../configs), with the parameters that train (heads included) and all of them. The models and
their counts are in `model-index.yml` too, from which mim and mmengine know them."""
COUNTS_NOTE = """\
Trainable parameters of the encoder part for Swin-T and four tasks, from [the table of all
methods](../parameters.md)."""
RESULT_NOTE = """\
**Result.** [The comparison](../benchmark.md) trains every method on the same data and encoder, with the same schedule,
and says how to read its table. These alone:"""

# What the files under configs/_base_/ hold; a file that lacks its line here is an error.
BASE_CONFIGS = {
    'datasets/pascal_context_mt.py': 'data, pipelines and evaluator of PASCAL_MT with four tasks',
    'datasets/synthetic_mt.py': 'the same for rendered scenes of 128 x 128 pixels',
    'default_runtime.py': 'logs, hooks, checkpoints, environment',
    'models/swin_b_in22k_mlp.py': 'Swin-B, ImageNet-22k, all-MLP heads',
    'models/swin_b_mlp.py': 'Swin-B, ImageNet-1k, all-MLP heads',
    'models/swin_l_mlp.py': 'Swin-L, ImageNet-22k, all-MLP heads',
    'models/swin_mlp.py': 'model, heads and losses of the four tasks, for any Swin',
    'models/swin_nano_mlp.py': 'the 2.7 M Swin of the demo',
    'models/swin_pico_mlp.py': 'half its width, for the scaling experiment',
    'models/swin_s_mlp.py': 'Swin-S, ImageNet-1k, all-MLP heads',
    'models/swin_t_mlp.py': 'Swin-T, ImageNet-1k, all-MLP heads',
    'schedules/schedule_40k.py': 'AdamW, 40,000 iterations, warm-up and cosine',
    'schedules/schedule_synthetic.py': 'AdamW, 1,200 iterations, for rendered scenes',
    'synthetic_runtime.py': 'the default runtime with a log for short runs and a fixed seed',
}


def load_tool(path: str) -> ModuleType:
    """Import a tool, which is no part of the package.

    Args:
        path: Its path under the root of the project.
    """
    name = 'mmvmt_' + path.removesuffix('.py').replace('/', '_')
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, ROOT / path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]


def table(header: Iterable[str], rows: Iterable[Iterable[str]], right: Iterable[int] = ()) -> list[str]:
    """A Markdown table.

    Args:
        header: Names of the columns.
        rows: Cells.
        right: Columns that are set flush right.
    """
    header, right = list(header), set(right)
    ruler = '|' + ''.join('---:|' if index in right else '---|' for index in range(len(header)))
    return ['| ' + ' | '.join(header) + ' |', ruler, *('| ' + ' | '.join(row) + ' |' for row in rows)]


# The interface ------------------------------------------------------------------------------------------------------


@cache
def public_packages() -> list[ModuleType]:
    """``mmvmt`` and every package in it that says what it exports, outer ones first."""
    names = [info.name for info in pkgutil.walk_packages(mmvmt.__path__, 'mmvmt.') if info.ispkg]
    packages = [mmvmt, *(importlib.import_module(name) for name in sorted(names))]
    return [package for package in packages if hasattr(package, '__all__')]


@cache
def registered() -> dict[str, dict[str, type]]:
    """``{name of the registry: {name: class}}`` of everything that the package registers."""
    found = {}
    for name, value in vars(registry).items():
        if isinstance(value, Registry) and value.scope == 'mmvmt':
            value.import_from_location()
            ours = {key: cls for key, cls in value.module_dict.items() if cls.__module__.startswith('mmvmt.')}
            if ours:
                found[name] = dict(sorted(ours.items()))
    return found


def _first_sentence(text: str) -> str:
    """The first sentence of a docstring, as Markdown."""
    text = ' '.join(inspect.cleandoc(text).split('\n\n')[0].split())
    text = re.sub(r':math:`([^`]*)`', lambda match: f'`{match[1]}`', text)
    text = re.sub(r':\w+:`~?(?:[\w.]+\.)?([\w]+)`', r'`\1`', text)
    text = text.replace('``', '`').replace('|', '\\|')
    sentence = re.match(r'(.*?[.:])(?= [A-Z]|$)', text)
    text = sentence[1] if sentence else text
    return text.rstrip('.:')


def _constant_text(package: ModuleType, name: str) -> tuple[str, Path]:
    """The string behind the assignment of a constant, else the docstring of its module; and the file.

    Raises:
        ValueError: There is neither, or no module of the package assigns the name.
    """
    for path in sorted(Path(package.__file__).parent.rglob('*.py')):
        tree = ast.parse(path.read_text(encoding='utf-8'))
        for statement, following in zip(tree.body, [*tree.body[1:], None]):
            targets = [statement.target] if isinstance(statement, ast.AnnAssign) else getattr(statement, 'targets', [])
            if not any(isinstance(target, ast.Name) and target.id == name for target in targets):
                continue
            value = following.value if isinstance(following, ast.Expr) else None
            text = value.value if isinstance(value, ast.Constant) and isinstance(value.value, str) else None
            text = text or ast.get_docstring(tree)
            if not text:
                raise ValueError(f'{path}: {name} has no docstring; write one behind its assignment')
            return text, path
    raise ValueError(f'{package.__name__}.__all__ names {name!r}, which no module of it assigns')


def describe(package: ModuleType, name: str) -> tuple[str, Path]:
    """What a public name is, in one sentence, and the file that defines it.

    Raises:
        ValueError: It has no docstring.
    """
    value: Any = getattr(package, name)
    if not (inspect.isclass(value) or inspect.isroutine(value)):
        text, path = _constant_text(package, name)
        return _first_sentence(text), path
    path = Path(inspect.getsourcefile(inspect.unwrap(value)))
    if not value.__doc__:
        raise ValueError(f'{path}: {name} has no docstring')
    return _first_sentence(value.__doc__), path


def _link(path: Path, start: Path, text: str) -> str:
    return f'[{text}]({Path(*[".."] * len(start.relative_to(ROOT).parts), path.relative_to(ROOT)).as_posix()})'


def _api_sections() -> Iterator[str]:
    registries = {cls: name for name, classes in registered().items() for cls in classes.values()}
    listed: set[tuple[str, int]] = set()
    for package in public_packages():
        rows = []
        for name in sorted(package.__all__, key=str.lower):
            value = getattr(package, name)
            if isinstance(value, ModuleType) or name.startswith('__') or (name, id(value)) in listed:
                continue
            listed.add((name, id(value)))
            text, path = describe(package, name)
            where = f'`{registries[value]}`' if inspect.isclass(value) and value in registries else ''
            rows.append([_link(path, DOCS, f'`{name}`'), where, text])
        if rows:
            yield from ['', f'## {package.__name__}', '', *table(['name', 'registry', 'what it is'], rows)]
    rest = [
        (name, cls)
        for name, classes in registered().items()
        for cls in classes.values()
        if (cls.__name__, id(cls)) not in listed
    ]
    rows = []
    for name, cls in rest:
        text, path = describe(importlib.import_module(cls.__module__), cls.__name__)
        rows.append([_link(path, DOCS, f'`{cls.__name__}`'), f'`{name}`', text])
    if rows:
        yield from ['', '## Registered, and built from configs alone', '']
        yield from table(['name', 'registry', 'what it is'], rows)


def _commands() -> list[list[str]]:
    rows = []
    for path in sorted([*(ROOT / 'tools').rglob('*.py'), *(ROOT / 'demo').glob('*.py')]):
        text = ast.get_docstring(ast.parse(path.read_text(encoding='utf-8')))
        if not text:
            raise ValueError(f'{path} has no docstring')
        rows.append([_link(path, DOCS, f'`{path.relative_to(ROOT).as_posix()}`'), _first_sentence(text)])
    for path in sorted((ROOT / 'tools').rglob('*.sh')):
        comment = path.read_text(encoding='utf-8').splitlines()[1]
        sentence = _first_sentence(comment.removeprefix('# '))
        rows.append([_link(path, DOCS, f'`{path.relative_to(ROOT).as_posix()}`'), sentence])
    return rows


def api_page() -> str:
    """The page of all public names and commands."""
    lines = [
        '# Public names and commands',
        '',
        WRITER,
        '',
        API_INTRODUCTION,
        *_api_sections(),
        '',
        '## Commands',
        '',
        'Each says what it takes with `--help`.',
        '',
        *table(['command', 'what it does'], _commands()),
    ]
    return '\n'.join(lines) + '\n'


# Configs ------------------------------------------------------------------------------------------------------------


@cache
def config_models() -> dict[str, dict]:
    """``{path under configs/: metadata}`` from the metafiles, with ``method``, '' where there is none."""
    models = {}
    for path in sorted((ROOT / 'configs').glob('*/metafile.yml')):
        for model in yaml.safe_load(path.read_text(encoding='utf-8'))['Models']:
            metadata = model['Metadata']
            method = (metadata['Architecture'] + [''])[1]
            models[model['Config'].removeprefix('configs/')] = dict(metadata, method=method)
    return models


def config_comment(path: Path) -> str:
    """The comment at the top of a config, in one line.

    Raises:
        ValueError: It starts with something else.
    """
    lines = []
    for line in path.read_text(encoding='utf-8').splitlines():
        if not line.startswith('#'):
            break
        lines.append(line.lstrip('# '))
    if not lines:
        raise ValueError(f'{path} does not start with a comment that says what it is')
    return ' '.join(lines)


def configs_page() -> str:
    """The page of all configs.

    Raises:
        ValueError: A config is in no metafile, or a base config has no line here.
    """
    configs, models = ROOT / 'configs', config_models()
    lines = [
        '# Configs',
        '',
        WRITER,
        '',
        CONFIGS_INTRODUCTION,
    ]
    folders = sorted(path for path in configs.iterdir() if path.is_dir() and path.name != '_base_')
    for folder in folders:
        rows = []
        for path in sorted(folder.glob('*.py')):
            name = path.relative_to(configs).as_posix()
            if name not in models:
                raise ValueError(f'{path} is in no metafile; run python tools/dev/write_metafiles.py {folder.name}')
            model = models[name]
            counts = [f'{model["Trainable Parameters"]:,}', f'{model["Parameters"]:,}']
            rows.append([_link(path, DOCS, f'`{name}`'), config_comment(path), *counts])
        lines += ['', f'## {folder.name}', '', *table(['config', 'what it is', 'train', 'all'], rows, right=(2, 3))]
    found = {path.relative_to(configs / '_base_').as_posix(): path for path in (configs / '_base_').rglob('*.py')}
    if found.keys() != BASE_CONFIGS.keys():
        differing = sorted(found.keys() ^ BASE_CONFIGS.keys())
        raise ValueError(f'BASE_CONFIGS in {__file__} and the files under configs/_base_ differ in {differing}')
    rows = [[_link(found[name], DOCS, f'`_base_/{name}`'), text] for name, text in sorted(BASE_CONFIGS.items())]
    lines += ['', '## What they share', '', *table(['config', 'what it holds'], rows)]
    return '\n'.join(lines) + '\n'


# Methods ------------------------------------------------------------------------------------------------------------


@cache
def parameter_rows() -> dict[str, list[str]]:
    """``{method: [ours, reported, difference, passes, note]}`` from the table of docs/parameters.md."""
    text = (DOCS / 'parameters.md').read_text(encoding='utf-8')
    begin, end = load_tool('tools/analysis/count_params.py').MARKS
    lines = text.split(begin, 1)[1].split(end, 1)[0].strip().splitlines()[2:]
    cells = [[cell.strip() for cell in line.strip('|').split('|')] for line in lines]
    return {method: rest for method, *rest in cells}


def method_block(methods: Iterable[str], page: Path) -> str:
    """Counts, configs and names in the comparison of some methods.

    Args:
        methods: Class names.
        page: Page that they are for.
    """
    models, counted = config_models(), parameter_rows()
    compared = load_tool('tools/compare_methods.py').METHODS
    rows, lists, names = [], [], []
    for method in methods:
        for row in load_tool('tools/analysis/count_params.py').ROWS:
            if models[row.configs[0]]['method'] != method:
                continue
            ours, reported, _, passes, _ = counted[row.method]
            configs = {f'configs/{path}' for path in row.configs}
            name = next((key for key, spec in compared.items() if set(spec.configs['pascal'].values()) == configs), '')
            names += [name] if name else []
            rows.append([row.method, f'`{method}`', ours, reported, passes, f'`{name}`' if name else ''])
        links = [
            _link(ROOT / 'configs' / path, page.parent, f'`{path}`')
            for path, model in models.items()
            if model['method'] == method
        ]
        lists.append(f'- `{method}`: ' + ', '.join(links))
    lines = [
        *table(
            ['method', 'class', 'in the encoder', 'as reported', 'encoder passes', 'name in the comparison'],
            rows,
            (2, 3),
        ),
        '',
        COUNTS_NOTE,
        '',
        *lists,
        '',
        RESULT_NOTE,
        '',
        f'    python tools/compare_methods.py --out DIR --methods {",".join(names)}',
    ]
    return '\n'.join(lines)


def pages() -> dict[Path, str]:
    """What every page that is written, in whole or in part, should hold.

    Raises:
        ValueError: A page of a method has no place for its table.
    """
    found = {DOCS / 'api.md': api_page(), DOCS / 'configs.md': configs_page()}
    methods: dict[Path, list[str]] = {}
    for collection in load_tool('tools/dev/write_metafiles.py').COLLECTIONS:
        methods.setdefault(DOCS / collection.page, []).extend(filter(None, collection.methods))
    begin, end = MARKS
    for path, names in methods.items():
        text = path.read_text(encoding='utf-8')
        if begin not in text or end not in text:
            raise ValueError(f'{path} has no place for its table: it needs the lines {begin} and {end}')
        before, rest = text.split(begin, 1)
        found[path] = f'{before}{begin}\n{method_block(names, path)}\n{end}{rest.split(end, 1)[1]}'
    return found


def stale_pages() -> dict[Path, str]:
    """What the pages should hold that hold something else."""
    found = pages().items()
    return {path: text for path, text in found if not path.is_file() or path.read_text(encoding='utf-8') != text}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--check', action='store_true', help='write nothing; exit code 1 if a page is out of date')
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    stale = stale_pages()
    for path, text in stale.items():
        print(f'{path.relative_to(ROOT)}{" is out of date" if args.check else ""}')
        if not args.check:
            path.write_text(text, encoding='utf-8')
    return 1 if stale and args.check else 0


if __name__ == '__main__':
    sys.exit(main())
