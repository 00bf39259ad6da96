import numpy as np
import pytest
from mmengine.registry import DATASETS
from pascal_mt_folder import build_folder, write_parts
from PIL import Image
from scipy.io import savemat
from torch.utils.data import DataLoader

import mmvmt  # noqa: F401  registers the scope
from mmvmt.datasets import plausibility
from mmvmt.datasets.integrity import FileReport, check_sample
from mmvmt.datasets.plausibility import LabelStatistics, judge
from mmvmt.structures import declare_tasks

PIPELINE = [
    dict(type='mmvmt.LoadMultiTaskImage'),
    dict(type='mmvmt.LoadMultiTaskAnnotations'),
    dict(type='mmvmt.PackMultiTaskInputs'),
]
SHAPE = (40, 60)


def build(folder, task, **kwargs):
    kind = 'mmvmt.SyntheticMT' if task == 'depth' else 'mmvmt.PASCALContextMT'
    options = dict(pipeline=PIPELINE, tasks=[task], test_mode=True) | kwargs
    return DATASETS.build(dict(type=kind, data_root=str(folder.root), **options))


@pytest.fixture
def warnings(monkeypatch):
    messages = []
    monkeypatch.setattr(plausibility, 'print_log', lambda message, **_: messages.append(message))
    return messages


def picture(task, change):
    """Changes the stored picture of every image."""

    def write(folder, img_id):
        path = folder.path(task, img_id)
        Image.fromarray(change(np.asarray(Image.open(path)))).save(path)

    return write


def depth(metres):
    def write(folder, img_id):
        (folder.root / 'depth').mkdir(exist_ok=True)
        ramp = np.linspace(1.31, 4.67, 60, dtype=np.float32)
        np.save(folder.root / f'depth/{img_id}.npy', metres(np.broadcast_to(ramp, SHAPE)))

    return write


def context(change):
    def write(folder, img_id):
        savemat(folder.path('context', img_id), {'LabelMap': change(folder.context[img_id])})

    return write


def shifted(labels):
    return np.where(labels == 255, labels, labels % 20 + 1).astype(np.uint8)


def no_person(folder, img_id):
    write_parts(folder.path('human_parts', img_id), [('dog', 12, np.ones(SHAPE, np.uint8), [])])


