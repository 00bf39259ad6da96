import math

import numpy as np
import pytest
import torch
from distributed import run_ranks
from evaluation_samples import NUM_CLASSES, make_sample, random_samples, score
from mmengine.dataset import DefaultSampler

from mmvmt.evaluation import (
    DepthMetric,
    EdgeMetric,
    EdgePictures,
    IoUMetric,
    NormalsMetric,
    SaliencyMetric,
    ValuesMetric,
)
from mmvmt.structures import TASKS as STRUCTURES
from mmvmt.structures import register_task

TASKS = ('semseg', 'human_parts', 'saliency', 'normals', 'depth', 'edge', 'flow')


def build_metrics():
    register_task('flow', kind='values', channels=2, motion='displacement')
    return [
        IoUMetric('semseg', NUM_CLASSES['semseg']),
        IoUMetric('human_parts', NUM_CLASSES['human_parts']),
        SaliencyMetric(),
        NormalsMetric(),
        DepthMetric(),
        EdgeMetric(thresholds=9, max_dist=0.1),
        ValuesMetric('flow'),
    ]


def score_all(samples, size, batch_size=2):
    results = {}
    for metric in build_metrics():
        for start in range(0, len(samples), batch_size):
            metric.process(None, samples[start : start + batch_size])
        results.update(metric.evaluate(size))
    return results


def score_share(rank, world_size, num_first):
    """Rank 0 scores the first samples, rank 1 the others: possibly none."""
    samples = random_samples(TASKS, 5)
    share = samples[:num_first] if rank == 0 else samples[num_first:]
    return score_all(share, len(samples))


def score_sampled(rank, world_size, round_up):
    """Score what the sampler deals to this rank; return the results or the message of the error."""
    samples = random_samples(('semseg',), 5)
    sampler = DefaultSampler(samples, shuffle=False, round_up=round_up)
    metric = IoUMetric('semseg', NUM_CLASSES['semseg'])
    metric.process(None, [samples[index] for index in sampler])
    try:
        return metric.evaluate(len(samples))
    except RuntimeError as error:
        return str(error)


def score_uneven_and_sampled(rank, world_size):
    return (
        [score_share(rank, world_size, num_first) for num_first in (2, 4, 5)],
        score_sampled(rank, world_size, round_up=False),
        score_sampled(rank, world_size, round_up=True),
    )


def test_ranks_give_what_one_process_gives():
    expected = score_all(random_samples(TASKS, 5), 5)
    assert {key.split('/')[0] for key in expected} == set(TASKS)
    by_rank = run_ranks(score_uneven_and_sampled, 2)
    for uneven, exact, padded in by_rank:
        for results in uneven:
            assert results == pytest.approx(expected, rel=1e-12)
        assert exact == pytest.approx({'semseg/mIoU': expected['semseg/mIoU']}, rel=1e-12)
        assert 'scored 6 samples of a data set of 5' in padded
        assert 'round_up=False' in padded
    assert by_rank[0] == by_rank[1]


@pytest.mark.parametrize('batch_size', [1, 3, 7])
def test_batch_size_does_not_matter(batch_size):
    samples = random_samples(TASKS, 7)
    assert score_all(samples, 7, batch_size) == pytest.approx(score_all(samples, 7, 2), rel=1e-12)


@pytest.mark.parametrize('index', range(len(TASKS)))
def test_sums_do_not_grow_with_samples(index):
    samples = random_samples(TASKS, 6)
    metric = build_metrics()[index]
    metric.process(None, samples[:1])
    sizes = {name: value.shape for name, value in metric._state.items()}
    metric.process(None, samples[1:])
    assert {name: value.shape for name, value in metric._state.items()} == sizes
    assert metric.results == []


@pytest.mark.parametrize('index', range(len(TASKS)))
def test_second_evaluation_starts_anew(index):
    metric = build_metrics()[index]
    first, second = random_samples(TASKS, 3), random_samples(TASKS, 2, seed=1)
    fresh = score(build_metrics()[index], second)
    assert score(metric, first) != fresh
    assert score(metric, second) == fresh


def test_failed_evaluation_leaves_nothing_behind():
    metric, samples = NormalsMetric(), random_samples(('normals',), 3)
    metric.process(None, samples)
    with pytest.raises(RuntimeError, match='scored 3 samples of a data set of 2'):
        metric.evaluate(2)
    assert score(metric, samples[:1]) == score(NormalsMetric(), samples[:1])


