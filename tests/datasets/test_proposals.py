import numpy as np
import pytest

from mmvmt.datasets.plausibility import LabelStatistics
from mmvmt.datasets.proposals import class_weights, propose
from mmvmt.structures import declare_tasks


@pytest.fixture(autouse=True)
def declared():
    declare_tasks(
        dict(
            crops=dict(kind='classes'),
            lanes=dict(kind='binary'),
            heat=dict(kind='values', unit='K'),
            range=dict(kind='metric'),
        )
    )


def measured(task, maps):
    total = LabelStatistics()
    for number, label in enumerate(maps):
        one = LabelStatistics()
        one.measure(task, label)
        one.note_file(task, f'{number}.png')
        total.add(one)
    return total


def test_weights_even_out_what_they_are_made_of():
    assert class_weights([10, 20, 40]) == [2.0, 1.0, 0.5]
    assert class_weights([3, 0, 3]) == [1.0, 1.0, 1.0]


def test_uneven_classes():
    labels = np.zeros((10, 10), np.uint8)
    labels[0, :4], labels[1], labels[2] = 3, 2, 255
    lines = propose('crops', measured('crops', [labels]))
    assert lines[0] == 'share of labelled pixels: 0 84.4%, 2 11.1%, 3 4.4%; 10.0% of all are unlabelled'
    assert lines[1:3] == [
        'no pixel of class 1',
        'no classes are declared; what was read needs at least num_classes=dict(crops=4)',
    ]
    assert 'class_weight=[0.13, 1.0, 1.0, 2.5]' in lines[3]
    named = propose('crops', measured('crops', [labels]), 3, ('soil', 'rye', 'oat', 'maize', 'rape'))
    assert named[0] == '3 of 4 images have no label (75%)'
    assert named[2] == 'no pixel of class 1 (rye), 4 (rape)'


def test_masks_with_little_foreground():
    mask = np.zeros((10, 10), np.uint8)
    mask[0, 0] = 1
    lines = propose('lanes', measured('lanes', [mask]))
    assert lines[0].startswith('1.0% of labelled pixels are foreground; 0.0%')
    assert 'positive_weight=0.99' in lines[1]
    assert len(propose('lanes', measured('lanes', [mask, 1 - mask]))) == 1


def test_numbers_far_from_one_and_files_unlike_the_others():
    ramp = np.linspace(1, 200, 12, dtype=np.float32).reshape(3, 4)
    lines = propose('heat', measured('heat', [ramp]))
    assert lines[0] == 'values from 1 to 200 K; 0.0% of pixels are unlabelled'
    assert 'labels=dict(heat=dict(scale=0.005))' in lines[1]
    assert len(propose('heat', measured('heat', [ramp / 200]))) == 1
    maps = [ramp / 100] * 9 + [ramp, np.full_like(ramp, 2), np.zeros_like(ramp)]
    lines = propose('range', measured('range', maps))
    assert lines[1:] == [
        'look at: a single value in 10.png',
        'look at: no labelled pixel in 11.png',
        'look at: values more than 20 times as large as in most files in 9.png',
    ]


def test_nothing_labelled():
    assert propose('lanes', LabelStatistics(), 4) == ['4 of 4 images have no label (100%)']
