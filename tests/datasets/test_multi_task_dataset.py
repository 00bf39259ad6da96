import json
import pickle
import shutil

import numpy as np
import pytest
from commands import run
from mmengine.registry import DATASETS
from own_folder import LABELS, TASKS, build_own_folder
from pascal_mt_folder import build_folder
from PIL import Image

import mmvmt
from mmvmt.datasets import LabelReader, multi_task_dataset, plausibility
from mmvmt.datasets.samplers import SampleKey
from mmvmt.registry import LABEL_READERS

TEST_PIPELINE = [
    dict(type='mmvmt.LoadMultiTaskImage'),
    dict(type='mmvmt.LoadMultiTaskAnnotations'),
    dict(type='mmvmt.PackMultiTaskInputs'),
]
TRAIN_PIPELINE = [
    *TEST_PIPELINE[:2],
    dict(type='mmvmt.MultiTaskRandomScaleCrop', crop_size=(32, 48)),
    dict(type='mmvmt.MultiTaskRandomFlip', prob=0.5),
    TEST_PIPELINE[-1],
]


@pytest.fixture
def own(tmp_path):
    return build_own_folder(tmp_path / 'own')


@pytest.fixture
def log(monkeypatch):
    messages = []
    for module in (multi_task_dataset, plausibility):
        monkeypatch.setattr(module, 'print_log', lambda message, **_: messages.append(message))
    return messages


def build(folder, **options):
    return DATASETS.build(folder.config(pipeline=TEST_PIPELINE, test_mode=True) | options)


def snapshot(root):
    return {path: path.stat().st_mtime_ns for path in root.rglob('*')}


def check_maps(folder, dataset):
    """The samples of a data set hold what was written, and nothing where nothing was."""
    for index in range(len(dataset)):
        sample = dataset[index]['data_samples']
        assert set(sample.gt.keys()) == set(TASKS)
        for task, maps in folder.maps.items():
            label, row = sample.gt.get(task), mmvmt.structures.TASKS[task]
            if sample.img_id in maps:
                expected = maps[sample.img_id]
                label = label[0] if expected.ndim == 2 else label.permute(1, 2, 0)
                np.testing.assert_allclose(label, expected, atol=1e-6)
            else:
                assert label.shape == (row.channels, 40, 60)
                assert not row.known(label).any()


def test_samples_hold_what_the_folder_holds(own, log):
    before = snapshot(own.root)
    dataset = build(own)
    assert [dataset.get_data_info(index)['img_id'] for index in range(len(dataset))] == sorted(own.ids)
    check_maps(own, dataset)
    assert snapshot(own.root) == before
    assert any('6 images, with labels: crops 6, lanes 3, albedo 4' in message for message in log)
    assert any('crops: 2 of 6 maps have another size' in message for message in log)
    assert dataset.metainfo['crops_classes'] == ('soil', 'wheat', 'maize')
    assert dataset.get_data_info(0)['num_classes'] == dict(crops=3)


@pytest.mark.parametrize('absolute', [False, True])
def test_a_list_of_ids(own, absolute):
    path = own.root / 'lists/first.txt'
    dataset = build(own, ann_file=str(path) if absolute else 'lists/first.txt')
    assert [dataset.get_data_info(index)['img_id'] for index in range(len(dataset))] == own.ids[:4]
    check_maps(own, dataset)
    assert dataset.index_of(own.ids[2]) == 2


def test_an_annotation_file_with_paths(own, log):
    samples, by_pattern = [], build(own)
    for index, img_id in enumerate(own.ids):
        info = by_pattern.get_data_info(by_pattern.index_of(img_id))
        paths = {task: path for task, path in info['label_paths'].items() if path is not None}
        if index % 2:
            paths = {task: path[len(str(own.root)) + 1 :] for task, path in paths.items()}
        samples.append(dict(img_path=info['img_path'], label_paths=paths | dict(other='x.png'), img_id=img_id))
    del samples[0]['img_id']
    (own.root / 'all.json').write_text(json.dumps(dict(metainfo=dict(note='mine'), data_list=samples)))
    labels = {task: entry | dict(path=None) for task, entry in LABELS.items() if task != 'crops'} | dict(crops={})
    options = dict(ann_file='all.json', labels=labels, tasks=TASKS)
    log.clear()
    dataset = build(own, **options)
    assert dataset.get_data_info(0)['img_id'] == str(own.root / f'photos/{own.ids[0]}')
    assert dataset.metainfo['note'] == 'mine'
    assert any('with labels: crops 6, lanes 3, albedo 4' in message for message in log)
    samples[0]['img_id'] = own.ids[0]
    (own.root / 'all.json').write_text(json.dumps(dict(data_list=samples)))
    check_maps(own, build(own, **options))

    # A pattern serves the samples that the file names no path of.
    del samples[3]['label_paths']['crops']
    (own.root / 'all.json').write_text(json.dumps(dict(data_list=samples)))
    check_maps(own, build(own, **options | dict(labels=LABELS)))
    with pytest.raises(ValueError, match=rf"all\.json: sample '{own.ids[3]}' has no label_paths\.crops"):
        build(own, **options)


