import cv2
import numpy as np
import pytest

from mmvmt.datasets.transforms import label_maps
from mmvmt.structures import TASKS, NormalsAxes

SCALAR_TASKS = [task for task in TASKS.values() if task.kind != 'vectors']
NORMALS = TASKS['normals']


def lengths(vectors):
    return np.linalg.norm(vectors, axis=2)


@pytest.mark.parametrize('task', TASKS.values(), ids=TASKS)
def test_flip_twice_is_identity(task, results):
    label = results[task.gt_key]
    once = label_maps.flip_label(task, label)
    assert not np.array_equal(once, label)
    np.testing.assert_array_equal(label_maps.flip_label(task, once), label)


def test_flip_mirrors_and_negates_x():
    vectors = np.array([[[0.6, 0.0, 0.8], [0.0, 1.0, 0.0]]], dtype=np.float32)
    expected = np.array([[[0.0, 1.0, 0.0], [-0.6, 0.0, 0.8]]], dtype=np.float32)
    np.testing.assert_array_equal(label_maps.flip_label(NORMALS, vectors), expected)
    assert vectors[0, 0, 0] == np.float32(0.6), 'the input is left alone'


@pytest.mark.parametrize('task', SCALAR_TASKS, ids=lambda task: task.name)
@pytest.mark.parametrize('size', [(72, 48), (18, 12), (50, 31)])
def test_scalar_maps_get_no_new_values(task, size, results):
    label = results[task.gt_key]
    resized = label_maps.resize_label(task, label, *size)
    assert resized.shape == size[::-1]
    assert resized.dtype == label.dtype
    assert set(np.unique(resized)) <= set(np.unique(label))


@pytest.mark.parametrize('task', TASKS.values(), ids=TASKS)
def test_doubling_repeats_the_nearest_pixel(task, results):
    label = results[task.gt_key]
    if task.kind == 'vectors':
        label = np.broadcast_to(np.array([0.0, 0.6, 0.8], dtype=np.float32), label.shape).copy()
        label[8:12] = 0
    doubled = label_maps.resize_label(task, label, 72, 48)
    np.testing.assert_allclose(doubled, label.repeat(2, axis=0).repeat(2, axis=1), atol=1e-6)


def test_resized_normals_are_the_direction_between_known_neighbours():
    vectors = np.array([[[1, 0, 0], [0, 1, 0], [0, 0, 0], [0, 0, 0]]], dtype=np.float32)
    resized = label_maps.resize_label(NORMALS, vectors, 8, 1)[0]
    # Bilinear weights of the 2nd and 3rd new pixel are 3/4 and 1/4; the 4th has only one known neighbour.
    diagonal = np.sqrt(0.75**2 + 0.25**2)
    expected = np.zeros((8, 3))
    expected[0] = [1, 0, 0]
    expected[1] = np.array([0.75, 0.25, 0]) / diagonal
    expected[2] = np.array([0.25, 0.75, 0]) / diagonal
    expected[3] = [0, 1, 0]
    np.testing.assert_allclose(resized, expected, atol=1e-6)


def test_opposite_normals_become_unknown_and_no_nan():
    vectors = np.array([[[1, 0, 0], [-1, 0, 0]]], dtype=np.float32)
    assert label_maps.resize_label(NORMALS, vectors, 1, 1).tolist() == [[[0, 0, 0]]]


@pytest.mark.parametrize('size', [(72, 48), (18, 12), (50, 31)])
def test_resized_normals_are_unit_or_unknown(size, results):
    length = lengths(label_maps.resize_label(NORMALS, results['gt_normals'], *size))
    known = length > 0
    np.testing.assert_allclose(length[known], 1, atol=1e-5)
    assert known.any()
    assert not known.all()


def quarter_turn(shape):
    height, width = shape
    return cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), 90, 1.0)


@pytest.mark.parametrize('task', SCALAR_TASKS, ids=lambda task: task.name)
def test_quarter_turn_of_a_square(task, results):
    label = results[task.gt_key][:24, :24]
    turned = label_maps.rotate_label(task, label, quarter_turn((24, 24)), None)
    np.testing.assert_array_equal(turned, np.rot90(label))


@pytest.mark.parametrize(
    'axes, x_becomes, y_becomes',
    [
        (NormalsAxes('right', 'up'), (0, 1), (-1, 0)),
        (NormalsAxes('left', 'up'), (0, -1), (1, 0)),
        (NormalsAxes('right', 'down'), (0, -1), (1, 0)),
        (NormalsAxes('left', 'down'), (0, 1), (-1, 0)),
    ],
    ids=str,
)
def test_quarter_turn_of_normals(axes, x_becomes, y_becomes):
    vectors = np.zeros((5, 5, 3), dtype=np.float32)
    vectors[..., 2] = 1
    vectors[1, 4] = [1, 0, 0]
    vectors[2, 0] = [0, 0.6, 0.8]
    turned = label_maps.rotate_label(NORMALS, vectors, quarter_turn((5, 5)), axes)
    expected = np.rot90(vectors).copy()
    assert expected[0, 1].tolist() == [1, 0, 0]
    expected[0, 1] = [*x_becomes, 0]
    expected[4, 2] = [0.6 * y_becomes[0], 0.6 * y_becomes[1], 0.8]
    np.testing.assert_allclose(turned, expected, atol=1e-6)


@pytest.mark.parametrize('task', TASKS.values(), ids=TASKS)
def test_what_turns_in_from_outside_is_unknown(task):
    if task.kind == 'vectors':
        label = np.full((20, 40, 3), np.sqrt(1 / 3), dtype=np.float32)
    else:
        label = np.ones((20, 40), dtype=np.float32 if task.kind == 'metric' else np.uint8)
    turned = label_maps.rotate_label(task, label, quarter_turn((20, 40)), NormalsAxes())
    np.testing.assert_array_equal(turned[:, :10], np.full_like(turned[:, :10], task.ignore))
    np.testing.assert_array_equal(turned[:, 30:], np.full_like(turned[:, 30:], task.ignore))
    assert (turned[:, 11:29] != task.ignore).any()


def test_rotated_normals_stay_unit_or_unknown(results):
    matrix = cv2.getRotationMatrix2D((17.5, 11.5), 13, 1.0)
    length = lengths(label_maps.rotate_label(NORMALS, results['gt_normals'], matrix, NormalsAxes()))
    np.testing.assert_allclose(length[length > 0], 1, atol=1e-5)
    assert (length == 0).sum() > 40


@pytest.mark.parametrize('task', TASKS.values(), ids=TASKS)
def test_padding_is_unknown(task, results):
    label = results[task.gt_key]
    padded = label_maps.pad_label(task, label, 40, 30)
    assert padded.dtype == label.dtype
    np.testing.assert_array_equal(padded[:24, :36], label)
    assert (padded[24:] == task.ignore).all()
    assert (padded[:, 36:] == task.ignore).all()


def test_labelled_tasks(results):
    assert {task.name for task in label_maps.labelled_tasks(results)} == set(TASKS)
    del results['gt_edge']
    assert 'edge' not in {task.name for task in label_maps.labelled_tasks(results)}
