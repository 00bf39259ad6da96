import logging

import numpy as np
import pytest
from evaluation_samples import make_sample, pairs, random_samples, score
from mmengine.logging import MMLogger

from mmvmt.evaluation import IoUMetric
from mmvmt.structures import register_task

NUM_CLASSES = 5


def iou_by_formula(maps, num_classes):
    """IoU per class by sets of pixels; None for a class that is nowhere."""
    values = []
    for label in range(num_classes):
        intersection = union = 0
        for pred, gt in maps:
            for p, g in zip(pred.ravel().tolist(), gt.ravel().tolist()):
                if g == 255:
                    continue
                intersection += p == label and g == label
                union += p == label or g == label
        values.append(intersection / union if union else None)
    return values


def sample_of(pred, gt, img_id='a'):
    return make_sample(img_id, {'semseg': (np.array([pred], np.uint8), np.array([gt], np.uint8))})


@pytest.fixture
def logged():
    """Messages that go to the current logger."""
    records = []
    handler = logging.Handler()
    handler.emit = lambda record: records.append((record.levelno, record.getMessage()))
    logger = MMLogger.get_current_instance()
    logger.addHandler(handler)
    yield records
    logger.removeHandler(handler)


@pytest.mark.parametrize('batch_size', [1, 3])
def test_matches_formula(batch_size):
    samples = random_samples(('semseg',), 4)
    expected = iou_by_formula(pairs(samples, 'semseg'), NUM_CLASSES)
    metric = IoUMetric('semseg', NUM_CLASSES)
    assert score(metric, samples, batch_size) == pytest.approx({'semseg/mIoU': 100 * np.mean(expected)})
    assert list(metric.class_iou.values()) == pytest.approx([100 * value for value in expected])


def test_counts_over_the_set_not_per_image():
    samples = [sample_of([[1, 1, 1, 1]], [[1, 1, 1, 1]]), sample_of([[0]], [[1]])]
    metric = IoUMetric('semseg', 2)
    score(metric, samples)
    assert metric.class_iou == pytest.approx({'0': 0, '1': 80})


@pytest.mark.parametrize('absent_class,expected', [('left_out', 50), ('zero', 25)])
def test_absent_class(absent_class, expected, logged):
    # Class 0 is right, class 1 only in the truth, class 2 in neither, class 3 only behind ignored pixels.
    sample = sample_of([[0, 0, 0, 3]], [[0, 0, 1, 255]])
    metric = IoUMetric('semseg', 4, absent_class=absent_class, class_names=['sky', 'sea', 'sand', 'ship'])
    iou = [2 / 3, 0]
    mean = 100 * sum(iou) / (2 if absent_class == 'left_out' else 4)
    assert mean == pytest.approx(expected * 2 / 3)
    for _ in range(2):
        assert score(metric, [sample]) == pytest.approx({'semseg/mIoU': mean})
    messages = [message for _, message in logged if 'sand' in message]
    assert len(messages) == 1
    assert 'sand, ship' in messages[0]
    assert ('left out' if absent_class == 'left_out' else 'scored zero') in messages[0]


def test_class_only_predicted_scores_zero():
    metric = IoUMetric('semseg', 3)
    assert score(metric, [sample_of([[0, 2]], [[0, 0]])]) == pytest.approx({'semseg/mIoU': 25})


def test_background_counts():
    assert score(IoUMetric('semseg', 2), [sample_of([[0, 1]], [[0, 1]])]) == {'semseg/mIoU': 100}
    assert score(IoUMetric('semseg', 2), [sample_of([[1, 1]], [[0, 1]])]) == {'semseg/mIoU': 25}


@pytest.mark.parametrize('absent_class', ['left_out', 'zero'])
def test_image_without_labelled_pixel_adds_nothing(absent_class):
    samples = [sample_of([[0, 1]], [[0, 0]])]
    empty = sample_of([[0, 1]], [[255, 255]], 'empty')
    assert score(IoUMetric('semseg', 2), [*samples, empty]) == score(IoUMetric('semseg', 2), samples)


@pytest.mark.parametrize('absent_class', ['left_out', 'zero'])
def test_set_without_labelled_pixel_is_an_error(absent_class):
    with pytest.raises(ValueError, match='semseg: no labelled pixel in the whole set'):
        score(IoUMetric('semseg', 2, absent_class=absent_class), [sample_of([[0, 1]], [[255, 255]])])


def test_label_outside_names_image_and_value():
    with pytest.raises(
        ValueError, match=r"semseg of image 'b7': the truth holds class 21, and the classes are 0 to 20"
    ):
        IoUMetric('semseg', 21).process(None, [sample_of([[0, 1]], [[0, 21]], 'b7')])


def test_predicted_class_outside():
    with pytest.raises(ValueError, match=r"image 'b7': the prediction holds class 255"):
        IoUMetric('semseg', 21).process(None, [sample_of([[0, 255]], [[0, 1]], 'b7')])


def test_ignore_index_can_be_another():
    result = score(IoUMetric('semseg', 2, ignore_index=9), [sample_of([[0, 1, 1]], [[0, 1, 9]])])
    assert result == {'semseg/mIoU': 100}


@pytest.mark.parametrize(
    'arguments,message',
    [
        ({'num_classes': 1}, 'num_classes must be 2 or more'),
        ({'num_classes': 3, 'ignore_index': 2}, 'ignore_index 2 is one of the 3 classes'),
        ({'num_classes': 3, 'absent_class': 'nan'}, "got 'nan'"),
        ({'num_classes': 3, 'class_names': ['a', 'b']}, '2 names for 3 classes'),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        IoUMetric('semseg', **arguments)


def test_a_declared_task_says_its_classes():
    register_task('crops', kind='classes', classes=['soil', 'wheat'])
    metric = IoUMetric('crops')
    assert (metric.num_classes, metric.class_names) == (2, ['soil', 'wheat'])
    metric.dataset_meta = {'crops_classes': ('Boden', 'Weizen')}
    assert metric.class_names == ['Boden', 'Weizen']
    with pytest.raises(ValueError, match="'crops' is 3, but the task is declared with 2 classes"):
        IoUMetric('crops', num_classes=3)
    with pytest.raises(ValueError, match="needs num_classes: task 'semseg' is not declared with its classes"):
        IoUMetric('semseg')
    register_task('species', kind='classes', classes=300)
    gt, pred = np.array([[[299, 299, 0, 65535]]], np.int32), np.array([[[299, 0, 0, 4]]], np.int32)
    assert score(IoUMetric('species'), [make_sample('a', dict(species=(pred, gt)))]) == {'species/mIoU': 50}


def test_names_come_from_the_data_set_which_must_have_as_many():
    metric = IoUMetric('human_parts', num_classes=2)
    assert metric.class_names == ['0', '1']
    metric.dataset_meta = {'human_parts_classes': ('background', 'head'), 'classes': ('a', 'b')}
    assert metric.class_names == ['background', 'head']
    metric.dataset_meta = {'name': 'toy'}
    assert metric.class_names == ['0', '1']
    with pytest.raises(ValueError, match=r"task 'human_parts' is 2, but the data set has 3 .*dict\(human_parts=2\)"):
        metric.dataset_meta = {'human_parts_classes': ('background', 'head', 'torso')}
    assert IoUMetric('semseg', num_classes=2, class_names=('x', 'y')).class_names == ['x', 'y']
