import itertools

import numpy as np
import pytest
import torch
from evaluation_samples import make_sample, score
from scipy.ndimage import gaussian_filter
from scipy.optimize import linear_sum_assignment
from skimage.morphology import thin

from mmvmt.datasets.edges import label_edges
from mmvmt.evaluation import EdgeMetric
from mmvmt.evaluation.boundaries import suppress_non_maxima

SHAPE = (40, 60)
REACH = 5.0 / np.hypot(*SHAPE)  # 5 pixels


def sample_of(pred, gt, name='a'):
    return make_sample(name, {'edge': (pred[None].astype(np.float32), gt[None].astype(np.uint8))})


def random_sample(index):
    """Edges of random regions, a prediction of graded ridges near them, and unknown pixels."""
    rng = np.random.default_rng(index)
    shape = tuple(rng.integers(18, 27, 2))
    gt = label_edges((gaussian_filter(rng.normal(size=shape), 3) > 0).astype(np.uint8))
    shifted = np.roll(gt, rng.integers(-2, 3, 2), (0, 1)) * rng.random(shape)
    pred = gaussian_filter(shifted + 0.2 * rng.random(shape), 0.8)
    gt[: rng.integers(0, 8)] = 255
    return sample_of(pred / pred.max(), gt, f'image_{index}')


def count_by_brute_force(pred, gt, threshold, max_dist, border):
    """Matched, predicted and true pixels at one threshold, by a dense assignment."""
    known = gt != 255
    predicted = np.argwhere(thin(suppress_non_maxima(pred, border) >= np.float32(threshold)) & known)
    true = np.argwhere(thin(gt == 1) & known)
    distance = np.sqrt(((predicted[:, None] - true[None]) ** 2).sum(axis=2))
    within = distance <= max_dist * np.sqrt(gt.shape[0] ** 2 + gt.shape[1] ** 2)
    rows, columns = linear_sum_assignment(within, maximize=True)
    return int(within[rows, columns].sum()), len(predicted), len(true)


def figures_by_brute_force(samples, thresholds, max_dist, border):
    def f_measure(matched, predicted, true):
        if not matched:
            return 0.0
        precision, recall = matched / predicted, matched / true
        return 2 * precision * recall / (precision + recall)

    tables = []
    for sample in samples:
        pred, gt = sample['pred']['edge'][0].numpy(), sample['gt']['edge'][0].numpy()
        tables.append([count_by_brute_force(pred, gt, t, max_dist, border) for t in thresholds])
    total = np.sum(tables, axis=0)
    best = np.sum([max(table, key=lambda row: f_measure(*row)) for table in tables], axis=0)

    curve = {}
    for matched, predicted, true in total:
        curve.setdefault(matched / true, matched / predicted if predicted else 1.0)
    recalls, ap = sorted(curve), 0.0
    for recall in np.arange(101) / 100:
        for low, high in itertools.pairwise(recalls):
            if low <= recall <= high:
                share = (recall - low) / (high - low)
                ap += ((1 - share) * curve[low] + share * curve[high]) / 100
                break
    return {
        'edge/odsF': 100 * max(f_measure(*row) for row in total),
        'edge/oisF': 100 * f_measure(*best),
        'edge/AP': 100 * ap,
    }


@pytest.mark.parametrize('max_dist,border', [(0.05, 5), (0.11, 0)])
def test_equals_a_brute_force_reference(max_dist, border):
    samples = [random_sample(index) for index in range(6)]
    expected = figures_by_brute_force(samples, np.arange(1, 20) / 20, max_dist, border)
    assert 20 < expected['edge/odsF'] < expected['edge/oisF'] < 95
    metric = EdgeMetric(thresholds=19, max_dist=max_dist, border=border)
    assert score(metric, samples, 4) == pytest.approx(expected)


def lines(*rows, graded=False):
    """Level lines, 7 to 52 of 60 columns."""
    image = np.zeros(SHAPE)
    for row in rows:
        image[row, 7:53] = np.linspace(0.02, 0.98, 46) if graded else 1
    return image


@pytest.mark.parametrize(
    'rows,ods',
    [
        ([12, 25], 100),  # the truth itself
        ([13, 26], 100),  # one pixel off
        ([17, 30], 100),  # as far as pixels may lie
        ([18, 31], 0),  # farther
        ([12], 100 * 2 / 3),  # half of it: P = 1, R = 1/2
        ([10, 12, 25, 27], 100 * 2 / 3),  # each pixel matches once: P = 1/2, R = 1
        ([], 0),
    ],
)
def test_lines(rows, ods):
    result = score(EdgeMetric(max_dist=REACH), [sample_of(lines(*rows), lines(12, 25))])
    assert result == pytest.approx({'edge/odsF': ods, 'edge/oisF': ods, 'edge/AP': 0})


