import numpy as np
import pytest
import torch

from mmvmt.structures import NormalsAxes, register_task, voc_palette
from mmvmt.visualization.drawing import (
    HATCH_COLORS,
    PALETTES,
    colorize,
    draw_multi_task,
    palette_of,
    robust_range,
)


def is_hatched(pixels):
    return {tuple(pixel) for pixel in pixels.reshape(-1, 3).tolist()} == {
        tuple(color) for color in HATCH_COLORS.tolist()
    }


def contains(picture, part):
    """Whether `part` occurs somewhere in `picture`."""
    height, width = part.shape[:2]
    corners = np.argwhere((picture == part[0, 0]).all(-1))
    return any(np.array_equal(picture[y : y + height, x : x + width], part) for y, x in corners)


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (130, 150, 3), np.uint8)


class TestPalettes:
    @pytest.mark.parametrize(
        'label,color',
        [
            (0, (0, 0, 0)),
            (1, (128, 0, 0)),
            (2, (0, 128, 0)),
            (3, (128, 128, 0)),
            (7, (128, 128, 128)),
            (8, (64, 0, 0)),
            (15, (192, 128, 128)),
            (20, (0, 64, 128)),
            (255, (224, 224, 192)),
        ],
    )
    def test_voc_colors(self, label, color):
        assert tuple(voc_palette()[label]) == color

    @pytest.mark.parametrize('task,num_classes', [('semseg', 21), ('human_parts', 7)])
    def test_colors_of_classes_differ(self, task, num_classes):
        colors = PALETTES[task][:num_classes].astype(int)
        distances = np.abs(colors[:, None] - colors[None]).sum(-1)
        assert (distances[~np.eye(num_classes, dtype=bool)] >= 60).all()


