import pytest
import torch
from mmengine.structures import PixelData

from mmvmt.structures import MultiTaskDataSample


def test_truth_and_prediction_are_pixel_data():
    sample = MultiTaskDataSample(metainfo=dict(img_id='a'))
    sample.gt = PixelData(semseg=torch.zeros(1, 2, 3, dtype=torch.uint8))
    sample.pred = PixelData(normals=torch.zeros(3, 4, 6))
    assert sample.gt.shape == (2, 3)
    assert sample.pred.shape == (4, 6)
    assert set(sample.to_dict()) >= {'gt', 'pred'}
    del sample.pred
    assert 'pred' not in sample
    with pytest.raises(AssertionError):
        sample.gt = torch.zeros(1)


def test_maps_of_one_sample_have_one_size():
    gt = PixelData(semseg=torch.zeros(1, 2, 3))
    with pytest.raises(AssertionError, match='height and width'):
        gt.saliency = torch.zeros(1, 3, 3)
