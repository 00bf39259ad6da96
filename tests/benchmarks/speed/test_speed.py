"""The benchmark of speed, at the sizes of --quick and without a look at its figures."""

import importlib
import json
import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import pytest
import torch

from benchmarks.speed import comparison, subcommands
from benchmarks.speed.cases import QUICK, VMT, Settings, step
from benchmarks.speed.comparison import TABLES, Group, Pair, memory_of_case
from benchmarks.speed.measurement import cpu_flags
from benchmarks.speed.report import KEYS, MARKS, cells
from mmvmt.models import DeformableHead, MLPHead
from mmvmt.models.backbones.layouts import LAYOUTS, build_timm, encoder_name
from mmvmt.registry import MODELS

ROOT = Path(__file__).parents[3]
RECORD = dict(
    device='x',
    run=dict(
        device='cpu', threads=1, quick=True, cpu_flags=[], hardware=dict(cpu='x', cores=1), versions=dict(torch='2')
    ),
)
SETTINGS = Settings(**QUICK | dict(seconds=0.0, least=1))


@pytest.fixture
def tool():
    return importlib.import_module('benchmarks.speed.__main__')


@pytest.fixture(autouse=True)
def no_profiles(monkeypatch):
    """Profiles take longer than all the rest; they have tests of their own."""
    monkeypatch.setattr(comparison, 'largest_operations', lambda run, device: 'mm 75%')


@pytest.fixture(autouse=True)
def threads():
    """As many threads as before for the tests that follow."""
    before = torch.get_num_threads(), cv2.getNumThreads()
    yield
    torch.set_num_threads(before[0])
    cv2.setNumThreads(before[1])


@pytest.fixture
def memory(monkeypatch):
    """Peak memory without the processes: 10 MiB and a model of 10 MiB; fine-tuning with mmseg's parts takes 40 MiB."""
    measured = []

    def measure(prepare, settings, tensors):
        measured.append(prepare)
        growth, held = (40.0, 20.0) if prepare.func is subcommands.cases.fine_tuning else (10.0, 5.0)
        figures = {'peak memory': growth, 'peak memory beyond model and inputs': growth}
        figures |= {'peak memory with model': 10 + growth, 'peak of the process': 110 + growth}
        return figures | ({'peak of all tensors': held} if tensors else {})

    monkeypatch.setattr(comparison, 'memory_of_case', measure)
    return measured


def rows_of(name, settings=SETTINGS):
    """Rows of a subcommand by name, checked for what holds for all rows."""
    rows = [row for group in subcommands.SUBCOMMANDS[name][0](settings) for row in group.rows()]
    assert len({row['name'] for row in rows}) == len(rows)
    for row in rows:
        assert set(KEYS) <= set(row)
        assert json.loads(json.dumps(row)) == row
        assert row['met'] == (None if row['target'] is None else row['ratio'] <= row['target'])
        assert row['met'] is not False or row['unit'] == 'MiB' or name == 'data' or 'profile: mm 75%' in row['note']
    return {row['name']: row for row in rows}


def timed(monkeypatch, pair, times, device='cpu', **options):
    """The row of a pair of cases that take given seconds."""
    monkeypatch.setattr(comparison, 'alternate', lambda runs, *args, **kwargs: dict(zip(runs, times)))
    cases = {name: lambda settings: lambda: None for name in 'abc'[: len(times)]}
    (row,) = Group(replace(SETTINGS, device=device), 'x', cases, [pair], 'small', **options).rows()
    return row


