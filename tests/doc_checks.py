"""What the tests of the documentation need: pages taken apart, and checks of the commands, code and links in them.

A check returns a list of problems, each with page and line; an empty list is a pass.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import importlib
import inspect
import io
import itertools
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, NoneType
from typing import Any
from unittest import mock

import mmengine.registry
from markdown_it import MarkdownIt
from mmengine.config import Config
from mmengine.registry import Registry
from mmengine.runner import Runner
from PIL import Image
from torch.utils.data import DataLoader

import mmvmt
import mmvmt.registry

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / 'tools' / 'dev'))
import write_docs  # noqa: E402  it stands in tools/, which is no package

Problems = list[str]
FOLDERS = ('benchmarks', 'configs', 'tools', 'demo', 'tests', 'mmvmt', 'docs', 'requirements')
# Programs that pages may ask for although they are not ours.
FOREIGN = {'cd', 'cp', 'export', 'git', 'ls', 'mkdir', 'nvidia-smi', 'nproc', 'pre-commit', 'sinfo', 'source', 'squeue'}
FOREIGN_OPTIONS = {
    '--cores',
    '--config',
    '--directory',
    '--default-resources',
    '--keep-going',
    '--resources',
    '--unlock',
}
FOREIGN_OPTIONS |= {
    '--rerun-incomplete',
    '--report',
    '--executor',
    '--set-threads',
    '--set-resources',
    '--workflow-profile',
}
FOREIGN_OPTIONS |= {'--no-build-isolation', '--no-deps', '--no-cache-dir', '--force-reinstall', '--no-sandbox'}
# What capital words in commands stand for. DIR and FILE exist in the sandbox.
PLACEHOLDERS = {
    'CONFIG': 'configs/vmt/swin_t_pascal.py',
    'CHECKPOINT': 'checkpoint.pth',
    'DIR': 'DIR',
    'FILE': 'FILE',
    'GPUS': '8',
    'JOB_NAME': 'job',
    'PARTITION': 'gpu',
    'PICTURE': 'picture.jpg',
    'SEED': '1',
    'TASK': 'depth',
}
# Programs that are started as modules.
INSTRUMENTS = {
    'benchmarks.speed': 'benchmarks/speed/__main__.py',
}
SAMPLE_CONFIG = PLACEHOLDERS['CONFIG']
# Files that the reader writes, or that a command before wrote.
OWN_CONFIG = re.compile(r'(my_\w+|work_dirs/.+)\.py')


@dataclass(frozen=True)
class Code:
    """A block of code, or a span of it in a line.

    Args:
        text: The code.
        where: Page and line, for messages.
        language: Language of a fence; empty where none is given.
        inline: Whether it is a span.
    """

    text: str
    where: str
    language: str = ''
    inline: bool = False


class Page:
    """A Markdown page.

    Args:
        path: Its file.
        text: Its content; None: that of the file.
    """

    def __init__(self, path: Path, text: str | None = None) -> None:
        self.path = path
        self.text = path.read_text(encoding='utf-8') if text is None else text
        self.name = path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.name
        self.code: list[Code] = []
        self.links: list[tuple[str, str, bool]] = []
        """Target, page and line, whether it is a picture."""
        self.anchors: set[str] = set()
        self.headings: list[tuple[int, str, int]] = []
        """Level, title, number of the line."""
        previous = None
        for token in MarkdownIt('commonmark').enable('table').parse(self.text):
            where = f'{self.name}:{token.map[0] + 1}' if token.map else self.name
            if token.type in ('fence', 'code_block'):
                self.code.append(Code(token.content, where, token.info.strip()))
            elif token.type == 'inline':
                if previous.type == 'heading_open':
                    self._add_heading(int(previous.tag[1:]), token.children, token.map[0])
                for child in token.children:
                    if child.type == 'code_inline':
                        self.code.append(Code(child.content, where, inline=True))
                    elif child.type in ('link_open', 'image'):
                        key = 'src' if child.type == 'image' else 'href'
                        self.links.append((str(child.attrs[key]), where, child.type == 'image'))
            previous = token

    def _add_heading(self, level: int, children: Sequence[Any], line: int) -> None:
        title = ''.join(child.content for child in children if child.type in ('text', 'code_inline'))
        self.headings.append((level, title, line))
        # How GitHub makes an anchor of a heading.
        slug = re.sub(r'[^\w\- ]', '', title.lower()).replace(' ', '-')
        found = (slug if number == 0 else f'{slug}-{number}' for number in itertools.count())
        self.anchors.add(next(name for name in found if name not in self.anchors))

    def section(self, title: str) -> str:
        """Text from a heading to the next of its level or above; empty where there is no such heading."""
        lines = self.text.splitlines()
        for index, (level, name, line) in enumerate(self.headings):
            if name == title:
                ends = (end for next_level, _, end in self.headings[index + 1 :] if next_level <= level)
                return '\n'.join(lines[line + 1 : next(ends, len(lines))])
        return ''


def pages() -> list[Page]:
    """README, CONTRIBUTING, CHANGELOG and everything under docs/."""
    paths = [ROOT / name for name in ('README.md', 'CONTRIBUTING.md', 'CHANGELOG.md')]
    return [Page(path) for path in [*paths, *sorted((ROOT / 'docs').rglob('*.md'))]]


# Links --------------------------------------------------------------------------------------------------------------


def check_links(page: Page) -> Problems:
    """Relative links lead to files and anchors that are there, pictures open."""
    problems = []
    for target, where, is_picture in page.links:
        if re.match(r'[a-z]+:', target):
            continue
        name, _, anchor = target.partition('#')
        path = (page.path.parent / name).resolve() if name else page.path
        if name and not (path.is_relative_to(ROOT) and path.exists()):
            problems.append(f'{where}: link to {target!r}: there is no such file in the project')
        elif is_picture:
            try:
                with Image.open(path) as picture:
                    picture.verify()
            except OSError as error:
                problems.append(f'{where}: picture {target!r} does not open: {error}')
        elif anchor:
            anchors = page.anchors if not name else Page(path).anchors if path.suffix == '.md' else set()
            if anchor not in anchors:
                problems.append(f'{where}: link to {target!r}: no heading of that page has the anchor #{anchor}')
    return problems


# Commands -----------------------------------------------------------------------------------------------------------


def make_sandbox(folder: Path) -> Path:
    """A folder like a fresh clone, in which commands may name and make files: entries of the project are links."""
    for entry in ROOT.iterdir():
        if entry.name in ('data', 'work_dirs') or (entry.name.startswith('.') and entry.name != '.ci'):
            continue
        if entry.name == 'benchmarks':
            (folder / entry.name).mkdir()
            for inner in entry.iterdir():
                (folder / entry.name / inner.name).symlink_to(inner)
        else:
            (folder / entry.name).symlink_to(entry)
    (folder / 'DIR').mkdir()
    (folder / 'FILE').write_text('')
    return folder


def command_lines(text: str) -> Iterator[tuple[int, list[str]]]:
    """The commands of a block, each with the number of its line in the block, without comments.

    Raises:
        ValueError: A quotation is not closed.
    """
    joined, start = '', 0
    for number, line in enumerate(text.splitlines()):
        joined, start = (joined + line, start) if joined else (line, number)
        if joined.endswith('\\'):
            joined = joined[:-1]
            continue
        words = shlex.split(joined, comments=True)
        joined = ''
        if words:
            yield start, words


def split_environment(words: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Separate ``NAME=VALUE`` in front of a command from the command."""
    count = next((i for i, word in enumerate(words) if not re.match(r'[A-Z_]+=', word)), len(words))
    return dict(word.split('=', 1) for word in words[:count]), list(words[count:])


