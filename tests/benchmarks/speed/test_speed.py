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

from benchmarks.speed.cases import QUICK, Settings, prepare_ours
from benchmarks.speed.measurement import Memory
from benchmarks.speed.report import KEYS, MARKS, cells, check_page
from mmvmt.models import DeformableHead, MLPHead

ROOT = Path(__file__).parents[3]
RECORD = dict(
    device='x',
    run=dict(
        device='cpu', threads=1, quick=True, cpu_flags=[], hardware=dict(cpu='x', cores=1), versions=dict(torch='2')
    ),
)
SETTINGS = Settings(**QUICK | dict(seconds=0.0, least=1, least_tasks=1))


@pytest.fixture
def tool():
    return importlib.import_module('benchmarks.speed.__main__')


@pytest.fixture(autouse=True)
def no_profiles(tool, monkeypatch):
    """Profiles take longer than all the rest; they have tests of their own."""

    def profile(run, device):
        run()
        return {'aten::mm': 0.003, 'aten::add': 0.001}

    monkeypatch.setattr(tool, 'operation_times', profile)


@pytest.fixture
def memory(tool, monkeypatch):
    """Peak memory without the processes: 10 MiB and a model of 10 MiB; cases other than VMT-Adapter's take 40 MiB."""
    measured = []

    def measure(prepare, settings, tensors=False):
        measured.append(prepare)
        ours = prepare.func is not tool.cases.prepare_fine_tuning
        return Memory(empty=100.0, before=110.0, peak=120.0 if ours else 150.0, tensors=5.0 if ours else 20.0)

    monkeypatch.setattr(tool, 'memory_of_case', measure)
    return measured


def check(rows):
    """What holds for all rows."""
    assert len({row['name'] for row in rows}) == len(rows)
    for row in rows:
        assert set(KEYS) <= set(row)
        assert json.loads(json.dumps(row)) == row
        assert row['met'] == (None if row['target'] is None else row['ratio'] <= row['target'])
        assert row['met'] is not False or row['unit'] == 'MiB' or 'profile: ' in row['note']
    return {row['name']: row for row in rows}


def test_devices_have_their_own_targets(tool):
    gpu = replace(SETTINGS, device='cuda')
    assert [tool.target('encoder forward', s) for s in (SETTINGS, gpu)] == [0.95, 0.6]
    assert tool.target('data', gpu) is None


def test_times_are_medians_in_milliseconds_and_a_missed_target_is_explained(tool):
    seconds = [0.001, 0.002, 0.009], [0.004, 0.004, 0.005]
    got = tool.compare(SETTINGS, 'a', *seconds, 'why', 'heads', lambda: 'mm 75 %')
    assert {key: got[key] for key in KEYS} == dict(
        name='a', ratio=0.5, target=0.35, met=False, ours=2.0, theirs=4.0, unit='ms', note='why; profile: mm 75 %'
    )
    assert (got['spread'], got['repeats']) == ([0.375, pytest.approx(1.15)], 3)
    assert cells(got)[1:6] == ['2 ms', '4 ms', '0.5 (0.375 to 1.15)', '≤ 0.35', '**no**']
    assert tool.compare(SETTINGS, 'a', *seconds, 'why', 'data', lambda: 'mm 75 %')['note'] == 'why'


def test_the_encoder_from_the_command_line(tool, tmp_path, capsys):
    page, file = tmp_path / 'page.md', tmp_path / 'rows.json'
    page.write_text('\n'.join(mark for pair in MARKS.values() for mark in pair))
    assert tool.main(['encoder', '--quick', '--seed', '3', '--json', str(file), '--markdown', str(page)]) == 0
    rows = json.loads(file.read_text())
    by_name = check(rows)
    assert list(by_name) == [
        'encoder forward, shrunk Swin-T, 64 x 64, fp32',
        'encoder forward and backward, all weights training, shrunk Swin-T, 64 x 64, fp32',
    ]
    assert [row['target'] for row in rows] == [0.95, None]
    run = rows[0]['run']
    assert (run['seed'], run['device'], run['quick'], run['threads']) == (3, 'cpu', True, torch.get_num_threads())
    assert run['cpu_flags'] == tool.cpu_flags()
    assert {'torch', 'mmseg', 'mmvmt'} <= set(run['versions'])
    assert rows[0]['device'] == run['hardware']['cpu']
    out = capsys.readouterr().out
    assert 'What has to be reached' in out
    assert all(f'| {name} |' in page.read_text() for name in by_name)


