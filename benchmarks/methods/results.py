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
    """``{task: mean of the main figure over runs}`` of runs of the same tasks."""
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
    for encoder, group in groups_of(results).items():
        references = group.get('references', {}).get('figures')
        if 'encoders' in results and (runs := group['methods']['decoders_only']['runs']):
            references = mean_figures(runs)
        for name, method in group['methods'].items():
            for run in method['runs']:
                delta = delta_m(run['figures'], references) if references else math.nan
                rows.append(
                    [encoder, name, delta, run['seconds_per_iteration'], *map(run['figures'].get, results['tasks'])]
                )
    columns = ['encoder', 'method', 'Delta_m', 'seconds', *results['tasks']]
    table = pd.DataFrame(rows, columns=columns).astype(dict.fromkeys(columns[2:], float))
    return table.groupby(['encoder', 'method'], sort=False).agg(['mean', 'std', 'count'])


def table(results: Mapping[str, Any]) -> str:
    """The Markdown table of a comparison.

    Args:
        results: What a table's JSON file holds.
    """
    means, tasks = frame(results), results['tasks']
    if 'encoders' in results:
        header = ['encoder', 'encoder [M]', 'pretraining', 'method', *tasks, 'gain over decoders only [%]']
        rows = []
    else:
        arrows = [
            f'[{"°" if TASKS[t].kind == "vectors" else "%"}] {"↑" if TASKS[t].higher_is_better else "↓"}' for t in tasks
        ]
        header = ['method', *(f'{task} {TASKS[task].main_metric} {arrow}' for task, arrow in zip(tasks, arrows))]
        header += ['Delta_m [%] ↑', 'trainable [M]', 'in the encoder [M]', 'passes', 's/iteration']
        constant, references = results['constant_predictor'], results['references']['figures']
        delta = _number(delta_m(constant, references)) if references else ''
        rows = [['*constant predictor*', *(_number(constant[t]) for t in tasks), delta, '0', '0', '', '', '', '']]
    for encoder, group in groups_of(results).items():
        for name, method in group['methods'].items():
            row = means.loc[encoder, name] if (encoder, name) in means.index else None
            figures = ['' if row is None else _mean_std(row[key]) for key in (*tasks, 'Delta_m')]
            if encoder:
                start = [group['title'], _millions(group['parameters']), str(group['pretrain_iters']), method['title']]
                rows.append([*start, *figures, rate_text(method), str(len(method['runs']))])
                continue
            if row is None:
                figures[0] = (
                    'failed' if any(f['reason'] != 'not finished' for f in method['failures']) else 'not finished'
                )
            counts = [(method['parameters'] or {}).get(key) for key in ('trainable', 'trained_in_encoder')]
            sizes = [_millions(count, 3) for count in counts]
            seconds = '' if row is None else _number(row['seconds', 'mean'], 3)
            rows.append([method['title'], *figures, *sizes, method['passes'], seconds, rate_text(method)])
            rows[-1].append(_finished(len(method['runs']), results['seeds'], method['failures']))
    header += ['rate x', 'seeds']
    ruler = '|'.join('---' if name in ('encoder', 'method') else '---:' for name in header)
    lines = ['| ' + ' | '.join(cells) + ' |' for cells in [header, *rows]]
    return '\n'.join([lines[0], f'|{ruler}|', *lines[1:]]) + '\n'


def groups_of(results: Mapping[str, Any]) -> Mapping[str, Any]:
    """What holds methods, by encoder; ``''`` is the only one."""
    return results.get('encoders') or {'': results}


def rate_text(method: Mapping[str, Any]) -> str:
    """The chosen multipliers as text, one per model; an asterisk marks the edge of the grid."""
    chosen = [choice for choice in method['chosen'].values() if choice['multiplier'] is not None]
    return ' / '.join(f'{c["multiplier"]:g}' + ('*' if c['edge_of_grid'] else '') for c in chosen) or '-'


def _finished(done: int, seeds: int, failures: Sequence[Any]) -> str:
    return (f'{done}' if done == seeds else f'{done} of {seeds}') + (' (some failed)' if done and failures else '')


def _number(value: float, digits: int = 2) -> str:
    # Adding zero turns a rounded minus zero into zero.
    return '' if math.isnan(value) else f'{round(value, digits) + 0.0:.{digits}f}'


def _millions(count: float | None, digits: int = 2) -> str:
    return '' if count is None else _number(count / 1e6, digits)


def _mean_std(row: Any) -> str:
    return _number(row['mean']) + ('' if math.isnan(row['std']) else f' ± {row["std"]:.2f}')


def report(results: Mapping[str, Any]) -> str:
    """The table with what one has to know to read it, as Markdown.

    Args:
        results: What a table's JSON file holds.
    """
    notes = [table(results).strip()]
    if 'encoders' not in results:
        rate, references = results['heads_learning_rate'], results['references']
        heads = f'the {rate:g} of all heads' if rate else 'that of the heads'
        notes += [
            f'Mean ± standard deviation over seeds; {results["protocol"]["iterations"]} iterations per training. '
            f'Delta_m: mean relative change over the tasks against {references["source"]}.',
            '"passes": how often the encoder runs per image, T being the number of tasks. "rate x": learning rate of '
            f'what trains in the encoder, as a multiple of {heads}; an asterisk marks the edge of the grid that was '
            'tried.',
        ]
    methods = [method for group in groups_of(results).values() for method in group['methods'].values()]
    failures = [failure for method in methods for failure in method.get('failures', ())]
    if failures:
        lines = [f'- {failure["what"]}: {failure["reason"].splitlines()[0]}' for failure in failures]
        notes.append('Failed or missing (ends of the logs are in the JSON file):\n\n' + '\n'.join(lines))
    return '\n\n'.join(notes) + '\n'


