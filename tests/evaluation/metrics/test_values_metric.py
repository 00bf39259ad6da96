import math

import numpy as np
import pytest
from evaluation_samples import make_sample, pairs, random_samples, score

from mmvmt.evaluation import ValuesMetric
from mmvmt.structures import register_task


def test_matches_formula():
    register_task('flow', kind='values', channels=2, motion='displacement')
    samples = random_samples(('flow',), 4)
    errors = []
    for pred, gt in pairs(samples, 'flow'):
        for (u, v), (x, y) in zip(pred.reshape(2, -1).T.tolist(), gt.reshape(2, -1).T.tolist()):
            if not math.isnan(x) and not math.isnan(y):
                errors.append((u - x, v - y))
    entries = [part for error in errors for part in error]
    assert 100 < len(errors) < sum(gt[0].size for _, gt in pairs(samples, 'flow'))
    assert score(ValuesMetric('flow'), samples) == pytest.approx(
        {
            'flow/rmse': math.sqrt(sum(part * part for part in entries) / len(entries)),
            'flow/mae': sum(map(abs, entries)) / len(entries),
            'flow/epe': sum(math.hypot(*error) for error in errors) / len(errors),
        }
    )


@pytest.mark.parametrize('channels', [1, 3])
def test_figures_by_hand(channels):
    register_task('albedo', kind='values', channels=channels)
    gt = np.full((channels, 1, 3), 1, np.float32)
    gt[-1, 0, 2] = np.nan
    pred = np.full_like(gt, 1)
    pred[-1, 0, 0], pred[0, 0, 2] = 4, 100
    result = score(ValuesMetric('albedo'), [make_sample('a', dict(albedo=(pred, gt)))])
    assert result == pytest.approx({'albedo/rmse': 3 / math.sqrt(2 * channels), 'albedo/mae': 3 / (2 * channels)})


def test_nothing_known():
    register_task('albedo', kind='values')
    maps = dict(albedo=(np.zeros((1, 2, 2), np.float32), np.full((1, 2, 2), np.nan, np.float32)))
    with pytest.raises(ValueError, match='albedo: no valid pixel in the whole set'):
        score(ValuesMetric('albedo'), [make_sample('a', maps)])
