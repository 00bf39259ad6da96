"""Rows of the benchmark of speed, their tables and their picture."""

import json
from itertools import pairwise

import cv2
import pytest

from benchmarks.speed.report import (
    COLOURS,
    MARKS,
    QUARTILES,
    cells,
    draw_curves,
    figure,
    insert_tables,
    make_row,
    read_rows,
    tables,
    write_rows,
)

RUN = dict(
    command='python -m benchmarks.speed all',
    device='cpu',
    threads=2,
    quick=False,
    cpu_flags=['avx2', 'avx512_bf16'],
    hardware=dict(cpu='Some CPU', cores=4, gpus=[]),
    versions=dict(torch='2.11.0'),
)
GPU_RUN = RUN | dict(device='cuda', hardware=RUN['hardware'] | dict(gpus=['Some GPU']))


def row(name='step', ratio=0.5, target=None, run=RUN, device='Some CPU', **more):
    return make_row(name, ratio, 5.0, 10.0, 'ms', target=target, **more) | dict(device=device, run=run)


@pytest.mark.parametrize(
    'ratio, target, met',
    [(0.4, 0.4, True), (0.4001, 0.4, False), (0.4, None, None), (None, 0.4, None)],
)
def test_met_follows_from_ratio_and_target(ratio, target, met):
    assert row(ratio=ratio, target=target)['met'] is met


def test_what_was_not_measured_says_why():
    missing = make_row('a', None, None, None, 'ms', target=1.0, note='no compiler')
    assert missing['met'] is None
    assert cells(missing) == ['a', '', '', '', '≤ 1', '', 'no compiler']


@pytest.mark.parametrize(
    'value, text', [(None, ''), (0.01234, '0.0123'), (99.96, '100'), (1234.5, '1,234'), (-2.0, '-2')]
)
def test_figures(value, text):
    assert figure(value) == text


def test_rows_are_a_json_list(tmp_path):
    files = [tmp_path / 'cpu.json', tmp_path / 'gpu.json']
    rows = [row('a', target=1.0), row('b', run=GPU_RUN, device='Some GPU')]
    for file, one in zip(files, rows):
        write_rows(file, [one])
    assert isinstance(json.loads(files[0].read_text()), list)
    assert read_rows(files) == rows
    with pytest.raises(FileNotFoundError, match=r'none\.json'):
        read_rows([tmp_path / 'none.json'])
    files[0].write_text('{"name": "a"}')
    with pytest.raises(ValueError, match=r'cpu\.json is no list of rows'):
        read_rows(files)


def test_a_table_names_devices_where_there_are_several():
    one = tables([row('a', target=1.0, note='x|y')])
    assert one['targets'].splitlines()[2] == r'| a | 5 ms | 10 ms | 0.5 | ≤ 1 | yes | x\|y |'
    assert one['targets'].endswith('Measured on Some CPU, 2 of 4 cores (avx2, avx512_bf16), torch 2.11.0.')
    assert 'quartiles' not in one['targets'].split('\n\n', 1)[1]
    spread = tables([row('a', spread=[0.51, 0.6])])['others']
    assert '| a | 5 ms | 10 ms | 0.5 (0.51 to 0.6) |' in spread
    assert f'\n\n{QUARTILES}\n\nMeasured on' in spread
    assert one['others'] == 'Not measured.'
    both = tables([row('a'), row('a', run=GPU_RUN, device='Some GPU')])['others']
    assert '| Some CPU | a |' in both
    assert '| Some GPU | a |' in both
    assert 'on Some GPU; Some CPU' in both
    assert len({line.count('|') for line in both.splitlines() if line.startswith('|')}) == 1
    assert '--quick' in tables([row('a', run=RUN | dict(quick=True))])['others']


def test_tables_stand_between_the_marks(tmp_path):
    page = tmp_path / 'page.md'
    marks = '\n'.join(mark for pair in MARKS.values() for mark in pair)
    page.write_text(f'before\n{marks}\nafter\n')
    insert_tables(page, [row('with', target=1.0), row('without')])
    first = page.read_text()
    targets, others = first.split(MARKS['others'][0])
    assert '| with |' in targets
    assert '| without |' in others
    assert '| without |' not in targets
    assert '| with |' not in others
    assert first.startswith('before\n')
    assert first.endswith('\nafter\n')
    insert_tables(page, [row('with', target=1.0), row('without')])
    assert page.read_text() == first
    insert_tables(page, [row('without')])
    assert 'Not measured.' in page.read_text()


@pytest.mark.parametrize('text', ['nothing', MARKS['targets'][0], '\n'.join(reversed(MARKS['targets']))])
def test_a_page_without_a_place_is_left_alone(tmp_path, text):
    page = tmp_path / 'page.md'
    page.write_text(text)
    with pytest.raises(ValueError, match=r'page\.md needs the lines'):
        insert_tables(page, [row()])
    assert page.read_text() == text


def curves(device='Some CPU'):
    return [
        row(
            f'{method} {part} {quantity}',
            device=device,
            curve=dict(
                method=method, part=part, quantity=quantity, values={'1': 1.0, '2': 1.0 + slope, '16': 1 + 15 * slope}
            ),
        )
        for method, slope in (('VMT-Adapter', 0.01), ('Adapter', 1.0))
        for part in ('encoder', 'whole model')
        for quantity in ('time', 'memory', 'operations')
    ]


def test_curves_are_drawn(tmp_path):
    draw_curves([row('no curve'), *curves()], tmp_path / 'curves.png')
    picture = cv2.imread(str(tmp_path / 'curves.png'))
    assert picture.shape[1] > picture.shape[0] > 400
    # Lines in the colours of both methods, in BGR.
    for blue, green, red in ((40, 39, 214), (150, 152, 255)):
        assert (abs(picture.astype(int) - (blue, green, red)).max(axis=2) < 3).sum() > 500


def test_inference_has_a_panel_of_its_own(tmp_path):
    vmt = [row for row in curves() if row['curve']['method'] == 'VMT-Adapter' and row['curve']['part'] == 'encoder']
    inference = [vmt[0] | dict(curve=vmt[0]['curve'] | dict(part='inference'))]
    for rows, panels in ((vmt, 2), (vmt + inference, 3), (inference, 1)):
        draw_curves(rows, tmp_path / 'curves.png')
        picture = cv2.imread(str(tmp_path / 'curves.png'))[:500]
        red = (abs(picture.astype(int) - (40, 39, 214)).max(axis=2) < 3).any(axis=0).nonzero()[0]
        assert sum(b - a > 60 for a, b in pairwise(red)) == panels - 1


def test_as_many_methods_as_there_are_have_a_curve(tmp_path):
    one = curves()[0]
    methods = [one | dict(curve=one['curve'] | dict(method=f'method {index}')) for index in range(2 * len(COLOURS))]
    draw_curves(methods, tmp_path / 'curves.png')
    assert (tmp_path / 'curves.png').exists()


@pytest.mark.parametrize('rows, message', [([row()], 'these are of none'), (curves() + curves('Some GPU'), 'Some GPU')])
def test_curves_that_cannot_be_drawn(tmp_path, rows, message):
    with pytest.raises(ValueError, match=message):
        draw_curves(rows, tmp_path / 'curves.png')
    assert list(tmp_path.iterdir()) == []
