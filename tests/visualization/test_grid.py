import numpy as np
import pytest

from mmvmt.visualization import colorize, draw_grid

IMAGE = np.random.default_rng(0).integers(0, 256, (41, 63, 3), dtype=np.uint8)
SEMSEG = np.arange(41 * 63).reshape(41, 63) % 21
DEPTH = np.linspace(1, 9, 41 * 63, dtype=np.float32).reshape(41, 63)
MAPS = dict(semseg=SEMSEG.astype(np.uint8), saliency=DEPTH / 9, depth=DEPTH)


@pytest.mark.parametrize('columns, layout', [(None, (2, 2)), (1, (4, 1)), (3, (2, 3)), (9, (1, 4))])
def test_every_cell_has_the_size_of_the_picture(columns, layout):
    picture = draw_grid(IMAGE, MAPS, columns)
    rows, columns = layout
    height, width = picture.shape[:2]
    assert (height % 2, width % 2) == (0, 0)
    line = height // rows - 41
    assert 10 < line < 40
    cells = [IMAGE, *(colorize(task, label_map) for task, label_map in MAPS.items())]
    for index, cell in enumerate(cells):
        y, x = index // columns * (41 + line) + line, index % columns * 63
        np.testing.assert_array_equal(picture[y : y + 41, x : x + 63], cell)
        label = picture[y - line : y, x : x + 63]
        assert label.min() < 100 < label.max()


def test_fixed_range_of_depth():
    near, far = draw_grid(IMAGE, dict(depth=DEPTH), 2, (0, 10)), draw_grid(IMAGE, dict(depth=DEPTH), 2, (0, 100))
    assert far[-20:, 64:-1].mean() < near[-20:, 64:-1].mean() - 20


def test_wrong_arguments():
    with pytest.raises(ValueError, match='columns must be 1 or more, got 0'):
        draw_grid(IMAGE, MAPS, 0)
    with pytest.raises(ValueError, match="the map of task 'depth' has 20 x 63 pixels, the picture has 41 x 63"):
        draw_grid(IMAGE, dict(depth=DEPTH[:20]))
