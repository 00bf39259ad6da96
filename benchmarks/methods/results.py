"""Results of a comparison: from runs to means, a table and a picture."""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.markdown import insert
from mmvmt.evaluation import delta_m
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
    'tails per task': '#8c564b',
    'VMT-Adapter': '#d62728',
}
"""Colour of each family of methods in the picture."""
BEGIN, END = '<!-- benchmark:begin -->', '<!-- benchmark:end -->'
"""Lines of a Markdown file between which the table stands."""


def mean_figures(runs: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """``{task: mean of the main figure over runs}``.

    Args:
        runs: Dictionaries with ``figures``, all of the same tasks.
    """
    return {task: statistics.mean(run['figures'][task] for run in runs) for task in runs[0]['figures']}


def frame(results: Mapping[str, Any]) -> Any:
    """A pandas table of mean and sample standard deviation over the seeds, a row per method that has runs.

    Args:
        results: What a table's JSON file holds.

    Returns:
        The index is ``(encoder, method)``, ``''`` for the only encoder; the columns are ``(quantity, 'mean', 'std' or
        'count')`` of the tasks' main figures, ``Delta_m`` in percent and ``seconds`` per iteration.
    """
    import pandas as pd

    rows = []
    for encoder, group in (results.get('encoders') or {'': results}).items():
        references = group.get('references', {}).get('figures')
        if 'encoders' in results and (runs := group['methods']['decoders_only']['runs']):
            references = mean_figures(runs)
        for name, method in group['methods'].items():
            for run in method['runs']:
                delta = delta_m(run['figures'], references) if references else math.nan
                row = dict(encoder=encoder, method=name, Delta_m=delta, seconds=run['seconds_per_iteration'])
                rows.append(row | run['figures'])
    columns = ['encoder', 'method', 'Delta_m', 'seconds', *results['tasks']]
    table = pd.DataFrame(rows, columns=columns).astype(dict.fromkeys(columns[2:], float))
    return table.groupby(['encoder', 'method'], sort=False).agg(['mean', 'std', 'count'])


def _number(value: float, digits: int = 2) -> str:
    # Adding zero turns a rounded minus zero into zero.
    return '' if math.isnan(value) else f'{round(value, digits) + 0.0:.{digits}f}'


def _mean_std(row: Any, key: str) -> str:
    spread = row[key, 'std']
    return _number(row[key, 'mean']) + ('' if math.isnan(spread) else f' ± {spread:.2f}')


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[int] = (0,)) -> str:
    ruler = '|' + ''.join('---|' if index in left else '---:|' for index in range(len(header)))
    lines = ['| ' + ' | '.join(cells) + ' |' for cells in [header, *rows]]
    return '\n'.join([lines[0], ruler, *lines[1:]]) + '\n'


def rate_text(method: Mapping[str, Any]) -> str:
    """The chosen multipliers as text, one per model; an asterisk marks the edge of the grid."""
    chosen = [choice for choice in method['chosen'].values() if choice['multiplier'] is not None]
    return ' / '.join(f'{c["multiplier"]:g}' + ('*' if c['edge_of_grid'] else '') for c in chosen) or '-'


def table(results: Mapping[str, Any]) -> str:
    """The Markdown table of a comparison.

    Args:
        results: What a table's JSON file holds.
    """
    if 'encoders' in results:
        return _table_of_encoders(results)
    means, tasks, seeds = frame(results), results['tasks'], results['seeds']
    marks = [('°' if TASKS[t].kind == 'vectors' else '%', '↑' if TASKS[t].higher_is_better else '↓') for t in tasks]
    header = ['method', *(f'{t} {TASKS[t].main_metric} [{unit}] {arrow}' for t, (unit, arrow) in zip(tasks, marks))]
    header += ['Delta_m [%] ↑', 'trainable [M]', 'in the encoder [M]', 'passes', 's/iteration', 'rate x', 'seeds']
    constant, references = results['constant_predictor'], results['references']['figures']
    rows = [['*constant predictor*', *(_number(constant[task]) for task in tasks)]]
    rows[0] += [_number(delta_m(constant, references)) if references else '', '0', '0', '', '', '', '']
    for name, method in results['methods'].items():
        counts = method['parameters']
        sizes = [_number(counts[key] / 1e6, 3) if counts else '' for key in ('trainable', 'trained_in_encoder')]
        if ('', name) in means.index:
            row = means.loc['', name]
            cells = [_mean_std(row, key) for key in (*tasks, 'Delta_m')]
            seconds, done = _number(row['seconds', 'mean'], 3), len(method['runs'])
        else:
            state = 'failed' if any(f['reason'] != 'not finished' for f in method['failures']) else 'not finished'
            cells, seconds, done = [state, *[''] * len(tasks)], '', 0
        finished = f'{done}' if done == seeds else f'{done} of {seeds}'
        finished += ' (some failed)' if done and method['failures'] else ''
        rows.append([method['title'], *cells, *sizes, method['passes'], seconds, rate_text(method), finished])
    return _markdown(header, rows)


