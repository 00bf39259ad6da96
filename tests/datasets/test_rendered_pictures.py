import numpy as np
import pytest
import torch

from mmvmt.datasets import RenderedPictures
from mmvmt.synthetic import ATTRIBUTES, render_attributes


def test_a_picture_depends_on_seed_and_index_alone():
    dataset = RenderedPictures(num_samples=4, size=32, seed=3)
    image, _ = render_attributes((3, 2), 32)
    for _ in range(2):
        np.testing.assert_array_equal(dataset[2]['inputs'].permute(1, 2, 0), image)
    assert (RenderedPictures(4, 32, seed=4)[2]['inputs'].permute(1, 2, 0).numpy() != image).any()
    assert len(dataset) == 4


def test_attributes_stand_in_their_order_and_what_a_picture_has_no_value_of_is_unknown():
    dataset = RenderedPictures(num_samples=20, size=32, seed=1)
    names = [name for name in ATTRIBUTES if name != 'presence']
    unknown = set()
    for index in range(20):
        found, sample = render_attributes((1, index), 32)[1], dataset[index]
        assert sample['attributes'].tolist() == [found.get(name, -1) for name in names]
        assert sample['presence'].nonzero().flatten().tolist() == found.get('presence', [])
        unknown |= {name for name in names if name not in found}
    assert 'pose' in unknown
    batch = torch.utils.data.default_collate([dataset[0], dataset[1]])
    assert {key: value.dtype for key, value in batch.items()} == dict(
        inputs=torch.uint8, attributes=torch.int64, presence=torch.float32
    )


def test_sizes_take_turns_by_batches():
    dataset = RenderedPictures(num_samples=6, size=[32, 48], batch_size=2)
    assert [dataset[index]['inputs'].shape[1] for index in range(6)] == [32, 32, 48, 48, 32, 32]


@pytest.mark.parametrize(
    'options', [dict(num_samples=0), dict(num_samples=2, size=[]), dict(num_samples=2, batch_size=0)]
)
def test_refusals(options):
    with pytest.raises(ValueError, match=r'num_samples|size must be'):
        RenderedPictures(**options)
