import numpy as np
import pytest
import torch
from evaluation_samples import make_sample, pairs, random_samples, score

from mmvmt.evaluation import SaliencyMetric

THRESHOLDS = [0.2 + 0.05 * step for step in range(15)]


def pooled_by_formula(maps, squeeze=lambda x: x):
    """The F-measure of all labelled pixels of the set at once, threshold by threshold."""
    pred = np.concatenate([pred[gt != 255] for pred, gt in maps])
    salient = np.concatenate([gt[gt != 255] for _, gt in maps]) == 1
    best = 0.0
    for step in range(1, 20):
        chosen = squeeze(pred) >= np.float32(round(0.05 * step, 2))
        hits = (chosen & salient).sum()
        if hits:
            precision, recall = hits / chosen.sum(), hits / salient.sum()
            best = max(best, 1.3 * precision * recall / (0.3 * precision + recall))
    return 100 * best


def scores_by_formula(maps, beta2=1.0, thresholds=THRESHOLDS):
    """Threshold by threshold and image by image."""
    mean_iou, f_measure = [], []
    for threshold in thresholds:
        ious, precisions, recalls = [], [], []
        for pred, gt in maps:
            valid = gt != 255
            if not valid.any():
                continue
            chosen, salient = pred[valid] > np.float32(threshold), gt[valid] == 1
            hits = int((chosen & salient).sum())
            union = int((chosen | salient).sum())
            ious.append(hits / union if union else 1.0)
            precisions.append(hits / int(chosen.sum()) if chosen.any() else 0.0)
            recalls.append(hits / int(salient.sum()) if salient.any() else 0.0)
        precision, recall = np.mean(precisions), np.mean(recalls)
        mean_iou.append(np.mean(ious))
        denominator = beta2 * precision + recall
        f_measure.append((1 + beta2) * precision * recall / denominator if denominator else 0.0)
    means = {'saliency/mIoU': 100 * max(mean_iou), 'saliency/maxF': 100 * max(f_measure)}
    return means | {'saliency/maxF_pooled': pooled_by_formula(maps)}


def sample_of(pred, gt):
    return make_sample('a', {'saliency': (np.array([[pred]], np.float32), np.array([[gt]], np.uint8))})


@pytest.mark.parametrize('batch_size', [1, 3])
@pytest.mark.parametrize('beta2', [1.0, 0.3])
def test_matches_formula(batch_size, beta2):
    samples = random_samples(('saliency',), 5)
    samples.append(sample_of([0.1, 0.1], [0, 0]))
    samples.append(sample_of([0.9, 0.1], [255, 255]))
    expected = scores_by_formula(pairs(samples, 'saliency'), beta2)
    assert score(SaliencyMetric(beta2=beta2), samples, batch_size) == pytest.approx(expected)


def test_beta2_defaults_to_the_harmonic_mean():
    # Above every threshold: one hit, one false alarm, no miss: P = 1/2, R = 1.
    sample = sample_of([0.95, 0.95, 0.0], [1, 0, 0])
    assert score(SaliencyMetric(), [sample])['saliency/maxF'] == pytest.approx(100 * 2 * 0.5 / 1.5)
    favouring_precision = score(SaliencyMetric(beta2=0.3), [sample])['saliency/maxF']
    assert favouring_precision == pytest.approx(100 * 1.3 * 0.5 / (0.3 * 0.5 + 1))


@pytest.mark.parametrize('probability', [0.2, 0.35, 0.5, 0.9])
def test_probability_at_a_threshold_is_not_above_it(probability):
    maps = [(np.array([[[probability, 0.01]]], np.float32), np.array([[[1, 0]]], np.uint8))]
    for threshold, salient in ((probability, False), (probability - 0.01, True)):
        result = score(SaliencyMetric(thresholds=[threshold]), [make_sample('a', {'saliency': maps[0]})])
        assert result == pytest.approx(scores_by_formula(maps, thresholds=[threshold]))
        assert result['saliency/mIoU'] == (100 if salient else 0)


def test_no_second_sigmoid():
    # sigmoid(0.1) is above most thresholds: with a second sigmoid the background would count as salient.
    sample = sample_of([0.85, 0.1, 0.1, 0.1], [1, 0, 0, 0])
    expected = {'saliency/mIoU': 100, 'saliency/maxF': 100, 'saliency/maxF_pooled': 100}
    assert score(SaliencyMetric(), [sample]) == expected
    # Where the peers apply it, thresholds from 0.55 to 0.7 tell pixels apart: those of 0.1 are below all of them.
    assert score(SaliencyMetric(pooled_sigmoid=True), [sample]) == expected


