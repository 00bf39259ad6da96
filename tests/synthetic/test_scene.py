import numpy as np
import pytest

from mmvmt.synthetic.classes import CONTEXT_IDS, VOC_CLASSES, VOC_IDS
from mmvmt.synthetic.primitives import Draw
from mmvmt.synthetic.scene import compose, compose_object


@pytest.fixture(scope='module')
def scenes():
    return [compose(Draw((1, index))) for index in range(60)]


def test_cameras_look_down_their_own_z_and_stand_above_the_ground(scenes):
    for scene in scenes:
        np.testing.assert_allclose(scene.camera @ scene.camera.T, np.eye(3), atol=1e-12)
        assert np.linalg.det(scene.camera) == pytest.approx(1)
        assert scene.position[1] > 0.2
        # Rolled by a few degrees at most.
        assert scene.camera[1, 1] > 0.6
        assert abs(scene.camera[0, 1]) < 0.1


def test_solids_come_before_planes_and_belong_to_entities(scenes):
    for scene in scenes:
        assert 0 < scene.planes < len(scene.prims)
        assert scene.prims.entity.max() == len(scene.entities) - 1
        assert scene.shadow_casters.max() < scene.planes
        assert scene.prims.material.max() < len(scene.materials.period)


def test_light_comes_from_above(scenes):
    for scene in scenes:
        for direction in (scene.lights.key, scene.lights.fill):
            assert np.linalg.norm(direction) == pytest.approx(1)
            assert direction[1] > 0


def test_rooms_and_open_grounds_both_occur(scenes):
    grounds = [{entity.context_id for entity in scene.entities} for scene in scenes]
    for name in ('floor', 'wall', 'grass', 'water'):
        assert any(CONTEXT_IDS[name] in ground for ground in grounds), name


def test_rooms_have_three_planes_and_walls_behind_everything(scenes):
    rooms = [scene for scene in scenes if len(scene.prims) - scene.planes == 3]
    assert len(rooms) > 10
    for scene in rooms:
        depth = scene.prims.center[scene.planes + 1, 2]
        objects = [index for index, entity in enumerate(scene.entities) if entity.class_id]
        assert (scene.prims.center[np.isin(scene.prims.entity, objects), 2] > depth).all()


@pytest.mark.parametrize('name', VOC_CLASSES[1:])
def test_a_single_object_is_the_only_one_of_a_class(name):
    for seed in range(4):
        entities = compose_object(Draw(seed), name).entities
        assert [entity.class_id for entity in entities if entity.class_id] == [VOC_IDS[name]]
