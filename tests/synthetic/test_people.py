import numpy as np
import pytest

from mmvmt.synthetic import geometry
from mmvmt.synthetic.classes import PART_NAMES
from mmvmt.synthetic.people import POSES, draw_pose, person
from mmvmt.synthetic.primitives import Assembly, Draw


def build(pose, seed=0, **kwargs):
    a = Assembly()
    a.begin()
    person(a, Draw(seed), pose, **kwargs)
    return a.primitives()


def centers(prims, part):
    return prims.center[prims.part == PART_NAMES.index(part) + 1]


@pytest.mark.parametrize('pose', POSES)
def test_people_have_all_parts_and_human_proportions(pose):
    for seed in range(8):
        prims = build(pose, seed, **(dict(seat=0.45) if pose == 'sitting' else {}))
        assert set(prims.part) == set(range(1, len(PART_NAMES) + 1))
        half = geometry.half_extents(prims.kind, prims.axes, prims.scale, prims.shape)
        low, high = (prims.center - half)[:, 1].min(), (prims.center + half)[:, 1].max()
        assert low == pytest.approx(0, abs=0.16 if pose == 'sitting' else 0.02)
        assert (1.1 if pose == 'sitting' else 1.5) < high < 2.4


def test_left_is_the_side_of_positive_x_for_who_faces_z():
    prims = build('standing')
    assert centers(prims, 'luarm')[0, 0] > 0 > centers(prims, 'ruarm')[0, 0]
    assert centers(prims, 'leye')[0, 2] > centers(prims, 'head')[0, 2]


def test_raised_arms_are_above_the_head_and_knees_of_the_seated_are_bent():
    prims = build('arms up')
    assert centers(prims, 'lhand')[0, 1] > centers(prims, 'head')[0, 1]
    seated = build('sitting', seat=0.45)
    thigh, shin = centers(seated, 'luleg')[0], centers(seated, 'llleg')[0]
    assert abs(thigh[1] - 0.55) < 0.1
    assert shin[2] > thigh[2]


@pytest.mark.parametrize('pose', ['walking', 'running'])
def test_arms_swing_against_the_legs(pose):
    for seed in range(6):
        angles = draw_pose(pose, Draw(seed))
        assert np.sign(angles.hip[0]) == -np.sign(angles.shoulder[0][0])
        assert np.sign(angles.hip[0]) == -np.sign(angles.hip[1])


def test_an_unknown_pose_is_named():
    with pytest.raises(ValueError, match="unknown pose 'flying'; known poses are standing, walking"):
        draw_pose('flying', Draw(0))