def test_pooled_counts_pixels_of_the_set_and_not_of_images():
    # One image with a hit and a miss, one of eight pixels with two hits and six false alarms, at every threshold:
    # P = 3 / 9, R = 3 / 4. The mean over images would have P = (1 + 1 / 4) / 2 and R = (1 / 2 + 1) / 2.
    samples = [sample_of([0.99, 0.0], [1, 1]), sample_of([0.99] * 8, [1, 1] + [0] * 6)]
    precision, recall = 3 / 9, 3 / 4
    got = score(SaliencyMetric(), samples)
    assert got['saliency/maxF_pooled'] == pytest.approx(100 * 1.3 * precision * recall / (0.3 * precision + recall))
    assert got['saliency/maxF'] == pytest.approx(100 * 2 * 0.625 * 0.75 / (0.625 + 0.75))


@pytest.mark.parametrize('step', [1, 7, 19])
def test_pooled_counts_a_probability_at_a_threshold(step):
    # 0.05 or 0.35 or 0.95 reaches its own threshold, which the wrong pixel just does not.
    at = np.float32(round(0.05 * step, 2))
    sample = sample_of([at, np.nextafter(at, np.float32(0))], [1, 0])
    assert score(SaliencyMetric(), [sample])['saliency/maxF_pooled'] == 100
    below = sample_of([np.nextafter(np.float32(0.05), np.float32(0)), 0.0], [1, 0])
    assert score(SaliencyMetric(), [below])['saliency/maxF_pooled'] == 0


def test_pooled_with_the_sigmoid_of_the_peers():
    samples = random_samples(('saliency',), 5)
    expected = pooled_by_formula(pairs(samples, 'saliency'), lambda p: 1 / (1 + np.exp(-p)))
    plain = score(SaliencyMetric(), samples)['saliency/maxF_pooled']
    assert score(SaliencyMetric(pooled_sigmoid=True), samples)['saliency/maxF_pooled'] == pytest.approx(expected)
    assert plain != pytest.approx(expected)
    with pytest.raises(ValueError, match='pooled_sigmoid must be True or False, got None'):
        SaliencyMetric(pooled_sigmoid=None)


@pytest.mark.parametrize('value', [-0.5, 1.5])
def test_logits_are_refused(value):
    with pytest.raises(ValueError, match=r"saliency of image 'a': the prediction ranges from .* must be a probability"):
        SaliencyMetric().process(None, [sample_of([value, 0.5], [1, 0])])


def test_empty_truth_and_empty_prediction():
    empty = sample_of([0.0, 0.1], [0, 0])
    expected = {'saliency/mIoU': 100, 'saliency/maxF': 0, 'saliency/maxF_pooled': 0}
    assert score(SaliencyMetric(), [empty]) == expected


def test_mean_over_images_not_over_pixels():
    small = sample_of([0.95], [1])
    large = sample_of([0.95] * 8, [1, 1] + [0] * 6)
    assert score(SaliencyMetric(), [small, large])['saliency/mIoU'] == pytest.approx(100 * (1 + 0.25) / 2)


def test_batch_of_one_is_one_image():
    # A height of 1 too: nothing may be squeezed away and scored row by row.
    sample = make_sample(
        'a', {'saliency': (np.full((1, 1, 4), 0.95, np.float32), np.array([[[1, 1, 0, 0]]], np.uint8))}
    )
    assert score(SaliencyMetric(), [sample])['saliency/mIoU'] == pytest.approx(50)


def test_half_precision_prediction():
    sample = sample_of([0.75, 0.125], [1, 0])
    sample['pred']['saliency'] = sample['pred']['saliency'].to(torch.float16)
    assert score(SaliencyMetric(), [sample])['saliency/mIoU'] == 100


def test_image_without_labelled_pixel_does_not_count():
    samples = random_samples(('saliency',), 2)
    empty = sample_of([0.9, 0.1], [255, 255])
    assert score(SaliencyMetric(), [*samples, empty]) == score(SaliencyMetric(), samples)


def test_set_without_labelled_pixel():
    with pytest.raises(ValueError, match='saliency: no valid pixel in the whole set'):
        score(SaliencyMetric(), [sample_of([0.9, 0.1], [255, 255])])


def test_truth_that_is_not_binary():
    with pytest.raises(ValueError, match="image 'a': the truth holds 2"):
        SaliencyMetric().process(None, [sample_of([0.9, 0.1], [2, 0])])


@pytest.mark.parametrize('thresholds', [[], [0.5, 0.4], [0.5, 0.5], [-0.1, 0.5], [0.5, 1.0]])
def test_bad_thresholds(thresholds):
    with pytest.raises(ValueError, match='thresholds must be increasing'):
        SaliencyMetric(thresholds=thresholds)


@pytest.mark.parametrize('beta2', [0, -1, float('nan')])
def test_bad_beta2(beta2):
    with pytest.raises(ValueError, match='beta2 must be positive'):
        SaliencyMetric(beta2=beta2)
