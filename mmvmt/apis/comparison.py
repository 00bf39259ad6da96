"""Results of a comparison of methods: from runs to means, a table and a picture."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmvmt.evaluation.evaluator import delta_m
from mmvmt.structures import TASKS

FAMILIES = {
    'full fine-tuning': '#444444',
    'decoders only': '#8c8c8c',
    'parts of the encoder': '#c49a00',
    'prompts': '#9467bd',
    'Kronecker sums': '#17a2b8',
    'low rank': '#2ca02c',
    'bottleneck adapters': '#1f77b4',
    'hypernetworks': '#ff7f0e',
    'VMT-Adapter': '#d62728',
}
"""Colour of each family of methods in the picture."""

_LABEL_SIZE = 8.5
_TIED = 12
"""Names further from their point than this, in points of print, are tied to it by a line."""
_ROUNDS = 5
"""How often names choose their place at most."""

BEGIN, END = '<!-- benchmark:begin -->', '<!-- benchmark:end -->'
"""Lines of a Markdown file between which the table stands."""


def mean_figures(runs: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """``{task: mean of the main figure over runs}``.

    Args:
        runs: Dictionaries with ``figures``, all of the same tasks.
    """
    return {task: statistics.mean(run['figures'][task] for run in runs) for task in runs[0]['figures']}


def spread(values: Sequence[float]) -> dict[str, float | None]:
    """``mean`` and sample standard deviation ``std`` of some values; None for what they are too few for."""
    return dict(
        mean=statistics.mean(values) if values else None, std=statistics.stdev(values) if len(values) > 1 else None
    )


def summarise(runs: Sequence[Mapping[str, Any]], references: Mapping[str, float] | None) -> dict[str, Any]:
    """Mean and standard deviation over the seeds of one method.

    Args:
        runs: One per seed, with ``figures``, ``seconds_per_iteration`` and ``peak_memory_mib``.
        references: ``{task: main figure}`` that Delta_m is taken against; None: there is no Delta_m.

    Returns:
        ``figures`` per task, ``delta_m``, ``seconds_per_iteration``, ``peak_memory_mib``, each with ``mean`` and
        ``std``, and the number of ``seeds``.
    """
    deltas = [delta_m(run['figures'], references) for run in runs] if references else []
    summary: dict[str, Any] = dict(seeds=len(runs), delta_m=spread(deltas))
    tasks = list(runs[0]['figures']) if runs else []
    summary['figures'] = {task: spread([run['figures'][task] for run in runs]) for task in tasks}
    for key in ('seconds_per_iteration', 'peak_memory_mib'):
        summary[key] = spread([run[key] for run in runs if run[key] is not None])
    return summary


def table(results: Mapping[str, Any]) -> str:
    """The Markdown table of a comparison.

    Args:
        results: What ``results.json`` of tools/compare_methods.py holds.
    """
    tasks = results['tasks']
    arrows = {task: '↑' if TASKS[task].higher_is_better else '↓' for task in tasks}
    units = {task: '°' if TASKS[task].kind == 'vectors' else '%' for task in tasks}
    header = ['method', *(f'{task} {TASKS[task].main_metric} [{units[task]}] {arrows[task]}' for task in tasks)]
    header += ['Delta_m [%] ↑', 'trainable [M]', 'in the encoder [M]', 'passes', 's/iteration', 'rate x', 'seeds']
    constant, references = results['constant_predictor'], results['references']['figures']
    rows = [['*constant predictor*', *(_number(constant[task]) for task in tasks)]]
    rows[0] += [_number(delta_m(constant, references)) if references else '', '0', '0', '', '', '', '']
    rows += [_row(method, tasks, results['seeds']) for method in results['methods'].values()]
    lines = ['| ' + ' | '.join(cells) + ' |' for cells in [header, *rows]]
    lines.insert(1, '|---|' + '---:|' * (len(header) - 1))
    return '\n'.join(lines) + '\n'


def _row(method: Mapping[str, Any], tasks: Sequence[str], seeds: int) -> list[str]:
    summary = method['summary']
    if not summary['seeds']:
        state = 'failed' if method['failures'] else 'not finished'
        cells = [state, *[''] * (len(tasks) - 1), ''] if tasks else ['']
    else:
        cells = [_mean_std(summary['figures'][task]) for task in tasks] + [_mean_std(summary['delta_m'])]
    counts = method['parameters']
    cells += [f'{counts[key] / 1e6:.3f}' if counts else '' for key in ('trainable', 'trained_in_encoder')]
    seconds = summary['seconds_per_iteration']['mean']
    cells += [method['passes'], '' if seconds is None else f'{seconds:.3f}', rate_text(method)]
    finished = f'{summary["seeds"]}' if summary['seeds'] == seeds else f'{summary["seeds"]} of {seeds}'
    return [method['title'], *cells, finished + (' (some failed)' if summary['seeds'] and method['failures'] else '')]


def rate_text(method: Mapping[str, Any]) -> str:
    """The chosen multipliers as text, one per model; an asterisk marks the edge of the grid."""
    parts = [
        f'{chosen["multiplier"]:g}' + ('*' if chosen['edge_of_grid'] else '')
        for chosen in method['chosen'].values()
        if chosen['multiplier'] is not None
    ]
    return ' / '.join(parts) if parts else '-'


def _number(value: float | None) -> str:
    # Adding zero turns a rounded minus zero into zero.
    return '' if value is None else f'{round(value, 2) + 0.0:.2f}'


def _mean_std(value: Mapping[str, float | None]) -> str:
    return _number(value['mean']) + ('' if value['std'] is None else f' ± {value["std"]:.2f}')


def report(results: Mapping[str, Any]) -> str:
    """The table with what one has to know to read it, as Markdown.

    Args:
        results: What ``results.json`` of tools/compare_methods.py holds.
    """
    protocol, references = results['protocol'], results['references']
    rate = results['heads_learning_rate']
    notes = [
        f'Mean ± standard deviation over seeds; {protocol["iterations"]} iterations per training. Delta_m: mean '
        f'relative change over the tasks against {references["source"]}.',
        '"passes": how often the encoder runs per image, T being the number of tasks. "rate x": learning rate of what '
        'trains in the encoder, as a multiple of '
        + (f'the {rate:g} of all heads' if rate else 'that of the heads')
        + '; an asterisk marks the edge of the grid that was tried.',
    ]
    failures = [
        f'- {failure["what"]}: {failure["reason"].splitlines()[0]}'
        for method in results['methods'].values()
        for failure in method['failures']
    ]
    if failures:
        notes.append('Failed (the end of each log is in results.json):\n\n' + '\n'.join(failures))
    return table(results) + '\n' + '\n\n'.join(notes) + '\n'


def block(text: str) -> str | None:
    """What stands between the markers of a Markdown file; None if it has none.

    Raises:
        ValueError: One marker is missing, or they stand in the wrong order.
    """
    if BEGIN not in text and END not in text:
        return None
    start, end = text.find(BEGIN), text.find(END)
    if start < 0 or end < start:
        raise ValueError(f'the markers {BEGIN} and {END} must both be there, in this order')
    return text[start + len(BEGIN) : end].strip('\n')


def insert_table(path: Path, results: Mapping[str, Any]) -> None:
    """Put the table between the markers of a Markdown file.

    Raises:
        ValueError: The file has no markers, or only one.
    """
    text = path.read_text(encoding='utf-8')
    if block(text) is None:
        raise ValueError(f'{path} has no lines {BEGIN} and {END}; put them where the table is to stand')
    before, rest = text.split(BEGIN, 1)
    after = rest.split(END, 1)[1]
    path.write_text(f'{before}{BEGIN}\n{table(results).strip()}\n{END}{after}', encoding='utf-8')


def draw(results: Mapping[str, Any], path: Path) -> None:
    """Picture of Delta_m over trainable parameters.

    Args:
        results: What ``results.json`` of tools/compare_methods.py holds; methods without Delta_m are left out.
        path: Target, such as ``results.png``.
    """
    points = [
        (m['parameters']['trainable'] / 1e6, m['summary']['delta_m'], m)
        for m in results['methods'].values()
        if m['parameters'] and m['summary']['delta_m']['mean'] is not None
    ]
    figure, axes = _axes('trainable parameters, encoder part and decoders [M]')
    for x, value, method in points:
        one_pass = method['passes'] == '1'
        axes.errorbar(
            x,
            value['mean'],
            yerr=value['std'] or 0.0,
            marker='o' if one_pass else ('D' if method['passes'] == 'T' else 's'),
            color=FAMILIES[method['family']],
            markerfacecolor=FAMILIES[method['family']] if one_pass else 'white',
            markeredgewidth=1.4,
            markersize=7,
            capsize=3,
            elinewidth=1,
            linestyle='none',
            zorder=3,
        )
    levels = [0.0]
    axes.axhline(0.0, color=FAMILIES['full fine-tuning'], linewidth=1, zorder=1)
    heads = results['methods'].get('decoders_only')
    if heads and heads['summary']['delta_m']['mean'] is not None:
        levels.append(heads['summary']['delta_m']['mean'])
        axes.axhline(levels[-1], color=FAMILIES['decoders only'], linewidth=1, linestyle=':', zorder=1)
    axes.set_ylabel('Delta_m against single-task fine-tuning [%]')
    seeds = results['seeds']
    size = f'{results["protocol"]["iterations"]} iterations, {seeds} {"seed" if seeds == 1 else "seeds"}'
    axes.set_title(f'{len(points)} methods, {size}')
    _legend(axes)
    names = [
        method['title'] + ('' if method['summary']['seeds'] == seeds else f' ({method["summary"]["seeds"]} of {seeds})')
        for _, _, method in points
    ]
    place_labels(
        figure,
        axes,
        [(x, v['mean'], v['std'] or 0.0) for x, v, _ in points],
        names,
        [FAMILIES[m['family']] for *_, m in points],
        levels,
    )
    figure.savefig(path)


def _axes(xlabel: str) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    figure = Figure(figsize=(11, 7), dpi=150, layout='constrained')
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_xscale('log')
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f'{value:g}'))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.margins(x=0.12, y=0.14)
    axes.grid(alpha=0.25, zorder=0)
    axes.spines[['top', 'right']].set_visible(False)
    axes.set_xlabel(xlabel)
    return figure, axes


def _legend(axes: Any) -> None:
    from matplotlib.lines import Line2D

    shapes = [
        ('encoder runs once', dict(marker='o', markerfacecolor='black')),
        ('encoder runs once per task', dict(marker='D', markerfacecolor='white')),
        ('one model per task', dict(marker='s', markerfacecolor='white')),
    ]
    handles = [Line2D([], [], color='black', linestyle='none', label=label, **style) for label, style in shapes]
    handles.append(Line2D([], [], color=FAMILIES['full fine-tuning'], linewidth=1, label='single-task fine-tuning'))
    handles.append(Line2D([], [], color=FAMILIES['decoders only'], linewidth=1, linestyle=':', label='decoders only'))
    axes.legend(handles=handles, loc='upper center', bbox_to_anchor=(0.5, -0.09), ncols=5, frameon=False, fontsize=9)


def place_labels(
    figure: Any,
    axes: Any,
    points: Sequence[tuple[float, float, float]],
    names: Sequence[str],
    colours: Sequence[str],
    levels: Sequence[float] = (),
) -> list[Any]:
    """Write names beside points so that none covers another, a point, an error bar or a line across the axes.

    The crowded points choose first, out of a fixed list of directions and distances, so equal input gives equal
    pictures: what covers nothing, then what is nearest. A name that moved away is tied to its point by a thin line,
    which is to cross no name, point or other such line. All choose again, knowing the others, until none moves.

    Args:
        figure: Figure with a canvas.
        axes: Axes, their limits final.
        points: ``(x, y, half length of the error bar)`` in data units.
        names: One per point.
        colours: One per point.
        levels: Heights of the lines, in data units.

    Returns:
        The annotations, in the order of the points.
    """
    from matplotlib.path import Path as Line
    from matplotlib.transforms import Bbox

    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    scale = figure.dpi / 72
    frame = axes.get_window_extent(renderer)
    pixels = [axes.transData.transform((x, y)) for x, y, _ in points]
    half = 5 * scale
    markers = [Bbox.from_extents(px - half, py - half, px + half, py + half) for px, py in pixels]
    taken = []
    for (x, y, error), (px, py) in zip(points, pixels):
        reach = max(half, abs(axes.transData.transform((x, y + error))[1] - py) + 2 * scale)
        taken.append(Bbox.from_extents(px - half, py - reach, px + half, py + reach))
    for level in levels:
        y = axes.transData.transform((points[0][0], level))[1] if points else frame.y0
        taken.append(Bbox.from_extents(frame.x0, y - scale, frame.x1, y + scale))

    def crowd(index: int) -> float:
        px, py = pixels[index]
        return sum(1 / (1 + math.hypot(qx - px, qy - py)) for qx, qy in pixels)

    sizes = []
    for name in names:
        sample = axes.text(0, 0, name, transform=axes.transAxes, fontsize=_LABEL_SIZE)
        sizes.append(sample.get_window_extent(renderer))
        sample.remove()
    boxes: dict[int, Any] = {}
    ties: dict[int, Any] = {}

    def place(index: int) -> tuple[Any, Any]:
        (px, py), size = pixels[index], sizes[index]
        written = [box for other, box in boxes.items() if other != index]
        tied = [tie for other, tie in ties.items() if other != index and tie is not None]
        # Points that overlap this one cannot be told from it.
        avoid = written + [marker for marker in markers if not marker.overlaps(markers[index])]
        best = None
        for distance in (7, 12, 18, 26, 36, 48, 62, 78, 96, 120):
            for direction in range(16):
                # From the right over above and below to the left, which is where one looks for a name.
                turn = (direction + 1) // 2 * (1 if direction % 2 else -1) * math.pi / 8
                dx, dy = distance * scale * math.cos(turn), distance * scale * math.sin(turn)
                left = px + dx - size.width * (1 - math.cos(turn)) / 2
                bottom = py + dy - size.height / 2
                box = Bbox.from_bounds(left, bottom, size.width, size.height)
                padded = box.padded(1.5 * scale)
                outside = max(0, frame.x0 - box.x0) + max(0, box.x1 - frame.x1)
                outside += max(0, frame.y0 - box.y0) + max(0, box.y1 - frame.y1)
                covered = sum(_shared_area(padded, other) for other in taken + written)
                crossed = sum(other.intersects_bbox(padded, filled=False) for other in tied)
                tie = None
                if distance > _TIED:
                    near = min(max(px, box.x0), box.x1), min(max(py, box.y0), box.y1)
                    tie = Line([near, (px, py)])
                    crossed += sum(tie.intersects_bbox(other, filled=False) for other in avoid)
                    crossed += sum(tie.intersects_path(other, filled=False) for other in tied)
                cost = (covered + 1000 * outside + 100 * crossed, distance)
                if best is None or cost < best[0]:
                    best = (cost, box, tie)
            if best[0][0] == 0:
                break
        return best[1:]

    order = sorted(range(len(points)), key=crowd, reverse=True)
    for _ in range(_ROUNDS):
        before = [boxes[index].bounds for index in order if index in boxes]
        for index in order:
            boxes[index], ties[index] = place(index)
        if before == [boxes[index].bounds for index in order]:
            break
    labels = []
    for index, (x, y, _) in enumerate(points):
        box, tie, arrow = boxes[index], ties[index], None
        if tie is not None:
            arrow = dict(arrowstyle='-', color=colours[index], linewidth=0.6, alpha=0.7, shrinkA=0, shrinkB=4)
            arrow.update(relpos=tuple((tie.vertices[0] - box.p0) / box.size))
        label = axes.annotate(
            names[index],
            (x, y),
            xytext=tuple((box.p0 - pixels[index]) / scale),
            textcoords='offset points',
            va='bottom',
            fontsize=_LABEL_SIZE,
            color=colours[index],
            zorder=4,
            arrowprops=arrow,
        )
        # Else the axes would shrink for the names, and with them the distances they were placed by.
        label.set_in_layout(False)
        labels.append(label)
    return labels


def _shared_area(a: Any, b: Any) -> float:
    width, height = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
    return width * height if width > 0 and height > 0 else 0.0


def scaling_table(results: Mapping[str, Any]) -> str:
    """Markdown table of the scaling experiment.

    Args:
        results: What ``scaling.json`` of tools/compare_methods.py holds.
    """
    tasks = results['tasks']
    header = [
        'encoder',
        'encoder [M]',
        'pretraining',
        'method',
        *tasks,
        'gain over decoders only [%]',
        'rate x',
        'seeds',
    ]
    lines = ['| ' + ' | '.join(header) + ' |', '|---|---:|---:|---|' + '---:|' * (len(tasks) + 3)]
    for encoder in results['encoders'].values():
        for method in encoder['methods'].values():
            summary = method['summary']
            cells = [encoder['title'], _millions(encoder), str(encoder['pretrain_iters']), method['title']]
            cells += [_mean_std(summary['figures'][task]) if summary['seeds'] else '' for task in tasks]
            cells += [_mean_std(summary['delta_m']), rate_text(method), str(summary['seeds'])]
            lines.append('| ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines) + '\n'


def _millions(encoder: Mapping[str, Any]) -> str:
    return '' if encoder['parameters'] is None else f'{encoder["parameters"] / 1e6:.2f}'


def draw_scaling(results: Mapping[str, Any], path: Path) -> None:
    """Picture of the scaling experiment: gain over decoders only, one group of bars per encoder.

    Args:
        results: What ``scaling.json`` of tools/compare_methods.py holds.
        path: Target.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), dpi=150, layout='constrained')
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    encoders = list(results['encoders'].values())
    entries = {name: entry for encoder in encoders for name, entry in encoder['methods'].items()}
    names = [name for name in entries if name != 'decoders_only']
    width = 0.8 / max(1, len(names))
    for number, name in enumerate(names):
        # A method that is missing on an encoder leaves a gap.
        gains = [
            encoder['methods'][name]['summary']['delta_m'] if name in encoder['methods'] else spread([])
            for encoder in encoders
        ]
        axes.bar(
            [index + (number - (len(names) - 1) / 2) * width for index in range(len(encoders))],
            [math.nan if gain['mean'] is None else gain['mean'] for gain in gains],
            width * 0.92,
            yerr=[gain['std'] or 0.0 for gain in gains],
            capsize=4,
            color=FAMILIES[entries[name]['family']],
            label=entries[name]['title'],
        )
    axes.axhline(0.0, color='black', linewidth=0.8)
    labels = [f'{e["title"]} {_millions(e)} M\n{e["pretrain_iters"]} iterations' for e in encoders]
    axes.set_xticks(range(len(encoders)), labels)
    axes.set_ylabel('gain over decoders only [%]')
    axes.set_xlabel('encoder and length of its pretraining')
    axes.spines[['top', 'right']].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path)
