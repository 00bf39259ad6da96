"""Results of the benchmark of speed: rows with targets, as JSON, tables and curves."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.markdown import has_place, insert
from mmvmt.engine.hooks.atomic_checkpoint_hook import write_atomically
from mmvmt.structures import read_json

from .measurement import Ratio

Row = dict[str, Any]

KEYS = ('name', 'ratio', 'target', 'met', 'ours', 'theirs', 'unit', 'note')
"""What every row has."""

HEADER = ('what', 'ours', 'against', 'ratio (quartiles)', 'target', 'met', 'note')

MARKS = {
    'targets': ('<!-- speed:begin -->', '<!-- speed:end -->'),
    'others': ('<!-- speed-others:begin -->', '<!-- speed-others:end -->'),
}
"""Lines of a Markdown file between which rows stand: those with a target, and those without."""

_PANELS = {'time': 'time of a training step', 'memory': 'peak memory of a training step'}
_COLOURS = ('#d62728', '#ff9896', '#7f7f7f', '#1f77b4', '#2ca02c', '#9467bd')
_STYLES = {'encoder': dict(linestyle='-', marker='o'), 'whole model': dict(linestyle=':', marker='.')}


def make_row(
    name: str,
    ratio: Ratio | float | None,
    ours: float | None,
    theirs: float | None,
    unit: str,
    *,
    target: float | None = None,
    note: str = '',
    **more: Any,
) -> Row:
    """A result: the entries :data:`KEYS`, ``spread`` (the quartiles of the ratio) and what else was given.

    Args:
        name: What was compared.
        ratio: Ours over theirs; None: it could not be measured, and ``note`` says why.
        ours: Our figure.
        theirs: The figure that it is compared with.
        unit: Unit of both.
        target: Largest ratio that is good enough; None: there is no target. ``met`` follows from it.
        note: What to know of it.
        **more: Further entries.

    Raises:
        ValueError: There is neither a ratio nor a note.
    """
    if ratio is None and not note:
        raise ValueError(f'row {name!r} has no ratio; its note must say why')
    value, *spread = ratio if isinstance(ratio, Ratio) else (ratio,)
    met = None if target is None or value is None else value <= target
    row = dict(name=name, ratio=value, target=target, met=met, ours=ours, theirs=theirs, unit=unit, note=note)
    return row | dict(spread=spread or None) | more


def read_rows(paths: Sequence[str | Path]) -> list[Row]:
    """Rows of JSON files, one file after the other.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: A file holds no list of rows.
    """
    rows = []
    for path in paths:
        if not Path(path).is_file():
            raise FileNotFoundError(f'{path} does not exist; make it with the option --json')
        content = read_json(path)
        if not isinstance(content, list) or not all(isinstance(r, dict) and set(KEYS) <= set(r) for r in content):
            raise ValueError(f'{path} is no list of rows with {", ".join(KEYS)}')
        rows += content
    return rows


def write_rows(path: str | Path, rows: Sequence[Row]) -> None:
    """Write rows as a JSON list."""
    write_atomically(str(path), (json.dumps(rows, indent=1) + '\n').encode())


def figure(value: float | None) -> str:
    """A number with three significant digits, all digits of large ones, nothing for None."""
    if value is None:
        return ''
    return f'{value:,.0f}' if abs(value) >= 100 else f'{value:.3g}'


def cells(row: Row) -> list[str]:
    """A row as text, in the columns of :data:`HEADER`."""
    ratio = figure(row['ratio'])
    if row.get('spread'):
        ratio += ' ({} to {})'.format(*map(figure, row['spread']))
    figures = [f'{figure(row[key])} {row["unit"]}' if row[key] is not None else '' for key in ('ours', 'theirs')]
    target = '' if row['target'] is None else f'≤ {row["target"]:g}'
    met = {True: 'yes', False: '**no**', None: ''}[row['met']]
    # An error that ended up in a note may have several lines.
    return [row['name'], *figures, ratio, target, met, ' '.join(row['note'].split())]


def split_rows(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows by the tables :data:`MARKS` that they stand in."""
    return {kind: [row for row in rows if (row['target'] is None) == (kind == 'others')] for kind in MARKS}


