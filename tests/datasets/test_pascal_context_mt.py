import builtins
import os
import shutil

import numpy as np
import pytest
import torch
from mmengine.registry import DATASETS
from pascal_mt_folder import build_folder
from PIL import Image
from torch.utils.data import DataLoader

import mmvmt  # noqa: F401  registers the scope
from mmvmt.datasets import PASCALContextMT, formats
from mmvmt.datasets.samplers import SampleKey

ALL = ('semseg', 'human_parts', 'saliency', 'normals', 'edge')
TRAIN_PIPELINE = [
    dict(type='mmvmt.LoadMultiTaskImage'),
    dict(type='mmvmt.LoadMultiTaskAnnotations'),
    dict(type='mmvmt.MultiTaskRandomRotate', degree=20.0, prob=0.8),
    dict(type='mmvmt.MultiTaskRandomScaleCrop', crop_size=(32, 48)),
    dict(type='mmvmt.MultiTaskRandomFlip', prob=0.5),
    dict(type='mmseg.PhotoMetricDistortion'),
    dict(type='mmvmt.PackMultiTaskInputs'),
]
TEST_PIPELINE = [TRAIN_PIPELINE[0], TRAIN_PIPELINE[1], TRAIN_PIPELINE[-1]]


def build(folder, **kwargs):
    return DATASETS.build(dict(type='mmvmt.PASCALContextMT', data_root=str(folder.root), **kwargs))


def snapshot(root):
    return {path: path.stat().st_mtime_ns for path in root.rglob('*')}


def test_samples_hold_what_the_folder_holds(pascal_mt):
    dataset = build(pascal_mt, tasks=ALL, pipeline=TEST_PIPELINE, split='val', test_mode=True)
    assert len(dataset) == 2
    for index, img_id in enumerate(pascal_mt.val):
        sample = dataset[index]['data_samples']
        assert (sample.img_id, sample.sample_idx, sample.ori_shape) == (img_id, index, (40, 60))
        np.testing.assert_array_equal(sample.gt.semseg[0], pascal_mt.semseg[img_id])
        np.testing.assert_array_equal(sample.gt.saliency[0], pascal_mt.saliency[img_id])
        valid = pascal_mt.context[img_id] != 360
        normals = sample.gt.normals.permute(1, 2, 0).numpy()
        np.testing.assert_allclose(normals[valid], pascal_mt.normals[img_id][valid], atol=0.01)
        assert not normals[~valid].any()
        assert set(sample.gt.human_parts.unique().tolist()) == ({0, 1, 3} if index == 0 else {255})
        assert 0 < sample.gt.edge.float().mean() < 0.2
        assert dataset[index]['inputs'].shape == (3, 40, 60)


@pytest.mark.parametrize('task', ALL)
def test_only_the_folders_of_enabled_tasks_are_needed(pascal_mt, task):
    needed = {
        'semseg': ['semseg'],
        'human_parts': ['human_parts'],
        'saliency': ['sal_distill'],
        'normals': ['normals_distill', 'pascal-context'],
        'edge': ['pascal-context'],
    }[task]
    for name in {'semseg', 'human_parts', 'sal_distill', 'normals_distill', 'pascal-context'} - set(needed):
        shutil.rmtree(pascal_mt.root / name)
    sample = build(pascal_mt, tasks=[task], pipeline=TEST_PIPELINE, test_mode=True)[0]['data_samples']
    assert list(sample.gt.keys()) == [task]

    shutil.rmtree(pascal_mt.root / needed[-1])
    with pytest.raises(FileNotFoundError, match=rf'has no folder .*{needed[-1]}.*{task}.*Use on PASCAL-Context'):
        build(pascal_mt, tasks=[task])


def test_semseg_is_looked_for_per_image(pascal_mt):
    dataset = build(pascal_mt, tasks=['semseg'], pipeline=TEST_PIPELINE)
    folders = [dataset.get_data_info(index)['label_paths']['semseg'] for index in range(3)]
    assert folders == [str(pascal_mt.path('semseg', img_id)) for img_id in pascal_mt.train]
    assert len({os.path.dirname(path) for path in folders}) == 2
    for index, img_id in enumerate(pascal_mt.train):
        np.testing.assert_array_equal(dataset[index]['data_samples'].gt.semseg[0], pascal_mt.semseg[img_id])


