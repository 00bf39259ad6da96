import math

import numpy as np
import pytest
from evaluation_samples import make_sample, pairs, random_samples, score

from mmvmt.evaluation import NormalsMetric


def errors_by_formula(maps):
    """Angle in degrees of every valid pixel, one by one."""
    errors = []
    for pred, gt in maps:
        for p, g in zip(pred.reshape(3, -1).T.tolist(), gt.reshape(3, -1).T.tolist()):
            if any(g):
                cosine = sum(a * b for a, b in zip(p, g)) / math.hypot(*p) / math.hypot(*g)
                errors.append(math.degrees(math.acos(min(1.0, max(-1.0, cosine)))))
    return np.array(errors)


def sample_of_errors(*degrees, unknown=0):
    """One row of pixels with the given errors, then pixels without a truth."""
    angles = np.radians([*degrees, *[50] * unknown])
    pred = np.stack([np.sin(angles), np.zeros_like(angles), np.cos(angles)]).astype(np.float32)
    gt = np.zeros_like(pred)
    gt[2, : len(degrees)] = 1
    return make_sample('a', {'normals': (pred[:, None], gt[:, None])})


@pytest.mark.parametrize('batch_size', [1, 3])
@pytest.mark.parametrize('num_samples', [4, 5])
def test_matches_formula(batch_size, num_samples):
    samples = random_samples(('normals',), num_samples)
    errors = errors_by_formula(pairs(samples, 'normals'))
    result = score(NormalsMetric(), samples, batch_size)
    assert result.pop('normals/median') == pytest.approx(np.median(errors), abs=0.0051)
    assert result == pytest.approx(
        {
            'normals/mean': errors.mean(),
            'normals/rmse': np.sqrt((errors**2).mean()),
            'normals/within_11.25': 100 * (errors < 11.25).mean(),
            'normals/within_22.5': 100 * (errors < 22.5).mean(),
            'normals/within_30': 100 * (errors < 30).mean(),
        },
        rel=1e-6,
    )


def test_figures_by_hand():
    result = score(NormalsMetric(), [sample_of_errors(0, 10, 20, 90, unknown=3)])
    assert result == pytest.approx(
        {
            'normals/mean': 30,
            'normals/median': 15,
            'normals/rmse': math.sqrt((100 + 400 + 8100) / 4),
            'normals/within_11.25': 50,
            'normals/within_22.5': 75,
            'normals/within_30': 75,
        },
        abs=0.0051,
    )
    assert result['normals/rmse'] > result['normals/mean'] + 10


@pytest.mark.parametrize('degrees', [0, 180])
def test_parallel_vectors_are_clamped(degrees):
    # Float32 unit vectors whose dot product may exceed 1 by rounding.
    rng = np.random.default_rng(0)
    gt = rng.normal(size=(3, 30, 30))
    gt = (gt / np.linalg.norm(gt, axis=0)).astype(np.float32)
    pred = gt if degrees == 0 else -gt
    result = score(NormalsMetric(), [make_sample('a', {'normals': (pred, gt)})])
    assert result['normals/mean'] == pytest.approx(degrees, abs=1e-5)
    assert result['normals/median'] == pytest.approx(degrees, abs=0.0051)


def test_length_does_not_matter_and_zero_counts_as_90_degrees():
    sample = sample_of_errors(40)
    sample['pred']['normals'] *= 7
    assert score(NormalsMetric(), [sample])['normals/mean'] == pytest.approx(40, abs=1e-4)
    sample['pred']['normals'] *= 0
    assert score(NormalsMetric(), [sample])['normals/mean'] == pytest.approx(90)


def test_mean_over_pixels_not_over_images():
    result = score(NormalsMetric(), [sample_of_errors(0, 0, 0), sample_of_errors(40)])
    assert result['normals/mean'] == pytest.approx(10, abs=1e-4)


def test_image_without_valid_pixel_adds_nothing():
    samples, empty = random_samples(('normals',), 2), sample_of_errors(unknown=4)
    assert score(NormalsMetric(), [*samples, empty]) == score(NormalsMetric(), samples)


def test_set_without_valid_pixel():
    with pytest.raises(ValueError, match='normals: no valid pixel in the whole set'):
        score(NormalsMetric(), [sample_of_errors(unknown=4)])