def test_encoders_that_differ_are_not_compared(tool, monkeypatch):
    forward = tool.MODELS.get('mmvmt.AdaptedSwin').forward
    monkeypatch.setattr(
        tool.MODELS.get('mmvmt.AdaptedSwin'), 'forward', lambda self, x: tuple(f + 0.01 for f in forward(self, x))
    )
    with pytest.raises(RuntimeError, match='outputs differ by up to'):
        tool.measure_encoder(SETTINGS)


def test_tasks(tool, memory, monkeypatch, tmp_path):
    monkeypatch.setattr(tool, 'METHODS', {name: tool.METHODS[name] for name in ('VMT-Adapter', 'Adapter')})
    monkeypatch.setattr(tool, 'COMPARED_TASKS', 4)
    rows = check(tool.measure_tasks(replace(SETTINGS, counts=(1, 2, 4), counts_per_task=(1, 4))))
    assert len(rows) == 2 * 2 * 3
    # Of both methods and both parts, 1 and 4 tasks.
    assert len(memory) == 2 * 2 * 2
    targets = [name for name, row in rows.items() if row['target'] is not None]
    assert targets == ['VMT-Adapter: encoder, time of a training step, 4 tasks over 1']
    operations = {
        method: rows[f'{method}: encoder, operations of a training step, 4 tasks over 1'] for method in tool.METHODS
    }
    # One pass for all tasks, and one for each.
    assert operations['VMT-Adapter']['ratio'] == 1
    assert operations['Adapter']['ratio'] == pytest.approx(4, rel=0.05)
    curve = rows['VMT-Adapter: whole model, time of a training step, 4 tasks over 1']['curve']
    assert (curve['method'], curve['part'], curve['quantity']) == ('VMT-Adapter', 'whole model', 'time')
    assert list(curve['values']) == ['1', '2', '4']
    assert list(operations['Adapter']['curve']['values']) == ['1', '4']
    peak = rows['Adapter: encoder, peak memory of a training step, 4 tasks over 1']
    assert peak['curve']['values'] == {'1': 10.0, '4': 10.0}
    file = tmp_path / 'rows.json'
    file.write_text(json.dumps([row | RECORD for row in rows.values()]))
    picture = tmp_path / 'curves.png'
    assert tool.main(['table', str(file), '--picture', str(picture)]) == 0
    assert cv2.imread(str(picture)) is not None


def test_heads(tool):
    rows = check(tool.measure_heads(SETTINGS))
    assert len(rows) == 4
    composed = rows['head, training step, composed over uncomposed']
    assert composed['target'] == 0.35
    assert [row['target'] for row in rows.values()].count(None) == 3
    assert rows['head, training step, all-MLP over deformable']['ratio'] < 1


def test_heads_that_differ_are_not_compared(tool, monkeypatch):
    composed = MLPHead._composed
    monkeypatch.setattr(MLPHead, '_composed', lambda self, tokens: 1.1 * composed(self, tokens).square())
    with pytest.raises(RuntimeError, match='heads: outputs differ'):
        tool.measure_heads(SETTINGS)


def test_without_mmcvs_operators_the_deformable_head_is_left_out(tool, monkeypatch):
    def missing(self, **kwargs):
        raise ImportError('no operators\nhere')

    monkeypatch.setattr(DeformableHead, '__init__', missing)
    rows = check(tool.measure_heads(SETTINGS))
    row = rows['head, training step, all-MLP over deformable']
    assert row['ratio'] is None
    assert row['note'] == 'not measured: no operators\nhere'


def test_the_step(tool, memory):
    rows = check(tool.measure_step(SETTINGS))
    assert memory == list(tool.STEPS.values())
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
    peak = 'training step, VMT-Adapter over full fine-tuning, peak memory'
    beyond, with_model = rows[f'{peak} beyond model and inputs'], rows[f'{peak} with model']
    assert (beyond['ours'], beyond['theirs'], beyond['ratio'], beyond['met']) == (10.0, 40.0, 0.25, True)
    assert (with_model['ours'], with_model['theirs'], with_model['ratio']) == (20.0, 50.0, 0.4)
    assert rows[f'{peak.removesuffix(" memory")} of all tensors']['ratio'] == 0.25
    assert 'peaks of the processes 120 and 150 MiB' in beyond['note']


def test_memory_of_a_case_in_a_process_of_its_own(tool):
    memory = tool.memory_of_case(partial(prepare_ours, tool.VMT), SETTINGS)
    assert memory.empty <= memory.before < memory.peak
    assert memory.growth < 200


def test_data(tool, monkeypatch):
    decoded = []
    decode = tool.decode
    monkeypatch.setattr(tool, 'decode', lambda path: decoded.append(path) or decode(path))
    threads = cv2.getNumThreads()
    (row,) = check(tool.measure_data(SETTINGS)).values()
    assert row['target'] == 2
    assert '6 files per image' in row['note']
    assert 'LoadMultiTaskAnnotations' in row['note'] or row['met']
    # A warm-up and a round; the list of files has no file twice.
    assert len(decoded) == 2 * len(set(decoded)) == 2 * 6 * SETTINGS.scenes
    assert {Path(path).suffix for path in decoded} == {'.jpg', '.png', '.mat'}
    assert cv2.getNumThreads() == threads