class TestColorize:
    def test_classes(self):
        label_map = np.full((16, 16), 15, np.uint8)
        label_map[:8] = 255
        picture = colorize('semseg', label_map)
        assert picture.shape == (16, 16, 3)
        assert picture.dtype == np.uint8
        assert (picture[8:] == (192, 128, 128)).all()
        assert is_hatched(picture[:8])

    @pytest.mark.parametrize('task,label', [('human_parts', 7), ('human_parts', 254)])
    def test_class_without_color(self, task, label):
        with pytest.raises(ValueError, match=f"'{task}' holds class {label}; there are colours for 0 to 6"):
            colorize(task, np.full((4, 4), label, np.uint8))

    @pytest.mark.parametrize('task', ['saliency', 'edge'])
    def test_binary_labels(self, task):
        label_map = np.array([[0, 1] * 8, [255] * 16] * 8, np.uint8)
        picture = colorize(task, label_map)
        assert (picture[::2, ::2] == 0).all()
        assert (picture[::2, 1::2] == 255).all()
        assert is_hatched(picture[1::2])

    def test_probabilities(self):
        picture = colorize('saliency', np.array([[0, 0.2, 1]], np.float32))
        assert picture.tolist() == [[[0] * 3, [51] * 3, [255] * 3]]

    def test_normals(self):
        normals = np.array([[(0, 0, 1), (-1, 0, 0), (0, 1, 0), (0, 0, 0)]], np.float32)
        picture = colorize('normals', normals)
        assert picture.tolist() == [[[128, 128, 255], [0, 128, 128], [128, 255, 128], [128, 128, 128]]]

    def test_depth(self):
        depth = np.tile(np.linspace(1, 5, 20, dtype=np.float32), (16, 1))
        depth[:, 10] = 0
        picture = colorize('depth', depth)
        brightness = np.delete(picture[0].sum(-1, dtype=int), 10)
        assert (np.diff(brightness) >= 0).all()
        assert brightness[-1] - brightness[0] > 300
        assert is_hatched(picture[:, 10])

    def test_depth_range(self):
        depth = np.array([[2.0, 4.0]], np.float32)
        far = colorize('depth', depth, value_range=(0, 4))
        assert far[0, 1].sum() == colorize('depth', depth, value_range=(0, 2))[0, 0].sum()
        assert far[0, 0].sum() < far[0, 1].sum()

    def test_values_of_one_channel_are_ordered_and_may_be_negative(self):
        register_task('height', kind='values', unit='m')
        heights = np.tile(np.linspace(-3, 3, 20, dtype=np.float32), (16, 1))
        heights[:, 10] = np.nan
        picture = colorize('height', heights)
        brightness = np.delete(picture[0].astype(float) @ (0.3, 0.6, 0.1), 10)
        assert (np.diff(brightness) >= 0).all()
        assert is_hatched(picture[:, 10])

    def test_directions_have_hues_and_lengths_colour(self):
        register_task('flow', kind='values', channels=2, motion='displacement')
        flow = np.array([[(8, 0), (-8, 0), (0, 0), (4, 0)], [(np.nan, np.nan)] * 4], np.float32)
        picture = colorize('flow', flow, value_range=(0, 8))
        assert picture[0].tolist() == [[255, 0, 0], [0, 255, 255], [255, 255, 255], [255, 128, 128]]
        assert is_hatched(np.tile(picture[1], (8, 2, 1)))
        register_task('wind', kind='vectors', channels=2)
        assert colorize('wind', np.array([[(1, 0), (-1, 0)]], np.float32)).tolist() == [[[255, 0, 0], [0, 255, 255]]]

    @pytest.mark.parametrize('channels', [3, 5])
    def test_the_first_three_values_are_red_green_and_blue(self, channels):
        register_task('albedo', kind='values', channels=channels)
        albedo = np.full((4, 8, channels), 0.5, np.float32)
        albedo[:, :4, :3] = (1, 0, 0.2)
        assert colorize('albedo', albedo)[0, ::4].tolist() == [[255, 0, 51], [128, 128, 128]]
        assert robust_range([100 * albedo], 'albedo')[1] == 100
        np.testing.assert_array_equal(
            colorize('albedo', torch.from_numpy(albedo).permute(2, 0, 1)), colorize('albedo', albedo)
        )

    def test_palettes_of_declarations_and_data_sets(self):
        red, blue = (255, 0, 0), (0, 0, 255)
        register_task('crops', kind='classes', classes=2, palette=[red, blue])
        register_task('lanes', kind='binary', palette=[blue, red])
        register_task('species', kind='classes', classes=300)
        labels = np.array([[0, 1]], np.uint8)
        assert colorize('crops', labels).tolist() == [[[*red], [*blue]]]
        assert colorize('lanes', labels).tolist() == [[[*blue], [*red]]]
        assert colorize('lanes', np.array([[0.2]], np.float32)).tolist() == [[[51, 0, 204]]]
        meta = dict(crops_palette=[blue, red], palette=[red, red])
        assert colorize('crops', labels, palette=palette_of('crops', meta)).tolist() == [[[*blue], [*red]]]
        assert palette_of('semseg', meta).tolist() == [[*red], [*red]]
        assert palette_of('semseg').tolist() == PALETTES['semseg'].tolist()
        assert colorize('species', np.array([[299, 65535]], np.int32))[0, 0].tolist() == [*voc_palette(300)[299]]

    @pytest.mark.parametrize('value', [0, 3])
    def test_constant_depth(self, value):
        assert colorize('depth', np.full((8, 8), value, np.float32)).shape == (8, 8, 3)

    def test_colours_of_normals_mean_the_same_direction_in_all_axes(self):
        names = ('left', 'right', 'up', 'down', 'to the viewer')
        pictures = [
            colorize('normals', np.array([[axes.direction(name) for name in names]], np.float32), axes=axes)
            for axes in (NormalsAxes(), NormalsAxes('right', 'up'), NormalsAxes('left', 'down'))
        ]
        expected = [(255, 128, 128), (0, 128, 128), (128, 255, 128), (128, 0, 128), (128, 128, 255)]
        for picture in pictures:
            assert [tuple(color) for color in picture[0].tolist()] == expected

    @pytest.mark.parametrize('width', [3, 5])
    def test_layouts_of_normals_agree(self, width):
        normals = np.random.default_rng(0).uniform(-1, 1, (4, width, 3)).astype(np.float32)
        expected = colorize('normals', normals)
        tensor = torch.from_numpy(normals).permute(2, 0, 1)
        np.testing.assert_array_equal(colorize('normals', tensor), expected)
        if width != 3:
            np.testing.assert_array_equal(colorize('normals', tensor.numpy()), expected)

    def test_layouts_of_one_channel_agree(self):
        labels = np.random.default_rng(0).integers(0, 21, (1, 6, 5), np.uint8)
        for variant in (labels, labels[0], torch.from_numpy(labels), torch.from_numpy(labels[0])):
            np.testing.assert_array_equal(colorize('semseg', variant), PALETTES['semseg'][labels[0]])

    def test_leaves_its_input_alone(self):
        for task, label_map in (('semseg', np.full((4, 4), 255, np.uint8)), ('depth', np.zeros((4, 4), np.float32))):
            before = label_map.copy()
            colorize(task, label_map)
            np.testing.assert_array_equal(label_map, before)

    @pytest.mark.parametrize(
        'task,shape,message',
        [
            ('semseg', (2, 4, 4), r"'semseg' must be \(H, W\) or \(1, H, W\), got \(2, 4, 4\)"),
            ('normals', (4, 4), r"'normals' must be \(3, H, W\) or \(H, W, 3\), got \(4, 4\)"),
            ('pose', (4, 4), "unknown task 'pose'"),
        ],
    )
    def test_bad_input(self, task, shape, message):
        with pytest.raises(ValueError, match=message):
            colorize(task, np.zeros(shape, np.float32))


