import numpy as np
import pytest

from mmvmt.datasets import normals_valid_ids
from mmvmt.synthetic import ATTRIBUTES, Sample, render_attributes, render_scene
from mmvmt.synthetic.classes import CONTEXT_IDS, PART_LABELS, PERSON, VOC_CLASSES, VOC_IDS
from mmvmt.synthetic.people import POSES
from mmvmt.synthetic.primitives import Draw
from mmvmt.synthetic.render import _color_name, _Frame, _sector, check_size
from mmvmt.synthetic.scene import SETTINGS, compose


@pytest.fixture(scope='module')
def samples():
    return [render_scene((11, index), 64) for index in range(120)]


def maps(sample):
    fields = ('img', 'semseg', 'human_parts', 'saliency', 'normals', 'depth', 'edge', 'label_map')
    return {name: getattr(sample, name) for name in fields}


def test_maps_have_the_documented_types(samples):
    sample = render_scene(5, (48, 80))
    expected = dict(
        img=((48, 80, 3), np.uint8),
        semseg=((48, 80), np.uint8),
        human_parts=((48, 80), np.uint8),
        saliency=((48, 80), np.uint8),
        normals=((48, 80, 3), np.float32),
        depth=((48, 80), np.float32),
        edge=((48, 80), np.uint8),
        label_map=((48, 80), np.uint16),
    )
    assert {name: (value.shape, value.dtype) for name, value in maps(sample).items()} == expected


def test_a_seed_decides_every_byte():
    first, again, other = (render_scene(seed, 64) for seed in ((3, 1), (3, 1), (3, 2)))
    for name, value in maps(first).items():
        assert value.tobytes() == maps(again)[name].tobytes(), name
    assert first.img.tobytes() != other.img.tobytes()
    assert [item.mask.tobytes() for item in first.objects] == [item.mask.tobytes() for item in again.objects]


def test_labels_are_in_range_and_agree(samples):
    known = {0, *CONTEXT_IDS.values()}
    for sample in samples:
        assert sample.semseg.max() < len(VOC_CLASSES)
        assert sample.human_parts.max() <= max(PART_LABELS.values())
        assert set(np.unique(sample.saliency)) <= {0, 1}
        assert set(np.unique(sample.label_map)) <= known
        for name in ('person', 'car', 'tvmonitor', 'sheep'):
            same = (sample.semseg == VOC_IDS[name]) == (sample.label_map == CONTEXT_IDS[name])
            assert same.all()


def test_every_class_and_part_occurs(samples):
    assert set(np.concatenate([np.unique(s.semseg) for s in samples])) == set(range(len(VOC_CLASSES)))
    assert set(np.concatenate([np.unique(s.human_parts) for s in samples])) == set(range(7))
    with_person = np.mean([bool(s.persons) for s in samples])
    assert 0.35 < with_person < 0.7


def test_body_parts_make_up_people(samples):
    found = 0
    for sample in samples:
        everyone = np.zeros(sample.semseg.shape, bool)
        for mask, parts in sample.persons:
            assert set(parts) <= set(PART_LABELS)
            for name, part in parts.items():
                assert part.any()
                assert not (part & ~mask).any()
                assert (sample.human_parts[part] == PART_LABELS[name]).all()
            everyone |= mask
            found += 1
        np.testing.assert_array_equal(everyone, sample.semseg == PERSON)
        assert (sample.human_parts[~everyone] == 0).all()
        assert (sample.human_parts[everyone] > 0).all()
    assert found > 40


def test_masks_of_objects_make_up_the_classes(samples):
    for sample in samples:
        semseg = np.zeros_like(sample.semseg)
        total = np.zeros(semseg.shape, int)
        for item in sample.objects:
            assert item.mask.any()
            assert item.class_id == PERSON or not item.parts
            semseg[item.mask] = item.class_id
            total += item.mask
        assert total.max() <= 1
        np.testing.assert_array_equal(semseg, sample.semseg)


def test_the_salient_object_is_one_whole_object(samples):
    shares = []
    for sample in samples:
        salient = sample.saliency > 0
        assert any((item.mask == salient).all() for item in sample.objects) or not sample.objects
        shares.append(salient.mean())
    assert np.mean(np.array(shares) > 0.01) > 0.9


def test_normals_are_unit_vectors_on_surfaces_and_zero_on_the_sky(samples):
    for sample in samples:
        sky = sample.label_map == CONTEXT_IDS['sky']
        lengths = np.linalg.norm(sample.normals, axis=-1)
        np.testing.assert_allclose(lengths[~sky], 1, atol=1e-5)
        assert (lengths[sky] == 0).all()
        np.testing.assert_array_equal(sample.depth == 0, sky)
    assert np.mean([np.isin(s.label_map, list(normals_valid_ids())).mean() for s in samples]) > 0.45


def test_visible_surfaces_face_the_camera(samples):
    # Without the field of view, a bound: the ray leans at most 31 degrees along the longer side, 44 in the corner.
    for sample in samples:
        surface = sample.depth > 0
        assert sample.normals[surface][:, 2].min() > -np.sin(np.radians(46))
        floor = np.isin(sample.label_map, [CONTEXT_IDS[name] for name in ('floor', 'grass', 'sand', 'water')])
        assert (sample.normals[floor][:, 1] > 0.5).all()


