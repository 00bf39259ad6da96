"""What the label maps of a data set suggest for its config: classes, weights, scales, and files to look at."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mmvmt.structures import TASKS

from .plausibility import LabelStatistics, value_names

_LISTED = 12
_NAMED = 3
_UNEVEN = 5
_FAR_OUT = 20
_FEWEST = 8


def propose(task: str, found: LabelStatistics, unlabelled: int = 0, names: Sequence[str] | None = None) -> list[str]:
    """What is worth knowing, and setting, before a task is trained.

    Args:
        task: Name of the task.
        found: What its maps hold.
        unlabelled: Images without a map.
        names: Names of its classes, where the data set declares them.

    Returns:
        Lines in words; the last ones name files that are unlike the others.
    """
    lines = []
    if unlabelled:
        images = found.read + unlabelled
        lines.append(f'{unlabelled:,} of {images:,} images have no label ({unlabelled / images:.0%})')
    if found.totals['labelled_images']:
        kind = TASKS[task].kind
        if kind in ('classes', 'binary'):
            lines += _of_classes(task, found, names) if kind == 'classes' else _of_masks(task, found)
        else:
            lines += _of_numbers(task, found)
    return lines + _suspicious(found)


def class_weights(counts: Sequence[int]) -> list[float]:
    """Weights of classes by median frequency balancing (Eigen and Fergus, 2015): the median of the frequencies over
    that of the class, to two digits; those of classes that never occur are 1."""
    frequencies = np.array(counts, dtype=np.float64)
    seen = frequencies > 0
    weights = np.ones(len(frequencies))
    weights[seen] = np.median(frequencies[seen]) / frequencies[seen]
    return [float(f'{weight:.2g}') for weight in weights]


def _of_classes(task: str, found: LabelStatistics, names: Sequence[str] | None) -> list[str]:
    ignore = TASKS[task].ignore
    seen = sorted(index for index in found.classes if index != ignore)
    labelled = sum(found.classes[index] for index in seen)
    number = seen[-1] + 1 if names is None else len(names)
    shares = sorted(((found.classes[index] / labelled, index) for index in seen), reverse=True)

    def called(index: int) -> str:
        return str(index) if names is None else f'{index} ({names[index]})'

    shown = ', '.join(f'{called(index)} {share:.1%}' for share, index in shares[:_LISTED])
    more = f', and {len(shares) - _LISTED} rarer ones' if len(shares) > _LISTED else ''
    lines = [
        f'share of labelled pixels: {shown}{more}; {1 - labelled / found.classes.total():.1%} of all are unlabelled'
    ]
    absent = [called(index) for index in range(number) if index not in found.classes]
    if absent:
        lines.append(f'no pixel of class {", ".join(absent[:_LISTED])}' + (', ...' if len(absent) > _LISTED else ''))
    if names is None:
        lines.append(f'no classes are declared; what was read needs at least num_classes=dict({task}={max(2, number)})')
    if shares[0][0] > _UNEVEN * shares[-1][0] and number <= 2 * _LISTED:
        weights = class_weights([found.classes[index] for index in range(number)])
        lines.append(
            f"frequencies are uneven; a loss that evens them out: dict(type='mmseg.CrossEntropyLoss', "
            f'class_weight={weights}) (median frequency balancing)'
        )
    return lines


def _of_masks(task: str, found: LabelStatistics) -> list[str]:
    background, foreground = found.classes[0], found.classes[1]
    labelled = max(1, background + foreground)
    share = foreground / labelled
    lines = [
        f'{share:.1%} of labelled pixels are foreground; {1 - labelled / found.classes.total():.1%} are unlabelled'
    ]
    if 0 < share < 1 / (_UNEVEN + 1):
        lines.append(
            "foreground is rare, which a balanced loss makes up for: dict(type='mmvmt.WeightedBCELoss', "
            f'positive_weight={float(f"{1 - share:.3g}")})'
        )
    return lines


def _of_numbers(task: str, found: LabelStatistics) -> list[str]:
    unit = f' {TASKS[task].unit}' if TASKS[task].unit else ''
    ranges = [found.ranges[name] for name in value_names(task)]
    low, high = min(low for low, _ in ranges), max(high for _, high in ranges)
    known = found.totals['known'] / max(1, found.totals['pixels'])
    lines = [f'values from {low:.4g} to {high:.4g}{unit}; {1 - known:.1%} of pixels are unlabelled']
    if TASKS[task].kind == 'values' and max(abs(low), abs(high)) > _FAR_OUT:
        lines.append(
            f'heads learn numbers about 1 best; labels=dict({task}=dict(scale={1 / max(abs(low), abs(high)):.2g})) '
            'brings them there (times a scale that is set already)'
        )
    return lines


def _suspicious(found: LabelStatistics) -> list[str]:
    lines = [_look_at(what, paths) for what, paths in sorted(found.oddities.items())]
    largest = np.array([size for _, size in found.largest])
    if len(largest) >= _FEWEST:
        usual = max(float(np.median(largest)), 1e-6)
        far = [path for (path, size) in found.largest if size > _FAR_OUT * usual]
        if far:
            lines.append(_look_at(f'values more than {_FAR_OUT} times as large as in most files', far))
    return lines


def _look_at(what: str, paths: Sequence[str]) -> str:
    more = f' and {len(paths) - _NAMED} more' if len(paths) > _NAMED else ''
    return f'look at: {what} in {", ".join(paths[:_NAMED])}{more}'
