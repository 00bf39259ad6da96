import numpy as np
import pytest

from mmvmt.structures import MultiTaskDataSample, NormalsAxes

EVERY = [NormalsAxes(x, y) for x in ('left', 'right') for y in ('up', 'down')]


def test_without_a_word_they_are_those_of_pascal_mt():
    assert NormalsAxes().meta == dict(normals_x='left', normals_y='up')
    assert str(NormalsAxes()) == 'x left, y up, z to the viewer'


@pytest.mark.parametrize('axes', EVERY, ids=str)
def test_a_declaration_comes_back(axes):
    assert NormalsAxes.of(axes.meta) == axes
    assert NormalsAxes.of(MultiTaskDataSample(metainfo=axes.meta)) == axes


@pytest.mark.parametrize('meta', [None, {}, dict(normals_y='up'), dict(normals_x='left')])
def test_half_a_declaration_is_none(meta):
    assert NormalsAxes.of(meta) is None


@pytest.mark.parametrize('arguments', [('up', 'up'), ('left', 'left'), ('Left', 'up')])
def test_unknown_directions_are_refused(arguments):
    with pytest.raises(ValueError, match=r'normals_[xy] must be .* or .*, got '):
        NormalsAxes(*arguments)


@pytest.mark.parametrize('axes', EVERY, ids=str)
@pytest.mark.parametrize('other', EVERY, ids=str)
def test_conversion_keeps_directions(axes, other):
    for name in ('left', 'right', 'up', 'down', 'to the viewer'):
        vector = np.array(axes.direction(name), np.float32)
        assert axes.convert(vector, other).tolist() == list(other.direction(name))
        assert axes.convert(vector, other).dtype == np.float32


@pytest.mark.parametrize('axes', EVERY, ids=str)
def test_turns_move_directions_as_the_picture_does(axes):
    # Steps of a column and of a row, when the picture turns counter-clockwise by 90 degrees, and when it is mirrored.
    counter_clockwise, mirror, upside_down = ([[0, 1], [-1, 0]], [[-1, 0], [0, 1]], [[1, 0], [0, -1]])
    cases = [
        (counter_clockwise, dict(right='up', up='left', left='down', down='right')),
        (mirror, dict(right='left', left='right', up='up', down='down')),
        (upside_down, dict(right='right', left='left', up='down', down='up')),
    ]
    for matrix, goes in cases:
        turn = axes.turn(np.array(matrix))
        for start, end in (goes | {'to the viewer': 'to the viewer'}).items():
            np.testing.assert_array_equal(turn @ axes.direction(start), axes.direction(end))


def test_a_floor_turned_by_twenty_degrees():
    angle = np.deg2rad(20)
    picture = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    np.testing.assert_allclose(NormalsAxes().turn(picture) @ (0, 1, 0), [0.342, 0.940, 0], atol=5e-4)
    np.testing.assert_allclose(NormalsAxes('right').turn(picture) @ (0, 1, 0), [-0.342, 0.940, 0], atol=5e-4)