def is_command(words: Sequence[str]) -> bool:
    """Whether a line starts as a command does."""
    command = split_environment(words)[1]
    if not command:
        return False
    first = command[0]
    return (
        first in ('python', 'pip', 'make', 'snakemake', '.ci/run')
        or first in FOREIGN
        or bool(re.match(r'tools/.+\.sh$', first))
    )


def is_shell(code: Code) -> bool:
    """Whether a block holds commands: it says so, or one of its lines starts as a command does."""
    if code.language:
        return code.language in ('bash', 'sh', 'shell', 'console')
    try:
        return any(is_command(words) for _, words in command_lines(code.text))
    except ValueError:
        return False


@cache
def tool_parser(path: str) -> argparse.ArgumentParser:
    """The parser of a tool, as it is when the tool's own ``parse_args`` calls it.

    Raises:
        ValueError: The tool has no ``parse_args(argv)``.
    """

    class Found(Exception):
        pass

    def stop(parser: argparse.ArgumentParser, *_: Any) -> None:
        raise Found(parser)

    parse_args = _parse_args_of(path)
    with mock.patch.object(argparse.ArgumentParser, 'parse_args', stop):
        try:
            parse_args([])
        except Found as found:
            return found.args[0]
    raise ValueError(f'parse_args of {path} parses nothing')