def test_robust_range_ignores_unknown_and_outliers():
    depth = np.concatenate([np.zeros(500), np.linspace(2, 4, 500), [1000]]).astype(np.float32)[None]
    assert robust_range([depth]) == pytest.approx((2.04, 3.97), abs=0.03)
    assert robust_range([np.zeros((2, 2), np.float32)]) == (0, 1)


class TestDrawMultiTask:
    def test_every_map_is_in_the_picture(self, image):
        rng = np.random.default_rng(1)
        rows = {
            name: {
                'semseg': rng.integers(0, 21, image.shape[:2]).astype(np.uint8),
                'saliency': rng.random(image.shape[:2]).astype(np.float32),
            }
            for name in ('truth', 'prediction')
        }
        picture = draw_multi_task(image, rows)
        assert picture.dtype == np.uint8
        assert picture.shape[0] > 2 * 130
        assert picture.shape[1] > 3 * 150
        assert contains(picture, image)
        for maps in rows.values():
            for task, label_map in maps.items():
                assert contains(picture, colorize(task, label_map))

    def test_columns_come_in_the_order_given(self, image):
        black, white = np.zeros(image.shape[:2], np.float32), np.ones(image.shape[:2], np.float32)
        for order in (('saliency', 'edge'), ('edge', 'saliency')):
            maps = {'saliency': black, 'edge': white}
            picture = draw_multi_task(image, {'row': {task: maps[task] for task in order}})
            row = picture[-40]
            is_black = np.flatnonzero((row[150:] == 0).all(-1)).mean()
            assert (is_black < len(row[150:]) / 2) == (order[0] == 'saliency')

    def test_maps_are_resized_to_the_image(self, image):
        small = np.array([[0, 1], [2, 3]], np.uint8)
        picture = draw_multi_task(image, {'truth': {'semseg': small}})
        assert contains(picture, colorize('semseg', small.repeat(65, 0).repeat(75, 1)))

    def test_small_picture_is_enlarged_by_a_whole_factor(self):
        image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
        assert contains(draw_multi_task(image, {}), image.repeat(4, 0).repeat(4, 1))

    def test_depth_maps_share_a_range(self, image):
        near, far = np.full(image.shape[:2], 1, np.float32), np.full(image.shape[:2], 9, np.float32)
        picture = draw_multi_task(image, {'truth': {'depth': near}, 'prediction': {'depth': far}})
        for depth in (near, far):
            assert contains(picture, colorize('depth', depth, (1, 9)))

    def test_missing_task_leaves_a_blank(self, image):
        edge = np.zeros(image.shape[:2], np.float32)
        picture = draw_multi_task(image, {'truth': {'semseg': edge.astype(np.uint8)}, 'prediction': {'edge': edge}})
        assert contains(picture, np.full((120, 140, 3), 255, np.uint8))

    def test_labels_and_title_take_ink(self, image):
        blank = {'': {'semseg': np.zeros(image.shape[:2], np.uint8)}}
        named = {'prediction': blank['']}
        plain, with_row, with_title = (draw_multi_task(image, rows) for rows in (blank, named, named))
        with_title = draw_multi_task(image, named, 'a title')
        assert (plain[:20] < 128).any()
        assert (with_row[30:, :15] < 128).any()
        assert not (plain[30:, :3] < 128).any()
        assert with_title.shape[0] > with_row.shape[0]
        assert (with_title[: with_title.shape[0] - with_row.shape[0]] < 128).any()

    def test_long_title_is_shortened(self, image):
        picture = draw_multi_task(image, {}, 'long ' * 200)
        assert (picture[:, -2:] == 255).all()

    @pytest.mark.parametrize('bad', [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32)])
    def test_bad_image(self, bad):
        with pytest.raises(ValueError, match=r'image must be \(H, W, 3\) uint8'):
            draw_multi_task(bad, {})
