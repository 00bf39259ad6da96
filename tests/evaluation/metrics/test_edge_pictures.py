import mmcv
import numpy as np
import pytest
import torch
from distributed import run_ranks
from evaluation_samples import random_samples, score

from mmvmt.evaluation import EdgePictures


def write_share(rank, world_size, out_dir):
    samples = random_samples(('edge',), 3)
    metric = EdgePictures(out_dir)
    metric.process(None, samples[rank::world_size])
    return metric.evaluate(len(samples))


@pytest.mark.parametrize('batch_size', [1, 3])
def test_writes_probabilities_as_8_bit_pictures(tmp_path, batch_size):
    samples = random_samples(('edge',), 4)
    assert score(EdgePictures(tmp_path / 'edges'), samples, batch_size) == {'edge/pictures': 4}
    assert len(list((tmp_path / 'edges').iterdir())) == 4
    for sample in samples:
        picture = mmcv.imread(tmp_path / 'edges' / f'{sample["img_id"]}.png', 'unchanged')
        assert picture.dtype == np.uint8
        np.testing.assert_array_equal(picture, np.rint(255 * sample['pred']['edge'][0].numpy()))


def test_each_rank_writes_its_own(tmp_path):
    assert run_ranks(write_share, 2, str(tmp_path)) == [{'edge/pictures': 3}] * 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ['image_0.png', 'image_1.png', 'image_2.png']


def test_needs_no_truth(tmp_path):
    sample = random_samples(('edge',), 1)[0]
    del sample['gt']
    assert score(EdgePictures(tmp_path), [sample]) == {'edge/pictures': 1}


@pytest.mark.parametrize('value,message', [(1.5, r'not in \[0, 1\]'), (torch.nan, 'NaN or infinity at 1 of')])
def test_prediction_that_is_no_probability(tmp_path, value, message):
    sample = random_samples(('edge',), 1)[0]
    sample['pred']['edge'][0, 0, 0] = value
    with pytest.raises(ValueError, match=f"edge of image 'image_0'.*{message}"):
        EdgePictures(tmp_path).process(None, [sample])


def test_sample_without_id(tmp_path):
    sample = {**random_samples(('edge',), 1)[0], 'img_path': 'folder/7.jpg'}
    del sample['img_id']
    with pytest.raises(ValueError, match=r"'folder/7\.jpg': the sample has no 'img_id'"):
        EdgePictures(tmp_path).process(None, [sample])
