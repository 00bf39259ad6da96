"""The documentation is complete, and what it says to type, import, configure and follow is there.

The checks themselves are in ``doc_checks.py``; the second half of this file shows that each of them can fail.
"""

import importlib
import inspect
import pkgutil

import doc_checks
import pytest
import write_docs
from doc_checks import ROOT, Page

import mmvmt

PAGES = doc_checks.pages()
DOCUMENTED = [page for page in PAGES if page.name != 'CHANGELOG.md']
TEXT = '\n'.join(page.text for page in DOCUMENTED)
METHODS = doc_checks.registered()['ADAPTERS']
# A file that the example of CONTRIBUTING asks a reader to make.
READERS_OWN = ('mmvmt/adapters/ia3.py', 'mmvmt/models/backbones/plain.py')


@pytest.fixture(scope='module')
def sandbox(tmp_path_factory):
    return doc_checks.make_sandbox(tmp_path_factory.mktemp('clone'))


def page_of(method):
    collections = write_docs.load_tool('tools/dev/write_metafiles.py').COLLECTIONS
    (found,) = (collection.page for collection in collections if method in collection.methods)
    return Page(ROOT / 'docs' / found)


def counts_of(method):
    models, counted = write_docs.config_models(), write_docs.parameter_rows()
    rows = write_docs.load_tool('tools/analysis/count_params.py').ROWS
    return [counted[row.method][0] for row in rows if models[row.configs[0]]['method'] == method]


def configs_of(method):
    return [path for path, model in write_docs.config_models().items() if model['method'] == method]


# What is documented ---------------------------------------------------------------------------------------------------


def public_names():
    """``{package: {name: value}}`` of what the packages say that they export; ``docs/conf.py`` makes a page of each."""
    infos = [info for info in pkgutil.walk_packages(mmvmt.__path__, 'mmvmt.') if info.ispkg]
    packages = [mmvmt, *(importlib.import_module(info.name) for info in infos)]
    return {package: {name: getattr(package, name) for name in getattr(package, '__all__', ())} for package in packages}


def test_there_are_pages_and_public_names():
    assert len(PAGES) > 20
    assert len(METHODS) >= 19
    exporting = {package.__name__ for package, names in public_names().items() if names}
    assert {'mmvmt', 'mmvmt.adapters', 'mmvmt.models', 'mmvmt.apis'} <= exporting


def test_every_public_name_has_a_docstring():
    names = [
        (f'{package.__name__}.{name}', value)
        for package, names in public_names().items()
        for name, value in names.items()
        if inspect.isclass(value) or inspect.isroutine(value)
    ]
    assert len(names) > 80
    assert [name for name, value in names if not value.__doc__] == []


def test_everything_registered_is_public_or_documented():
    classes = [cls for classes in doc_checks.registered().values() for cls in classes.values()]
    public = [value for names in public_names().values() for value in names.values()]
    assert len(classes) > 40
    assert [cls.__name__ for cls in classes if cls not in public and f'`{cls.__name__}`' not in TEXT] == []


def test_every_command_is_documented():
    text = Page(ROOT / 'docs' / 'tools.md').text
    commands = [*(ROOT / 'tools').rglob('*.py'), *(ROOT / 'tools').rglob('*.sh'), *(ROOT / 'demo').glob('*.py')]
    commands = [path.relative_to(ROOT).as_posix() for path in commands]
    assert len(commands) > 20
    assert [name for name in commands if f'`{name}`' not in text] == []


def test_every_config_is_documented():
    page = Page(ROOT / 'docs' / 'configs.md').text
    configs = [path.relative_to(ROOT / 'configs').as_posix() for path in (ROOT / 'configs').rglob('*.py')]
    assert len(configs) > 60
    assert [name for name in configs if f'`{name}`' not in page] == []


def test_every_page_is_in_the_index():
    index = Page(ROOT / 'docs' / 'README.md')
    linked = {(index.path.parent / target.partition('#')[0]).resolve() for target, _, _ in index.links}
    assert [page.name for page in PAGES if page.path.resolve() not in linked | {index.path.resolve()}] == []


@pytest.mark.parametrize('name', sorted(METHODS))
def test_every_method_has_a_page(name):
    counts, configs = counts_of(name), configs_of(name)
    assert counts
    assert len(configs) >= 2
    assert doc_checks.check_method(page_of(name), METHODS[name], counts, configs) == []


def test_written_pages_are_up_to_date():
    stale = [path.relative_to(ROOT).as_posix() for path in write_docs.stale_pages()]
    assert stale == [], 'run python tools/dev/write_docs.py'


