import cv2
import numpy as np
import pytest
import torch
from mmengine.structures import PixelData
from PIL import Image

from mmvmt.structures import MultiTaskDataSample, NormalsAxes, save_predictions


@pytest.fixture
def sample():
    generator = torch.Generator().manual_seed(0)
    sample = MultiTaskDataSample(metainfo=dict(img_id='a_1'))
    sample.pred = PixelData(
        semseg=torch.randint(0, 21, (1, 4, 5), generator=generator).to(torch.uint8),
        saliency=torch.rand(1, 4, 5, generator=generator),
        normals=torch.nn.functional.normalize(torch.randn(3, 4, 5, generator=generator), dim=0),
        depth=torch.rand(1, 4, 5, generator=generator) * 10,
    )
    return sample


def test_maps_come_back(sample, tmp_path):
    paths = save_predictions(sample, str(tmp_path))
    assert sorted(p.removeprefix(str(tmp_path)) for p in paths) == [
        '/depth/a_1.npy',
        '/normals/a_1.png',
        '/saliency/a_1.png',
        '/semseg/a_1.png',
    ]
    semseg = cv2.imread(str(tmp_path / 'semseg/a_1.png'), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(semseg, sample.pred.semseg[0].numpy())
    saliency = cv2.imread(str(tmp_path / 'saliency/a_1.png'), cv2.IMREAD_UNCHANGED) / 255
    assert np.abs(saliency - sample.pred.saliency[0].numpy()).max() <= 0.5 / 255 + 1e-6
    rgb = cv2.imread(str(tmp_path / 'normals/a_1.png'))[..., ::-1]
    normals = 2.0 * rgb.transpose(2, 0, 1) / 255 - 1
    assert np.abs(normals - sample.pred.normals.numpy()).max() <= 1 / 255 + 1e-6
    assert np.array_equal(np.load(tmp_path / 'depth/a_1.npy'), sample.pred.depth[0].numpy())


@pytest.mark.parametrize('axes', [None, NormalsAxes(), NormalsAxes('right', 'down')], ids=str)
def test_files_of_normals_name_their_axes(sample, tmp_path, axes):
    if axes is not None:
        sample.set_metainfo(axes.meta)
    save_predictions(sample, str(tmp_path))
    with Image.open(tmp_path / 'normals/a_1.png') as picture:
        assert NormalsAxes.of(picture.info) == axes
        normals = 2.0 * np.asarray(picture).transpose(2, 0, 1) / 255 - 1
    # In these axes, whichever they are: a file can be compared with those of the data set.
    assert np.abs(normals - sample.pred.normals.numpy()).max() <= 1 / 255 + 1e-6


def test_an_unwritable_folder_is_an_error(sample, tmp_path, monkeypatch):
    monkeypatch.setattr(cv2, 'imwrite', lambda *_: False)
    with pytest.raises(OSError, match=r'could not write .*/a_1.png'):
        save_predictions(sample, str(tmp_path))
