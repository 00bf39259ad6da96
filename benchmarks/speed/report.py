"""Results of a benchmark of speed: rows with targets, as JSON, tables and curves."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmvmt.engine.hooks.atomic_checkpoint_hook import write_atomically
from mmvmt.structures import read_json

from .measurement import Ratio

KEYS = ('name', 'ratio', 'target', 'met', 'ours', 'theirs', 'unit', 'note')
"""What every row has, and the columns of the tables."""

MARKS = {
    'targets': ('<!-- speed:begin -->', '<!-- speed:end -->'),
    'others': ('<!-- speed-others:begin -->', '<!-- speed-others:end -->'),
}
"""Lines of a Markdown file between which rows stand: those with a target, and those without."""

_COLOURS = ('#d62728', '#ff9896', '#7f7f7f', '#1f77b4', '#2ca02c', '#9467bd')


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
) -> dict[str, Any]:
    """A result.

    Args:
        name: What was compared.
        ratio: Ours over theirs, with its spread where there is one; None: it could not be measured, and ``note`` says
            why.
        ours: Our figure.
        theirs: The figure that it is compared with.
        unit: Unit of both.
        target: Largest ratio that is good enough; None: there is no target.
        note: What to know of it.
        **more: Further entries.

    Returns:
        The entries :data:`KEYS`, where ``met`` follows from ratio and target and is None without one of them;
        ``spread``, the quartiles of the ratio; and what else was given.

    Raises:
        ValueError: There is neither a ratio nor a note.
    """
    if ratio is None and not note:
        raise ValueError(f'row {name!r} has no ratio; its note must say why')
    spread = [ratio.low, ratio.high] if isinstance(ratio, Ratio) else None
    value = ratio.value if isinstance(ratio, Ratio) else ratio
    met = None if target is None or value is None else value <= target
    row = dict(name=name, ratio=value, target=target, met=met, ours=ours, theirs=theirs, unit=unit, note=note)
    return row | dict(spread=spread) | more


def time_row(name: str, ratio: Ratio, ours: Sequence[float], theirs: Sequence[float], **more: Any) -> dict[str, Any]:
    """A row of seconds measured in turn: medians in milliseconds.

    Args:
        name: What was compared.
        ratio: Their ratio.
        ours: Seconds of our rounds.
        theirs: Seconds of the other rounds.
        **more: As in :func:`make_row`.
    """
    medians = [1000 * statistics.median(values) for values in (ours, theirs)]
    return make_row(name, ratio, *medians, 'ms', repeats=len(ours), **more)


def read_rows(paths: Sequence[str | Path]) -> list[dict[str, Any]]:
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
        rows.extend(content)
    return rows


def write_rows(path: str | Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as a JSON list."""
    write_atomically(str(path), (json.dumps(rows, indent=1) + '\n').encode())


def figure(value: float | None) -> str:
    """A number with three significant digits, all digits of large ones, nothing for None."""
    if value is None:
        return ''
    return f'{value:,.0f}' if abs(value) >= 100 else f'{value:.3g}'


def cells(row: Mapping[str, Any]) -> list[str]:
    """A row as text: name, ours, theirs, ratio with spread, target, whether it is met, note."""
    ratio = figure(row['ratio'])
    if row.get('spread'):
        ratio += f' ({figure(row["spread"][0])} to {figure(row["spread"][1])})'
    figures = [f'{figure(row[key])} {row["unit"]}' if row[key] is not None else '' for key in ('ours', 'theirs')]
    target = '' if row['target'] is None else f'≤ {row["target"]:g}'
    met = {True: 'yes', False: '**no**', None: ''}[row['met']]
    # An error that ended up in a note may have several lines.
    return [row['name'], *figures, ratio, target, met, ' '.join(row['note'].split())]