def test_pages_have_the_figures_of_the_demo():
    table = (ROOT / 'benchmarks/demo/results.md').read_text().strip()
    assert table in (ROOT / 'docs/getting_started.md').read_text()
    header, *rows = ([cell.strip() for cell in line.strip('|').split('|')] for line in table.splitlines())
    (gain,) = (dict(zip(header, row))['Delta_m [%] ↑'] for row in rows if row[0] == 'VMT-Adapter')
    assert f'VMT-Adapter over decoders only, Delta_m | {float(gain):+.1f} % |' in (ROOT / 'README.md').read_text()


# What is written there ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_links_resolve(page):
    assert doc_checks.check_links(page) == []


@pytest.mark.parametrize('page', DOCUMENTED, ids=lambda page: page.name)
def test_commands_parse(page, sandbox):
    assert doc_checks.check_commands(page, sandbox) == []


@pytest.mark.parametrize('page', DOCUMENTED, ids=lambda page: page.name)
def test_python_fits_the_package(page):
    assert doc_checks.check_python(page) == []


@pytest.mark.parametrize('page', DOCUMENTED, ids=lambda page: page.name)
def test_named_files_options_and_entries_exist(page):
    assert doc_checks.check_names(page, READERS_OWN) == []


def test_commands_are_found_at_all():
    found = [
        words[1] for page in DOCUMENTED for words in commands_of(page) if words[:1] == ['python'] and len(words) > 1
    ]
    assert {'tools/train.py', 'tools/test.py', 'tools/add_task.py', 'demo/image_demo.py'} <= set(found)
    assert len(found) > 50


def commands_of(page):
    for code in page.code:
        if not code.inline and doc_checks.is_shell(code):
            yield from (doc_checks.split_environment(words)[1] for _, words in doc_checks.command_lines(code.text))


# The checks can fail --------------------------------------------------------------------------------------------------


def bad_page(text):
    return Page(ROOT / 'docs' / 'bad.md', text)


@pytest.mark.parametrize(
    'text, problem',
    [
        ('[a](missing.md)', "'missing.md': there is no such file"),
        ('[a](../../outside.md)', 'there is no such file'),
        ('# A title\n\n[a](#another-title)', 'no heading of that page has the anchor #another-title'),
        ('[a](evaluation.md#nothing)', 'no heading of that page has the anchor #nothing'),
        ('[a](../setup.py#name)', 'no heading of that page has the anchor #name'),
        ('![a](missing.png)', 'there is no such file'),
        ('![a](README.md)', 'does not open'),
    ],
)
def test_bad_links_are_found(text, problem):
    (found,) = doc_checks.check_links(bad_page(text))
    assert found.startswith('docs/bad.md:')
    assert problem in found


def test_good_links_pass():
    text = '# A title: with `code`\n\n## Twice\n\n## Twice\n\n[a](#a-title-with-code) [b](#twice-1) [c](data.md#layout) [d](https://example.org/x)'
    assert doc_checks.check_links(bad_page(text)) == []


