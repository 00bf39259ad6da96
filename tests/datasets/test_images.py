import cv2
import numpy as np
import pytest
from PIL import ExifTags, Image

from mmvmt.datasets.images import read_image, read_photo


def truncate(path, share=0.6):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


def test_image_is_bgr(tmp_path):
    Image.new('RGB', (16, 12), (250, 10, 20)).save(tmp_path / 'a.png')
    image = read_image(str(tmp_path / 'a.png'))
    assert image.shape == (12, 16, 3)
    assert image[3, 4].tolist() == [20, 10, 250]


def test_grey_image_has_three_channels(tmp_path):
    Image.new('L', (16, 12), 77).save(tmp_path / 'a.jpg')
    assert read_image(str(tmp_path / 'a.jpg')).shape == (12, 16, 3)


def test_image_keeps_the_orientation_of_its_pixels(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new('RGB', (16, 12)).save(tmp_path / 'a.jpg', exif=exif)
    assert read_image(str(tmp_path / 'a.jpg')).shape == (12, 16, 3)


@pytest.mark.parametrize('orientation', range(1, 9))
@pytest.mark.parametrize('extension', ['jpg', 'png'])
def test_photos_are_turned_upright_on_demand(tmp_path, orientation, extension):
    path, exif = str(tmp_path / f'a.{extension}'), Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    ramps = np.mgrid[0:240:48j, 0:240:64j]
    Image.fromarray(np.stack([*ramps, ramps[0] * 0], axis=2).astype(np.uint8)).save(path, exif=exif, quality=95)
    upright = read_image(path, upright=True)
    # OpenCV turns photos by itself.
    np.testing.assert_allclose(upright.astype(int), cv2.imread(path), atol=6)
    image, shape, reduction, found = read_photo(path, True, lambda *_: (12, 12))
    assert found == orientation
    assert shape == upright.shape[:2] == ((64, 48) if orientation > 4 else (48, 64))
    assert reduction == (4 if (orientation, extension) == (1, 'jpg') else 1)
    assert image.shape[0] == shape[0] // reduction


def test_a_photo_with_damaged_exif_data_stays_as_it_is(tmp_path):
    path, exif = tmp_path / 'a.webp', Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.new('RGB', (16, 12)).save(path, exif=exif)
    data = path.read_bytes()
    assert read_image(str(path), upright=True).shape == (16, 12, 3)
    start = data.index(b'MM\0*')
    path.write_bytes(data[:start] + b'??' + data[start + 2 :])
    assert read_image(str(path), upright=True).shape == (12, 16, 3)


@pytest.mark.parametrize('extension', ['png', 'tif'])
def test_16_bits_of_grey_become_8(tmp_path, extension):
    levels = np.arange(0, 65536, 64, dtype=np.uint16).reshape(32, 32)
    path = str(tmp_path / f'a.{extension}')
    Image.fromarray(levels).save(path)
    np.testing.assert_array_equal(read_image(path)[..., 1], levels // 256)


def test_grey_levels_without_a_range_are_refused(tmp_path):
    Image.fromarray(np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)).save(tmp_path / 'a.tif')
    with pytest.raises(ValueError, match=r"a\.tif holds grey levels of 32 bits \(mode 'F'\)"):
        read_image(str(tmp_path / 'a.tif'))


@pytest.mark.parametrize('share', [0.0, 0.02, 0.3, 0.6, 0.9, 0.99, 0.999])
@pytest.mark.parametrize('name', ['a.jpg', 'a.png', 'progressive.jpg'])
def test_truncated_image(tmp_path, name, share):
    pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    path = tmp_path / name
    Image.fromarray(pixels).save(path, progressive=name.startswith('progressive'))
    truncate(path, share)
    with pytest.raises(ValueError, match=rf'{name}.*truncated'):
        read_image(str(path))


def test_png_without_its_last_bytes_is_truncated(tmp_path):
    path = tmp_path / 'a.png'
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ValueError, match=r'a\.png.*truncated'):
        read_image(str(path))
