"""Means over seeds, tables and pictures."""

import json
import math
from pathlib import Path
from statistics import mean

import cv2
import pytest

from benchmarks.markdown import insert
from benchmarks.methods.methods import FAMILIES, METHODS, SPEC
from benchmarks.methods.records import read_records
from benchmarks.methods.results import draw, frame, report, table
from benchmarks.methods.steps import PAGES, recorded

pytest.importorskip('pandas', reason='the tables of the comparison: requirements/optional.txt')

ROOT = Path(__file__).parents[3]
BEGIN, END = '<!-- results:begin -->', '<!-- results:end -->'


def run(seed, semseg, normals, seconds=0.1, gpu=''):
    figures = {key: value for key, value in dict(semseg=semseg, normals=normals).items() if value is not None}
    machine = 'mmvmt 1, torch 2, mmcv 2, mmseg 1, 8 cores of a processor' + gpu
    return dict(seed=seed, figures=figures, seconds=seconds, machine=machine)


def model(name, runs, trainable=300_000, multiplier=0.2, edge=None, failures=(), encoder='main', size=700_000):
    counts = dict(trainable=trainable, in_encoder=trainable - 200_000, encoder=size)
    return dict(
        encoder=encoder,
        model=name,
        runs=[run | dict(counts=counts) for run in runs],
        rates=[dict(learning_rate=4e-3, multiplier=multiplier, edge_of_grid=edge)],
        failures=[dict(what=what, reason=reason) for what, reason in failures],
    )


@pytest.fixture
def results():
    broken = [('trainings/main/vpt_deep/seed0.json', 'the loss is no number')]
    models = [
        model('single_task-semseg', [run(0, 19.0, None), run(1, 21.0, None)], 5_000_000, 1.0, 'highest'),
        model('single_task-normals', [run(0, None, 21.0), run(1, None, 19.0)], 6_000_000),
        model('decoders_only', [run(0, 10.0, 30.0), run(1, 10.0, 30.0)], 200_000, None),
        model('lora', [run(0, 20.0, 18.0, gpu=', a GPU')]),
        model('vpt_deep', [], 250_000, failures=broken),
        model('vpt_shallow', []),
    ]
    return dict(
        table='results',
        tasks=['semseg', 'normals'],
        seeds=2,
        constant_predictor=dict(semseg=5.0, normals=40.0),
        reference='single_task',
        published=None,
        protocol=dict(iterations=500),
        models=models,
    )


def test_means_by_hand(results):
    means = frame(results)
    single = means.loc['main', 'single_task']
    assert single['semseg'].tolist() == [20.0, pytest.approx(2**0.5), 2]
    assert single['Delta_m'].tolist() == [pytest.approx(0.0), pytest.approx(50**0.5), 2]
    assert single['seconds', 'mean'] == 0.2  # of both models
    assert math.isnan(means.loc[('main', 'lora'), ('Delta_m', 'std')])
    assert ('main', 'vpt_deep') not in means.index


def test_a_seed_counts_once_all_its_models_are_there(results):
    results['models'][1]['runs'].pop()
    single = frame(results).loc['main', 'single_task']
    assert single['semseg'].tolist()[::2] == [19.0, 1]
    assert single['Delta_m', 'mean'] == 0.0


def test_table_by_hand(results):
    rows = [[cell.strip() for cell in line.strip('|').split('|')] for line in table(results).splitlines()]
    assert rows[0][:4] == ['method', 'semseg mIoU [%] ↑', 'normals mean [°] ↓', 'Delta_m [%] ↑']
    assert {len(row) for row in rows} == {len(rows[0])}
    constant, single, heads, lora, broken = rows[2:]
    assert constant[:6] == ['*constant predictor*', '5.00', '40.00', '-87.50', '0', '0']
    assert single[1:4] == ['20.00 ± 1.41', '20.00 ± 1.41', '0.00 ± 7.07']
    assert single[4:] == ['11.000', '10.600', 'T models', '1', '1* / 0.2', '2']
    assert heads[3:] == ['-50.00 ± 0.00', '0.200', '0.000', '1', '1', '-', '2']
    assert lora[1:4] == ['20.00', '18.00', '5.00']
    assert lora[6:] == ['T', '2', '0.2', '1 of 2']
    assert broken[1:4] == ['failed', '', '']
    assert broken[-1] == '0 of 2'


