"""The truth of published figures at the input size, against its formulas."""

import numpy as np
import pytest

from mmvmt.datasets.transforms import MultiTaskResize


@pytest.mark.parametrize('height, width, new', [(6, 4, (8, 12)), (7, 10, (5, 3))])
def test_published_maps_follow_the_formula(height, width, new):
    """OpenCV's nearest takes the source at floor(x * old / new), whatever the pixels' centres; vectors by bicubic."""
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
    with pytest.raises(ValueError, match="truth must be one of aligned, published, got 'ours'"):
        MultiTaskResize(scale=4, truth='ours')