def _parse_args_of(path: str) -> Callable[[list[str]], argparse.Namespace]:
    if not (ROOT / path).is_file():
        raise ValueError(f'{path} does not exist')
    if path.startswith('benchmarks/'):
        module = importlib.import_module(path.removesuffix('.py').replace('/', '.'))
    else:
        module = write_docs.load_tool(path)
    if not hasattr(module, 'parse_args'):
        raise ValueError(f'{path} has no parse_args(argv)')
    return module.parse_args


def _options_of(parser: argparse.ArgumentParser) -> set[str]:
    options = set(parser._option_string_actions)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            options.update(*(_options_of(inner) for inner in action.choices.values()))
    return options


@cache
def all_options() -> frozenset[str]:
    """The options of all tools."""
    instruments = [ROOT / path for path in INSTRUMENTS.values()]
    paths = [*instruments, *(ROOT / 'tools').rglob('*.py'), *(ROOT / 'demo').glob('*.py')]
    parsers = (tool_parser(path.relative_to(ROOT).as_posix()) for path in paths)
    return frozenset(itertools.chain.from_iterable(map(_options_of, parsers)))


def _stand_in(word: str, sandbox: Path) -> str:
    """A word of a command with what it stands for: placeholders, and absolute paths, which exist nowhere."""
    if word.startswith('/'):
        path = sandbox / 'absolute' / word.lstrip('/')
        if path.suffix:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        else:
            path.mkdir(parents=True, exist_ok=True)
        return str(path)
    if re.fullmatch(r'[A-Z][A-Z_]+', word):
        if word not in PLACEHOLDERS:
            raise ValueError(f'unknown placeholder {word}; known: {", ".join(sorted(PLACEHOLDERS))}')
        return PLACEHOLDERS[word]
    return word


def check_tool(path: str, arguments: Sequence[str], sandbox: Path) -> None:
    """A tool takes these arguments, and the config and entries of it that they name are there.

    Args:
        path: The tool's path under the root of the project.
        arguments: Its arguments, placeholders among them.
        sandbox: Folder from :func:`make_sandbox`.

    Raises:
        ValueError: It does not, or they are not.
    """
    parse_args = _parse_args_of(path)
    argv = [_stand_in(word, sandbox) for word in arguments]
    errors, before = io.StringIO(), Path.cwd()
    # A page may show options for GPUs on a machine that has none.
    gpu = mock.patch('torch.cuda.is_available', return_value=True)
    try:
        os.chdir(sandbox)
        with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()), gpu:
            args = parse_args(argv)
    except SystemExit as end:
        if end.code in (0, None):
            return
        raise ValueError(f'{path}: {errors.getvalue().strip().splitlines()[-1]}') from None
    finally:
        os.chdir(before)
    config = getattr(args, 'config', None)
    if config is None:
        return
    if OWN_CONFIG.fullmatch(config):
        config = SAMPLE_CONFIG
    elif not (ROOT / config).is_file():
        raise ValueError(f'{path}: config {config} does not exist')
    for key in getattr(args, 'cfg_options', None) or {}:
        check_config_key(config, key)