def test_report_names_failures_and_rates(results):
    text = report(results)
    assert '- trainings/main/vpt_deep/seed0.json: the loss is no number\n' in text
    assert 'VPT-shallow |' not in text
    assert 'Not finished: LoRA; VPT-deep; VPT-shallow.' in text
    assert 'a multiple of the 0.004 of all heads' in text
    assert 'against single-task models trained here, mean over 2 seeds' in text
    # Of two methods with two seeds, by 0 and by the root of 50; 10 = 2 * 5 * root of 2 / 2.
    assert 'differ by 5.00 (' in text
    assert 'a difference of less than 10.00, two standard errors' in text
    assert 'number of trainings: 1: 8 cores of a processor (6); 2: 8 cores of a processor, a GPU (1).' in text


def test_the_brief_table_has_what_is_trained_first(results):
    rows = [[cell.strip() for cell in line.strip('|').split('|')] for line in table(results, brief=True).splitlines()]
    assert rows[0] == ['method', *rows[0][1:4], 'in the encoder [M]', 'passes', 'seeds']
    assert [row[0] for row in rows[2:]] == ['single-task fine-tuning', 'decoders only', 'LoRA']
    assert rows[2][4:] == ['10.600', 'T models', '2']


def test_scenes_that_are_not_reported_have_no_constant(results):
    text = table(results | dict(constant_predictor=None))
    assert 'constant' not in text
    assert '| 20.00 ± 1.41 |' in text


def test_without_references_there_is_no_delta(results):
    results |= dict(reference='', published=dict(figures=None, source='nothing: no figures'))
    assert 'over the tasks against nothing: no figures.' in report(results)
    rows = [[cell.strip() for cell in line.strip('|').split('|')] for line in table(results).splitlines()]
    assert [row[3] for row in rows[2:]] == [''] * 5


def test_published_references_are_compared_with(results):
    results |= dict(reference='', published=dict(figures=dict(semseg=10.0, normals=30.0), source='a paper'))
    rows = [[cell.strip() for cell in line.strip('|').split('|')] for line in table(results).splitlines()]
    assert [row[3] for row in rows[4:6]] == ['0.00 ± 0.00', '70.00']


def test_the_picture_is_a_function_of_the_results(results, tmp_path):
    draw(results, tmp_path / 'one.png')
    draw(results, tmp_path / 'two.png')
    one, two = (cv2.imread(str(tmp_path / name)) for name in ('one.png', 'two.png'))
    assert (one == two).all()
    # Every method with a Delta_m is there in its colour.
    for entry in results['models']:
        colour = FAMILIES[METHODS[entry['model'].partition('-')[0]].family]
        bgr = [int(colour[i : i + 2], 16) for i in (5, 3, 1)]
        assert (one == bgr).all(axis=-1).any() == bool(entry['runs'])


def test_the_table_goes_between_the_markers(results, tmp_path):
    readme = tmp_path / 'README.md'
    readme.write_text(f'# Title\n\n{BEGIN}\nold\n{END}\n\nafter\n')
    for _ in range(2):
        insert(readme, BEGIN, END, table(results))
        text = readme.read_text()
        assert f'{BEGIN}\n{table(results)}{END}' in text
        assert text.startswith('# Title\n\n')
        assert text.endswith(f'{END}\n\nafter\n')


@pytest.mark.parametrize('text', ['no markers', f'{BEGIN} only', f'{END} {BEGIN}'])
def test_a_file_without_both_markers_is_refused_and_kept(results, tmp_path, text):
    readme = tmp_path / 'README.md'
    readme.write_text(text)
    with pytest.raises(ValueError, match='needs the lines'):
        insert(readme, BEGIN, END, table(results))
    assert readme.read_text() == text


RECORDS = ROOT / 'benchmarks' / 'methods' / 'synthetic' / 'records.jsonl'