@pytest.mark.parametrize(
    'content, message',
    [
        ('[]', 'has no data_list'),
        ('{"data_list": []}', 'has no data_list'),
        ('{"data_list": [{}]}', 'sample 0 of data_list has no img_path'),
        ('{"data_list": [{"img_path": "a.jpg", "label_paths": 3}]}', 'label_paths of sample 0 must be paths by task'),
        ('{"data_list": [{"img_path": "a.jpg"}, {"img_path": "a.png"}]}', "has the image ID 'a' twice"),
        ('{', 'is not valid JSON'),
    ],
)
def test_bad_annotation_files(own, content, message):
    (own.root / 'all.json').write_text(content)
    with pytest.raises(ValueError, match=rf'all\.json.*{message}'):
        build(own, ann_file='all.json')


def test_pictures_of_any_ending(own, log):
    for suffix, index in {'.png': 0, '.tif': 1, '.bmp': 2, '.webp': 3}.items():
        img_id = own.ids[index]
        (path,) = (own.root / 'photos').glob(f'{img_id}.*')
        Image.open(path).save(path.with_suffix(suffix))
        path.unlink()
    assert len(build(own, images='photos/{id}')) == len(build(own, images='photos/{id}.*')) == 6
    assert len(build(own)) == 2
    assert any('4 pictures in' in message and 'leave the ending out of the pattern' in message for message in log)
    listed = build(own, ann_file='lists/first.txt')
    assert [listed[index]['inputs'].shape for index in range(4)] == [(3, 40, 60)] * 4
    Image.new('RGB', (60, 40)).save(own.root / f'photos/{own.ids[0]}.gif')
    with pytest.raises(ValueError, match=rf"have the same ID '{own.ids[0]}'"):
        build(own, images='photos/{id}')


def test_label_maps_among_the_pictures_are_no_pictures(own):
    for path in (own.root / 'lanes').rglob('*.png'):
        shutil.copy(path, own.root / 'photos' / path.relative_to(own.root / 'lanes'))
    labels = LABELS | dict(lanes=dict(path='photos/{id}_mask.png', missing='ignore'))
    check_maps(own, build(own, images='photos/{id}', labels=labels))


def test_some_of_the_tasks_and_samples(own):
    mmvmt.structures.declare_tasks(TASKS)
    dataset = build(own, tasks=['lanes', 'crops'], labels=LABELS, indices=[1, 3])
    assert dataset.metainfo['tasks'] == ('lanes', 'crops')
    assert [dataset.get_data_info(index)['sample_idx'] for index in range(len(dataset))] == [0, 1]
    assert set(dataset[0]['data_samples'].gt.keys()) == {'crops', 'lanes'}


def test_images_without_any_label_are_left_out_while_training(own, log):
    options = dict(tasks={task: TASKS[task] for task in ('lanes', 'albedo')}, labels=LABELS)
    kept = build(own, test_mode=False, **options)
    assert len(build(own, **options)) == 6
    # The fourth of six has neither.
    assert [kept.get_data_info(index)['img_id'] for index in range(len(kept))] == sorted(set(own.ids) - {own.ids[3]})
    assert any('lanes 3, albedo 4; 1 without any label are left out' in message for message in log)


def test_a_seed_fixes_the_sample(own):
    dataset = build(own, pipeline=TRAIN_PIPELINE, test_mode=False)
    first, same, other = (dataset[SampleKey(2, seed)]['inputs'] for seed in (11, 11, 12))
    assert first.equal(same)
    assert not first.equal(other)


def test_decoded_arrays_are_kept_in_a_cache(own, tmp_path, monkeypatch):
    first, second = (build(own, cache_dir=str(tmp_path / 'cache')) for _ in range(2))
    check_maps(own, first)
    monkeypatch.setattr('mmvmt.datasets.arrays._read_npz', None)
    check_maps(own, second)
    assert len(list((tmp_path / 'cache').rglob('*.npz'))) == 4


def test_another_process_that_gets_the_data_set_knows_its_tasks(own, tmp_path):
    (tmp_path / 'dataset.pickle').write_bytes(pickle.dumps(build(own)))
    program = tmp_path / 'program.py'
    program.write_text(
        f'import pickle\ndataset = pickle.load(open({str(tmp_path / "dataset.pickle")!r}, "rb"))\n'
        'print(len(dataset), sorted(dataset[0]["data_samples"].gt.keys()))'
    )
    assert run(program).stdout == "6 ['albedo', 'crops', 'lanes']\n"


