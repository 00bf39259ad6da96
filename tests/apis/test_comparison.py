"""Summaries, the table, and a picture in which no name covers another."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from mmvmt.apis.comparison import (
    BEGIN,
    END,
    FAMILIES,
    block,
    draw,
    draw_scaling,
    insert_table,
    mean_figures,
    place_labels,
    report,
    scaling_table,
    summarise,
    table,
)

ROOT = Path(__file__).parents[2]
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
        summary=summarise(runs, REFERENCES),
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


def test_summary_by_hand():
    summary = summarise([run(0, 18.0, 22.0), run(1, 22.0, 18.0)], REFERENCES)
    assert summary['seeds'] == 2
    assert summary['figures']['semseg'] == dict(mean=20.0, std=pytest.approx(8**0.5))
    assert summary['delta_m']['mean'] == pytest.approx(0.0)
    assert summary['delta_m']['std'] == pytest.approx(200**0.5)
    assert summarise([run(0, 18.0, 22.0)], None)['delta_m'] == dict(mean=None, std=None)
    assert summarise([], REFERENCES)['figures'] == {}
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
    for entry in results['methods'].values():
        entry['summary'] = summarise(entry['runs'], None)
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


@pytest.fixture
def axes():
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7), dpi=100)
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_xscale('log')
    axes.set_xlim(0.1, 11.0)
    return axes


def extents(labels):
    """Boxes of the names alone: Annotation.get_window_extent adds the line to the point."""
    figure = labels[0].figure
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    return [super(type(label), label).get_window_extent(renderer) for label in labels]


def test_names_in_a_crowd_do_not_cover_each_other(axes):
    points = [(0.3 + 0.01 * (i % 4), -2.0 + 0.3 * (i // 4), 0.2) for i in range(16)] + [(10.0, 0.0, 0.5)]
    axes.set_ylim(-10, 6)
    names = [f'method number {i}' for i in range(len(points))]
    labels = place_labels(axes.figure, axes, points, names, ['black'] * len(points), levels=[0.0])
    assert [label.get_text() for label in labels] == names
    boxes = extents(labels)
    frame = axes.get_window_extent()
    for index, box in enumerate(boxes):
        assert box.width > 20
        assert frame.x0 <= box.x0
        assert box.x1 <= frame.x1
        assert not any(box.overlaps(other) for other in boxes[index + 1 :])
        assert not any(box.contains(*axes.transData.transform((x, y))) for x, y, _ in points)
        assert not box.y0 < axes.transData.transform((1.0, 0.0))[1] < box.y1


def test_lines_from_names_to_points_cross_no_name_and_no_other_line(axes):
    # Two points with almost the same error bar, and others that leave the second no place near by.
    points = [(0.284, -5.4, 1.1), (0.262, -7.6, 1.2), (0.31, -7.9, 1.2), (0.31, -8.1, 1.2), (0.24, -9.0, 1.2)]
    points += [(0.25, -7.7, 0.7), (0.24, -7.1, 1.6), (0.26, -4.7, 1.4), (0.27, -4.7, 0.6), (0.40, -7.2, 0.8)]
    axes.set_ylim(-20, 8)
    names = ['LoRA', 'Low-rank adapter', 'VMT-Adapter', 'VMT-Adapter, encoder in bfloat16', 'VMT-Adapter-Lite']
    names += ['BitFit', 'Polyhistor-Lite', 'Compacter', 'PHM layer', 'Shared adapter']
    labels = place_labels(axes.figure, axes, points, names, ['black'] * len(points), levels=[-10.4])
    boxes = extents(labels)
    ties = {
        index: label.arrow_patch.get_transform().transform_path(label.arrow_patch.get_path())
        for index, label in enumerate(labels)
        if label.arrow_patch is not None
    }
    assert len(ties) >= 4
    for index, tie in ties.items():
        assert not any(tie.intersects_bbox(box, filled=False) for i, box in enumerate(boxes) if i != index)
        assert not any(tie.intersects_path(other, filled=False) for i, other in ties.items() if i != index)
        # From the name's edge to the point's marker.
        end = axes.transData.transform(points[index][:2])
        assert np.linalg.norm(tie.vertices[-1] - end) < 8
        assert boxes[index].padded(4).contains(*tie.vertices[0])


def test_the_table_goes_between_the_markers(results, tmp_path):
    readme = tmp_path / 'README.md'
    readme.write_text(f'# Title\n\n{BEGIN}\nold\n{END}\n\nafter\n')
    for _ in range(2):
        insert_table(readme, results)
        text = readme.read_text()
        assert block(text) == table(results).strip()
        assert text.startswith('# Title\n\n')
        assert text.endswith(f'{END}\n\nafter\n')


@pytest.mark.parametrize(
    'text, message', [('no markers', 'has no lines'), (f'{BEGIN} only', 'both'), (f'{END} {BEGIN}', 'in this order')]
)
def test_a_file_without_both_markers_is_refused_and_kept(results, tmp_path, text, message):
    readme = tmp_path / 'README.md'
    readme.write_text(text)
    with pytest.raises(ValueError, match=message):
        insert_table(readme, results)
    assert readme.read_text() == text


def test_readme_has_the_table_of_the_committed_results():
    path = ROOT / 'benchmarks' / 'synthetic' / 'results.json'
    expected = table(json.loads(path.read_text())).strip() if path.is_file() else None
    assert block((ROOT / 'README.md').read_text()) == expected


def test_scaling_table_and_picture(tmp_path):
    def encoder(title, length, gain):
        runs = dict(decoders_only=[run(0, 10.0, 30.0)], vmt_adapter=[run(0, 10.0 + gain, 30.0), run(1, 11.0, 30.0)])
        references = mean_figures(runs['decoders_only'])
        methods = {
            name: dict(title=name, family=family, chosen={'': rates}, summary=summarise(runs[name], references))
            for name, family, rates in (
                ('decoders_only', 'decoders only', dict(multiplier=None, edge_of_grid=None)),
                ('vmt_adapter', 'VMT-Adapter', dict(multiplier=0.5, edge_of_grid='highest')),
            )
        }
        return dict(title=title, pretrain_iters=length, parameters=700_000, methods=methods)

    results = dict(
        tasks=['semseg', 'normals'], encoders=dict(a=encoder('pico', 350, 1.0), b=encoder('nano', 1400, 3.0))
    )
    rows = [[cell.strip() for cell in line.strip('|').split('|')] for line in scaling_table(results).splitlines()]
    assert rows[3] == ['pico', '0.70', '350', 'vmt_adapter', '11.00 ± 0.00', '30.00 ± 0.00', '5.00 ± 0.00', '0.5*', '2']
    assert rows[4][-2:] == ['-', '1']
    assert rows[5][-3:] == ['10.00 ± 7.07', '0.5*', '2']
    draw_scaling(results, tmp_path / 'scaling.png')
    assert cv2.imread(str(tmp_path / 'scaling.png')) is not None


def test_a_scaling_run_with_a_failed_method_has_a_gap(tmp_path):
    heads = dict(title='decoders only', family='decoders only', chosen={}, summary=summarise([], None))
    lite = dict(title='Lite', family='hypernetworks', chosen={}, summary=summarise([run(0, 1.0, 1.0)], REFERENCES))
    pico = dict(title='pico', pretrain_iters=350, parameters=None, methods=dict(decoders_only=heads))
    nano = dict(title='nano', pretrain_iters=350, parameters=10, methods=dict(decoders_only=heads, lite=lite))
    results = dict(tasks=['semseg', 'normals'], encoders=dict(pico=pico, nano=nano))
    rows = [[cell.strip() for cell in line.strip('|').split('|')] for line in scaling_table(results).splitlines()]
    assert rows[2] == ['pico', '', '350', 'decoders only', '', '', '', '-', '0']
    draw_scaling(results, tmp_path / 'scaling.png')
    assert cv2.imread(str(tmp_path / 'scaling.png')) is not None