def _table_of_encoders(results: Mapping[str, Any]) -> str:
    means, tasks = frame(results), results['tasks']
    header = ['encoder', 'encoder [M]', 'pretraining', 'method', *tasks]
    header += ['gain over decoders only [%]', 'rate x', 'seeds']
    rows = []
    for key, encoder in results['encoders'].items():
        for name, method in encoder['methods'].items():
            found = (key, name) in means.index
            cells = [_mean_std(means.loc[key, name], column) if found else '' for column in (*tasks, 'Delta_m')]
            start = [encoder['title'], _millions(encoder), str(encoder['pretrain_iters']), method['title']]
            rows.append([*start, *cells, rate_text(method), str(len(method['runs']))])
    return _markdown(header, rows, left=(0, 3))


def _millions(encoder: Mapping[str, Any], text: str = '{}') -> str:
    return '' if encoder['parameters'] is None else text.format(_number(encoder['parameters'] / 1e6))


def report(results: Mapping[str, Any]) -> str:
    """The table with what one has to know to read it, as Markdown.

    Args:
        results: What a table's JSON file holds.
    """
    groups = (results.get('encoders') or {'': results}).values()
    notes = []
    if 'encoders' not in results:
        rate = results['heads_learning_rate']
        notes.append(
            f'Mean ± standard deviation over seeds; {results["protocol"]["iterations"]} iterations per training. '
            f'Delta_m: mean relative change over the tasks against {results["references"]["source"]}.'
        )
        notes.append(
            '"passes": how often the encoder runs per image, T being the number of tasks. "rate x": learning rate of '
            'what trains in the encoder, as a multiple of '
            + (f'the {rate:g} of all heads' if rate else 'that of the heads')
            + '; an asterisk marks the edge of the grid that was tried.'
        )
    methods = [method for group in groups for method in group['methods'].values()]
    failures = [failure for method in methods for failure in method.get('failures', ())]
    if failures:
        lines = [f'- {failure["what"]}: {failure["reason"].splitlines()[0]}' for failure in failures]
        notes.append('Failed or missing (ends of the logs are in the JSON file):\n\n' + '\n'.join(lines))
    return '\n\n'.join([table(results).strip(), *notes]) + '\n'


# Pictures