@pytest.mark.parametrize(
    'command, problem',
    [
        (
            'python tools/train.py configs/vmt/swin_t_pascal.py --no-such-option',
            'unrecognized arguments: --no-such-option',
        ),
        ('python tools/test.py configs/vmt/swin_t_pascal.py', 'the following arguments are required: checkpoint'),
        ('python tools/train.py configs/vmt/swin_x_pascal.py', 'config configs/vmt/swin_x_pascal.py does not exist'),
        ('python tools/missing.py', 'tools/missing.py does not exist'),
        ('python elsewhere.py', 'only files under tools/ and demo/ are known'),
        ('python -m no_such_module_anywhere', 'no such module'),
        ('python -c "import"', 'invalid syntax'),
        ('python tools/train.py UNHEARD', 'unknown placeholder UNHEARD'),
        ('python -m benchmarks.methods.steps collect into=DIR', "missing a required argument: 'name'"),
        ('snakemake -s benchmarks/methods/Snakefile --config methods=vmt', "unknown method 'vmt'"),
        ('snakemake -s benchmarks/methods/Snakefile --config preset=pascal', 'needs data_root'),
        ('snakemake -s benchmarks/methods/Snakefile --cores 2 sweep', "has no table 'sweep'"),
        ('snakemake -s Snakefile', 'Snakefile does not exist'),
        ("make benchmark-methods METHODS_ARGS='--config seed=1'", "unknown option 'seed'"),
        ("make benchmark-speed SPEED_ARGS='everything'", 'invalid choice'),
        ('python -m benchmarks.speed everything', 'invalid choice'),
        ('python -m benchmarks.speed all --json no/such/folder/a.json', 'create it first'),
        ('python tools/train.py CONFIG --cfg-options model.backbone.plugin=1', "model.backbone takes no 'plugin'"),
        ('python tools/train.py CONFIG --cfg-options param_scheduler.7.end=1', 'param_scheduler is a list of 2'),
        ('python tools/train.py CONFIG --cfg-options load_from.x=1', 'load_from is None'),
        ('python tools/train.py CONFIG --cfg-options optim_wrapper.paramwise_cfg.lr=1', "takes no 'lr'"),
        ('python tools/train.py CONFIG --cfg-options max_iters=1', "the config takes no 'max_iters'"),
        ('python tools/train.py CONFIG --cfg-options optim_wrapper.optimizer.rate=1', "takes no 'rate'"),
        ('make nothing', "make has no target 'nothing'"),
        ('make demo DEMO_FLAGS=1', 'make knows no variable DEMO_FLAGS'),
        ("make demo DEMO_ARGS='--sseeds 3'", 'unrecognized arguments: --sseeds'),
        ("make test PYTEST_ARGS='tests/missing'", 'tests/missing does not exist'),
        ('tools/dist_train.sh CONFIG', 'needs CONFIG GPUS'),
        ('tools/dist_train.sh CONFIG many', "'many' is no number of GPUs"),
        ('NODES=2 tools/dist_train.sh CONFIG 8', 'knows no variable NODES'),
        ('tools/dist_test.sh CONFIG CHECKPOINT 8 --resume', 'unrecognized arguments: --resume'),
        ('tools/slurm_train.sh gpu CONFIG', 'needs PARTITION JOB_NAME CONFIG'),
        ('tools/other.sh', 'tools/other.sh does not exist'),
        ('pip install -r requirements/missing.txt', 'requirements/missing.txt does not exist'),
        ("pip install 'mmvmt[missing]'", "no extra 'missing'"),
        ('pip install torch==1.0', 'not 1.0'),
        ('pip install .\npyhton tools/train.py CONFIG', "unknown command 'pyhton'"),
        ('pyhton tools/train.py CONFIG', 'tools/train.py stands in a block that is no command'),
        ("python tools/train.py 'CONFIG", 'tools/train.py stands in a block that is no command'),
    ],
)
def test_bad_commands_are_found(command, problem, sandbox):
    block = ''.join(f'    {line}\n' for line in command.splitlines())
    (found,) = doc_checks.check_commands(bad_page(f'Text:\n\n{block}'), sandbox)
    assert found.startswith('docs/bad.md:3: ')
    assert problem in found


@pytest.mark.parametrize('form', ['Type `{}` now.', '```bash\n{}\n```', '- item\n\n      {}\n'])
def test_commands_are_found_in_every_form(form, sandbox):
    (found,) = doc_checks.check_commands(bad_page(form.format('python tools/train.py CONFIG --oops')), sandbox)
    assert 'unrecognized arguments: --oops' in found


def test_good_commands_pass(sandbox):
    text = """
    python tools/train.py configs/vmt/swin_t_pascal.py --data-root /data/PASCAL_MT \\
        --cfg-options model.backbone.task_order=stacked default_hooks.checkpoint.save_frozen=False    # comments, too
    NNODES=2 NODE_RANK=0 MASTER_ADDR=node0 PORT=29500 tools/dist_train.sh CONFIG 8 --resume
    GPUS=16 SRUN_ARGS='--time=1' tools/slurm_test.sh PARTITION JOB_NAME CONFIG CHECKPOINT --out results
    make demo DEMO_ARGS='--seeds 3' PYTHON=python3.12
    python tools/train.py my_config.py --help
"""
    assert doc_checks.check_commands(bad_page(text), sandbox) == []


@pytest.mark.parametrize(
    'code, problem',
    [
        ('import mmvmt.missing', 'there is no mmvmt.missing'),
        ('from mmvmt.apis import Missing', 'there is no mmvmt.apis.Missing'),
        ('mmvmt.no_function(1)', 'there is no mmvmt.no_function'),
        ("mmvmt.remove_task(model, 'depth', 3)", 'too many positional arguments'),
        ("from mmvmt.apis import MultiTaskInferencer\nMultiTaskInferencer('a', 'b', gpu=1)", "keyword argument 'gpu'"),
        ("head = dict(type='mmvmt.MLPHeads')", "'mmvmt.MLPHeads' is not registered"),
        ("head = dict(type='mmvmt.MLPHead', width=3)", "mmvmt.MLPHead takes no 'width'"),
        ("plugins = [dict(cfg=dict(type='mmvmt.LoRA', ranks=3))]", "mmvmt.LoRA takes no 'ranks'"),
        ("backbone = dict(type='mmvmt.AdaptedSwin', plugin=[])", "mmvmt.AdaptedSwin takes no 'plugin'"),
        ('def f(:', 'invalid syntax'),
    ],
)
def test_bad_python_is_found(code, problem):
    (found,) = doc_checks.check_python(bad_page(f'```python\n{code}\n```\n'))
    assert problem in found