def test_times_are_medians_in_milliseconds_and_a_missed_target_is_explained(monkeypatch):
    seconds = [0.001, 0.002, 0.009], [0.004, 0.004, 0.005]
    name = 'head, training step, composed over uncomposed'
    got = timed(monkeypatch, Pair(name, 'a', 'b', 'why'), seconds)
    assert {key: got[key] for key in KEYS} == dict(
        name=name,
        ratio=0.5,
        target=0.35,
        met=False,
        ours=2.0,
        theirs=4.0,
        unit='ms',
        note='small; why; profile: mm 75%',
    )
    assert (got['spread'], got['repeats']) == ([0.375, pytest.approx(1.15)], 3)
    assert cells(got)[1:6] == ['2 ms', '4 ms', '0.5 (0.375 to 1.15)', '≤ 0.35', '**no**']
    # Devices have their own targets.
    on_gpu = timed(monkeypatch, Pair(name, 'a', 'b', 'why'), seconds, device='cuda')
    assert (on_gpu['target'], on_gpu['met'], on_gpu['note']) == (0.5, True, 'small; why')
    assert timed(monkeypatch, Pair('data, x', 'a', 'b'), seconds, device='cuda')['target'] is None


def test_rates_parts_and_differences(monkeypatch):
    got = timed(monkeypatch, Pair('x', 'a', 'b', images=2), ([0.2, 0.2], [0.4, 0.4]), per=10)
    assert (got['ours'], got['theirs'], got['note']) == (20.0, 40.0, '100.00 against 50.00 images/s; small')
    added = timed(monkeypatch, Pair('x', 'a', 'b', less='c'), ([0.3, 0.5], [0.8, 0.8], [0.2, 0.2]))
    assert (added['ours'], added['ratio']) == (pytest.approx(200), pytest.approx(0.25))


def test_the_encoder_from_the_command_line(tool, tmp_path, capsys):
    file = tmp_path / 'rows.json'
    assert tool.main(['encoder', '--quick', '--seed', '3', '--threads', '1', '--json', str(file)]) == 0
    rows = json.loads(file.read_text())
    assert [row['name'] for row in rows] == [
        'encoder forward, Swin-T, 64 x 64, fp32',
        'encoder forward and backward, all weights training, Swin-T, 64 x 64, fp32',
    ]
    assert [row['target'] for row in rows] == [0.95, None]
    run = rows[0]['run']
    assert (run['seed'], run['device'], run['quick'], run['threads']) == (3, 'cpu', True, 1)
    assert (run['command'], run['cpu_flags']) == ('python -m benchmarks.speed encoder', cpu_flags())
    assert {'torch', 'mmseg', 'mmvmt'} <= set(run['versions'])
    assert rows[0]['device'] == run['hardware']['cpu']
    assert all(f'| {row["name"]} |' in capsys.readouterr().out for row in rows[:1])


def test_encoders_that_differ_are_not_compared(monkeypatch):
    swin = MODELS.get('mmvmt.AdaptedSwin')
    forward = swin.forward
    monkeypatch.setattr(swin, 'forward', lambda self, x: tuple(f + 0.01 for f in forward(self, x)))
    with pytest.raises(RuntimeError, match='outputs differ by up to'):
        rows_of('encoder')


def test_tasks(tool, memory, monkeypatch, tmp_path):
    methods = ('VMT-Adapter', 'Adapter')
    monkeypatch.setitem(TABLES, 'tasks', {name: TABLES['tasks'][name] for name in methods})
    rows = rows_of('tasks', replace(SETTINGS, least=2, counts=(1, 2, 4), few_counts=(1, 4)))
    assert len(rows) == 2 * 2 * 3
    # Of both methods and both parts, 1 and 4 tasks.
    assert len(memory) == 2 * 2 * 2
    targets = [name for name, row in rows.items() if row['target'] is not None]
    assert targets == ['VMT-Adapter: encoder, time of a training step, 4 tasks over 1']
    operations = {name: rows[f'{name}: encoder, operations of a training step, 4 tasks over 1'] for name in methods}
    # One pass for all tasks, and one for each.
    assert operations['VMT-Adapter']['ratio'] == 1
    assert operations['Adapter']['ratio'] == pytest.approx(4, rel=0.05)
    curve = rows['VMT-Adapter: whole model, time of a training step, 4 tasks over 1']['curve']
    assert (curve['method'], curve['part'], curve['quantity']) == ('VMT-Adapter', 'whole model', 'time')
    assert list(curve['values']) == ['1', '2', '4']
    assert list(operations['Adapter']['curve']['values']) == ['1', '4']
    peak = rows['Adapter: encoder, peak memory of a training step, 4 tasks over 1']
    assert (peak['curve']['quantity'], peak['curve']['values']) == ('memory', {'1': 10.0, '4': 10.0})
    file = tmp_path / 'rows.json'
    file.write_text(json.dumps([row | RECORD for row in rows.values()]))
    picture = tmp_path / 'curves.png'
    assert tool.main(['table', str(file), '--picture', str(picture)]) == 0
    assert cv2.imread(str(picture)) is not None