def test_a_reader_of_your_own_with_a_file_beside(own):
    for img_id in own.ids:
        (own.root / f'crops/{img_id}.txt').parent.mkdir(exist_ok=True)
        (own.root / f'crops/{img_id}.txt').write_text('2')

    @LABEL_READERS.register_module()
    class OnlyClassReader(LabelReader):
        def __call__(self, files, path):
            path, beside = path
            return (super().__call__(files, path) == int(open(beside).read())).astype(np.uint8)

    try:
        entry = dict(type='OnlyClassReader', path=LABELS['crops'], beside=['crops/{id}.txt'])
        dataset = build(own, labels=LABELS | dict(crops=entry))
        for index in range(len(dataset)):
            sample = dataset[index]['data_samples']
            np.testing.assert_array_equal(sample.gt.crops[0], own.maps['crops'][sample.img_id] == 2)
    finally:
        LABEL_READERS.module_dict.pop('OnlyClassReader')


BAD = {
    'pattern of pictures without an ID': (
        dict(images='photos/a.jpg'),
        r"images is 'photos/a\.jpg', one file for every",
    ),
    'pattern without an ID': (
        dict(labels=LABELS | dict(lanes='lanes/a.png')),
        r"labels\.lanes\.path is 'lanes/a\.png'",
    ),
    'pattern that fits nothing': (
        dict(labels=LABELS | dict(crops='crops/{id}.tif')),
        r"none of 6 images has a label of task 'crops': there is no file such as .*own/crops/.*\.tif.*labels\.crops",
    ),
    'pattern of pictures that fits nothing': (
        dict(images='crops/{id}.gif'),
        r"images='crops/\{id\}\.gif' fits no picture",
    ),
    'all labels missing': (
        dict(labels=LABELS | dict(lanes=dict(path='lanes/{id}.bmp', missing='ignore'))),
        r"none of 6 images has a label of task 'lanes'.*own/lanes/.*\.bmp",
    ),
    'folder of a task': (
        dict(labels=LABELS | dict(lanes='lines/{id}.png')),
        "has no folder lines, which holds task 'lanes'",
    ),
    'folder of pictures': (dict(images='images/{id}'), 'has no folder images, which holds the images'),
    'no labels of a task': (
        dict(tasks=TASKS | dict(depth=None)),
        "has no labels for task 'depth'; it has crops, lanes",
    ),
    'unknown task': (dict(tasks=['trees']), "unknown task 'trees'; known tasks are crops, lanes, albedo"),
    'undeclared task': (dict(tasks=None), "unknown task 'crops'.*declare your own"),
    'option of a reader': (dict(labels=LABELS | dict(lanes=dict(pth='{id}'))), r'labels\.lanes: .*pth'),
    'no list of IDs': (dict(ann_file='lists/none.txt'), r'split file .*lists/none\.txt is missing'),
    'no path': (dict(labels=LABELS | dict(lanes={})), r'labels\.lanes has no path'),
    'names of classes': (
        dict(metainfo=dict(crops_classes=('a', 'b'))),
        r"task 'crops' is declared with 3 classes, but metainfo\.crops_classes has 2 names",
    ),
    'number of classes': (dict(num_classes=dict(crops=4)), r"task 'crops' has 4 classes, but metainfo\.crops_classes"),
}


@pytest.mark.parametrize('case', BAD)
def test_what_cannot_be(own, case):
    options, message = BAD[case]
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        build(own, **options)


def test_an_id_without_a_picture_is_named(own):
    (own.root / 'lists/first.txt').write_text(f'{own.ids[0]}\nday9/none\n')
    shutil.copytree(own.root / 'crops/checked/day0', own.root / 'crops/checked/day9')
    with pytest.raises(FileNotFoundError, match=r'missing file .*photos/day9/none\.jpg; check'):
        build(own, ann_file='lists/first.txt')[1]


def test_maps_of_another_size_are_refused_if_asked(own):
    dataset = build(own, strict=True)
    with pytest.raises(ValueError, match=r'size mismatch: the label map in .*own/crops/.*20 x 30 .* 40 x 60'):
        dataset[dataset.index_of(own.ids[2])]


def test_more_classes_than_declared(own):
    path = own.root / f'crops/checked/{own.ids[0]}.png'
    Image.fromarray(np.full((40, 60), 3, np.uint8)).save(path)
    dataset = build(own)
    with pytest.raises(ValueError, match=rf'{path} holds the class 3 at .*crops classes are 0 to 2'):
        dataset[dataset.index_of(own.ids[0])]


def test_labels_beside_those_of_a_known_layout(tmp_path):
    folder = build_folder(tmp_path / 'PASCAL_MT')
    (folder.root / 'lanes').mkdir()
    Image.new('L', (60, 40), 255).save(folder.root / f'lanes/{folder.train[1]}.png')
    labels = dict(lanes=dict(path='lanes/{id}.png', missing='ignore'))
    tasks = dict(semseg=None, lanes=TASKS['lanes'])
    options = dict(data_root=str(folder.root), labels=labels, tasks=tasks, pipeline=TEST_PIPELINE)
    dataset = DATASETS.build(dict(type='mmvmt.PASCALContextMT', **options))
    assert [dataset[index]['data_samples'].gt.lanes.max().item() for index in range(3)] == [255, 1, 255]