def test_bad_python_is_found_without_a_fence():
    (found,) = doc_checks.check_python(bad_page("Text:\n\n    head = dict(type='mmvmt.MLPHead', width=3)\n"))
    assert "takes no 'width'" in found


def test_formulas_and_good_python_pass():
    text = """Text:

    a^l = act(h W + b) W'        no Python

and

    backbone=dict(
        type='mmvmt.AdaptedSwin',
        embed_dims=96,
        plugins=[dict(cfg=dict(type='mmvmt.LoRA', rank=4), position='qkv')],
    )

and `mmvmt.apis.MultiTaskInferencer`, `mmvmt.load_adapter(model, path)`.
"""
    assert doc_checks.check_python(bad_page(text)) == []


@pytest.mark.parametrize(
    'span, problem',
    [
        ('tools/missing.py', 'tools/missing.py does not exist'),
        ('configs/vmt/swin_{t,x}_pascal.py', 'configs/vmt/swin_x_pascal.py does not exist'),
        ('vmt/swin_{t,x}_pascal.py', 'configs/vmt/swin_x_pascal.py does not exist'),
        ('swin_x_pascal.py', 'swin_x_pascal.py does not exist'),
        ('mmvmt::vmt/swin_x.py', 'does not exist'),
        ('tests/test_docs.py::test_missing', 'has no test_missing'),
        ('mmvmt/missing/<method>.py', 'does not exist'),
        ('--no-such-option', 'no tool has the option --no-such-option'),
        ('--cfg-options model.backbone.plugin=1', "takes no 'plugin'"),
        ('model.backbone.plugin=1', "takes no 'plugin'"),
    ],
)
def test_bad_names_are_found(span, problem):
    (found,) = doc_checks.check_names(bad_page(f'See `{span}`.'))
    assert problem in found


def test_bad_names_of_the_package_are_found():
    (found,) = doc_checks.check_python(bad_page('See `mmvmt.apis.Missing`.'))
    assert 'there is no mmvmt.apis.Missing' in found


GOOD_METHOD = """# LoRA

## Our reading

    y = W x + b

## When to use

`LoRA` now.

## Parameters

1,234

## Options

| argument | default | meaning |
|---|---|---|
| `rank` | 4 | r |
| `alpha` | None | |
| `dropout` | 0.0 | |
| `per_task` | True | |
| `norms` | False | |

## Configs and result

`baselines/a.py`, [results](../benchmark.md)
"""


@pytest.mark.parametrize(
    'good, bad, problem',
    [
        ('    y = W x + b', 'No formula.', 'has no formula'),
        ('`LoRA` now.', 'Now.', "does not name `LoRA` in 'When to use'"),
        ('## When to use\n\n`LoRA` now.\n', '', "has no section 'When to use'"),
        ('1,234', '1,235', "lacks its count 1,234 in 'Parameters'"),
        ('| `alpha` | None | |\n', '', 'lacks the option alpha'),
        ('| `rank` | 4 |', '| `rank` | 8 |', 'another default of rank than 4'),
        ('| `norms` | False |', '| `norms` | True |', 'another default of norms than False'),
        ('`baselines/a.py`', '', 'lacks its config baselines/a.py'),
        ('[results](../benchmark.md)', '', 'does not link to the comparison'),
    ],
)
def test_bad_pages_of_methods_are_found(good, bad, problem):
    check = (METHODS['LoRA'], ['1,234'], ['baselines/a.py'])
    assert doc_checks.check_method(bad_page(GOOD_METHOD), *check) == []
    assert GOOD_METHOD.count(good) == 1
    problems = doc_checks.check_method(bad_page(GOOD_METHOD.replace(good, bad)), *check)
    assert any(problem in found for found in problems)


# The writer -----------------------------------------------------------------------------------------------------------


def test_check_tells_stale_pages_and_changes_nothing(tmp_path, monkeypatch, capsys):
    stale = write_docs.DOCS / 'configs.md'
    content = stale.read_text(encoding='utf-8')
    monkeypatch.setattr(write_docs, 'pages', lambda: {stale: f'{content}more'})
    assert write_docs.main(['--check']) == 1
    assert capsys.readouterr().out == 'docs/configs.md is out of date\n'
    assert stale.read_text(encoding='utf-8') == content
    monkeypatch.setattr(write_docs, 'pages', lambda: {stale: content})
    assert write_docs.main(['--check']) == 0


def test_configs_without_a_comment_are_refused(tmp_path):
    path = tmp_path / 'a.py'
    path.write_text("_base_ = 'b.py'\n")
    with pytest.raises(ValueError, match='does not start with a comment'):
        write_docs.config_comment(path)
    path.write_text('# One\n# sentence.\nx = 1\n')
    assert write_docs.config_comment(path) == 'One sentence.'
