"""Write what the documentation takes from the configs: docs/configs.md, and the tables in docs/methods/. Counts come
from the metafiles and from docs/parameters.md, which have tools of their own."""

import argparse
import importlib
import importlib.util
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from types import ModuleType

import yaml

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / 'docs'
MARKS = '<!-- configs:begin -->', '<!-- configs:end -->'
"""Between these, a page under docs/methods/ has its table."""
WRITER = '<!-- Written by python tools/dev/write_docs.py. -->'

CONFIGS_INTRODUCTION = """\
Every file under `configs`, with the parameters that train (heads included) and all of them. The models and
their counts are in `model-index.yml` too, from which mim and mmengine know them."""
COUNTS_NOTE = """\
Trainable parameters of the encoder part for Swin-T and four tasks, from [the table of all
methods](../parameters.md)."""
RESULT_NOTE = """\
**Result.** [The comparison](../benchmark.md) trains every method on the same data and encoder, with the same schedule,
and says how to read its table. These alone:"""


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


def _link(path: Path, start: Path, text: str) -> str:
    return f'[{text}]({Path(*[".."] * len(start.relative_to(ROOT).parts), path.relative_to(ROOT)).as_posix()})'


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
        ValueError: A config is in no metafile, or has no comment at its top.
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
    base = sorted((configs / '_base_').rglob('*.py'))
    rows = [[_link(path, DOCS, f'`{path.relative_to(configs).as_posix()}`'), config_comment(path)] for path in base]
    lines += ['', '## What they share', '', *table(['config', 'what it holds'], rows)]
    return '\n'.join(lines) + '\n'


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
    # It stands in benchmarks/, which is no part of the package.
    compared = load_tool('benchmarks/methods/methods.py')
    pascal = compared.Comparison(dict(preset='pascal', data_root='docs'))  # any folder: no data is read
    configs_of: dict[str, set[str]] = {}
    for model in compared.MODELS:
        configs_of.setdefault(model.partition('-')[0], set()).add(pascal.config('main', model))

    rows, lists, names = [], [], []
    for method in methods:
        for row in load_tool('tools/analysis/count_params.py').ROWS:
            if models[row.configs[0]]['method'] != method:
                continue
            ours, reported, _, passes, _ = counted[row.method]
            configs = {f'configs/{config}' for config in row.configs}
            name = next((key for key, own in configs_of.items() if own == configs), '')
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
        '    snakemake -s benchmarks/methods/Snakefile --directory DIR --cores 2 --config methods=' + ','.join(names),
    ]
    return '\n'.join(lines)


def pages() -> dict[Path, str]:
    """What every page that is written, in whole or in part, should hold.

    Raises:
        ValueError: A page of a method has no place for its table.
    """
    found = {DOCS / 'configs.md': configs_page()}
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