def draw(results: Mapping[str, Any], path: Path) -> None:
    """Picture of a comparison, of the stages that are filled, or of several encoders.

    Args:
        results: What a table's JSON file holds; methods without Delta_m are left out.
        path: Target, such as ``results.png``.
    """
    from matplotlib.figure import Figure

    figure, means = Figure((8, 5), dpi=150, layout='constrained'), frame(results)
    if 'encoders' in results:
        _draw_encoders(figure.subplots(), results['encoders'], means)
    elif 'vmt_adapter_from_stage_4' in results['methods']:
        _draw_stages(figure.subplots(), results['methods'], means.droplevel('encoder'))
    else:
        _draw_methods(figure, results, means.droplevel('encoder')['Delta_m'].dropna(subset='mean').sort_values('mean'))
    for axes in figure.axes:
        axes.spines[['top', 'right']].set_visible(False)
    figure.savefig(path)


def _draw_methods(figure: Any, results: Mapping[str, Any], deltas: Any) -> None:
    """A line per method: Delta_m, and what is trained."""
    shown = [
        (results['methods'][name], row) for name, row in deltas.iterrows() if results['methods'][name]['parameters']
    ]
    figure.set_size_inches(11, 1.5 + 0.3 * len(shown))
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=[3, 2])
    markers, seeds, labels = {'1': 'o', 'T': 'D', 'T models': 's'}, results['seeds'], []
    for height, (method, row) in enumerate(shown):
        colour, passes = FAMILIES[method['family']], method['passes']
        style = dict(marker=markers[passes], color=colour, linestyle='none')
        style['markerfacecolor'] = colour if passes == '1' else 'white'
        left.errorbar(row['mean'], height, xerr=row['std'], capsize=3, **style)
        right.plot(method['parameters']['trainable'] / 1e6, height, **style)
        labels.append(method['title'] + ('' if row['count'] == seeds else f' ({row["count"]:.0f} of {seeds})'))
    left.set_yticks(range(len(labels)), labels)
    left.set_xlabel('Delta_m [%]')
    left.axvline(0.0, color='#444444', linewidth=1)
    right.set_xlabel('trainable parameters [M]')
    right.set_xscale('log')
    right.xaxis.set_major_formatter('{x:g}')
    for axes in (left, right):
        axes.grid(alpha=0.25)
    texts = {'1': 'encoder runs once', 'T': 'once per task', 'T models': 'one model per task'}
    for passes, text in texts.items():
        face = 'black' if passes == '1' else 'white'
        right.plot([], [], color='black', marker=markers[passes], markerfacecolor=face, linestyle='none', label=text)
    right.legend(loc='lower right', frameon=False, fontsize=8)
    figure.suptitle(f'{results["protocol"]["iterations"]} iterations, seeds: {seeds}', fontsize=10)


def _draw_stages(axes: Any, methods: Mapping[str, Any], means: Any) -> None:
    """Gain over decoders only over the time of a step: what is filled from a later stage on takes less."""
    curve = means.loc[[name for name in methods if name.startswith('vmt_adapter') and name in means.index]]
    axes.plot(curve['seconds', 'mean'], curve['Delta_m', 'mean'], color=FAMILIES['VMT-Adapter'])
    for name, row in means.iterrows():
        place, colour = (row['seconds', 'mean'], row['Delta_m', 'mean']), FAMILIES[methods[name]['family']]
        axes.errorbar(*place, yerr=row['Delta_m', 'std'], marker='o', capsize=3, color=colour)
        axes.annotate(methods[name]['title'], place, xytext=(6, 6), textcoords='offset points', fontsize=8.5)
    axes.margins(x=0.2)
    axes.set_xlabel('seconds per iteration')
    axes.set_ylabel('gain over decoders only [%]')


def _draw_encoders(axes: Any, encoders: Mapping[str, Any], means: Any) -> None:
    """Gain over decoders only, one group of bars per encoder; a method that is missing on one leaves a gap."""
    methods = {name: method for of in encoders.values() for name, method in of['methods'].items()}
    methods.pop('decoders_only', None)
    gains = means['Delta_m'].unstack('encoder').reindex(methods)
    width = 0.8 / max(1, len(methods))
    for number, (name, method) in enumerate(methods.items()):
        heights, spread = (gains.loc[name, key].reindex(encoders) for key in ('mean', 'std'))
        places = [index + (number - (len(methods) - 1) / 2) * width for index in range(len(encoders))]
        style = dict(capsize=4, color=FAMILIES[method['family']], label=method['title'])
        axes.bar(places, heights, width * 0.92, yerr=spread, **style)
    axes.axhline(0.0, color='black', linewidth=0.8)
    sizes = [f' {_millions(e["parameters"])} M' if e['parameters'] else '' for e in encoders.values()]
    labels = [f'{e["title"]}{size}\n{e["pretrain_iters"]} iterations' for e, size in zip(encoders.values(), sizes)]
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
