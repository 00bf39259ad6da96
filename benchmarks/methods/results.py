"""Results of a table, as :func:`steps.contents` gives them: means over seeds, a Markdown table and a picture."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.methods.methods import FAMILIES, METHODS, SPEC
from mmvmt.evaluation import delta_m
from mmvmt.structures import TASKS

Results = Mapping[str, Any]
Groups = dict[tuple[str, str], list[Results]]
GAIN = 'gain over decoders only [%]'


def grouped(results: Results) -> Groups:
    """The models of every method, by encoder and method."""
    groups: Groups = {}
    for entry in results['models']:
        groups.setdefault((entry['encoder'], entry['model'].partition('-')[0]), []).append(entry)
    return groups


def frame(results: Results) -> Any:
    """A pandas table of mean, sample standard deviation and count over the seeds, a row per encoder and method: the
    tasks' main figures, ``seconds`` per iteration and ``Delta_m`` in percent. The models of a seed count together; the
    constant predictor is a method beside the others."""
    import pandas as pd

    groups, tasks, published = grouped(results), results['tasks'], results['published'] or {}
    rows = [(*key, run) for key, entries in groups.items() for entry in entries for run in entry['runs']]
    if results['constant_predictor']:
        floor = dict(seed=0, figures=results['constant_predictor'], seconds=None)
        rows += [(encoder, 'constant predictor', floor) for encoder in {encoder for encoder, _ in groups}]
    index = pd.MultiIndex.from_tuples([(*key, run['seed']) for *key, run in rows], names=['encoder', 'method', 'seed'])
    figures = [run['figures'] | dict(seconds=run['seconds']) for *_, run in rows]
    runs = pd.DataFrame(figures, index, [*tasks, 'seconds'], dtype=float).groupby(level=[0, 1, 2], sort=False)
    runs = runs.sum(min_count=1).dropna(subset=tasks)
    means = runs[tasks].groupby(level=[0, 1]).mean()

    def gain(run: Any) -> float:
        of = (run.name[0], results['reference'])
        references = means.loc[of].to_dict() if of in means.index else published.get('figures')
        return delta_m(run[tasks].to_dict(), references) if references else math.nan

    runs['Delta_m'] = [gain(run) for _, run in runs.iterrows()]
    return runs.groupby(level=[0, 1], sort=False).agg(['mean', 'std', 'count'])


def table(results: Results, brief: bool = False) -> str:
    """The Markdown table of the methods of which anything is finished.

    Args:
        results: The results.
        brief: Only what README shows: the methods that are trained first, and fewer columns.
    """
    groups, means, tasks, machines = grouped(results), frame(results), results['tasks'], list(_machines(results))
    several = len({encoder for encoder, _ in groups}) > 1
    titles = [*tasks, GAIN] if several else [*map(_title, tasks), 'Delta_m [%] ↑']
    header = ['encoder', 'encoder [M]', 'pretraining', 'method', *titles, 'trainable [M]', 'in the encoder [M]']
    header += ['passes', 'machine', 'rate x', 'seeds']
    rows = [header, ['---' if name in ('encoder', 'method') else '---:' for name in header]]
    if not several and not brief and results['constant_predictor']:
        (constant,) = means.xs('constant predictor', level='method').iloc
        figures = [_mean_std(constant[key]) for key in (*tasks, 'Delta_m')]
        rows += [['', '', '', '*constant predictor*', *figures, '0', '0', '', '', '', '']]
    for (encoder, name), row in means.reindex(groups).iterrows():
        entries, done = groups[encoder, name], int(row.fillna(0)[tasks[0], 'count'])
        failures = [failure for entry in entries for failure in entry['failures']]
        if not (done or failures) or (brief and name not in SPEC['first']):
            continue
        figures = [_mean_std(row[key]) for key in (*tasks, 'Delta_m')]
        if not done:
            figures[0] = 'failed'
        size, _, length = encoder.partition('_')
        cells = [size, _number(_millions(entries, 'encoder')), length, METHODS[name].title, *figures]
        cells += [_number(_millions(entries, kind), 3) for kind in ('trainable', 'in_encoder')]
        # An asterisk marks the edge of the grid.
        rates = [rate for entry in entries for rate in entry['rates'] if rate['multiplier'] is not None]
        rates = [f'{rate["multiplier"]:g}' + ('*' if rate['edge_of_grid'] else '') for rate in rates]
        finished = f'{done}' if done == results['seeds'] else f'{done} of {results["seeds"]}'
        finished += ' (some failed)' if done and failures else ''
        own = ', '.join(str(machines.index(machine) + 1) for machine in _machines(dict(models=entries)))
        rows += [[*cells, METHODS[name].passes, own, ' / '.join(rates) or '-', finished]]
    rows = [row[:-6] + row[-2:] if several else row[3:-6] + row[-5:-3] + row[-1:] if brief else row[3:] for row in rows]
    lines = ['| ' + ' | '.join(row) + ' |' for row in rows]
    return '\n'.join([lines[0], lines[1].replace(' ', ''), *lines[2:]]) + '\n'


def _machines(results: Results) -> Counter[str]:
    """The machines that trained, each with how often, the first one first."""
    # Behind the versions.
    return Counter(run['machine'].split(', ', 4)[-1] for entry in results['models'] for run in entry['runs'])


def _title(name: str) -> str:
    task = TASKS[name]
    return f'{name} {task.main_metric} [{task.figure_unit}] {"↑" if task.higher_is_better else "↓"}'


def _number(value: float, digits: int = 2) -> str:
    # Adding zero turns a rounded minus zero into zero.
    return '' if math.isnan(value) else f'{round(value, digits) + 0.0:.{digits}f}'


def _mean_std(row: Any) -> str:
    return _number(row['mean']) + ('' if math.isnan(row['std']) else f' ± {row["std"]:.2f}')


def _millions(entries: Sequence[Results], kind: str) -> float:
    """Parameters of a kind in all models of a method; NaN until each has one training."""
    return sum(entry['runs'][0]['counts'][kind] if entry['runs'] else math.nan for entry in entries) / 1e6


def report(results: Results) -> str:
    """The table with what one has to know to read it, as Markdown."""
    groups, reference, spread = grouped(results), METHODS.get(results['reference']), math.nan
    if len({encoder for encoder, _ in groups}) > 1:
        told = dict(gain='Gain', source=f'{reference.title} on the same encoder', heads='that of all heads')
        texts = SPEC['notes'][::2]  # the table has no passes
    else:
        means, source = frame(results), (results['published'] or {}).get('source')
        if reference:
            trained = means.reindex(groups).fillna(0)
            seeds = int(trained.xs(results['reference'], level='method').iloc[0, -1])
            title = 'single-task models' if reference.passes == 'T models' else reference.title
            source = f'{title} trained here, mean over {seeds} seed{"" if seeds == 1 else "s"}'
        rates = [rate['learning_rate'] for entry in results['models'] for rate in entry['rates']]
        heads = f'the {rates[0]:g} of all heads' if rates else 'that of the heads'
        told, texts = dict(gain='Delta_m', source=source, heads=heads), SPEC['notes']
        deltas = means['Delta_m']
        free = (deltas['count'] - 1).clip(lower=0)
        spread = math.sqrt((deltas['std'] ** 2 * free).sum() / free.sum()) if (free > 0).any() else math.nan
    notes = [table(results).strip(), *(text.format(**results['protocol'], **told) for text in texts)]
    if spread > 0:
        least, seeds = 2 * spread * math.sqrt(2 / results['seeds']), results['seeds']
        notes.append(
            f'Seeds of a method differ by {spread:.2f} (standard deviation of {told["gain"]}, pooled over the rows); a '
            f'difference of less than {least:.2f}, two standard errors, between two means of {seeds} may be chance.'
        )
    machines = [f'{place}: {name} ({count})' for place, (name, count) in enumerate(_machines(results).items(), 1)]
    notes.append(f'Machines, with the number of trainings: {"; ".join(machines)}.')
    failures = [failure for entry in results['models'] for failure in entry['failures']]
    notes += ['Failed:', '\n'.join(f'- {item["what"]}: {item["reason"]}' for item in failures)] if failures else []
    if missing := unfinished(results):
        notes.append(f'Not finished: {"; ".join(missing)}.')
    return '\n\n'.join(notes) + '\n'


def unfinished(results: Results) -> list[str]:
    """The rows that miss a seed, with the encoder where there are several."""
    groups = grouped(results)
    several = len({encoder for encoder, _ in groups}) > 1
    short = [key for key, entries in groups.items() if any(len(e['runs']) < results['seeds'] for e in entries)]
    return [METHODS[name].title + (f' on {encoder}' if several else '') for encoder, name in short]


def draw(results: Results, path: Path) -> None:
    """Picture of a comparison, of the stages that are filled, or of several encoders, as far as there is a Delta_m."""
    figure, means, groups = Figure((8, 5), dpi=150, layout='constrained'), frame(results), grouped(results)
    means = means.loc[[key for key in groups if key in means.index]]
    if len({encoder for encoder, _ in groups}) > 1:
        _draw_encoders(figure.subplots(), groups, means['Delta_m'])
    elif results['table'] == 'stages':
        _draw_stages(figure.subplots(), means.droplevel('encoder'))
    else:
        deltas = means['Delta_m'].dropna(subset='mean')
        # Titles of readings say what differs from the row above.
        deltas = deltas[::-1] if results['table'] == 'readings' else deltas.sort_values('mean')
        _draw_methods(figure, groups, deltas, results['seeds'])
        figure.suptitle(f'{results["protocol"]["iterations"]} iterations, seeds: {results["seeds"]}', fontsize=10)
    for axes in figure.axes:
        axes.spines[['top', 'right']].set_visible(False)
    figure.savefig(path)


def _draw_methods(figure: Figure, groups: Groups, deltas: Any, seeds: int) -> None:
    """A line per method: Delta_m, and what is trained."""
    figure.set_size_inches(11, 1.5 + 0.3 * len(deltas))
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=[3, 2])
    styles = {'1': dict(marker='o'), 'T': dict(marker='D', mfc='white'), 'T models': dict(marker='s', mfc='white')}
    labels = []
    for height, (key, row) in enumerate(deltas.iterrows()):
        method = METHODS[key[1]]
        style = dict(color=FAMILIES[method.family], linestyle='none', **styles[method.passes])
        left.errorbar(row['mean'], height, xerr=row['std'], capsize=3, **style)
        right.plot(_millions(groups[key], 'trainable'), height, **style)
        labels.append(method.title + ('' if row['count'] == seeds else f' ({row["count"]:.0f} of {seeds})'))
    left.set(xlabel='Delta_m [%]', yticks=range(len(labels)), yticklabels=labels)
    left.axvline(0.0, color='#444444', linewidth=1)
    right.set(xlabel='trainable parameters [M]', xscale='log')
    right.xaxis.set_major_formatter('{x:g}')
    low, high = right.get_xlim()
    if high < 10 * low:  # otherwise such labels are left out
        right.xaxis.set_minor_formatter('{x:g}')
    for axes in (left, right):
        axes.grid(alpha=0.25)
    for style, text in zip(styles.values(), ('encoder runs once', 'once per task', 'one model per task')):
        right.plot([], [], color='black', linestyle='none', label=text, **style)
    figure.legend(loc='outside lower right', ncols=3, frameon=False, fontsize=8)


def _draw_stages(axes: Axes, means: Any) -> None:
    """Gain over decoders only over the time of a step: what is filled from a later stage on takes less."""
    curve = means.loc[[name for name in means.index if METHODS[name].family == 'VMT-Adapter']]
    axes.plot(curve['seconds', 'mean'], curve['Delta_m', 'mean'], color=FAMILIES['VMT-Adapter'])
    for name, row in means.iterrows():
        place, method = (row['seconds', 'mean'], row['Delta_m', 'mean']), METHODS[name]
        axes.errorbar(*place, yerr=row['Delta_m', 'std'], marker='o', capsize=3, color=FAMILIES[method.family])
        axes.annotate(method.title, place, xytext=(6, 6), textcoords='offset points', fontsize=8.5)
    axes.set(xmargin=0.2, xlabel='seconds per iteration', ylabel=GAIN)


def _draw_encoders(axes: Axes, groups: Groups, gains: Any) -> None:
    """Gain over decoders only, one group of bars per encoder; a method that is missing on one leaves a gap."""
    encoders, methods = (list(dict.fromkeys(names)) for names in zip(*groups))
    methods.remove('decoders_only')
    means, spread = (gains[key].unstack().reindex(encoders, columns=methods) for key in ('mean', 'std'))
    style = dict(width=0.8, capsize=4, color=[FAMILIES[METHODS[name].family] for name in methods], rot=0)
    means.rename(columns={name: METHODS[name].title for name in methods}).plot.bar(
        ax=axes, yerr=spread.values.T, **style
    )
    axes.axhline(0.0, color='black', linewidth=0.8)
    sizes = [_number(_millions(groups[encoder, 'decoders_only'], 'encoder')) or '?' for encoder in encoders]
    labels = [f'{encoder} pictures'.replace('_', f' {size} M\n') for encoder, size in zip(encoders, sizes)]
    axes.set(xlabel='', ylabel=GAIN, xticklabels=labels)
    axes.legend(frameon=False)