def check_script(path: str, environment: Sequence[str], arguments: Sequence[str], sandbox: Path) -> None:
    """A launch script takes these arguments and variables, and so does the tool that it starts.

    Raises:
        ValueError: They do not.
    """
    script = ROOT / path
    if not script.is_file():
        raise ValueError(f'{path} does not exist')
    text = script.read_text(encoding='utf-8')
    usage = re.search(r"^usage='usage: (?:\[(.*?)\] )?\S+\.sh (.*?) \[arguments of (\w+\.py)\]'$", text, re.MULTILINE)
    if not usage:
        if arguments:
            raise ValueError(f'{path} takes no arguments that its text would tell')
        return
    variables, positional, tool = usage.groups()
    known = {word.split('=')[0] for word in variables.split()} | set(re.findall(r'^#   ([A-Z_, ]+?)[ =]', text, re.M))
    known = {name for entry in known for name in re.split(r'[,\s]+', entry)} | set(re.findall(r'[A-Z_]+(?==\d)', text))
    unknown = sorted(set(environment) - known)
    if unknown:
        raise ValueError(f'{path} knows no variable {unknown[0]}; it knows {", ".join(sorted(known))}')
    names = positional.split()
    given = dict(zip(names, arguments))
    if len(given) < len(names):
        raise ValueError(f'{path} needs {positional}, got {" ".join(arguments) or "nothing"}')
    if 'GPUS' in given and not re.fullmatch(r'[1-9]\d*|GPUS', given['GPUS']):
        raise ValueError(f'{path}: {given["GPUS"]!r} is no number of GPUs')
    passed = [given[name] for name in ('CONFIG', 'CHECKPOINT') if name in given]
    check_tool(f'tools/{tool}', [*passed, *arguments[len(names) :]], sandbox)


def _check_make(words: Sequence[str], sandbox: Path) -> None:
    makefile = (ROOT / 'Makefile').read_text(encoding='utf-8')
    setup = (ROOT / 'tools' / 'dev' / 'setup_env.sh').read_text(encoding='utf-8')
    targets = set(re.findall(r'^([a-z][\w-]*):', makefile, re.MULTILINE))
    for word in words:
        name, is_variable, value = word.partition('=')
        if not is_variable:
            if word not in targets:
                raise ValueError(f'make has no target {word!r}; it has {", ".join(sorted(targets))}')
        elif not re.search(rf'\b{name}\b', makefile + setup):
            raise ValueError(f'make knows no variable {name}')
        elif name == 'DEMO_ARGS':
            check_tool('tools/demo.py', shlex.split(value), sandbox)
        elif name == 'METHODS_ARGS':
            _check_snakemake(['-s', 'benchmarks/methods/Snakefile', *shlex.split(value)], sandbox)
        elif name == 'SPEED_ARGS':
            check_tool(INSTRUMENTS['benchmarks.speed'], shlex.split(value), sandbox)
        elif name == 'PYTEST_ARGS':
            for path in (part for part in value.split() if part.startswith('tests')):
                check_path(path)


def _check_snakemake(words: Sequence[str], sandbox: Path) -> None:
    """The workflow of the comparison has these targets and options. Snakemake need not be installed."""
    from benchmarks.methods.methods import Comparison

    taken: dict[str, list[str]] = {'': []}
    key = ''
    for word in words:
        if word.startswith('-'):
            key = word
            taken[key] = []
        elif key in ('-n', '--keep-going', '--unlock', '--rerun-incomplete') or (
            key not in ('--config', '--default-resources', '--resources') and taken[key]
        ):
            taken[''].append(word)
        else:
            taken[key].append(word)
    for path in [*taken.get('-s', ['missing']), *taken.get('--workflow-profile', [])]:
        if not (ROOT / path).exists():
            raise ValueError(f'snakemake: {path} does not exist')
    if unknown := [name for name in taken if name.startswith('--') and name not in FOREIGN_OPTIONS]:
        raise ValueError(f'snakemake: {unknown[0]} is not among FOREIGN_OPTIONS of {__file__}')
    pairs = (word.partition('=')[::2] for word in taken.get('--config', []))
    given = {key: int(value) if value.isdigit() else _stand_in(value, sandbox) for key, value in pairs}
    comparison = Comparison(given)
    if unknown := [name for name in taken[''] if name not in comparison.tables]:
        raise ValueError(f'the workflow has no table {unknown[0]!r}; it has {", ".join(comparison.tables)}')


def _check_step(words: Sequence[str]) -> None:
    """The comparison has this step, and it takes these arguments."""
    from benchmarks.methods import steps

    name, arguments = words[0], dict(word.partition('=')[::2] for word in words[1:])
    try:
        inspect.signature(getattr(steps, name)).bind(**arguments)
    except (AttributeError, TypeError) as error:
        raise ValueError(f'benchmarks.methods.steps {name}: {error}') from error