def test_a_copy_in_the_other_folder_replaces_a_missing_file(pascal_mt):
    for path in (pascal_mt.root / 'semseg/pascal-context').glob('*.png'):
        shutil.copy(path, pascal_mt.root / 'semseg/VOC12')
    shutil.rmtree(pascal_mt.root / 'semseg/pascal-context')
    shutil.copytree(pascal_mt.root / 'semseg/VOC12', pascal_mt.root / 'semseg/pascal-context')
    first, other = (pascal_mt.root / f'semseg/{name}/{pascal_mt.train[1]}.png' for name in ('VOC12', 'pascal-context'))
    first.unlink()
    dataset = build(pascal_mt, tasks=['semseg'], pipeline=TEST_PIPELINE)
    np.testing.assert_array_equal(dataset[1]['data_samples'].gt.semseg[0], pascal_mt.semseg[pascal_mt.train[1]])
    other.unlink()
    with pytest.raises(FileNotFoundError, match=f'missing file {first} or {other}'):
        dataset[1]


def test_missing_folders_of_a_task_are_all_named(pascal_mt):
    shutil.rmtree(pascal_mt.root / 'semseg')
    with pytest.raises(FileNotFoundError, match='semseg/VOC12 or semseg/pascal-context'):
        build(pascal_mt, tasks=['semseg'])


@pytest.mark.parametrize('suffix', ['.jpeg', '.png', '.JPG', '.PNG'])
def test_pictures_may_have_another_ending(pascal_mt, suffix):
    path = pascal_mt.path('image', pascal_mt.train[0])
    other = path.with_suffix(suffix)
    Image.open(path).save(other)
    path.unlink()
    dataset = build(pascal_mt, tasks=['semseg'], pipeline=TEST_PIPELINE)
    assert dataset[0]['data_samples'].img_path == str(other)
    other.unlink()
    with pytest.raises(FileNotFoundError, match=f'missing file {path}'):
        dataset[0]


def test_nothing_is_written_into_the_folder(pascal_mt):
    before = snapshot(pascal_mt.root)
    dataset = build(pascal_mt, tasks=ALL, pipeline=TRAIN_PIPELINE)
    for index in range(len(dataset)):
        dataset[index]
    assert snapshot(pascal_mt.root) == before


def test_cached_samples_equal_decoded_ones_and_read_no_mat_file(pascal_mt, tmp_path, monkeypatch):
    before = snapshot(pascal_mt.root)
    options = dict(tasks=ALL, pipeline=TEST_PIPELINE, test_mode=True)
    dataset = build(pascal_mt, **options)
    decoded = [dataset[i] for i in range(3)]
    first, second = (build(pascal_mt, cache_dir=str(tmp_path / 'cache'), **options) for _ in range(2))
    assert all(equal(a, b) for a, b in zip(decoded, (first[i] for i in range(3)), strict=True))

    def fail(path, variable):
        raise AssertionError(f'{path} was decoded again')

    monkeypatch.setattr(formats, 'read_mat', fail)
    assert all(equal(a, b) for a, b in zip(decoded, (second[i] for i in range(3)), strict=True))
    assert snapshot(pascal_mt.root) == before
    assert not (tmp_path / 'cache/semseg').exists()


def test_without_a_cache_nothing_is_kept(pascal_mt, tmp_path):
    before = set(tmp_path.rglob('*'))
    dataset = build(pascal_mt, tasks=ALL, pipeline=TEST_PIPELINE)
    dataset[0]
    assert dataset.cache_dir is None
    assert set(tmp_path.rglob('*')) == before


