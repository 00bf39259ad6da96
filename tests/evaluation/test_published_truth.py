"""What a perfect prediction scores under protocol ``mtlora``, on the aligned and on the published truth.

As a program it prints the table of docs/evaluation.md: ``python tests/evaluation/test_published_truth.py FOLDER SIZE``.
"""

import sys

import cv2
import numpy as np
import pytest
import torch
from mmengine.structures import PixelData

from mmvmt.datasets.formats import read_normals
from mmvmt.evaluation import IoUMetric, MultiTaskEvaluator, NormalsMetric, SaliencyMetric
from mmvmt.registry import DATASETS

TASKS = ('semseg', 'human_parts', 'saliency', 'normals')


def samples_of(root, size, truth):
    pipeline = [
        dict(type='mmvmt.LoadMultiTaskImage'),
        dict(type='mmvmt.LoadMultiTaskAnnotations'),
        dict(type='mmvmt.MultiTaskResize', scale=size, truth=truth),
        dict(type='mmvmt.PackMultiTaskInputs'),
    ]
    dataset = dict(type='mmvmt.SyntheticMT', data_root=str(root), split='val', tasks=list(TASKS), pipeline=pipeline)
    return [entry['data_samples'] for entry in DATASETS.build(dataset | dict(test_mode=True))]


def perfect_maps(root, sample, size):
    """The truth on the grid of the image, known everywhere: normals behind unknown pixels too, class 0 for unknown."""
    maps = {name: sample.gt.get(name).clone() for name in TASKS}
    for name in TASKS[:3]:
        maps[name][maps[name] == 255] = 0
    maps['saliency'] = maps['saliency'].float()
    normals = read_normals(f'{root}/normals_distill/{sample.img_id}.png')
    normals[~normals.any(-1)] = (0, 0, 1)
    resized = cv2.resize(normals, size, interpolation=cv2.INTER_LINEAR)
    resized /= np.linalg.norm(resized, axis=-1, keepdims=True)
    maps['normals'] = torch.from_numpy(resized.transpose(2, 0, 1).copy())
    return PixelData(**maps)


def score_perfect(root, size, truth):
    """Figures of a perfect prediction, and the share of pixels whose normals count."""
    metrics = [IoUMetric('semseg', 21), IoUMetric('human_parts', 7), SaliencyMetric(), NormalsMetric()]
    evaluator = MultiTaskEvaluator(metrics, protocol='mtlora', truth=truth)
    aligned, samples = samples_of(root, size, 'aligned'), samples_of(root, size, truth)
    for sample, exact in zip(samples, aligned, strict=True):
        sample.pred = perfect_maps(root, exact, size)
        evaluator.process([sample])
    known = np.mean([(sample.gt.normals != 0).any(0).float().mean().item() for sample in samples])
    return evaluator.evaluate(len(samples)) | {'known': known}


def test_a_perfect_prediction_is_perfect_on_the_aligned_truth_alone(scenes):
    size = (150, 110)
    aligned, published = (score_perfect(scenes, size, truth) for truth in ('aligned', 'published'))
    assert [aligned[f'{task}/mIoU'] for task in TASKS[:3]] == [100, 100, 100]
    # Vectors between two surfaces, one of which counts as unknown, are the only ones that differ.
    assert aligned['normals/mean'] < 0.5
    # A grid that is up to half a pixel off, and directions interpolated towards zeros and beyond.
    assert all(published[f'{task}/mIoU'] < 99.9 for task in TASKS[:3])
    assert published['normals/mean'] > aligned['normals/mean'] + 1
    assert published['known'] > 1.02 * aligned['known']


@pytest.mark.parametrize('height, width, new', [(6, 4, (8, 12)), (7, 10, (5, 3))])
def test_published_maps_follow_the_formula(height, width, new):
    """OpenCV's nearest takes the source at floor(x * old / new), whatever the pixels' centres; vectors by bicubic."""
    from mmvmt.datasets.transforms import MultiTaskResize

    rng = np.random.default_rng(0)
    normals = rng.normal(size=(height, width, 3)).astype(np.float32)
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
    normals[:2] = 0
    labels = rng.integers(0, 21, (height, width)).astype(np.uint8)
    results = dict(img=np.zeros((height, width, 3), np.uint8), gt_semseg=labels, gt_normals=normals.copy())
    results = MultiTaskResize(scale=new, truth='published').transform(results)
    assert results['truth'] == 'published'
    rows, columns = (np.arange(n) * old // n for n, old in ((new[1], height), (new[0], width)))
    assert np.array_equal(results['gt_semseg'], labels[rows[:, None], columns])
    expected = bicubic(bicubic(normals, new[1]).swapaxes(0, 1), new[0]).swapaxes(0, 1)
    lengths = np.linalg.norm(expected, axis=-1, keepdims=True)
    expected = np.divide(expected, lengths, out=np.zeros_like(expected), where=lengths > 1e-6)
    np.testing.assert_allclose(results['gt_normals'], expected, atol=1e-4)


def bicubic(values, size, a=-0.75):
    """Cubic convolution along the first axis, edges repeated; the centres of pixels stand at i + 1/2."""
    places = (np.arange(size) + 0.5) * len(values) / size - 0.5
    total = 0
    for tap in range(-1, 3):
        source = np.floor(places) + tap
        d = np.abs(places - source)
        near = ((a + 2) * d - (a + 3)) * d * d + 1
        far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
        weight = np.where(d <= 1, near, np.where(d < 2, far, 0))
        total = total + weight[:, None, None] * values[np.clip(source, 0, len(values) - 1).astype(int)]
    return total


def test_wrong_truths_are_refused():
    from mmvmt.datasets.transforms import MultiTaskResize

    with pytest.raises(ValueError, match="truth must be one of aligned, published, got 'ours'"):
        MultiTaskResize(scale=4, truth='ours')


if __name__ == '__main__':
    folder, edge = sys.argv[1], int(sys.argv[2])
    for truth in ('aligned', 'published'):
        figures = score_perfect(folder, (edge, edge), truth)
        print(truth, {name: round(value, 3) for name, value in figures.items()})