def _pins(name: str) -> set[str]:
    """The versions of a package that the requirements of the environments pin."""
    files = [ROOT / 'requirements.txt', *(ROOT / 'requirements').glob('*.txt')]
    pattern = rf'^{re.escape(name)}==([\w.+]+)'
    return {pin for path in files for pin in re.findall(pattern, path.read_text(encoding='utf-8'), re.MULTILINE)}


def _check_pip(words: Sequence[str]) -> None:
    extras = set(re.findall(r"^\s+'?(\w+)'?\s*[:=].*$", (ROOT / 'setup.py').read_text(encoding='utf-8'), re.MULTILINE))
    for option, word in itertools.pairwise(['', *words]):
        if option in ('-r', '--requirement', '-c', '--constraint') and not (ROOT / word).is_file():
            raise ValueError(f'pip: {word} does not exist')
        extra = re.fullmatch(r'(?:mmvmt|\.)\[(\w+)\]', word)
        if extra and extra[1] not in extras:
            raise ValueError(f'pip: setup.py has no extra {extra[1]!r}')
        pin = re.fullmatch(r'([\w-]+)==(.+)', word)
        if pin and pin[2] not in _pins(pin[1]):
            raise ValueError(
                f'pip: the requirements pin {pin[1]} to {sorted(_pins(pin[1])) or "nothing"}, not {pin[2]}'
            )


def check_command(words: Sequence[str], sandbox: Path) -> None:
    """A command can be typed as it stands.

    Raises:
        ValueError: It cannot.
    """
    environment, command = split_environment(words)
    if not command:
        raise ValueError(f'no command behind {" ".join(words)}')
    first, rest = command[0], command[1:]
    if first == 'python':
        if rest[:1] == ['-c']:
            compile(rest[1], 'python -c', 'exec')
        elif rest[:1] == ['-m'] and rest[1] in INSTRUMENTS:
            check_tool(INSTRUMENTS[rest[1]], rest[2:], sandbox)
        elif rest[:2] == ['-m', 'benchmarks.methods.steps']:
            _check_step(rest[2:])
        elif rest[:1] == ['-m']:
            if find_spec(rest[1]) is None:
                raise ValueError(f'python -m {rest[1]}: no such module')
        elif rest and re.match(r'(tools|demo)/', rest[0]):
            check_tool(rest[0], rest[1:], sandbox)
        else:
            raise ValueError(f'{" ".join(command)}: only files under tools/ and demo/ are known')
    elif first == 'make':
        _check_make([*(f'{name}={value}' for name, value in environment.items()), *rest], sandbox)
    elif first == 'snakemake':
        _check_snakemake(rest, sandbox)
    elif first == 'pip':
        _check_pip(rest)
    elif first.startswith('tools/'):
        check_script(first, list(environment), rest, sandbox)
    elif first == '.ci/run':
        if not (ROOT / first).is_file():
            raise ValueError(f'{first} does not exist')
    elif first == 'mkdir':
        for name in rest:
            if not name.startswith(('-', '/', '.')):
                (sandbox / name).mkdir(parents=True, exist_ok=True)
    elif first not in FOREIGN:
        raise ValueError(f'unknown command {first!r}')


def check_commands(page: Page, sandbox: Path) -> Problems:
    """Every command of a page can be typed, and no block mentions a tool without being a command."""
    problems = []
    for code in page.code:
        if code.inline:
            lines = _inline_command(code)
        elif is_shell(code):
            try:
                lines = list(command_lines(code.text))
            except ValueError as error:
                problems.append(f'{code.where}: {error}')
                continue
        else:
            tool = re.search(r'(?<![\w/])(?:tools|demo)/[\w/]+\.(?:py|sh)', code.text)
            if tool and code.language != 'python' and not _is_python(code.text):
                problems.append(f'{code.where}: {tool[0]} stands in a block that is no command')
            continue
        for _, words in lines:
            try:
                check_command(words, sandbox)
            except (ValueError, SyntaxError) as error:
                problems.append(f'{code.where}: {" ".join(words)}: {error}')
    return problems


def _inline_command(code: Code) -> list[tuple[int, list[str]]]:
    """The command in a span; a program or script that is merely named is none."""
    try:
        words = shlex.split(' '.join(code.text.split()))
    except ValueError:
        return []
    is_bare = len(words) == 1 and words[0] != 'make'
    return [(0, words)] if words and is_command(words) and not is_bare else []