def test_perfect_prediction_up_to_the_frame():
    labels = np.zeros(SHAPE, np.uint8)
    labels[10:30, 15:] = 1
    labels[20:, :30] = 2
    gt = label_edges(labels)
    assert score(EdgeMetric(border=0), [sample_of(gt, gt)])['edge/odsF'] == 100
    # The outermost pixels fade to nothing in the frame of five pixels.
    assert 95 < score(EdgeMetric(), [sample_of(gt, gt)])['edge/odsF'] < 100


def test_average_precision_of_grades():
    # Every prediction is right; recalls reach from 0 to 1 in 99 steps, and the benchmark divides 101 values by 100.
    perfect = sample_of(lines(12, graded=True), lines(12))
    assert score(EdgeMetric(max_dist=REACH), [perfect])['edge/AP'] == pytest.approx(101, abs=1.1)
    # As much beside it wherever a pixel is predicted: half of all is right.
    half = sample_of(lines(12, 30, graded=True), lines(12))
    assert score(EdgeMetric(max_dist=REACH), [half])['edge/AP'] == pytest.approx(50.5, abs=1.1)


def test_best_threshold_per_image():
    # One image is right at .3, the other at .7 alone.
    first = sample_of(0.4 * lines(12), lines(12), 'a')
    second = sample_of(0.4 * lines(30) + 0.8 * lines(12), lines(12), 'b')
    result = score(EdgeMetric(thresholds=[0.3, 0.7], max_dist=REACH), [first, second])
    assert result['edge/oisF'] == 100
    assert result['edge/odsF'] == pytest.approx(100 * 4 / 5)  # at .3: P = 2/3, R = 1


def test_unknown_pixels_count_in_neither_map():
    gt = lines(12, 25)
    gt[20:] = 255
    result = score(EdgeMetric(max_dist=REACH), [sample_of(lines(12, 25, 33), gt)])
    assert result['edge/odsF'] == 100
    # Without a known pixel an image counts nothing, not even its predictions.
    nothing = sample_of(lines(3), np.full(SHAPE, 255), 'b')
    assert score(EdgeMetric(max_dist=REACH), [sample_of(lines(12, 25, 33), gt), nothing]) == result
    with pytest.raises(ValueError, match='edge: no valid pixel in the whole set'):
        score(EdgeMetric(), [nothing])


def test_truth_without_edges():
    empty, truth = sample_of(lines(20), lines(), 'a'), sample_of(lines(12), lines(12), 'b')
    assert score(EdgeMetric(), [empty])['edge/odsF'] == 0
    result = score(EdgeMetric(max_dist=REACH), [empty, truth])
    assert result['edge/odsF'] == pytest.approx(100 * 2 / 3)  # P = 1/2, R = 1
    assert score(EdgeMetric(), [sample_of(lines(), lines())])['edge/odsF'] == 0


def test_thick_truth_is_thinned():
    gt = lines(11, 12, 13)
    assert score(EdgeMetric(max_dist=REACH), [sample_of(lines(12), gt)])['edge/odsF'] > 97


def test_workers_give_the_same():
    samples = [random_sample(index) for index in range(5)]
    metric = EdgeMetric(thresholds=9, max_dist=0.05, num_workers=1)
    expected = score(EdgeMetric(thresholds=9, max_dist=0.05), samples)
    assert score(metric, samples) == expected
    assert metric._pool is None  # they start anew with the next evaluation


@pytest.mark.parametrize(
    'arguments,message',
    [
        (dict(thresholds=0), 'thresholds must be a number of them'),
        (dict(thresholds=[0.5, 0.5]), 'increasing'),
        (dict(thresholds=[0.0, 0.5]), r'in \(0, 1\]'),
        (dict(max_dist=-0.1), 'max_dist must not be negative, got -0.1'),
        (dict(border=-1), 'border must not be negative'),
        (dict(num_workers=-1), 'num_workers must not be negative'),
        (dict(task='normals'), "maps of kind 'binary'"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        EdgeMetric(**arguments)


@pytest.mark.parametrize(
    'pred,gt,message',
    [
        (1.2, 1, 'ranges from 0 to 1.2 and must be a probability'),
        (torch.nan, 1, 'NaN or infinity at 1 of'),
        (1, 7, 'the truth holds 7; it must hold 0, 1 or 255'),
    ],
)
def test_bad_maps(pred, gt, message):
    sample = sample_of(lines(12), lines(12))
    sample['pred']['edge'][0, 12, 20] = pred
    sample['gt']['edge'][0, 12, 20] = gt
    with pytest.raises(ValueError, match=f"edge of image 'a': .*{message}"):
        score(EdgeMetric(), [sample])