def test_the_later_methods(memory, monkeypatch):
    monkeypatch.setitem(TABLES, 'later', {name: TABLES['later'][name] for name in ('VMT-Adapter', 'MTLoRA')})
    turns = TABLES['later, in turn']
    cases = {name: turns['cases'][name] for name in ('VMT-Adapter', 'MTLoRA')}
    rows = [row for row in turns['rows'] if row['ours'] == 'MTLoRA']
    monkeypatch.setitem(TABLES, 'later, in turn', turns | dict(cases=cases, rows=rows))
    rows = rows_of('later', replace(SETTINGS, least=2, few_counts=(1, 2)))
    assert list(rows) == [
        'VMT-Adapter: encoder, time of inference, 2 tasks over 1',
        'MTLoRA: encoder, time of a training step, 2 tasks over 1',
        'MTLoRA: encoder, operations of a training step, 2 tasks over 1',
        'MTLoRA: encoder, peak memory of a training step, 2 tasks over 1',
        'MTLoRA: encoder, time of inference, 2 tasks over 1',
        'encoder, training step, 4 tasks, MTLoRA over VMT-Adapter',
    ]
    assert rows['MTLoRA: encoder, time of inference, 2 tasks over 1']['curve']['part'] == 'inference'


def test_encoders(monkeypatch):
    families = {name: TABLES['encoders'][name] for name in ("timm's ConvNeXt-T", "mmseg's ViT-S/16")}
    monkeypatch.setitem(TABLES, 'encoders', families)
    rows = rows_of('encoders')
    assert {name: row['target'] for name, row in rows.items()} == {
        f'{title}, {family}': target
        for family in families
        for title, target in (
            ('hooked over plain, forward', 1.03),
            ('hooked over plain, frozen training step', 1.03),
            ('training step, VMT-Adapter over our own full fine-tuning, 4 tasks', None),
        )
    }
    forward = [row['note'] for name, row in rows.items() if 'forward' in name]
    assert all('outputs in single precision differ by' in note for note in forward)


def test_every_layout_has_its_row():
    timm = pytest.importorskip('timm')
    kinds = set()
    for row in TABLES['encoders'].values():
        cfg = row['cfg'] | row['quick']
        name = cfg['type'] if cfg['type'] != 'timm' else encoder_name(type(build_timm(cfg)))
        kinds.add(name)
    libraries = ('mmseg.', 'mmpretrain.', 'timm.')
    assert timm
    assert kinds == {name for name in LAYOUTS if name.startswith(libraries)}


def test_every_row_names_cases_and_configs_that_exist():
    configs = []
    for table in TABLES.values():
        for group in (table,) if 'rows' in table else ():
            named = {row[key] for row in group['rows'] for key in ('ours', 'theirs', 'less') if key in row}
            assert named == set(group['cases'])
            configs += [arguments['config'] for _, arguments in group['cases'].values() if 'config' in arguments]
    configs += [config for table in ('tasks', 'later') for config, _ in TABLES[table].values()]
    assert len(configs) > 20
    assert all((ROOT / 'configs' / f'{config}.py').is_file() for config in configs)


def test_heads():
    rows = rows_of('heads')
    assert {name: row['target'] for name, row in rows.items()} == {
        'head, training step, composed over uncomposed': 0.35,
        'head with its loss, training step, composed over uncomposed': None,
        "head, training step, ours over mmseg's SegformerHead": None,
        'head, training step, all-MLP over deformable': None,
    }
    assert 'outputs in single precision differ by' in rows['head, training step, composed over uncomposed']['note']
    assert rows['head, training step, all-MLP over deformable']['ratio'] < 1


