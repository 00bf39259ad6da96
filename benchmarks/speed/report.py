"""Rows of results: as JSON, as tables of a page, and as curves."""

import json
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

from benchmarks.markdown import insert
from mmvmt.engine.hooks.atomic_checkpoint_hook import write_atomically
from mmvmt.structures import read_json

Row = dict[str, Any]
KEYS = ('name', 'ratio', 'target', 'met', 'ours', 'theirs', 'unit', 'note')
QUARTILES = (
    'Ratios are those of the medians, quartiles those of the ratios within a round: a ratio may lie beside them.'
)
HEADER = ('what', 'ours', 'against', 'ratio (quartiles)', 'target', 'met', 'note')

# Lines of a page between which rows stand: those with a target, and those without.
MARKS = {
    'targets': ('<!-- speed:begin -->', '<!-- speed:end -->'),
    'others': ('<!-- speed-others:begin -->', '<!-- speed-others:end -->'),
}

PANELS = {
    'time': 'time of a training step',
    'memory': 'peak memory of a training step',
    'inference': 'time of inference',
}
STYLES = {'encoder': dict(linestyle='-', marker='o'), 'whole model': dict(linestyle=':', marker='.')}
COLOURS = ('#d62728', '#ff9896', '#7f7f7f', '#1f77b4', '#2ca02c', '#9467bd', '#ff7f0e', '#8c564b', '#17becf', '#bcbd22')


def make_row(name: str, ratio: float | None, ours: float | None, theirs: float | None, unit: str, **more: Any) -> Row:
    """A result: the entries :data:`KEYS`, ``spread`` (the quartiles of the ratio), and what else is given.

    The ratio is ours over theirs; None: it was not measured, and ``note`` says why. ``met`` says whether it is at most
    ``target``, the largest ratio that is good enough, if there is one.
    """
    row = dict.fromkeys(KEYS) | dict(name=name, ratio=ratio, ours=ours, theirs=theirs, unit=unit, note='', spread=None)
    row |= more
    return row | dict(met=None if None in (ratio, row['target']) else ratio <= row['target'])


def read_rows(paths: Sequence[str | Path]) -> list[Row]:
    """Rows of JSON files, one file after the other; ValueError for a file that has none."""
    rows = []
    for path in paths:
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
    spread = ' ({} to {})'.format(*map(figure, row['spread'])) if row.get('spread') else ''
    figures = [f'{figure(row[key])} {row["unit"]}' if row[key] is not None else '' for key in ('ours', 'theirs')]
    target = '' if row['target'] is None else f'≤ {row["target"]:g}'
    met = {True: 'yes', False: '**no**', None: ''}[row['met']]
    # An error that ended up in a note may have several lines.
    note = ' '.join(row['note'].split()).replace('|', '\\|')
    return [row['name'], *figures, figure(row['ratio']) + spread, target, met, note]


def tables(rows: Sequence[Row]) -> dict[str, str]:
    """The tables of :data:`MARKS` in Markdown, with devices where there are several, and the machines below."""
    several = len({row['device'] for row in rows}) > 1
    made = {}
    for kind in MARKS:
        chosen = [row for row in rows if (row['target'] is None) == (kind == 'others')]
        lines = [['device', *HEADER], ['---', '---', *['---:'] * 4, '---', '---']]
        lines += [[row['device'], *cells(row)] for row in chosen]
        table = '\n'.join('| ' + ' | '.join(line[not several :]) + ' |' for line in lines)
        below = [QUARTILES] if any(row.get('spread') for row in chosen) else []
        below += dict.fromkeys(_machine(row['run']) for row in chosen)
        made[kind] = '\n\n'.join([table, *below]) if chosen else 'Not measured.'
    return made


def _machine(run: Mapping[str, Any]) -> str:
    hardware, flags = run['hardware'], ', '.join(run['cpu_flags']) or 'no vector instructions named'
    gpu = '' if run['device'] == 'cpu' else f'{hardware["gpus"][0]}; '
    quick = ' Sizes were shrunk by `--quick`: these figures show only that everything runs.' if run['quick'] else ''
    processor = f'{hardware["cpu"]}, {run["threads"]} of {hardware["cores"]} cores ({flags})'
    return f'Measured on {gpu}{processor}, torch {run["versions"]["torch"]}.{quick}'


def insert_tables(path: str | Path, rows: Sequence[Row]) -> None:
    """Put the tables between the marks of a page."""
    for kind, table in tables(rows).items():
        insert(path, *MARKS[kind], table)


def draw_curves(rows: Sequence[Row], path: str | Path) -> None:
    """Draw the ``curve`` of rows (``method``, ``part``, ``quantity``, ``values`` by number of tasks) of one device."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.ticker import LogLocator

    drawn = [row | row['curve'] for row in rows if row.get('curve') and row['curve']['quantity'] in PANELS]
    shown = [row | dict(panel='inference' if row['part'] == 'inference' else row['quantity']) for row in drawn]
    devices = sorted({row['device'] for row in shown})
    if len(devices) != 1:
        raise ValueError(f'curves are drawn of one device, and these are of {", ".join(devices) or "none"}')
    colours = dict(zip(dict.fromkeys(row['method'] for row in shown), cycle(COLOURS)))
    canvas = Figure(figsize=(12, 5), dpi=150, layout='constrained')
    canvas.suptitle(devices[0], fontsize=10)
    wanted = [panel for panel in PANELS if panel in {row['panel'] for row in shown}]
    panels = dict(zip(wanted, canvas.subplots(1, len(wanted), squeeze=False)[0]))
    for row in shown:
        style = dict(color=colours[row['method']], markersize=5, linewidth=1.6)
        style |= STYLES.get(row['part'], STYLES['encoder'])
        panels[row['panel']].plot([int(count) for count in row['values']], list(row['values'].values()), **style)
        panels[row['panel']].set_ylabel(f'{PANELS[row["panel"]]} [{row["unit"]}]')
    for axes in panels.values():
        axes.set(xscale='log', yscale='log', xlabel='tasks')
        counts = sorted({int(count) for line in axes.lines for count in line.get_xdata()})
        axes.set_xticks(counts, map(str, counts))
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter('{x:g}')
        axes.minorticks_off()
        axes.grid(alpha=0.25)
        axes.spines[['top', 'right']].set_visible(False)
    handles = [Line2D([], [], color=colour, linewidth=2, label=method) for method, colour in colours.items()]
    handles += [Line2D([], [], color='black', label=part, **style) for part, style in STYLES.items()]
    canvas.legend(handles=handles, loc='outside lower center', ncols=6, frameon=False, fontsize=9)
    canvas.savefig(path)
