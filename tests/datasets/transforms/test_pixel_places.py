import cv2
import numpy as np
import pytest

from mmvmt.datasets.transforms.pixel_places import PictureMotion, decode_places, pixel_places

SIZE = 50, 70
INDEX = np.arange(SIZE[0] * SIZE[1]).reshape(SIZE)


def test_places_come_back():
    np.testing.assert_array_equal(decode_places(pixel_places(*SIZE), SIZE), INDEX)
    moved = pixel_places(*SIZE)[10:, ::-1]
    np.testing.assert_array_equal(decode_places(moved, SIZE), INDEX[10:, ::-1])


@pytest.mark.parametrize('value', [0, 255, -1])
def test_what_is_filled_in_is_no_pixel(value):
    padded = cv2.copyMakeBorder(pixel_places(*SIZE), 0, 3, 0, 2, cv2.BORDER_CONSTANT, value=value)
    source = decode_places(padded, SIZE)
    np.testing.assert_array_equal(source[:50, :70], INDEX)
    assert (source[50:] == -1).all()
    assert (source[:, 70:] == -1).all()


@pytest.mark.parametrize('size', [(25, 35), (100, 140), (50, 71), (49, 70), (51, 70)])
@pytest.mark.parametrize('shape', [SIZE, (50, 71), (51, 70)])
def test_means_are_found_out(size, shape):
    blurred = cv2.resize(pixel_places(*shape), size[::-1], interpolation=cv2.INTER_LINEAR)
    if size != shape:
        with pytest.raises(ValueError, match='interpolated'):
            decode_places(blurred, shape)


@pytest.mark.parametrize('dtype', [np.uint8, np.int64, np.float32])
def test_conversions_are_found_out(dtype):
    with pytest.raises(ValueError, match=f'converted .from float64 to {np.dtype(dtype)}'):
        decode_places(pixel_places(*SIZE).astype(dtype), SIZE)


@pytest.mark.parametrize('value', [np.nan, np.inf, 1e300, 1001.0])
def test_foreign_values_are_found_out(value):
    places = pixel_places(*SIZE).copy()
    places[3, 4] = value
    with pytest.raises(ValueError, match='interpolated'):
        decode_places(places, SIZE)


@pytest.mark.parametrize('new', [SIZE, (25, 35), (100, 140), (37, 99), (333, 5)])
@pytest.mark.parametrize('interpolation', [cv2.INTER_NEAREST, cv2.INTER_NEAREST_EXACT])
def test_resizing_keeps_the_whole_picture(new, interpolation):
    source = decode_places(cv2.resize(pixel_places(*SIZE), new[::-1], interpolation=interpolation), SIZE)
    assert PictureMotion.of(source, SIZE).keeps_whole_picture


@pytest.mark.parametrize(
    'source', [INDEX[:, ::-1], INDEX[::-1], INDEX[3:], INDEX[:, :60], INDEX.T, np.where(INDEX < 70, -1, INDEX)]
)
def test_all_else_does_not(source):
    assert not PictureMotion.of(source, SIZE).keeps_whole_picture
