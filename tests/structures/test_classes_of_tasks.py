import pytest

from mmvmt.datasets import PASCALContextMT
from mmvmt.structures import declare_tasks, declared_classes, names_key, task_metainfo, voc_palette, with_classes

META = PASCALContextMT.METAINFO


def test_what_a_data_set_declares():
    assert (names_key('semseg'), names_key('human_parts')) == ('classes', 'human_parts_classes')
    assert declared_classes(META) == {'semseg': 21, 'human_parts': 7}
    assert declared_classes({'name': 'toy'}) == {}


def test_without_a_wish_nothing_changes():
    assert with_classes(META, (), {}) == META


def test_a_number_brings_names_and_colours_of_its_own():
    meta = with_classes(META, (), {'semseg': 40})
    assert (len(meta['classes']), meta['classes'][39], meta['palette']) == (40, 'class 39', voc_palette(40))
    assert meta['human_parts_classes'] == META['human_parts_classes']


def test_names_give_the_number_and_keep_their_colours():
    meta = with_classes(META | {'classes': ('sea', 'land')}, ('classes',), {})
    assert (meta['classes'], meta['palette']) == (('sea', 'land'), voc_palette(2))
    colours = [(0, 0, 255), (0, 255, 0)]
    given = {'classes': ('sea', 'land'), 'palette': colours}
    assert with_classes(META | given, given, {'semseg': 2})['palette'] == colours


@pytest.mark.parametrize(
    'given, counts, message',
    [
        ({'classes': ('sea', 'land')}, {'semseg': 3}, 'semseg.* has 3 classes, but metainfo.classes has 2 entries'),
        ({'palette': [(0, 0, 0)]}, {}, 'has 21 classes, but metainfo.palette has 1 entries'),
        ({}, {'semseg': 1}, "num_classes of task 'semseg' must be between 2 and 255, got 1"),
        ({}, {'semseg': 256}, 'got 256'),
        ({}, {'normals': 3}, "unknown task 'normals'; known tasks are semseg, human_parts"),
    ],
)
def test_what_does_not_agree(given, counts, message):
    with pytest.raises(ValueError, match=message):
        with_classes(META | given, given, counts)


def test_meta_information_of_declared_tasks():
    tasks = dict(
        crops=dict(kind='classes', classes=['soil', 'wheat']), species=dict(kind='classes', classes=300), depth=None
    )
    meta = task_metainfo(declare_tasks(tasks))
    assert meta['tasks'] == ('crops', 'species', 'depth')
    assert meta['task_declarations']['crops'] == dict(kind='classes', classes=['soil', 'wheat'])
    assert 'depth' not in meta['task_declarations']
    assert meta['crops_classes'] == ('soil', 'wheat')
    assert declared_classes(meta) == dict(crops=2, species=300)
    assert len(meta['species_palette']) == 300
    assert with_classes(meta, (), {}) == meta


def test_number_of_classes_ends_at_the_unknown_label():
    declare_tasks(dict(own=dict(kind='classes'), species=dict(kind='classes', ignore=65535)))
    with pytest.raises(ValueError, match="num_classes of task 'own' must be between 2 and 255, got 256"):
        with_classes({}, (), dict(own=256))
    assert len(with_classes({}, (), dict(species=256))['species_classes']) == 256


def test_colours_of_many_classes_differ():
    assert len(set(voc_palette(3000))) == 3000
    assert voc_palette(3)[1:] == [(128, 0, 0), (0, 128, 0)]