def test_normals_agree_with_the_slope_of_depth(samples):
    """On floors, where depth is a smooth function of the pixel, its gradient gives the direction of the normal."""
    checked = 0
    for sample in samples:
        floor = sample.label_map == CONTEXT_IDS['floor']
        # 1 / depth is linear in the pixel on a plane: its gradient is proportional to the normal's (-x, -y).
        inverse = 1 / np.where(sample.depth > 0, sample.depth, np.nan)
        slope_y, slope_x = np.gradient(inverse.astype(np.float64))
        inner = floor.copy()
        for axis in (0, 1):
            for shift in (1, -1):
                inner &= np.roll(floor, shift, axis)
        inner[[0, -1]] = inner[:, [0, -1]] = False
        if inner.sum() < 100:
            continue
        n = sample.normals[inner]
        along = np.stack([-slope_x[inner], -slope_y[inner]])
        # A floor is below the camera, so that inverse depth grows downwards, against the normal's y.
        cosine = (n[:, :2].T * -along).sum(0) / np.linalg.norm(n[:, :2], axis=1) / np.linalg.norm(along, axis=0)
        assert np.median(cosine) > 0.999
        checked += 1
    assert checked > 30


def test_edges_lie_between_different_labels(samples):
    for sample in samples:
        changes = np.zeros(sample.edge.shape, bool)
        changes[:, :-1] |= sample.label_map[:, 1:] != sample.label_map[:, :-1]
        changes[:-1] |= sample.label_map[1:] != sample.label_map[:-1]
        assert (sample.edge[changes] == 1).all()
        assert sample.edge.mean() < 0.3


def test_pictures_have_contrast(samples):
    for sample in samples:
        assert sample.img.std() > 12
        assert 30 < sample.img.mean() < 225


@pytest.mark.parametrize(
    'size, message',
    [
        (31, 'size 31 is too small: both sides need at least 32 pixels'),
        ((64, 16), 'too small'),
        ((64, 64, 3), 'must be one number or'),
        (-5, 'too small'),
    ],
)
def test_bad_sizes_are_rejected(size, message):
    with pytest.raises(ValueError, match=message):
        render_scene(0, size)


def test_sizes_are_height_and_width():
    assert check_size(40) == (40, 40)
    assert check_size((40, 50)) == (40, 50)
    assert isinstance(render_scene(0, (40, 50)), Sample)


@pytest.fixture(scope='module')
def described():
    return [render_attributes((12, index), 48) for index in range(150)]


def test_attributes_are_in_range_and_all_occur(described):
    seen = {name: set() for name in ATTRIBUTES}
    for image, attributes in described:
        assert image.shape == (48, 48, 3)
        assert image.dtype == np.uint8
        for name, value in attributes.items():
            seen[name].update(value if isinstance(value, list) else [value])
        assert attributes['count'] >= min(len(attributes.get('presence', ())), 4)
    for name, values in ATTRIBUTES.items():
        assert seen[name] <= set(range(values)), name
    for name in ('presence', 'setting', 'view', 'pose'):
        assert seen[name] == set(range(ATTRIBUTES[name])), name
    # Light falls in from the front half of the circle and its sides.
    assert len(seen['light']) >= 4
    assert len(seen['color']) >= 9


@pytest.mark.parametrize('seed', range(6))
def test_attributes_are_what_the_maps_show(seed):
    def frame():
        draw = Draw((13, seed))
        return _Frame(compose(draw), draw, 96, 96)

    sample, (image, attributes) = frame().sample(), frame().attributes()
    assert image.tobytes() == sample.img.tobytes()
    large = [item for item in sample.objects if item.mask.mean() >= 0.005]
    assert attributes['presence'] == sorted({item.class_id - 1 for item in large})
    assert attributes['count'] == min(len(large), 4)
    salient = sample.semseg[sample.saliency > 0]
    assert (salient == attributes['subject'] + 1).all()
    assert ('pose' in attributes) == (attributes['subject'] + 1 == PERSON)
    mean = sample.img[sample.saliency > 0].mean(0) / 255
    assert attributes['color'] == _color_name(mean)


def test_a_picture_without_an_object_says_nothing_of_one():
    draw = Draw(1)
    scene = compose(draw)
    for entity in scene.entities:
        entity.class_id = 0
    _, attributes = _Frame(scene, draw, 48, 48).attributes()
    assert set(attributes) == {'count', 'setting', 'light'}
    assert attributes['count'] == 0
    assert SETTINGS[attributes['setting']] == scene.setting


def test_eighths_of_a_circle_and_names_of_colours():
    assert [_sector(degrees) for degrees in (0, 22.4, 22.6, 90, 180, -45, 337.4, 337.6, 720)] == [
        0,
        0,
        1,
        2,
        4,
        7,
        7,
        0,
        0,
    ]
    colors = [(1, 0, 0), (0, 1, 0), (0, 0, 1), (0.1, 0.1, 0.1), (0.5, 0.5, 0.5), (1, 1, 1)]
    assert [_color_name(np.array(color)) for color in colors] == [0, 2, 5, 8, 9, 10]
    assert ATTRIBUTES['pose'] == len(POSES)
