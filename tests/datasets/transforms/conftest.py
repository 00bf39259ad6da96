import numpy as np
import pytest


@pytest.fixture
def results():
    """Results of a pipeline after loading, with a map of every kind: 24 x 36 pixels, unknown regions in each."""
    rng = np.random.default_rng(0)
    shape = (24, 36)
    semseg = rng.integers(0, 21, shape, dtype=np.uint8)
    semseg[:3] = 255
    vectors = rng.normal(size=(*shape, 3))
    vectors /= np.linalg.norm(vectors, axis=2, keepdims=True)
    vectors[5:9, 10:20] = 0
    depth = rng.uniform(0.5, 9.5, shape).astype(np.float32)
    depth[:, :4] = 0
    return dict(
        img=rng.integers(0, 256, (*shape, 3), dtype=np.uint8),
        img_path='JPEGImages/2008_000001.jpg',
        img_id='2008_000001',
        sample_idx=0,
        ori_shape=shape,
        img_shape=shape,
        gt_semseg=semseg,
        gt_human_parts=rng.integers(0, 7, shape, dtype=np.uint8),
        gt_saliency=rng.integers(0, 2, shape, dtype=np.uint8),
        gt_edge=rng.integers(0, 2, shape, dtype=np.uint8),
        gt_normals=vectors.astype(np.float32),
        gt_depth=depth,
        normals_x='left',
        normals_y='up',
    )