def draw(results: Mapping[str, Any], path: Path) -> None:
    """Picture of a comparison, of the stages that are filled, or of several encoders.

    Args:
        results: What a table's JSON file holds; methods without Delta_m are left out.
        path: Target, such as ``results.png``.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(dpi=150, layout='constrained')
    FigureCanvasAgg(figure)
    means = frame(results)
    if 'encoders' in results:
        _draw_encoders(figure, results, means)
    elif 'vmt_adapter_from_stage_4' in results['methods']:
        _draw_stages(figure, results, means)
    else:
        _draw_methods(figure, results, means)
    for axes in figure.axes:
        axes.spines[['top', 'right']].set_visible(False)
    figure.savefig(path)


def _draw_methods(figure: Any, results: Mapping[str, Any], means: Any) -> None:
    """A line per method: Delta_m, and what is trained."""
    shown = means['Delta_m'].dropna(subset='mean').sort_values('mean')
    shown = [
        (results['methods'][name], row) for (_, name), row in shown.iterrows() if results['methods'][name]['parameters']
    ]
    figure.set_size_inches(11, 1.5 + 0.3 * len(shown))
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=[3, 2])
    for height, (method, row) in enumerate(shown):
        colour, once = FAMILIES[method['family']], method['passes'] == '1'
        style = dict(marker={'1': 'o', 'T': 'D'}.get(method['passes'], 's'), color=colour, linestyle='none')
        style['markerfacecolor'] = colour if once else 'white'
        left.errorbar(row['mean'], height, xerr=0.0 if math.isnan(row['std']) else row['std'], capsize=3, **style)
        right.plot(method['parameters']['trainable'] / 1e6, height, **style)
    seeds = results['seeds']
    left.set_yticks(
        range(len(shown)),
        [
            method['title'] + ('' if row['count'] == seeds else f' ({row["count"]:.0f} of {seeds})')
            for method, row in shown
        ],
    )
    left.set_xlabel('Delta_m [%]')
    right.set_xlabel('trainable parameters [M]')
    right.set_xscale('log')
    right.xaxis.set_major_formatter('{x:g}')
    left.axvline(0.0, color='#444444', linewidth=1)
    for axes in (left, right):
        axes.grid(alpha=0.25)
    shapes = {
        'encoder runs once': ('o', 'black'),
        'once per task': ('D', 'white'),
        'one model per task': ('s', 'white'),
    }
    for label, (marker, face) in shapes.items():
        right.plot([], [], color='black', marker=marker, markerfacecolor=face, linestyle='none', label=label)
    right.legend(loc='lower right', frameon=False, fontsize=8)
    figure.suptitle(f'{results["protocol"]["iterations"]} iterations, seeds: {seeds}', fontsize=10)


def _draw_stages(figure: Any, results: Mapping[str, Any], means: Any) -> None:
    """Gain over decoders only over the time of a step: what is filled from a later stage on takes less."""
    figure.set_size_inches(8, 5)
    axes = figure.subplots()
    rows = means.droplevel('encoder')
    curve = [name for name in results['methods'] if name.startswith('vmt_adapter') and name in rows.index]
    axes.plot(rows.loc[curve, ('seconds', 'mean')], rows.loc[curve, ('Delta_m', 'mean')], color=FAMILIES['VMT-Adapter'])
    for name, row in rows.iterrows():
        x, y = row['seconds', 'mean'], row['Delta_m', 'mean']
        spread = row['Delta_m', 'std']
        method = results['methods'][name]
        axes.errorbar(
            x, y, yerr=0.0 if math.isnan(spread) else spread, marker='o', capsize=3, color=FAMILIES[method['family']]
        )
        axes.annotate(method['title'], (x, y), xytext=(6, 6), textcoords='offset points', fontsize=8.5)
    axes.margins(x=0.2)
    axes.set_xlabel('seconds per iteration')
    axes.set_ylabel('gain over decoders only [%]')


def _draw_encoders(figure: Any, results: Mapping[str, Any], means: Any) -> None:
    """Gain over decoders only, one group of bars per encoder; a method that is missing on one leaves a gap."""
    figure.set_size_inches(8, 5)
    axes = figure.subplots()
    encoders = results['encoders']
    methods = {
        name: method for of in encoders.values() for name, method in of['methods'].items() if name != 'decoders_only'
    }
    gains = means['Delta_m'].unstack('encoder').reindex(columns=list(encoders), level=1)
    width = 0.8 / max(1, len(methods))
    for number, (name, method) in enumerate(methods.items()):
        row = gains.loc[name] if name in gains.index else None
        heights, spread = (
            [math.nan if row is None else row.get((key, e), math.nan) for e in encoders] for key in ('mean', 'std')
        )
        places = [index + (number - (len(methods) - 1) / 2) * width for index in range(len(encoders))]
        axes.bar(
            places,
            heights,
            width * 0.92,
            yerr=spread,
            capsize=4,
            color=FAMILIES[method['family']],
            label=method['title'],
        )
    axes.axhline(0.0, color='black', linewidth=0.8)
    labels = [f'{e["title"]}{_millions(e, " {} M")}\n{e["pretrain_iters"]} iterations' for e in encoders.values()]
    axes.set_xticks(range(len(encoders)), labels)
    axes.set_ylabel('gain over decoders only [%]')
    axes.legend(frameon=False)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Put the table of earlier results into a page, or draw them again.')
    parser.add_argument('results', type=Path, help='JSON file of a table')
    parser.add_argument('--markdown', type=Path, metavar='FILE', help='page with a place for the table')
    parser.add_argument('--picture', type=Path, metavar='FILE', help='picture to draw')
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    found = json.loads(args.results.read_text(encoding='utf-8'))
    if args.markdown:
        insert(args.markdown, BEGIN, END, table(found))
    if args.picture:
        draw(found, args.picture)
    return 0


if __name__ == '__main__':
    sys.exit(main())
