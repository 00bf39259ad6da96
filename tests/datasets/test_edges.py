import numpy as np
import pytest

from mmvmt.datasets.edges import label_edges


@pytest.mark.parametrize('dtype', [np.uint8, np.uint16])
def test_the_edge_of_two_regions_is_one_pixel_wide(dtype):
    labels = np.full((30, 40), 3, dtype=dtype)
    labels[:, 22:] = 250
    edges = label_edges(labels)
    assert edges.dtype == np.uint8
    assert (edges[2:-2].sum(axis=1) == 1).all()
    assert set(np.flatnonzero(edges.any(axis=0))) <= {21, 22}


def test_one_region_has_no_edge():
    assert not label_edges(np.full((8, 8), 459, dtype=np.uint16)).any()


def test_every_edge_pixel_touches_another_region():
    rng = np.random.default_rng(0)
    labels = np.kron(rng.integers(0, 4, (6, 7)), np.ones((8, 8))).astype(np.uint16)
    edges = label_edges(labels)
    assert edges.any()
    for y, x in np.argwhere(edges):
        around = labels[max(0, y - 1) : y + 2, max(0, x - 1) : x + 2]
        assert len(np.unique(around)) > 1
