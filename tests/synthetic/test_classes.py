import pytest

from mmvmt.datasets import normals_valid_ids, pascal_context_classes
from mmvmt.datasets.formats import PART_GROUPS
from mmvmt.datasets.pascal_context_mt import PASCALContextMT
from mmvmt.synthetic.classes import CONTEXT_IDS, PART_CLASSES, PART_LABELS, VOC_CLASSES, context_id


def test_context_ids_are_those_of_the_data_set():
    known = pascal_context_classes()
    assert {name: known[name] for name in CONTEXT_IDS} == CONTEXT_IDS


def test_classes_are_those_of_the_data_set():
    assert PASCALContextMT.METAINFO['classes'] == VOC_CLASSES


def test_parts_are_merged_as_the_data_set_does():
    assert PASCALContextMT.METAINFO['human_parts_classes'] == PART_CLASSES
    merged = {part: label for label, parts in enumerate(PART_GROUPS.values(), 1) for part in parts}
    assert {part: merged[part] for part in PART_LABELS} == PART_LABELS


@pytest.mark.parametrize('name', VOC_CLASSES[1:])
def test_every_object_class_has_a_context_class(name):
    assert context_id(name) == pascal_context_classes()['table' if name == 'diningtable' else name]


def test_rooms_have_valid_normals_and_the_sky_has_none():
    valid = normals_valid_ids()
    assert {CONTEXT_IDS[name] for name in ('floor', 'wall', 'person', 'sofa', 'car', 'box', 'picture')} <= valid
    assert CONTEXT_IDS['sky'] not in valid