# Configs ------------------------------------------------------------------------------------------------------------


@cache
def load_config(path: str) -> Config:
    """A config of the project."""
    return Config.fromfile(ROOT / path)


def accepted(function: Callable) -> set[str]:
    """Names of the arguments that a class or function takes, those of its bases included where it hands them on."""
    owners = (
        [function] if not inspect.isclass(function) else [cls for cls in function.__mro__ if '__init__' in vars(cls)]
    )
    names: set[str] = set()
    for owner in owners:
        parameters = inspect.signature(owner.__init__ if inspect.isclass(owner) else owner).parameters.values()
        names |= {p.name for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}
        if not any(p.kind == p.VAR_KEYWORD for p in parameters):
            break
    return names - {'self'}


@cache
def registered() -> dict[str, dict[str, type]]:
    """``{name of the registry: {name: class}}`` of everything that the package registers."""
    found = {}
    for name, value in vars(mmvmt.registry).items():
        if isinstance(value, Registry) and value.scope == 'mmvmt':
            value.import_from_location()
            ours = {key: cls for key, cls in value.module_dict.items() if cls.__module__.startswith('mmvmt.')}
            if ours:
                found[name] = dict(sorted(ours.items()))
    return found


@cache
def registered_class(name: str) -> type:
    """The class that ``type='...'`` names.

    Raises:
        ValueError: Neither mmvmt nor mmengine registers it.
    """
    if name.startswith('mmvmt.'):
        for classes in registered().values():
            if name.removeprefix('mmvmt.') in classes:
                return classes[name.removeprefix('mmvmt.')]
    for value in vars(mmengine.registry).values():
        if isinstance(value, Registry) and name in value.module_dict:
            return value.module_dict[name]
    raise ValueError(f'{name!r} is not registered')


# What takes the entries of a config's dictionaries that have no type.
UNTYPED: dict[str, Callable] = {
    '': Runner.__init__,
    'randomness': Runner.set_randomness,
    'train_dataloader': DataLoader,
    'val_dataloader': DataLoader,
    'test_dataloader': DataLoader,
}
# Dictionaries that the package itself reads, and that a config may lack.
DICTIONARIES: dict[str, set[str]] = {
    'model.test_cfg': {'mode', 'resolution', 'crop_size', 'stride'},
    'model.train_cfg': {'tasks'},
    'optim_wrapper.paramwise_cfg': {'adapter_lr_mult', 'encoder_lr_mult', 'decoder_lr_mult'},
}


def check_config_key(config: str, key: str) -> None:
    """An entry is in a config, or what is built from the dictionary around it takes it.

    Args:
        config: Path of the config under the root of the project.
        key: Names with dots between them, as ``--cfg-options`` has them.

    Raises:
        ValueError: Neither.
    """
    node: Any = load_config(config)._cfg_dict
    walked: list[str] = []
    for part in key.split('.'):
        where = '.'.join(walked)
        if isinstance(node, (list, tuple)):
            if not part.isdigit() or int(part) >= len(node):
                raise ValueError(f'{config}: {where} is a list of {len(node)}, and has no {part!r}')
            node = node[int(part)]
        elif isinstance(node, dict) and part in node:
            node = node[part]
        elif isinstance(node, dict) and '.'.join([*walked, part]) in DICTIONARIES:
            node = {}
        elif isinstance(node, dict):
            kind = node.get('type')
            taker = registered_class(kind) if isinstance(kind, str) else kind or UNTYPED.get(where)
            known = DICTIONARIES.get(where) or (accepted(taker) if taker else set())
            if part not in known:
                raise ValueError(f'{config} has no {key}: {where or "the config"} takes no {part!r}')
            return
        else:
            raise ValueError(f'{config} has no {key}: {where} is {node!r}')
        walked.append(part)


# Python -------------------------------------------------------------------------------------------------------------


def _is_python(text: str) -> bool:
    try:
        return any(
            not isinstance(statement, ast.Expr) or isinstance(statement.value, (ast.Call, ast.Tuple))
            for statement in ast.parse(_dedented(text)).body
        )
    except SyntaxError:
        return False


def _dedented(text: str) -> str:
    # An excerpt of a call, such as `backbone=dict(...),`, may end with a comma.
    return inspect.cleandoc(text)


