import numpy as np
import pytest

from mmvmt.synthetic import geometry
from mmvmt.synthetic.classes import CONTEXT_IDS, VOC_CLASSES
from mmvmt.synthetic.clutter import CLUTTER
from mmvmt.synthetic.objects import FOOTPRINTS, OBJECTS
from mmvmt.synthetic.primitives import Assembly, Draw


def bounds(build, seed):
    a = Assembly()
    a.begin()
    build(a, Draw(seed))
    prims = a.primitives()
    half = geometry.half_extents(prims.kind, prims.axes, prims.scale, prims.shape)
    materials = a.materials()
    assert materials.color.min() >= 0
    assert max(materials.color.max(), materials.second.max()) <= 1
    assert (prims.material < len(materials.period)).all()
    return (prims.center - half).min(0), (prims.center + half).max(0)


def test_every_object_class_can_be_built():
    assert set(OBJECTS) == set(FOOTPRINTS) == set(VOC_CLASSES[1:])


@pytest.mark.parametrize('name', OBJECTS)
def test_objects_stand_on_the_ground_and_keep_to_their_footprint(name):
    width, length, height = FOOTPRINTS[name]
    for seed in range(12):
        low, high = bounds(OBJECTS[name], seed)
        assert -0.12 < low[1] < 0.4
        assert high[1] < 1.45 * height
        reach = np.maximum(np.abs(low), np.abs(high))
        assert np.hypot(reach[0], reach[2]) < 1.6 * np.hypot(width, length) + 0.5


@pytest.mark.parametrize('name', OBJECTS)
def test_objects_of_a_class_vary(name):
    looks = set()
    for seed in range(6):
        a = Assembly()
        a.begin()
        OBJECTS[name](a, Draw(seed))
        looks.add(a.materials().color.tobytes())
    assert len(looks) == 6


@pytest.mark.parametrize('name', CLUTTER)
def test_clutter_stands_on_the_ground_and_has_a_context_class(name):
    context, build, radius = CLUTTER[name]
    assert context in CONTEXT_IDS
    for seed in range(6):
        low, high = bounds(build, seed)
        assert low[1] == pytest.approx(0, abs=0.02)
        assert max(high[0], high[2], -low[0], -low[2]) < 1.8 * radius
