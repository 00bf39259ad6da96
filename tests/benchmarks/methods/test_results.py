"""Means over seeds, tables and pictures."""

import json
import math
from pathlib import Path

import cv2
import pytest

from benchmarks.markdown import insert
from benchmarks.methods.results import (
    BEGIN,
    END,
    FAMILIES,
    draw,
    frame,
    main,
    mean_figures,
    report,
    table,
)

pytest.importorskip('pandas', reason='the tables of the comparison: requirements/optional.txt')

ROOT = Path(__file__).parents[3]
REFERENCES = dict(semseg=20.0, normals=20.0)


def run(seed, semseg, normals, seconds=0.1):
    return dict(
        seed=seed,
        figures=dict(semseg=semseg, normals=normals),
        seconds_per_iteration=seconds,
        peak_memory_mib=100.0,
        delta_m=None,
    )


def method(title, family, passes, runs, trainable, failures=(), chosen=None):
    return dict(
        title=title,
        family=family,
        passes=passes,
        runs=runs,
        parameters=dict(trainable=trainable, trained_in_encoder=trainable - 200_000),
        chosen=chosen or {'': dict(learning_rate=4e-3, multiplier=0.2, edge_of_grid=None)},
        failures=[dict(what=what, reason=reason) for what, reason in failures],
    )


@pytest.fixture
def results():
    edge = {
        'semseg': dict(learning_rate=4e-3, multiplier=1.0, edge_of_grid='highest'),
        'normals': dict(learning_rate=4e-3, multiplier=0.2, edge_of_grid=None),
    }
    none = {'': dict(learning_rate=4e-3, multiplier=None, edge_of_grid=None)}
    methods = dict(
        single_task=method(
            'single-task fine-tuning',
            'full fine-tuning',
            'T models',
            [run(0, 19.0, 21.0), run(1, 21.0, 19.0)],
            11_000_000,
            chosen=edge,
        ),
        decoders_only=method(
            'decoders only', 'decoders only', '1', [run(0, 10.0, 30.0), run(1, 10.0, 30.0)], 200_000, chosen=none
        ),
        lora=method('LoRA', 'low rank', 'T', [run(0, 20.0, 18.0)], 300_000),
        broken=method('Broken', 'prompts', 'T', [], 250_000, failures=[('Broken, seed 0', 'exit code 1\nTraceback')]),
    )
    return dict(
        tasks=['semseg', 'normals'],
        seeds=2,
        constant_predictor=dict(semseg=5.0, normals=40.0),
        references=dict(figures=REFERENCES, source='the models of this test'),
        protocol=dict(iterations=500),
        heads_learning_rate=4e-3,
        methods=methods,
    )


def test_means_by_hand(results):
    means = frame(results)
    single = means.loc['', 'single_task']
    assert single['semseg'].tolist() == [20.0, pytest.approx(2**0.5), 2]
    assert single['Delta_m'].tolist() == [pytest.approx(0.0), pytest.approx(50**0.5), 2]
    assert math.isnan(means.loc[('', 'lora'), ('Delta_m', 'std')])
    assert ('', 'broken') not in means.index
    assert mean_figures([run(0, 18.0, 22.0), run(1, 22.0, 16.0)]) == dict(semseg=20.0, normals=19.0)


def test_table_by_hand(results):
    rows = [[cell.strip() for cell in line.strip('|').split('|')] for line in table(results).splitlines()]
    assert rows[0][:4] == ['method', 'semseg mIoU [%] ↑', 'normals mean [°] ↓', 'Delta_m [%] ↑']
    assert {len(row) for row in rows} == {len(rows[0])}
    constant, single, heads, lora, broken = rows[2:]
    assert constant[:6] == ['*constant predictor*', '5.00', '40.00', '-87.50', '0', '0']
    assert single[1:4] == ['20.00 ± 1.41', '20.00 ± 1.41', '0.00 ± 7.07']
    assert single[4:] == ['11.000', '10.800', 'T models', '0.100', '1* / 0.2', '2']
    assert heads[3:] == ['-50.00 ± 0.00', '0.200', '0.000', '1', '0.100', '-', '2']
    assert lora[1:4] == ['20.00', '18.00', '5.00']
    assert lora[-1] == '1 of 2'
    assert broken[1:4] == ['failed', '', '']
    assert broken[-1] == '0 of 2'


def test_report_names_failures_and_rates(results):
    text = report(results)
    assert '- Broken, seed 0: exit code 1\n' in text
    assert 'Traceback' not in text
    assert 'a multiple of the 0.004 of all heads' in text
    assert 'against the models of this test' in text