def test_heads_that_differ_are_not_compared(monkeypatch):
    composed = MLPHead._composed
    monkeypatch.setattr(MLPHead, '_composed', lambda self, tokens: 1.1 * composed(self, tokens).square())
    with pytest.raises(RuntimeError, match='composed over uncomposed: outputs differ'):
        rows_of('heads')


def test_without_mmcvs_operators_the_deformable_head_is_left_out(monkeypatch):
    def missing(self, **kwargs):
        raise ImportError('no operators\nhere')

    monkeypatch.setattr(DeformableHead, '__init__', missing)
    row = rows_of('heads')['head, training step, all-MLP over deformable']
    assert row['ratio'] is None
    assert row['note'] == 'not measured: no operators\nhere'


def test_the_step(memory):
    rows = rows_of('step')
    cases = TABLES['step']['cases']
    assert len(memory) == len(cases) - 1  # the floor's is of no interest
    targets = {name: row['target'] for name, row in rows.items() if row['target'] is not None}
    assert targets == {
        'training step, VMT-Adapter over full fine-tuning, time': 0.4,
        'training step, VMT-Adapter over full fine-tuning, peak memory beyond model and inputs': 0.5,
        'training step, VMT-Adapter over full fine-tuning, peak memory with model': 0.5,
        'training step, VMT-Adapter in bf16 over fp32, time': 0.45,
        'training step, VMT-Adapter over the floor, time': 1.2,
        'a task added to VMT-Adapter, encoder part over the step with 4 tasks': 0.01,
        'a task added to VMT-Adapter, whole model over its head and loss alone': 1.2,
    }
    peak = 'training step, VMT-Adapter over full fine-tuning, peak'
    beyond, with_model = (rows[f'{peak} memory {rest}'] for rest in ('beyond model and inputs', 'with model'))
    assert (beyond['ours'], beyond['theirs'], beyond['ratio'], beyond['met']) == (10.0, 40.0, 0.25, True)
    assert (with_model['ours'], with_model['theirs'], with_model['ratio']) == (20.0, 50.0, 0.4)
    assert rows[f'{peak} of all tensors']['ratio'] == 0.25
    assert beyond['note'].endswith('peaks of the processes 120 and 150 MiB')


def test_memory_of_a_case_in_a_process_of_its_own():
    memory = memory_of_case(partial(step, config=VMT), SETTINGS, tensors=False)
    assert 0 < memory['peak memory'] < 200
    assert memory['peak memory'] <= memory['peak memory with model'] < memory['peak of the process']


def test_data(monkeypatch):
    decoded = []
    for module, name in ((subcommands.cv2, 'imread'), (subcommands, 'loadmat')):
        original = getattr(module, name)
        monkeypatch.setattr(module, name, lambda path, *a, f=original: decoded.append(path) or f(path, *a))
    (row,) = rows_of('data').values()
    assert row['target'] == 2
    assert '6 files per image' in row['note']
    assert (torch.get_num_threads(), cv2.getNumThreads()) == (1, 1)
    # A warm-up and a round, of files that the pipeline reads in another way or each once more.
    assert {Path(path).suffix for path in decoded} == {'.jpg', '.png', '.mat'}
    assert min(decoded.count(path) for path in set(decoded)) >= 2
    assert len(set(decoded)) == 6 * SETTINGS.scenes


def test_inference():
    rows = rows_of('inference')
    assert list(rows) == [f'inference, batch {batch}, bf16 over fp32' for batch in (1, 8)]
    assert re.match(r'[\d.]+ against [\d.]+ images/s; Swin-T', rows['inference, batch 8, bf16 over fp32']['note'])


def test_compiled_models(monkeypatch):
    compiled = []
    monkeypatch.setattr(torch.nn.Module, 'compile', lambda self: compiled.append(self))
    rows = rows_of('compiled')
    assert len(rows) == 4
    if subcommands.RECORDS_GRAPHS:
        assert len(compiled) == 4
        assert ['single precision differ by' in row['note'] for row in rows.values()] == [True, False] * 2
    else:
        assert all('needs torch 2.7' in row['note'] for row in rows.values())


