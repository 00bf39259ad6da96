import numpy as np
import pytest

from mmvmt.datasets.vectors import known_vectors, unit_vectors


@pytest.mark.parametrize('shape', [(1, 1), (1, 9), (9, 1), (5, 7), (300, 200), (2, 20000)])
def test_unit_vectors(shape):
    vectors = np.random.default_rng(0).normal(size=(*shape, 3)).astype(np.float32)
    expected = vectors / np.linalg.norm(vectors, axis=2, keepdims=True)
    got = unit_vectors(vectors, 1e-3)
    assert got is vectors
    np.testing.assert_allclose(got, expected, atol=1e-6)


def test_what_is_unknown_far_down_becomes_zero():
    vectors = np.random.default_rng(0).normal(size=(300, 200, 3)).astype(np.float32) + 5
    known = np.random.default_rng(1).integers(0, 2, size=(300, 200), dtype=np.uint8)
    np.testing.assert_array_equal(unit_vectors(vectors, 1e-3, known).any(axis=2), known)


def test_short_and_unknown_vectors_become_zero():
    vectors = np.array([[[0, 0, 0], [0, 0.05, 0], [0, 0.2, 0], [3, 0, 4]]], dtype=np.float32)
    np.testing.assert_allclose(
        unit_vectors(vectors.copy(), 0.1)[0], [[0, 0, 0], [0, 0, 0], [0, 1, 0], [0.6, 0, 0.8]], atol=1e-6
    )
    known = np.array([[1, 1, 0, 1]], dtype=np.uint8)
    np.testing.assert_allclose(
        unit_vectors(vectors, 0.01, known)[0, 1:], [[0, 1, 0], [0, 0, 0], [0.6, 0, 0.8]], atol=1e-6
    )


def test_known_vectors():
    vectors = np.array(
        [[[0, 0, 0], [0, 0, -0.5], [1, 0, 0]], [[0, 1e-3, 0], [-0.0, 0, 0], [1, 1, 1]]], dtype=np.float32
    )
    known = known_vectors(vectors)
    assert known.dtype == np.uint8
    assert known.tolist() == [[0, 1, 1], [1, 0, 1]]