def test_inference_without_a_compiler(tool, monkeypatch):
    monkeypatch.setenv('CXX', 'no-such-compiler')
    rows = check(tool.measure_inference(SETTINGS))
    assert [row['ratio'] is None for row in rows.values()] == [False, False, True, True, True, True]
    assert 'images/s' in rows['inference, batch 2, bf16 over fp32']['note']
    assert "'no-such-compiler' is none; set CXX" in rows['inference, batch 1, compiled over eager, bf16']['note']


def test_inference_when_compilation_takes_too_long(tool, monkeypatch):
    limits = []

    def late(function, config, settings, batch, bfloat16, threads, limit):
        # Under `python -m` this module is another `__main__` there.
        assert function.__module__ == 'benchmarks.speed.cases'
        limits.append((batch, bfloat16))
        if len(limits) == 1:
            return dict(eager=[0.2, 0.2], compiled=[0.1, 0.1]), 60.0
        raise TimeoutError

    monkeypatch.setattr(tool, 'in_fresh_process', late)
    monkeypatch.setattr(tool.shutil, 'which', lambda name: name)
    monkeypatch.setattr(tool, 'RECORDS_GRAPHS', True)
    rows = check(tool.measure_inference(SETTINGS))
    assert limits == [(1, False), (1, True), (2, False), (2, True)]
    compiled = rows['inference, batch 1, compiled over eager, fp32']
    assert compiled['ratio'] == 0.5
    assert compiled['note'].startswith('10.00 against 5.00 images/s')
    assert 'compilation was not over' in rows['inference, batch 2, compiled over eager, bf16']['note']
    none = check(tool.measure_inference(replace(SETTINGS, compile_seconds=0.0)))
    assert len(limits) == 4
    assert 'the 0 s for all compiled models were over' in none['inference, batch 1, compiled over eager, fp32']['note']


def test_what_was_measured_is_kept_when_a_later_part_fails(tool, monkeypatch, tmp_path):
    def fail(settings):
        raise RuntimeError('too bad')

    row = tool.make_row('a', 1.0, 1.0, 1.0, 'ms')
    monkeypatch.setattr(
        tool, 'SUBCOMMANDS', dict.fromkeys(tool.SUBCOMMANDS, fail) | {'encoder': lambda settings: [row]}
    )
    with pytest.raises(RuntimeError, match='too bad'):
        tool.main(['all', '--quick', '--json', str(tmp_path / 'rows.json')])
    assert [row['name'] for row in json.loads((tmp_path / 'rows.json').read_text())] == ['a']


@pytest.mark.parametrize(
    'arguments, message',
    [
        (['all', '--threads', '0'], 'at least 1, got 0'),
        (['all', '--json', 'no/such/folder/rows.json'], 'the folder of no/such/folder/rows.json does not exist'),
        (['step', '--picture', 'x.png'], 'unrecognized arguments'),
        ([], 'required: command'),
    ],
)
def test_wrong_options(tool, capsys, arguments, message):
    with pytest.raises(SystemExit):
        tool.main(arguments)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    'arguments, message',
    [
        (['table', 'none.json'], 'none.json does not exist; make it with the option --json'),
        (['encoder', '--markdown', 'none.md'], 'none.md does not exist'),
    ],
)
def test_missing_files(tool, arguments, message):
    with pytest.raises(SystemExit, match=message.replace('.', r'\.')):
        tool.main(arguments)


def test_the_committed_page_is_made_from_the_committed_rows(tool, tmp_path, capsys):
    page = tmp_path / 'speed.md'
    text = (ROOT / 'docs' / 'speed.md').read_text()
    page.write_text(re.sub(r'(begin -->\n).*?(\n<!--)', r'\1\2', text, flags=re.DOTALL))
    assert page.read_text() != text
    assert tool.main(['table', str(ROOT / 'benchmarks' / 'speed' / 'cpu.json'), '--markdown', str(page)]) == 0
    assert page.read_text() == text
    first, second = capsys.readouterr().out.split('More figures')
    assert 'What has to be reached' in first
    assert ('training pipeline' in first, 'GFLOP' in first, 'GFLOP' in second) == (True, False, True)


def test_the_page_has_its_marks_and_names_tests_that_exist(tool):
    text = (ROOT / 'docs' / 'speed.md').read_text()
    assert check_page(ROOT / 'docs' / 'speed.md') == list(MARKS)
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
