import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from skimage import morphology

from mmvmt.evaluation.boundaries import suppress_non_maxima, thin


def smooth_map(seed, shape=(19, 24), sigma=2.0):
    """A random map of wide ridges, in [0, 1]."""
    values = gaussian_filter(np.random.default_rng(seed).normal(size=shape), sigma)
    return ((values - values.min()) / np.ptp(values)).astype(np.float32)


def suppressed_pixel_by_pixel(probability, border):
    """The definition, with the smoothing and the derivatives written out for each pixel."""
    height, width = probability.shape
    triangle = {offset: (5 - abs(offset)) / 25 for offset in range(-4, 5)}

    def mirrored(index, length):
        return -index - 1 if index < 0 else 2 * length - index - 1 if index >= length else index

    def smoothed(y, x):
        return sum(
            triangle[v] * triangle[u] * float(probability[mirrored(y + v, height), mirrored(x + u, width)])
            for v in triangle
            for u in triangle
        )

    def slope(values, axis):
        """Central differences, and those of neighbours at the border."""
        values = np.moveaxis(values, axis, 0)
        result = np.empty_like(values)
        result[1:-1] = (values[2:] - values[:-2]) / 2
        result[0], result[-1] = values[1] - values[0], values[-1] - values[-2]
        return np.moveaxis(result, 0, axis)

    def between(y, x):
        y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
        top, left = min(int(y), height - 2), min(int(x), width - 2)
        v, u = y - top, x - left
        corners = probability[top : top + 2, left : left + 2].astype(float)
        return (1 - v) * ((1 - u) * corners[0, 0] + u * corners[0, 1]) + v * (
            (1 - u) * corners[1, 0] + u * corners[1, 1]
        )

    smooth = np.array([[smoothed(y, x) for x in range(width)] for y in range(height)])
    along_x, along_y = slope(smooth, 1), slope(smooth, 0)
    xx, xy, yy = slope(along_x, 1), slope(along_x, 0), slope(along_y, 0)
    expected = np.zeros(probability.shape)
    for y in range(height):
        for x in range(width):
            angle = np.arctan(yy[y, x] * np.sign(-xy[y, x]) / (xx[y, x] + 1e-5)) % np.pi
            sides = (between(y + side * np.sin(angle), x + side * np.cos(angle)) for side in (-1, 1))
            if all(1.01 * probability[y, x] >= side for side in sides):
                expected[y, x] = probability[y, x]
            for place, length in ((y, height), (x, width)):
                expected[y, x] *= min(1, min(place, length - 1 - place) / border) if border else 1
    return expected


@pytest.mark.parametrize('border', [0, 5])
def test_suppression_follows_its_definition(border):
    probability = smooth_map(border)
    expected = suppressed_pixel_by_pixel(probability, border)
    assert 0.2 < np.mean(expected == 0) < 0.9
    np.testing.assert_allclose(suppress_non_maxima(probability, border), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize('vertical', [True, False])
def test_a_wide_line_leaves_its_crest(vertical):
    profile = np.exp(-(((np.arange(31) - 13) / 3) ** 2))
    probability = np.broadcast_to(profile, (25, 31))
    probability = probability if vertical else probability.T
    crest = np.argwhere(suppress_non_maxima(probability, border=0) > 0.3)
    assert set(crest[:, 1 if vertical else 0]) == {13}
    assert len(crest) == 25


@pytest.mark.parametrize('density', [0.15, 0.5, 0.85])
def test_thinning_is_that_of_skimage(density):
    rng = np.random.default_rng(int(100 * density))
    masks = [rng.random((17, 23)) < density for _ in range(5)]
    masks += [smooth_map(seed, (40, 50), 3.0) < density for seed in range(5)]
    for mask in masks:
        before = mask.copy()
        np.testing.assert_array_equal(thin(mask), morphology.thin(mask))
        np.testing.assert_array_equal(mask, before)


def test_thinning_of_nothing_and_of_everything():
    for mask in (np.zeros((4, 5), bool), np.ones((4, 5), bool), np.ones((1, 1), bool)):
        np.testing.assert_array_equal(thin(mask), morphology.thin(mask))