HEADER = ('what', 'ours', 'against', 'ratio (quartiles)', 'target', 'met', 'note')


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as a Markdown table, with the device of each where they come from several, and the machines below."""
    devices = list(dict.fromkeys(row['device'] for row in rows))
    several = len(devices) > 1
    lines = [['device', *HEADER] if several else list(HEADER)]
    for row in rows:
        line = [text.replace('|', '\\|') for text in cells(row)]
        lines.append([row['device'], *line] if several else line)
    table = ['| ' + ' | '.join(line) + ' |' for line in lines]
    aligned = '|---|---|' if several else '|---|'
    table.insert(1, aligned + '---:|' * 4 + '---|---|')
    machines = dict.fromkeys(_machine(row['run']) for row in rows)
    return '\n'.join(table) + ''.join(f'\n\n{machine}' for machine in machines)


def _machine(run: Mapping[str, Any]) -> str:
    hardware, versions = run['hardware'], run['versions']
    processor = f'{hardware["cpu"]}, {run["threads"]} of {hardware["cores"]} cores'
    flags = ', '.join(run['cpu_flags']) or 'no vector instructions named'
    gpu = '' if run['device'] == 'cpu' else f'{hardware["gpus"][0]}; '
    quick = ' Sizes were shrunk by `--quick`: these figures show only that everything runs.' if run['quick'] else ''
    return f'Measured on {gpu}{processor} ({flags}), torch {versions["torch"]}.{quick}'


def insert_tables(path: str | Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Put the rows between the marks of a Markdown file; a file may have marks for one of the tables only.

    Raises:
        ValueError: The file has no marks, or one without its other.
    """
    text = check_marks(path)
    for kind, (begin, end) in MARKS.items():
        chosen = [row for row in rows if (row['target'] is None) == (kind == 'others')]
        if begin not in text:
            continue
        before, rest = text.split(begin, 1)
        after = rest.split(end, 1)[1]
        table = markdown(chosen) if chosen else 'Not measured.'
        text = f'{before}{begin}\n{table}\n{end}{after}'
    write_atomically(str(path), text.encode())


def check_marks(path: str | Path) -> str:
    """The text of a Markdown file that has a place for at least one table.

    Raises:
        ValueError: As in :func:`insert_tables`.
    """
    if not Path(path).is_file():
        raise ValueError(f'{path} does not exist; --markdown names a page that has the lines {MARKS["targets"]}')
    text = Path(path).read_text(encoding='utf-8')
    found = 0
    for begin, end in MARKS.values():
        if (begin in text) != (end in text) or text.find(begin) > text.find(end):
            raise ValueError(f'{path} has only one of the lines {begin} and {end}, or they are in the wrong order')
        found += begin in text
    if not found:
        raise ValueError(f'{path} has no place for a table: it needs the lines {" and ".join(MARKS["targets"])}')
    return text


def draw_curves(rows: Sequence[Mapping[str, Any]], path: str | Path) -> None:
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
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    panels = {'time': 'time of a training step', 'memory': 'peak memory of a training step'}
    shown = [row for row in rows if row.get('curve') and row['curve']['quantity'] in panels]
    if not shown:
        raise ValueError('no row has a curve of time or memory: measure `tasks` first')
    devices = sorted({row['device'] for row in shown})
    if len(devices) > 1:
        raise ValueError(f'the curves come from {", ".join(devices)}; draw the results of one device at a time')
    drawn = [row['curve'] | dict(unit=row['unit']) for row in shown]
    methods = list(dict.fromkeys(curve['method'] for curve in drawn))
    colours = dict(zip(methods, _COLOURS))
    styles = {'encoder': dict(linestyle='-', marker='o'), 'whole model': dict(linestyle=':', marker='.')}
    canvas = Figure(figsize=(11, 4.8), dpi=150, layout='constrained')
    canvas.suptitle(devices[0], fontsize=10)
    FigureCanvasAgg(canvas)
    for axes, (quantity, label) in zip(canvas.subplots(1, 2), panels.items()):
        shown = [curve for curve in drawn if curve['quantity'] == quantity]
        for curve in shown:
            counts = [int(count) for count in curve['values']]
            axes.plot(
                counts,
                list(curve['values'].values()),
                color=colours[curve['method']],
                markersize=5,
                linewidth=1.6,
                **styles[curve['part']],
            )
        counts = sorted({int(count) for curve in shown for count in curve['values']})
        axes.set_xscale('log', base=2)
        axes.set_xticks(counts, [str(count) for count in counts])
        axes.set_xlabel('tasks')
        axes.set_yscale('log')
        if shown:
            axes.set_ylabel(f'{label} [{shown[0]["unit"]}]')
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f'{value:g}'))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.grid(alpha=0.25)
        axes.spines[['top', 'right']].set_visible(False)
    handles = [Line2D([], [], color=colours[method], linewidth=2, label=method) for method in methods]
    handles += [Line2D([], [], color='black', label=part, **style) for part, style in styles.items()]
    canvas.legend(handles=handles, loc='outside lower center', ncols=len(handles), frameon=False, fontsize=9)
    canvas.savefig(path)
