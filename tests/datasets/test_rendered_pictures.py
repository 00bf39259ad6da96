from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import init_default_scope

from mmvmt.datasets import RenderedPictures
from mmvmt.registry import DATASETS
from mmvmt.synthetic import ATTRIBUTES, render_attributes


def test_a_picture_depends_on_seed_and_index_alone():
    dataset = RenderedPictures(num_samples=4, size=32, seed=3)
    image, attributes = render_attributes((3, 2), 32)
    for _ in range(2):
        sample = dataset[2]
        np.testing.assert_array_equal(sample['img'][..., ::-1], image)
        assert sample['gt_label'] == attributes
    assert (RenderedPictures(4, 32, seed=4)[2]['img'] != sample['img']).any()
    assert len(dataset) == 4


def test_sizes_follow_the_schedule():
    dataset = RenderedPictures(num_samples=4, size=[(2, 48), (0, 32)])
    assert [dataset[index]['img'].shape[0] for index in range(4)] == [32, 32, 48, 48]


@pytest.mark.parametrize(
    'options', [dict(num_samples=0), dict(num_samples=2, size=[(1, 32)]), dict(num_samples=2, size=[])]
)
def test_refusals(options):
    with pytest.raises(ValueError, match=r'num_samples|first picture'):
        RenderedPictures(**options)


def test_the_shipped_config_has_a_head_for_every_attribute_and_packs_each():
    cfg = Config.fromfile(Path(__file__).parents[2] / 'configs/pretrain/swin_nano_synthetic_attributes.py')
    heads = {name: head['num_classes'] for name, head in cfg.model.head.task_heads.items()}
    assert heads == ATTRIBUTES
    init_default_scope('mmpretrain')
    cfg.train_dataloader.dataset.size = 32
    sample = DATASETS.build(cfg.train_dataloader.dataset)[5]
    expected = render_attributes((1, 5), 32)[1]
    assert sample['inputs'].shape == (3, 32, 32)
    found = {name: sample['data_samples'].get(name).gt_label.tolist() for name in expected}
    assert found == {name: value if isinstance(value, list) else [value] for name, value in expected.items()}
