import cv2
import numpy as np
import pytest
from pascal_mt_folder import save_photo
from PIL import ExifTags, Image

from mmvmt.datasets.images import read_image, read_photo


def ramps(height, width):
    down, right = np.mgrid[0 : 240 : height * 1j, 0 : 240 : width * 1j]
    return np.stack([down, right, down * 0], axis=2).astype(np.uint8)


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


@pytest.mark.parametrize('orientation', range(1, 9))
@pytest.mark.parametrize('extension', ['jpg', 'png', 'webp', 'tif'])
def test_photos_stay_as_stored_or_are_turned_upright(tmp_path, orientation, extension):
    path = str(tmp_path / f'a.{extension}')
    shown = ramps(48, 64)
    save_photo(path, shown, orientation)
    upright = read_image(path, upright=True)
    np.testing.assert_allclose(upright[..., ::-1].astype(int), shown, atol=8)
    if extension == 'jpg':
        # OpenCV turns photos by itself.
        np.testing.assert_allclose(upright.astype(int), cv2.imread(path), atol=6)
    kept = tmp_path / f'stored.{extension}'
    Image.open(path).convert('RGB').save(kept, exif=Image.Exif(), quality=95)
    if extension != 'tif':
        # Pillow's own reading keeps all but TIFF as they are stored.
        np.testing.assert_allclose(read_image(path).astype(int), read_image(str(kept)), atol=8)
    assert read_image(path).shape == ((64, 48, 3) if orientation > 4 else (48, 64, 3))


@pytest.mark.parametrize('orientation', range(1, 9))
def test_a_tiff_as_it_is_stored(tmp_path, orientation):
    save_photo(tmp_path / 'a.tif', ramps(48, 64), orientation)
    save_photo(tmp_path / 'a.png', ramps(48, 64), orientation)
    np.testing.assert_array_equal(read_image(str(tmp_path / 'a.tif')), read_image(str(tmp_path / 'a.png')))


@pytest.mark.parametrize('orientation', range(1, 9))
@pytest.mark.parametrize('extension', ['jpg', 'tif'])
def test_what_is_known_of_a_photo(tmp_path, orientation, extension):
    path = str(tmp_path / f'a.{extension}')
    save_photo(path, ramps(48, 64), orientation)
    for upright in (True, False):
        image, shape, reduction, found = read_photo(path, upright, lambda *_: (12, 12))
        turned = not upright and orientation > 4
        assert (found, shape) == (orientation, (64, 48) if turned else (48, 64))
        reduced = extension == 'jpg' and (orientation == 1 or not upright)
        assert reduction == (4 if reduced else 1)
        assert image.shape[:2] == (shape[0] // reduction, shape[1] // reduction)


@pytest.mark.parametrize('orientation', [0, 9, 255])
def test_an_orientation_that_does_not_exist_is_upright(tmp_path, orientation):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    Image.new('RGB', (16, 12)).save(tmp_path / 'a.jpg', exif=exif)
    assert read_photo(str(tmp_path / 'a.jpg'), True)[1:] == ((12, 16), 1, 1)


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


def test_formats_that_only_opencv_reads(tmp_path):
    pixels = np.arange(4 * 5 * 3, dtype=np.uint16).reshape(4, 5, 3) * 1000
    assert cv2.imwrite(str(tmp_path / 'a.hdr'), (pixels / 65535).astype(np.float32))
    image = read_image(str(tmp_path / 'a.hdr'))
    assert (image.shape, image.dtype) == ((4, 5, 3), np.uint8)
    assert image[0, 0].max() < image[-1, -1].min()