# task, how every file is changed, what is said of it, whether it is refused
ENCODINGS = [
    ('saliency', picture('saliency', lambda mask: mask // 255), 'stored as 0 and 1', True),
    (
        'saliency',
        picture('saliency', lambda mask: mask * 0),
        'are constant, background or foreground everywhere',
        False,
    ),
    ('saliency', picture('saliency', lambda mask: 255 - mask), 'foreground; are the masks inverted?', False),
    ('normals', picture('normals', lambda codes: codes[..., ::-1]), 'are the channels in another order?', False),
    ('semseg', picture('semseg', lambda labels: np.where(labels > 0, 255, labels)), 'hold 0 and 255 alone', False),
    ('semseg', picture('semseg', shifted), 'shifted by one', False),
    ('semseg', picture('semseg', lambda labels: labels * 0), 'hold a single value', False),
    ('semseg', picture('semseg', lambda labels: labels * 0 + 255), 'no pixel is labelled in 3 maps', False),
    ('human_parts', no_person, 'no pixel is labelled in 3 maps', False),
    ('normals', picture('normals', lambda codes: 255 - codes), '100% of the normals point away', True),
    (
        'normals',
        picture('normals', lambda codes: (codes.astype(int) * 2 - 255).clip(0, 255).astype('u1')),
        'by far',
        True,
    ),
    ('normals', picture('normals', lambda codes: codes // 40 * 40 + 30), 'are no unit vectors: black or white', False),
    ('normals', picture('normals', lambda codes: codes * 0 + np.uint8([128, 128, 255])), 'hold a single value', False),
    ('normals', context(lambda labels: labels * 0), 'no pixel is labelled in 3 maps', False),
    ('normals', context(lambda labels: labels % 59 + 1), 'edition of 59 classes', False),
    ('edge', context(lambda labels: labels % 59 + 1), 'edition of 59 classes', False),
    ('edge', context(lambda labels: labels * 0 + 7), 'are constant', False),
    ('depth', depth(lambda metres: metres * 1000), 'metres, or millimetres?', False),
]
GOOD = [
    ('semseg', lambda folder, img_id: None),
    ('human_parts', lambda folder, img_id: None),
    ('saliency', lambda folder, img_id: None),
    ('normals', lambda folder, img_id: None),
    ('edge', lambda folder, img_id: None),
    ('depth', depth(lambda metres: metres)),
]


def whole_split(folder, task):
    total = FileReport()
    dataset = build(folder, task)
    for index in range(len(dataset)):
        total.add(check_sample(dataset.get_data_info(index), deep=True)[task])
    assert total.unreadable == []
    return total


@pytest.mark.parametrize('task, write, text, impossible', ENCODINGS)
def test_other_encodings_are_noticed_by_the_check_and_once_while_training(
    pascal_mt, warnings, task, write, text, impossible
):
    for img_id in pascal_mt.train:
        write(pascal_mt, img_id)
    found = judge(task, whole_split(pascal_mt, task))
    assert [(finding.impossible, text in finding.text) for finding in found] == [(impossible, True)], found

    dataset = build(pascal_mt, task)
    for epoch in range(2):
        for index in range(3):
            if impossible and index == 2 and epoch == 0:
                with pytest.raises(ValueError, match=f'^{task}: .*{text}'):
                    dataset[index]
            else:
                dataset[index]
    said = [message for message in warnings if message.startswith(f'{task}: ') and 'another size' not in message]
    assert len(said) == (0 if impossible else 1)
    assert all(text in message for message in said)
    unjudged = build(pascal_mt, task, pipeline=[PIPELINE[0], PIPELINE[1] | dict(judge=False), PIPELINE[2]])
    warnings.clear()
    assert [unjudged[index] for index in range(3)]
    assert all('another size' in message for message in warnings)


@pytest.mark.parametrize('task, write', GOOD)
def test_nothing_is_said_of_good_files(pascal_mt, warnings, task, write):
    for img_id in pascal_mt.train:
        write(pascal_mt, img_id)
    assert judge(task, whole_split(pascal_mt, task)) == []
    dataset = build(pascal_mt, task)
    for index in range(3):
        dataset[index]
    # One map of semseg is resized.
    assert len(warnings) == (1 if task == 'semseg' else 0)


@pytest.mark.parametrize(
    'array, message',
    [
        (
            np.full(SHAPE, 1500, np.uint16),
            r'whole numbers \(uint16\), and labels\.depth\.scale .*scale=1/1000 makes metres of millimetres',
        ),
        (np.full(SHAPE, 1500.0), r'whole numbers alone, from 1500 to 1500: are these millimetres'),
    ],
)
def test_depth_in_whole_millimetres_is_refused_at_once(pascal_mt, array, message):
    depth(lambda _: array)(pascal_mt, pascal_mt.train[0])
    with pytest.raises(ValueError, match=message):
        build(pascal_mt, 'depth')[0]


def test_resized_maps_are_counted_in_one_warning_per_task(pascal_mt, warnings):
    for img_id in pascal_mt.train[:2]:
        picture('saliency', lambda mask: mask[::2, ::4])(pascal_mt, img_id)
    dataset = build(pascal_mt, 'saliency', tasks=['semseg', 'saliency'])
    for _ in range(2):
        for index in range(3):
            dataset[index]
    first, second = warnings
    sizes = '20 x 30 pixels (height x width) for 40 x 60'
    assert first.startswith('semseg: 1 of 3 maps have another size than their image and are resized to it, such as ')
    assert f'{pascal_mt.path("semseg", pascal_mt.train[2])}, {sizes}' in first
    assert second.startswith('saliency: 2 of 3 maps have another size')
    assert 'of other proportions: is it of another image?' in second


@pytest.mark.parametrize('judge', [True, False])
def test_a_map_that_is_resized_later_or_without_a_judgement_is_named(pascal_mt, warnings, monkeypatch, judge):
    monkeypatch.setattr(plausibility, 'WINDOW', 1)
    dataset = build(pascal_mt, 'semseg', pipeline=[PIPELINE[0], PIPELINE[1] | dict(judge=judge), PIPELINE[2]])
    for index in (0, 2, 2):
        dataset[index]
    (message,) = warnings
    assert f'{pascal_mt.path("semseg", pascal_mt.train[2])}, 20 x 30' in message
    assert 'further ones are not named' in message


@pytest.mark.parametrize('images, said', [(20, ['10 of 10 maps are constant']), (12, [])])
def test_workers_of_all_epochs_say_it_once_and_from_enough_maps(tmp_path, monkeypatch, images, said):
    log = tmp_path / 'log'
    log.touch()

    def note(message, **_):
        with open(log, 'a') as file:
            file.write(f'{message}\n')

    monkeypatch.setattr(plausibility, 'print_log', note)
    folder = build_folder(tmp_path / 'PASCAL_MT', train=[f'image_{number}' for number in range(images)], shape=(20, 30))
    for img_id in folder.train:
        picture('saliency', lambda mask: mask * 0)(folder, img_id)
    loader = DataLoader(build(folder, 'saliency'), num_workers=2, batch_size=1, collate_fn=list)
    for _ in range(2):
        assert len(list(loader)) == images
    messages = log.read_text().splitlines()
    assert len(messages) == len(said)
    assert all(text in message for text, message in zip(said, messages))


def test_the_window_bounds_what_is_looked_at(pascal_mt, monkeypatch):
    monkeypatch.setattr(plausibility, 'WINDOW', 2)
    measured = []
    measure = LabelStatistics.measure
    monkeypatch.setattr(
        LabelStatistics, 'measure', lambda self, *args: (measured.append(args[0]), measure(self, *args))
    )
    dataset = build(pascal_mt, 'saliency')
    for index in (0, 1, 2, 0):
        dataset[index]
    assert measured == ['saliency'] * 2


def test_maps_of_declared_tasks_are_measured_by_their_kind():
    declare_tasks(
        dict(
            flow=dict(kind='values', channels=2),
            light=dict(kind='vectors', axes=('right', 'down')),
            shine=dict(kind='metric'),
            species=dict(kind='classes', classes=300),
        )
    )
    flow = np.full((4, 5, 2), np.nan, np.float32)
    flow[:2], flow[0, 0] = (1, -2), (3, 4)
    found = {task: LabelStatistics() for task in ('flow', 'light', 'shine', 'species')}
    found['flow'].measure('flow', flow)
    # Away from the viewer, and farther than any depth in metres: neither is known of these.
    found['light'].measure('light', np.broadcast_to(np.float32((0, 0.6, -0.8)), (4, 5, 3)) + 0)
    found['shine'].measure('shine', np.linspace(1000, 2000, 20, dtype=np.float32).reshape(4, 5))
    found['species'].measure('species', np.array([[0, 299, 65535]], np.int32))
    assert found['flow'].ranges == {'channel 0': (1, 3), 'channel 1': (-2, 4)}
    assert (found['flow'].totals['known'], found['flow'].totals['pixels']) == (10, 20)
    assert found['species'].classes == {0: 1, 299: 1, 65535: 1}
    assert judge('flow', found['flow']) == judge('shine', found['shine']) == judge('species', found['species']) == []
    assert [finding.impossible for finding in judge('light', found['light'])] == [False]
    unknown = LabelStatistics()
    unknown.measure('flow', np.full((2, 2, 2), np.nan, np.float32))
    assert judge('flow', unknown)[0].text == 'no pixel is labelled in one map'


def test_one_kind_of_statistics_adds_up():
    rng = np.random.default_rng(0)
    maps = [rng.uniform(1, 9, (4, 5)).astype(np.float32) for _ in range(3)]
    total, parts = LabelStatistics(), [LabelStatistics() for _ in maps]
    for label, part in zip(maps, parts, strict=True):
        part.measure('depth', label)
        total.add(part)
    assert total.read == 3
    assert total.ranges['value'] == (min(map(np.min, maps)), max(map(np.max, maps)))
    assert total.totals['median'] == pytest.approx(sum(map(np.median, maps)))
