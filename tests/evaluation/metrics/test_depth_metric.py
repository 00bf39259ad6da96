import math

import numpy as np
import pytest
from evaluation_samples import make_sample, pairs, random_samples, score

from mmvmt.evaluation import DepthMetric


def figures_by_formula(maps):
    squared, log_squared, relative, ratios = [], [], [], []
    for pred, gt in maps:
        for d, g in zip(pred.ravel().tolist(), gt.ravel().tolist()):
            if g > 0:
                squared.append((d - g) ** 2)
                log_squared.append((math.log(d) - math.log(g)) ** 2)
                relative.append(abs(d - g) / g)
                ratios.append(max(d / g, g / d))
    figures = {
        'depth/rmse': math.sqrt(np.mean(squared)),
        'depth/log_rmse': math.sqrt(np.mean(log_squared)),
        'depth/abs_rel': np.mean(relative),
    }
    return {**figures, **{f'depth/delta{k}': 100 * np.mean(np.array(ratios) < 1.25**k) for k in (1, 2, 3)}}


def sample_of(pred, gt):
    return make_sample('a', {'depth': (np.array([[pred]], np.float32), np.array([[gt]], np.float32))})


@pytest.mark.parametrize('batch_size', [1, 3])
def test_matches_formula(batch_size):
    samples = random_samples(('depth',), 4)
    assert score(DepthMetric(), samples, batch_size) == pytest.approx(figures_by_formula(pairs(samples, 'depth')))


def test_figures_by_hand():
    result = score(DepthMetric(), [sample_of([1.0, 4.0, 9.0], [1.0, 2.0, 0.0])])
    assert result == pytest.approx(
        {
            'depth/rmse': math.sqrt(2),
            'depth/log_rmse': math.log(2) / math.sqrt(2),
            'depth/abs_rel': 0.5,
            'depth/delta1': 50,
            'depth/delta2': 50,
            'depth/delta3': 50,
        }
    )


def test_prediction_that_is_not_positive_is_raised_only_for_logarithm_and_ratio():
    result = score(DepthMetric(min_depth=0.01), [sample_of([-1.0], [1.0])])
    assert result['depth/rmse'] == pytest.approx(2)
    assert result['depth/abs_rel'] == pytest.approx(2)
    assert result['depth/log_rmse'] == pytest.approx(math.log(100))


def test_rmse_over_pixels_not_mean_over_images():
    samples = [sample_of([1.0, 1.0, 1.0], [1.0, 1.0, 1.0]), sample_of([3.0], [1.0])]
    assert score(DepthMetric(), samples)['depth/rmse'] == pytest.approx(1)


def test_image_without_valid_pixel_adds_nothing():
    samples, empty = random_samples(('depth',), 2), sample_of([1.0, 2.0], [0.0, 0.0])
    assert score(DepthMetric(), [*samples, empty]) == score(DepthMetric(), samples)


def test_set_without_valid_pixel():
    with pytest.raises(ValueError, match='depth: no valid pixel in the whole set'):
        score(DepthMetric(), [sample_of([1.0], [0.0])])


@pytest.mark.parametrize('min_depth', [0, -1])
def test_bad_min_depth(min_depth):
    with pytest.raises(ValueError, match='min_depth must be positive'):
        DepthMetric(min_depth=min_depth)