def test_what_was_measured_is_kept_when_a_later_part_fails(tool, monkeypatch, tmp_path):
    def fail(settings):
        raise RuntimeError('too bad')

    def one(settings):
        yield Group(settings, 'x', dict.fromkeys('ab', lambda settings: lambda: None), [Pair('a', 'a', 'b')])

    monkeypatch.setattr(tool, 'SUBCOMMANDS', dict.fromkeys(tool.SUBCOMMANDS, (fail, '')) | dict(encoder=(one, '')))
    with pytest.raises(RuntimeError, match='too bad'):
        tool.main(['all', '--quick', '--json', str(tmp_path / 'rows.json')])
    assert [row['name'] for row in json.loads((tmp_path / 'rows.json').read_text())] == ['a']


@pytest.mark.parametrize(
    'arguments, message',
    [
        (['all', '--threads', '0'], '--threads must be at least 1, got 0'),
        (['all', '--batch', '0'], '--batch must be at least 1, got 0'),
        (['all', '--json', 'no/such/folder/rows.json'], 'the folder of no/such/folder/rows.json does not exist'),
        (['step', '--picture', 'x.png'], 'unrecognized arguments'),
        ([], 'required: command'),
    ],
)
def test_wrong_options(tool, capsys, arguments, message):
    with pytest.raises(SystemExit):
        tool.main(arguments)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize('arguments', [['none.json'], ['cpu.json', '--markdown', 'none.md']])
def test_missing_files(tool, tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'cpu.json').write_text('[]')
    with pytest.raises(SystemExit, match=rf'No such file.*{arguments[-1]}'):
        tool.main(['table', *arguments])


@pytest.mark.parametrize(
    'arguments, batch',
    [([], 2), (['--batch', '5'], 5), (['--device', 'cuda'], 16), (['--device', 'cuda', '--batch', '3'], 3)],
)
def test_images_of_a_step(tool, monkeypatch, arguments, batch):
    seen = []

    def measure(settings):
        seen.append(settings)
        return iter(())

    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(tool, 'run_record', lambda seed: dict(hardware=dict(cpu='x', gpus=['y'])))
    monkeypatch.setattr(tool, 'SUBCOMMANDS', tool.SUBCOMMANDS | dict(step=(measure, '')))
    tool.main(['step', *arguments])
    assert seen[0].batch == batch


@pytest.mark.parametrize('name, rows', [('speed', 'cpu'), ('speed_gpu', 'h200')])
def test_the_committed_page_is_made_from_the_committed_rows(tool, tmp_path, name, rows):
    page = tmp_path / 'speed.md'
    text = (ROOT / 'docs' / f'{name}.md').read_text()
    page.write_text(re.sub(r'(begin -->\n).*?(\n<!--)', r'\1\2', text, flags=re.DOTALL))
    assert page.read_text() != text
    assert tool.main(['table', str(ROOT / 'benchmarks' / 'speed' / f'{rows}.json'), '--markdown', str(page)]) == 0
    assert page.read_text() == text

    first, second = (text.split(begin)[1].split(end)[0] for begin, end in MARKS.values())
    assert ('over full fine-tuning' in first, 'GFLOP' in first, 'GFLOP' in second) == (True, False, True)


def test_the_page_names_subcommands_and_tests_that_exist(tool):
    text = (ROOT / 'docs' / 'speed.md').read_text()
    assert all(f'| `{name}` |' in text for name in tool.SUBCOMMANDS)
    named = re.findall(r'`(tests/[\w/]+\.py)?(?:::(\w+))?`', text)
    file, seen = '', 0
    for path, function in named:
        if not path and not function:
            continue
        file = path or file
        source = (ROOT / file).read_text()
        assert not function or f'def {function}(' in source, (file, function)
        seen += 1
    assert seen > 10