def test_without_references_there_is_no_delta(results):
    results['references'] = dict(figures=None, source='nothing')
    rows = [[cell.strip() for cell in line.strip('|').split('|')] for line in table(results).splitlines()]
    assert [row[3] for row in rows[2:]] == [''] * 5


def test_the_picture_is_a_function_of_the_results(results, tmp_path):
    draw(results, tmp_path / 'one.png')
    draw(results, tmp_path / 'two.png')
    one, two = (cv2.imread(str(tmp_path / name)) for name in ('one.png', 'two.png'))
    assert (one == two).all()
    # Every method with a Delta_m is there in its colour.
    for entry in results['methods'].values():
        colour = FAMILIES[entry['family']]
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


COMMITTED = ROOT / 'benchmarks' / 'methods' / 'synthetic'


@pytest.mark.parametrize('name', ['results', 'scaling'])
def test_the_tables_of_the_committed_results(name):
    assert report(json.loads((COMMITTED / f'{name}.json').read_text())) == (COMMITTED / f'{name}.md').read_text()


def test_the_page_has_the_table_of_the_committed_results(tmp_path):
    page, original = tmp_path / 'benchmark.md', ROOT / 'docs' / 'benchmark.md'
    page.write_text(original.read_text().replace('Compacter++', ''))
    assert main([str(COMMITTED / 'results.json'), '--markdown', str(page)]) == 0
    # Everywhere else the text names it in passing.
    assert f'{BEGIN}\n{table(json.loads((COMMITTED / "results.json").read_text()))}{END}' in original.read_text()
    assert '| Compacter++ |' in page.read_text()


@pytest.fixture
def scaling():
    def encoder(title, length, gain):
        runs = dict(decoders_only=[run(0, 10.0, 30.0)], vmt_adapter=[run(0, 10.0 + gain, 30.0), run(1, 11.0, 30.0)])
        rates = dict(
            decoders_only=dict(multiplier=None, edge_of_grid=None),
            vmt_adapter=dict(multiplier=0.5, edge_of_grid='highest'),
        )
        families = dict(decoders_only='decoders only', vmt_adapter='VMT-Adapter')
        methods = {
            name: dict(title=name, family=families[name], chosen={'': rates[name]}, runs=runs[name], failures=[])
            for name in runs
        }
        return dict(title=title, pretrain_iters=length, parameters=700_000, methods=methods)

    encoders = dict(pico_350=encoder('pico', 350, 1.0), nano_1400=encoder('nano', 1400, 3.0))
    return dict(tasks=['semseg', 'normals'], seeds=2, encoders=encoders)


def test_table_and_picture_of_several_encoders(scaling, tmp_path):
    rows = [[cell.strip() for cell in line.strip('|').split('|')] for line in table(scaling).splitlines()]
    assert rows[3] == ['pico', '0.70', '350', 'vmt_adapter', '11.00 ± 0.00', '30.00 ± 0.00', '5.00 ± 0.00', '0.5*', '2']
    assert rows[4][-2:] == ['-', '1']
    assert rows[5][-3:] == ['10.00 ± 7.07', '0.5*', '2']
    draw(scaling, tmp_path / 'scaling.png')
    assert cv2.imread(str(tmp_path / 'scaling.png')) is not None


def test_a_method_that_failed_on_one_encoder_has_a_gap(scaling, tmp_path):
    scaling['encoders']['pico_350']['methods']['vmt_adapter']['runs'] = []
    scaling['encoders']['pico_350']['parameters'] = None
    rows = [[cell.strip() for cell in line.strip('|').split('|')] for line in table(scaling).splitlines()]
    assert rows[3] == ['pico', '', '350', 'vmt_adapter', '', '', '', '0.5*', '0']
    draw(scaling, tmp_path / 'scaling.png')
    assert cv2.imread(str(tmp_path / 'scaling.png')) is not None


def test_the_curve_over_the_stages_that_are_filled(results, tmp_path):
    for stage, seconds in ((2, 0.3), (3, 0.2), (4, 0.1)):
        runs = [run(seed, 10.0 + seed, 25.0, seconds) for seed in (0, 1)]
        entry = method(f'from stage {stage}', 'VMT-Adapter', '1', runs, 300_000)
        results['methods'][f'vmt_adapter_from_stage_{stage}'] = entry
    draw(results, tmp_path / 'stages.png')
    picture = cv2.imread(str(tmp_path / 'stages.png')).astype(int)
    # A line, not only points, in the colour of VMT-Adapter (BGR).
    assert (abs(picture - (40, 39, 214)).max(axis=2) < 3).sum() > 1500