def test_workers_fill_one_cache(pascal_mt, tmp_path):
    options = dict(tasks=ALL, pipeline=TEST_PIPELINE, test_mode=True)
    dataset = build(pascal_mt, cache_dir=str(tmp_path / 'cache'), **options)
    loader = DataLoader(dataset, batch_size=1, sampler=[0, 0, 1, 1, 2, 2], num_workers=2, collate_fn=list)
    decoded = build(pascal_mt, **options)
    for index, packed in enumerate(loader):
        assert equal(packed[0], decoded[index // 2])
    # Parts, context labels and edges of three images.
    assert sorted(path.suffix for path in (tmp_path / 'cache').rglob('*.*')) == ['.npz'] * 9


@pytest.mark.parametrize('task', ['human_parts', 'normals', 'edge'])
def test_cached_maps_of_another_size_than_the_image_are_resized_or_refused(pascal_mt, tmp_path, task):
    options = dict(tasks=[task], pipeline=TEST_PIPELINE, cache_dir=str(tmp_path / 'cache'), test_mode=True)
    Image.new('RGB', (30, 20)).save(pascal_mt.path('image', pascal_mt.train[0]))
    first, second = (build(pascal_mt, **options)[0] for _ in range(2))
    assert equal(first, second)
    assert first['data_samples'].gt.shape == (20, 30)
    with pytest.raises(ValueError, match=r'size mismatch.*40 x 60.*20 x 30'):
        build(pascal_mt, strict=True, **options)[0]


@pytest.mark.parametrize('lazy_init', [True, False])
def test_a_cache_inside_the_folder_is_refused(pascal_mt, lazy_init):
    with pytest.raises(ValueError, match=r'cache_dir .* lies inside data_root'):
        build(pascal_mt, cache_dir=str(pascal_mt.root / 'cache'), lazy_init=lazy_init)


def test_start_up_touches_no_file_of_a_sample(pascal_mt, monkeypatch):
    ids = [f'2010_{number:06d}' for number in range(5000)]
    (pascal_mt.root / 'ImageSets/Context/train.txt').write_text('\n'.join(ids))
    touched = []

    def counted(function):
        def call(path, *args, **kwargs):
            touched.append(str(path))
            return function(path, *args, **kwargs)

        return call

    # os.path.isdir may be a C function that calls no Python-level os.stat, so it is counted by itself.
    monkeypatch.setattr(os, 'stat', counted(os.stat))
    monkeypatch.setattr(os, 'lstat', counted(os.lstat))
    monkeypatch.setattr(os, 'scandir', counted(os.scandir))
    monkeypatch.setattr(os, 'listdir', counted(os.listdir))
    for name in ('isfile', 'isdir', 'exists'):
        monkeypatch.setattr(os.path, name, counted(getattr(os.path, name)))
    monkeypatch.setattr(builtins, 'open', counted(open))
    dataset = build(pascal_mt, tasks=ALL)
    monkeypatch.undo()
    inside = [path for path in touched if path.startswith(str(pascal_mt.root))]
    assert len(dataset) == 5000
    assert any(path.endswith('train.txt') for path in inside)
    assert not [path for path in inside if '2010_' in path]
    assert len(inside) < 30


def test_missing_data_root(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"data_root '.*nowhere' is no folder.*--data-root"):
        PASCALContextMT(str(tmp_path / 'nowhere'))


def test_lazy_init_leaves_the_folder_alone(tmp_path):
    dataset = PASCALContextMT(str(tmp_path / 'nowhere'), lazy_init=True)
    with pytest.raises(FileNotFoundError, match='nowhere'):
        dataset.full_init()


@pytest.mark.parametrize('split', ['train', 'val'])
def test_missing_split_file(pascal_mt, split):
    (pascal_mt.root / f'ImageSets/Context/{split}.txt').unlink()
    with pytest.raises(FileNotFoundError, match=rf'split file .*Context/{split}\.txt is missing'):
        build(pascal_mt, split=split)


@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig', 'utf-16', 'utf-32'])
@pytest.mark.parametrize('line_end', ['\n', '\r\n', '\r'])
def test_lists_of_any_system(pascal_mt, encoding, line_end):
    text = line_end.join([*pascal_mt.train, ''])
    (pascal_mt.root / 'ImageSets/Context/train.txt').write_bytes(text.encode(encoding))
    dataset = build(pascal_mt)
    assert [dataset.get_data_info(i)['img_id'] for i in range(len(dataset))] == list(pascal_mt.train)


@pytest.mark.parametrize('encoding', ['utf-8-sig', 'utf-16'])
def test_names_of_classes_from_another_system(pascal_mt, tmp_path, encoding):
    (tmp_path / 'names.txt').write_text('wall\nfloor\n', encoding, newline='\r\n')
    dataset = build(pascal_mt, num_classes=dict(semseg=2), metainfo=dict(classes=str(tmp_path / 'names.txt')))
    assert list(dataset.metainfo['classes']) == ['wall', 'floor']


def test_marks_inside_of_a_list_are_no_part_of_an_id(pascal_mt):
    path = pascal_mt.root / 'ImageSets/Context/train.txt'
    path.write_bytes(b''.join(f'{img_id}\r\n'.encode('utf-8-sig') for img_id in pascal_mt.train))
    dataset = build(pascal_mt)
    assert [dataset.get_data_info(i)['img_id'] for i in range(len(dataset))] == list(pascal_mt.train)


@pytest.mark.parametrize('data', ['bild_ä\n'.encode('latin-1'), 'a\nb\n'.encode('utf-16-le')])
def test_a_list_in_an_unknown_encoding_is_named(pascal_mt, data):
    path = pascal_mt.root / 'ImageSets/Context/train.txt'
    path.write_bytes(data)
    with pytest.raises(ValueError, match=rf'{path} .*save it as UTF-8'):
        build(pascal_mt)


@pytest.mark.parametrize(
    'text, message',
    [('', 'is empty'), ('\n \n', 'is empty'), ('a\nb\na\n', "lists the image ID 'a' twice")],
)
def test_bad_split_file(pascal_mt, text, message):
    (pascal_mt.root / 'ImageSets/Context/train.txt').write_text(text)
    with pytest.raises(ValueError, match=rf'train\.txt {message}'):
        build(pascal_mt)


def test_unknown_split(pascal_mt):
    with pytest.raises(ValueError, match="split must be 'train' or 'val', got 'test'"):
        build(pascal_mt, split='test')


@pytest.mark.parametrize(
    'tasks, error, message',
    [
        (['semseg', 'parts'], ValueError, "unknown task 'parts'; known tasks are semseg, human_parts"),
        (['semseg', 'normals', 'semseg'], ValueError, "task 'semseg' is listed twice"),
        ([], ValueError, 'tasks is empty'),
        ('semseg', TypeError, 'must be a list of names'),
        (['semseg', 'depth'], ValueError, "no labels for task 'depth'"),
    ],
)
def test_bad_tasks(pascal_mt, tasks, error, message):
    with pytest.raises(error, match=message):
        build(pascal_mt, tasks=tasks)


@pytest.mark.parametrize('absolute', [False, True])
def test_another_list_of_ids(pascal_mt, absolute):
    (pascal_mt.root / 'few.txt').write_text(f'{pascal_mt.train[2]}\n{pascal_mt.val[1]}\n')
    dataset = build(pascal_mt, ann_file=str(pascal_mt.root / 'few.txt') if absolute else 'few.txt')
    assert [dataset.get_data_info(i)['img_id'] for i in range(2)] == [pascal_mt.train[2], pascal_mt.val[1]]


def test_index_of(pascal_mt):
    dataset = build(pascal_mt, indices=[2, 0])
    assert dataset.index_of(pascal_mt.train[0]) == 1
    for unlisted in (pascal_mt.train[1], '1999_000000'):
        with pytest.raises(KeyError, match=rf'{unlisted}.*train\.txt'):
            dataset.index_of(unlisted)


def test_metainfo(pascal_mt):
    meta = build(pascal_mt, tasks=['normals', 'semseg'], metainfo=dict(note='mine')).metainfo
    assert meta['tasks'] == ('normals', 'semseg')
    assert (len(meta['classes']), meta['classes'][15]) == (21, 'person')
    # The colours of VOC as everyone knows them: person is (192, 128, 128), tvmonitor (0, 64, 128).
    assert [meta['palette'][i] for i in (0, 1, 15, 20)] == [(0, 0, 0), (128, 0, 0), (192, 128, 128), (0, 64, 128)]
    assert len(meta['human_parts_classes']) == len(set(meta['human_parts_palette'])) == 7
    assert (meta['normals_y'], meta['note']) == ('up', 'mine')


def test_pictures_have_the_declared_colours():
    meta = PASCALContextMT.METAINFO
    assert len(meta['palette']) == 21
    assert len(meta['human_parts_palette']) == 7


def test_human_parts_alone_train_on_images_with_parts(pascal_mt):
    dataset = build(pascal_mt, tasks=['human_parts'], pipeline=TEST_PIPELINE)
    assert len(dataset) == 3
    for _ in range(5):
        sample = dataset[1]['data_samples']
        assert sample.img_id != pascal_mt.train[1]
        assert (sample.gt.human_parts != 255).any()


def test_human_parts_alone_keep_every_image_in_test_mode(pascal_mt):
    dataset = build(pascal_mt, tasks=['human_parts'], pipeline=TEST_PIPELINE, test_mode=True)
    sample = dataset[1]['data_samples']
    assert sample.img_id == pascal_mt.train[1]
    assert (sample.gt.human_parts == 255).all()


def test_human_parts_among_other_tasks_drop_nothing(pascal_mt):
    sample = build(pascal_mt, tasks=['human_parts', 'edge'], pipeline=TEST_PIPELINE)[1]['data_samples']
    assert sample.img_id == pascal_mt.train[1]


def test_crops_without_a_part_of_a_person_are_ignored(pascal_mt):
    pipeline = [*TRAIN_PIPELINE]
    pipeline[3] = dict(type='mmvmt.MultiTaskRandomScaleCrop', crop_size=(12, 12))
    dataset = build(pascal_mt, tasks=['human_parts', 'semseg'], pipeline=pipeline)
    with_parts = 0
    for seed in range(60):
        gt = dataset[SampleKey(0, seed=seed)]['data_samples'].gt
        labelled = gt.human_parts[gt.human_parts != 255]
        with_parts += bool((labelled > 0).any())
        assert (labelled > 0).any() or not labelled.numel()
        assert (gt.semseg != 255).any()
    assert 5 < with_parts < 55


def equal(first, second):
    first_maps, second_maps = (dict(packed['data_samples'].gt.items()) for packed in (first, second))
    return torch.equal(first['inputs'], second['inputs']) and all(
        torch.equal(label, second_maps[task]) for task, label in first_maps.items()
    )


def test_a_seed_fixes_the_sample(pascal_mt):
    dataset = build(pascal_mt, tasks=ALL, pipeline=TRAIN_PIPELINE)
    first = dataset[SampleKey(1, seed=11)]
    np.random.rand(17)  # noqa: NPY002
    torch.rand(3)
    assert equal(dataset[SampleKey(1, seed=11)], first)
    assert first['data_samples'].sample_idx == 1
    assert not all(equal(dataset[SampleKey(1, seed=seed)], first) for seed in (12, 13))


def test_worker_processes_give_the_same_samples(pascal_mt):
    dataset = build(pascal_mt, tasks=['semseg', 'normals'], pipeline=TRAIN_PIPELINE)
    keys = [SampleKey(index % 3, seed=index) for index in range(6)]
    alone = [dataset[key] for key in keys]
    loader = DataLoader(dataset, batch_size=2, sampler=keys, num_workers=2, collate_fn=list)
    loaded = [sample for batch in loader for sample in batch]
    assert all(equal(first, second) for first, second in zip(alone, loaded, strict=True))


def test_a_seed_leaves_the_randomness_around_it_alone(pascal_mt):
    dataset = build(pascal_mt, tasks=ALL, pipeline=TRAIN_PIPELINE)
    np.random.seed(3)  # noqa: NPY002
    expected = np.random.rand(2)  # noqa: NPY002
    np.random.seed(3)  # noqa: NPY002
    dataset[SampleKey(0, seed=5)]
    assert (np.random.rand(2) == expected).all()  # noqa: NPY002


def test_plain_indices_draw_from_the_global_state(pascal_mt):
    dataset = build(pascal_mt, tasks=ALL, pipeline=TRAIN_PIPELINE)
    samples = [dataset[0] for _ in range(4)]
    assert not all(equal(samples[0], sample) for sample in samples[1:])


def test_a_seed_fixes_the_replacement_of_a_dropped_sample(tmp_path):
    ids = [f'image_{number}' for number in range(12)]
    dataset = build(build_folder(tmp_path, train=ids), tasks=['human_parts'], pipeline=TEST_PIPELINE)
    replaced = [dataset[SampleKey(1, seed=seed)]['data_samples'].img_id for seed in range(8)]
    assert len(set(replaced)) > 1
    np.random.seed(0)  # noqa: NPY002
    assert [dataset[SampleKey(1, seed=seed)]['data_samples'].img_id for seed in range(8)] == replaced


def test_the_number_of_classes_is_an_option_that_reader_sample_and_meta_information_follow(pascal_mt, tmp_path):
    path = pascal_mt.path('semseg', pascal_mt.val[0])
    labels = pascal_mt.semseg[pascal_mt.val[0]].copy()
    labels[3, 5] = 30
    Image.fromarray(labels).save(path)
    options = dict(split='val', test_mode=True, pipeline=TEST_PIPELINE, tasks=('semseg', 'human_parts'))
    refusal = (
        rf'{path} holds the class 30 at pixel \(x=5, y=3\); semseg classes are 0 to 20.*num_classes=dict\(semseg=N'
    )
    with pytest.raises(ValueError, match=refusal):
        build(pascal_mt, **options)[0]
    wider = build(pascal_mt, num_classes=dict(semseg=40), **options)
    assert (len(wider.metainfo['classes']), len(wider.metainfo['palette'])) == (40, 40)
    sample = wider[0]['data_samples']
    assert sample.num_classes == dict(semseg=40, human_parts=7)
    np.testing.assert_array_equal(sample.gt.semseg[0], labels)
    with pytest.raises(ValueError, match=rf'{path} holds the class .*; semseg classes are 0 to 4'):
        build(pascal_mt, num_classes=dict(semseg=5), **options)[0]

    names = tmp_path / 'names.txt'
    names.write_text(''.join(f'name {index}\n' for index in range(31)))
    named = build(pascal_mt, metainfo=dict(classes=str(names)), lazy_init=True, **options)
    assert (named.metainfo['classes'][30], len(named.metainfo['palette'])) == ('name 30', 31)
    assert named[0]['data_samples'].num_classes['semseg'] == 31


def test_numbers_of_classes_that_cannot_be(pascal_mt):
    with pytest.raises(ValueError, match='merged into 7 classes of human_parts, background included; they cannot be 8'):
        build(pascal_mt, num_classes=dict(human_parts=8))
    with pytest.raises(ValueError, match=r'has 40 classes, but metainfo\.classes has 2 entries'):
        build(pascal_mt, num_classes=dict(semseg=40), metainfo=dict(classes=('a', 'b')))


def test_axes_of_normals_are_declared_by_the_data_set(pascal_mt):
    def axes_of(dataset):
        return {key: value for key, value in dataset.get_data_info(0).items() if key.startswith('normals_')}

    root = str(pascal_mt.root)
    assert axes_of(PASCALContextMT(root)) == dict(normals_x='left', normals_y='up')
    other = PASCALContextMT(root, metainfo=dict(normals_x='right', normals_y='down'))
    assert axes_of(other) == dict(normals_x='right', normals_y='down')
    with pytest.raises(ValueError, match="normals_x must be 'left' or 'right', got 'up'"):
        PASCALContextMT(root, metainfo=dict(normals_x='up'))

    class Undeclared(PASCALContextMT):
        METAINFO = {key: value for key, value in PASCALContextMT.METAINFO.items() if key != 'normals_x'}

    # Only a rotation needs them, and says so.
    assert axes_of(Undeclared(root)) == {}