def resolve(name: str) -> Any:
    """What a dotted name of the package is: a module, something in it, or a registered class.

    Raises:
        ValueError: Nothing.
    """
    with contextlib.suppress(ValueError):
        return registered_class(name)
    value: Any = mmvmt
    walked = 'mmvmt'
    for part in name.split('.')[1:]:
        walked += f'.{part}'
        if hasattr(value, part):
            value = getattr(value, part)
        elif isinstance(value, ModuleType) and find_spec(walked) is not None:
            value = importlib.import_module(walked)
        else:
            raise ValueError(f'there is no {walked}')
    return value


def _dotted(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        inner = _dotted(node.value)
        return f'{inner}.{node.attr}' if inner else ''
    return node.id if isinstance(node, ast.Name) else ''


def _check_call(call: ast.Call, names: dict[str, Any], own: set[str]) -> None:
    keywords = {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg}
    kind = keywords.get('type')
    if isinstance(kind, ast.Constant) and isinstance(kind.value, str) and kind.value.startswith('mmvmt.'):
        if kind.value in own:
            return
        unknown = sorted(set(keywords) - accepted(registered_class(kind.value)) - {'type', '_delete_', 'priority'})
        if unknown:
            raise ValueError(f'{kind.value} takes no {unknown[0]!r}')
        return
    called = names.get(_dotted(call.func))
    dotted = _dotted(call.func)
    if called is None and dotted.startswith('mmvmt.'):
        called = resolve(dotted)
    if called is None or any(isinstance(argument, ast.Starred) for argument in call.args):
        return
    try:
        inspect.signature(called).bind(*call.args, **keywords)
    except TypeError as error:
        raise ValueError(f'{dotted}(...): {error}') from None


def check_snippet(text: str) -> None:
    """Python compiles, and what it imports, names, builds and calls of the package is there.

    Raises:
        SyntaxError: It does not compile.
        ValueError: Something is not there, or takes no such argument.
    """
    tree = ast.parse(_dedented(text))
    own = {f'mmvmt.{node.name}' for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
    names: dict[str, Any] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split('.')[0] == 'mmvmt':
                    resolve(alias.name)
        elif isinstance(node, ast.ImportFrom) and (node.module or '').split('.')[0] == 'mmvmt':
            for alias in node.names:
                resolve(node.module)
                names[alias.asname or alias.name] = resolve(f'{node.module}.{alias.name}')
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            _check_call(node, names, own)
        elif isinstance(node, ast.Attribute) and _dotted(node).startswith('mmvmt.'):
            resolve(_dotted(node))


def check_python(page: Page) -> Problems:
    """Every piece of Python on a page compiles and fits the package; so do the names in its text."""
    problems = []
    defined = {f'mmvmt.{name}' for name in re.findall(r'^class (\w+)\(', page.text, re.MULTILINE)}
    for code in page.code:
        try:
            if code.inline:
                name = re.match(r'mmvmt(?:\.[A-Za-z_]\w*)+', code.text)
                if name and name[0] not in defined and not name[0].endswith('.py'):
                    resolve(name[0])
            elif code.language == 'python' or (not is_shell(code) and _is_python(code.text)):
                check_snippet(code.text)
        except (ValueError, SyntaxError) as error:
            problems.append(f'{code.where}: {error}')
    return problems


# Names in the text --------------------------------------------------------------------------------------------------


def _alternatives(pattern: str) -> Iterator[str]:
    """``a{b,c}`` as ``ab`` and ``ac``."""
    braces = re.search(r'\{([^{}]*)\}', pattern)
    if not braces:
        yield pattern
        return
    for choice in braces[1].split(','):
        yield from _alternatives(pattern[: braces.start()] + choice + pattern[braces.end() :])


def check_path(path: str) -> None:
    """A path in the project is there; it may hold braces, ``*`` and ``<words>``, and end with ``::test``.

    Raises:
        ValueError: It is not.
    """
    file, *tests = path.split('::')
    for name in _alternatives(file):
        found = list(ROOT.glob(re.sub(r'<[^>]*>', '*', name.rstrip('/'))))
        if not found:
            raise ValueError(f'{name} does not exist')
        for test in tests:
            if not re.search(rf'^\s*def {test}\(', found[0].read_text(encoding='utf-8'), re.MULTILINE):
                raise ValueError(f'{name} has no {test}')


def check_names(page: Page, readers_own: Sequence[str] = ()) -> Problems:
    """Paths, configs, options and config entries that the text names are there.

    Args:
        page: The page.
        readers_own: Paths of files that a reader is to make.
    """
    problems = []
    config_folders = {path.name for path in (ROOT / 'configs').iterdir()}
    for code in (code for code in page.code if code.inline):
        text = ' '.join(code.text.split())
        try:
            folder = text.partition('/')[0]
            if re.fullmatch(r'[\w./:*<>{},-]+', text) and '/' in text and folder in FOLDERS and text not in readers_own:
                check_path(text)
            elif re.fullmatch(r'[\w./*{},]+\.py', text) and folder in config_folders:
                check_path(f'configs/{text}')
            elif re.fullmatch(r'swin_[\w{},]+\.py', text):
                check_path(f'configs/**/{text}')
            elif re.fullmatch(r'mmvmt::\S+\.py', text):
                check_path(f'configs/{text.removeprefix("mmvmt::")}')
            elif text.startswith('--'):
                _check_options(text)
            elif re.fullmatch(r'(model|optim_wrapper|default_hooks|\w+_dataloader|randomness)(\.\w+)+=\S+', text):
                check_config_key(SAMPLE_CONFIG, text.partition('=')[0])
        except ValueError as error:
            problems.append(f'{code.where}: `{text}`: {error}')
    return problems


def _check_options(text: str) -> None:
    words = text.split()
    for word in words:
        option = re.match(r'--[\w-]+', word)
        if option and option[0] not in all_options() | FOREIGN_OPTIONS:
            raise ValueError(f'no tool has the option {option[0]}')
    if words[0] == '--cfg-options':
        for word in words[1:]:
            check_config_key(SAMPLE_CONFIG, word.partition('=')[0])


# Methods ------------------------------------------------------------------------------------------------------------

SECTIONS = ('Our reading', 'When to use', 'Parameters', 'Options', 'Configs and result')


def check_method(page: Page, method: type, counts: Sequence[str], configs: Sequence[str]) -> Problems:
    """A page says of a method what it is, when to use it, what it costs, its options with their defaults, its configs.

    Args:
        page: Its page.
        method: Its class.
        counts: Parameters of the encoder part, as the table of all methods has them.
        configs: Its configs, under ``configs/``.
    """
    name = method.__name__
    sections = {title: page.section(title) for title in SECTIONS}
    problems = [f'has no section {title!r}' for title, text in sections.items() if not text.strip()]
    if not re.search(r'^    \S.*=', sections['Our reading'], re.MULTILINE):
        problems.append("has no formula, an indented line with '=', in 'Our reading'")
    if f'`{name}`' not in sections['When to use']:
        problems.append(f"does not name `{name}` in 'When to use'")
    problems += [f"lacks its count {count} in 'Parameters'" for count in counts if count not in sections['Parameters']]
    problems += [f'lacks its config {path}' for path in configs if f'`{path}`' not in sections['Configs and result']]
    if 'benchmark.md' not in sections['Configs and result']:
        problems.append('does not link to the comparison')
    rows = dict(re.findall(r'^\| `(\w+)` \|(.*?)\|', sections['Options'], re.MULTILINE))
    for parameter in _options(method):
        if parameter.name not in rows:
            problems.append(f'lacks the option {parameter.name}')
        elif repr(parameter.default) not in re.findall(r"'[^']*'|[\w.]+", rows[parameter.name]):
            problems.append(f'has another default of {parameter.name} than {parameter.default!r}')
    return [f'{page.name}: {name}: {problem}' for problem in problems]


def _options(method: type) -> list[inspect.Parameter]:
    """The arguments of a method that a config sets, the nearest definition of each; modules are set by subclasses."""
    found: dict[str, inspect.Parameter] = {}
    for cls in method.__mro__:
        if '__init__' not in vars(cls):
            continue
        parameters = inspect.signature(cls.__init__).parameters.values()
        for parameter in parameters:
            if isinstance(parameter.default, (str, float, int, NoneType)):
                found.setdefault(parameter.name, parameter)
        if not any(parameter.kind == parameter.VAR_KEYWORD for parameter in parameters):
            break
    return list(found.values())