@pytest.mark.parametrize('size', [0, 4])
def test_task_without_results_is_an_error(size):
    with pytest.raises(RuntimeError, match="no sample was scored, so task 'normals' has no result"):
        NormalsMetric().evaluate(size)


def test_lost_samples_are_an_error():
    metric = DepthMetric()
    metric.process(None, random_samples(('depth',), 2))
    with pytest.raises(RuntimeError, match='counted twice or lost'):
        metric.evaluate(3)


@pytest.mark.parametrize(
    'side,message', [('pred', "no prediction among .*'depth'.*head"), ('gt', "no truth among .*'depth'.*annotations")]
)
def test_missing_map_names_image_and_remedy(side, message):
    sample = random_samples(('depth', 'normals'), 1)[0]
    del sample[side]['normals']
    with pytest.raises(ValueError, match=f"normals of image 'image_0': {message}"):
        NormalsMetric().process(None, [sample])


def test_sample_without_predictions_at_all():
    sample = random_samples(('normals',), 1)[0]
    del sample['pred']
    with pytest.raises(ValueError, match='no prediction among none at all'):
        NormalsMetric().process(None, [sample])


def test_different_sizes_name_image_sizes_and_protocols():
    pred, gt = np.zeros((1, 4, 6), np.uint8), np.zeros((1, 8, 6), np.uint8)
    with pytest.raises(ValueError, match=r"'a1'.*\(1, 4, 6\).*\(1, 8, 6\).*'mti'.*original.*'mtlora'.*input"):
        IoUMetric('semseg', 3).process(None, [make_sample('a1', {'semseg': (pred, gt)})])


@pytest.mark.parametrize('task', ['saliency', 'normals', 'depth'])
@pytest.mark.parametrize('value', [math.nan, math.inf])
def test_prediction_that_is_not_finite(task, value):
    sample = random_samples((task,), 1)[0]
    sample['pred'][task][0, 0, :2] = value
    metric = {'saliency': SaliencyMetric, 'normals': NormalsMetric, 'depth': DepthMetric}[task]()
    with pytest.raises(ValueError, match=f"{task} of image 'image_0': the prediction holds NaN or infinity at 2 of"):
        metric.process(None, [sample])


@pytest.mark.parametrize(
    'build,message',
    [
        (lambda: IoUMetric('normals', 3), "kind 'vectors'; suitable tasks: semseg, human_parts"),
        (lambda: NormalsMetric('semseg'), 'suitable tasks: normals'),
        (lambda: SaliencyMetric('depth'), 'suitable tasks: saliency, edge'),
        (lambda: EdgePictures('out', task='pose'), "unknown task 'pose'"),
        (lambda: ValuesMetric('depth'), "kind 'metric'; suitable tasks: none that is declared"),
    ],
)
def test_task_of_another_kind(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_prefix_defaults_to_task():
    samples = random_samples(('depth',), 1)
    assert set(score(DepthMetric(), samples)) >= {'depth/rmse'}
    assert set(score(DepthMetric(prefix='near'), samples)) >= {'near/rmse'}


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
def test_sums_live_on_the_device_of_the_predictions():
    samples = random_samples(TASKS, 4)
    expected = score_all(samples, 4)
    for sample in samples:
        sample['pred'] = {task: value.cuda() for task, value in sample['pred'].items()}
    metric = NormalsMetric()
    metric.process(None, samples)
    assert all(value.is_cuda for value in metric._state.values())
    assert score_all(samples, 4) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize('task', TASKS)
def test_images_without_a_label_change_no_figure(task):
    (metric,) = (metric for metric in build_metrics() if metric.task == task)
    samples = random_samples(TASKS, 3)
    unlabelled = random_samples(TASKS, 4, seed=9)
    for sample in unlabelled:
        row = STRUCTURES[metric.task]
        height, width = sample['gt'][metric.task].shape[-2:]
        sample['gt'][metric.task] = (
            torch.from_numpy(row.unknown_map(height, width)).view(height, width, -1).movedim(2, 0)
        )
    metric.process(None, samples)
    expected = metric.evaluate(3)
    metric.process(None, [unlabelled[0], *samples, *unlabelled[1:]])
    assert metric.evaluate(7) == expected