@pytest.mark.parametrize(
    'name, scenes, models',
    [
        ('records', '500', ['single_task', 'vmt_adapter', 'decoders_only']),
        ('longer', '500', ['single_task', 'vmt_adapter', 'decoders_only']),
        ('longer_many', '2,000', ['single_task']),
    ],
)
def test_the_page_has_the_figures_by_length(name, scenes, models):
    settings, found = read_records(RECORDS.with_name(f'{name}.jsonl'))
    for model in models:
        figures = {task: [] for task in SPEC['methods']['single_task']['tasks']}
        for record in (
            record
            for key, record in found.items()
            if key.startswith((f'trainings/main/{model}/', f'trainings/main/{model}-'))
        ):
            for task, value in record['figures'].items():
                figures[task].append(value)
        row = [METHODS[model].title, f'{settings["iters"]:,}', scenes, *(f'{mean(v):.1f}' for v in figures.values())]
        assert f'| {" | ".join(row)} |\n' in (ROOT / 'docs' / 'benchmark.md').read_text()


def test_pages_have_the_tables_of_the_committed_records():
    for name in SPEC['tables']:
        found, mark = recorded(RECORDS, name), f'<!-- {name}:begin -->\n'
        text = report(found) if found else 'No run'
        for page in (page.read_text() for page in PAGES):
            assert mark not in page or f'{mark}{text}' in page


def test_a_table_begins_with_a_training_of_its_own(tmp_path):
    first, *lines = RECORDS.read_text().splitlines()
    of_main = [line for line in lines if json.loads(line)['what'].startswith('trainings/main/decoders_only/')]
    path = tmp_path / 'records.jsonl'
    path.write_text('\n'.join([first, *of_main]) + '\n')
    assert [name for name in SPEC['tables'] if recorded(path, name)] == ['results']
    with path.open('a') as file:
        file.write(json.dumps(dict(what='trainings/few/decoders_only/seed0')) + '\n')
    assert [name for name in SPEC['tables'] if recorded(path, name)] == ['results', 'few']


@pytest.fixture
def scaling(results):
    models = []
    for encoder, gain in (('pico_100k', 1.0), ('nano_400k', 3.0)):
        runs = [run(0, 10.0 + gain, 30.0), run(1, 11.0, 30.0)]
        models.append(model('decoders_only', [run(0, 10.0, 30.0)], multiplier=None, encoder=encoder))
        models.append(model('vmt_adapter', runs, multiplier=0.5, edge='highest', encoder=encoder))
    return results | dict(reference='decoders_only', models=models)


def test_table_and_picture_of_several_encoders(scaling, tmp_path):
    rows = [[cell.strip() for cell in line.strip('|').split('|')] for line in table(scaling).splitlines()]
    assert rows[3] == [
        'pico',
        '0.70',
        '100k',
        'VMT-Adapter',
        '11.00 ± 0.00',
        '30.00 ± 0.00',
        '5.00 ± 0.00',
        '0.5*',
        '2',
    ]
    assert rows[4][-2:] == ['-', '1 of 2']
    assert rows[5][-3:] == ['10.00 ± 7.07', '0.5*', '2']
    draw(scaling, tmp_path / 'scaling.png')
    assert cv2.imread(str(tmp_path / 'scaling.png')) is not None


def test_a_method_that_failed_on_one_encoder_has_a_gap(scaling, tmp_path):
    scaling['models'][1] |= dict(runs=[], failures=[dict(what='all', reason='failed')])
    scaling['models'][3] |= dict(runs=[], failures=[])
    rows = [[cell.strip() for cell in line.strip('|').split('|')] for line in table(scaling).splitlines()]
    assert rows[3] == ['pico', '', '100k', 'VMT-Adapter', 'failed', '', '', '0.5*', '0 of 2']
    assert len(rows) == 5
    assert 'Not finished: decoders only on pico_100k; VMT-Adapter on pico_100k; decoders only on nano_400k' in report(
        scaling
    )
    draw(scaling, tmp_path / 'scaling.png')
    assert cv2.imread(str(tmp_path / 'scaling.png')) is not None


def test_the_curve_over_the_stages_that_are_filled(results, tmp_path):
    for stage, seconds in ((2, 0.3), (3, 0.2), (4, 0.1)):
        runs = [run(seed, 10.0 + seed, 25.0, seconds) for seed in (0, 1)]
        results['models'].append(model(f'vmt_adapter_from_stage_{stage}', runs))
    draw(results | dict(table='stages'), tmp_path / 'stages.png')
    picture = cv2.imread(str(tmp_path / 'stages.png')).astype(int)
    # A line, not only points, in the colour of VMT-Adapter (BGR).
    assert (abs(picture - (40, 39, 214)).max(axis=2) < 3).sum() > 1500