def markdown(rows: Sequence[Row]) -> str:
    """Rows as a Markdown table, with the device of each where they come from several, and the machines below."""
    several = len({row['device'] for row in rows}) > 1
    lines = [['device', *HEADER]] + [
        [row['device'], *(text.replace('|', '\\|') for text in cells(row))] for row in rows
    ]
    table = ['| ' + ' | '.join(line if several else line[1:]) + ' |' for line in lines]
    table.insert(1, '|---' * several + '|---|---:|---:|---:|---:|---|---|')
    machines = dict.fromkeys(_machine(row['run']) for row in rows)
    return '\n\n'.join(['\n'.join(table), *machines])


def _machine(run: Mapping[str, Any]) -> str:
    hardware, versions = run['hardware'], run['versions']
    processor = f'{hardware["cpu"]}, {run["threads"]} of {hardware["cores"]} cores'
    flags = ', '.join(run['cpu_flags']) or 'no vector instructions named'
    gpu = '' if run['device'] == 'cpu' else f'{hardware["gpus"][0]}; '
    quick = ' Sizes were shrunk by `--quick`: these figures show only that everything runs.' if run['quick'] else ''
    return f'Measured on {gpu}{processor} ({flags}), torch {versions["torch"]}.{quick}'


def check_page(path: str | Path) -> list[str]:
    """The tables of :data:`MARKS` that a Markdown page has a place for.

    Raises:
        ValueError: There is no such page, it has no place, or one mark without its other.
    """
    if not Path(path).is_file():
        raise ValueError(f'{path} does not exist; --markdown names a page that has the lines {MARKS["targets"]}')
    kinds = [kind for kind, marks in MARKS.items() if has_place(path, *marks)]
    if not kinds:
        raise ValueError(f'{path} has no place for a table: it needs the lines {" and ".join(MARKS["targets"])}')
    return kinds


def insert_tables(path: str | Path, rows: Sequence[Row]) -> None:
    """Put the rows between the marks of a Markdown page; raises as :func:`check_page`."""
    for kind in check_page(path):
        chosen = split_rows(rows)[kind]
        insert(path, *MARKS[kind], markdown(chosen) if chosen else 'Not measured.')


def draw_curves(rows: Sequence[Row], path: str | Path) -> None:
    """Picture of time and peak memory of a training step over the number of tasks.

    Args:
        rows: Rows; those with ``curve`` (``method``, ``part``, ``quantity``, ``values`` by number of tasks) are drawn.
        path: Target, such as ``curves.png``.

    Raises:
        ValueError: No row has a curve of time or memory, or the curves come from several devices.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.ticker import LogLocator, NullFormatter

    shown = [row for row in rows if row.get('curve') and row['curve']['quantity'] in _PANELS]
    if not shown:
        raise ValueError('no row has a curve of time or memory: measure `tasks` first')
    devices = sorted({row['device'] for row in shown})
    if len(devices) > 1:
        raise ValueError(f'the curves come from {", ".join(devices)}; draw the results of one device at a time')
    colours = dict(zip(dict.fromkeys(row['curve']['method'] for row in shown), _COLOURS))
    canvas = Figure(figsize=(11, 4.8), dpi=150, layout='constrained')
    canvas.suptitle(devices[0], fontsize=10)
    FigureCanvasAgg(canvas)
    panels = dict(zip(_PANELS, canvas.subplots(1, 2)))
    for row in shown:
        curve, axes = row['curve'], panels[row['curve']['quantity']]
        style = dict(color=colours[curve['method']], markersize=5, linewidth=1.6) | _STYLES[curve['part']]
        axes.plot([int(count) for count in curve['values']], list(curve['values'].values()), **style)
        axes.set_ylabel(f'{_PANELS[curve["quantity"]]} [{row["unit"]}]')
    for axes in panels.values():
        axes.set_xscale('log', base=2)
        counts = sorted({int(count) for line in axes.lines for count in line.get_xdata()})
        axes.set_xticks(counts, [str(count) for count in counts])
        axes.set_xlabel('tasks')
        axes.set_yscale('log')
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter('{x:g}')
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.grid(alpha=0.25)
        axes.spines[['top', 'right']].set_visible(False)
    handles = [Line2D([], [], color=colour, linewidth=2, label=method) for method, colour in colours.items()]
    handles += [Line2D([], [], color='black', label=part, **style) for part, style in _STYLES.items()]
    canvas.legend(handles=handles, loc='outside lower center', ncols=len(handles), frameon=False, fontsize=9)
    canvas.savefig(path)
