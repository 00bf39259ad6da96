import json
import shutil

import numpy as np
import pytest
from PIL import Image
from scipy.io import loadmat

from mmvmt.datasets import PASCALContextMT
from mmvmt.structures import NormalsAxes
from mmvmt.synthetic import render_scene, write_pascal_mt
from mmvmt.synthetic.classes import PART_LABELS, VOC_CLASSES

SIZE, SEED = (48, 64), 7
FOLDERS = {
    'JPEGImages': 'jpg',
    'semseg/VOC12': 'png',
    'human_parts': 'mat',
    'normals_distill': 'png',
    'sal_distill': 'png',
    'pascal-context/trainval': 'mat',
    'depth': 'npy',
}


def write(out, **changes):
    return write_pascal_mt(out, **{**dict(train=5, val=3, size=SIZE, seed=SEED, jobs=1, progress=False), **changes})


def contents(root):
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob('*')) if path.is_file()}


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp('rendered') / 'set'
    report = write(root)
    assert (report.written, report.skipped) == (8, 0)
    assert report.images_per_core_second > 0
    return root


def samples():
    """Samples by ID, rendered anew."""
    for split, count, first in ((0, 5, 1), (1, 3, 6)):
        for index in range(count):
            yield f'synth_{first + index:06d}', render_scene((SEED, split, index), SIZE)


def test_lists_name_disjoint_ids_whose_files_exist(root):
    ids = {split: (root / f'ImageSets/Context/{split}.txt').read_text().split() for split in ('train', 'val')}
    assert ids['train'] == [f'synth_{i:06d}' for i in range(1, 6)]
    assert ids['val'] == [f'synth_{i:06d}' for i in range(6, 9)]
    expected = {f'{folder}/{i}.{end}' for folder, end in FOLDERS.items() for i in ids['train'] + ids['val']}
    expected |= {'ImageSets/Context/train.txt', 'ImageSets/Context/val.txt', 'synthetic.json'}
    assert set(contents(root)) == expected


def test_the_manifest_names_the_axes_of_normals(root):
    assert NormalsAxes.of(json.loads((root / 'synthetic.json').read_text())) == NormalsAxes('left', 'up')


def test_images_are_jpegs_of_the_scenes(root):
    for identifier, sample in samples():
        image = Image.open(root / f'JPEGImages/{identifier}.jpg')
        assert (image.format, image.mode, image.size) == ('JPEG', 'RGB', SIZE[::-1])
        assert np.abs(np.asarray(image).astype(int) - sample.img).mean() < 12


def test_png_labels_hold_the_exact_maps(root):
    for identifier, sample in samples():
        semseg = Image.open(root / f'semseg/VOC12/{identifier}.png')
        assert semseg.mode == 'L'
        np.testing.assert_array_equal(np.asarray(semseg), sample.semseg)
        saliency = Image.open(root / f'sal_distill/{identifier}.png')
        assert saliency.mode == 'L'
        np.testing.assert_array_equal(np.asarray(saliency), sample.saliency * 255)
        normals = Image.open(root / f'normals_distill/{identifier}.png')
        assert normals.mode == 'RGB'
        np.testing.assert_allclose(np.asarray(normals) / 127.5 - 1, sample.normals, atol=1 / 255 + 1e-6)


def test_depth_is_exact_metres(root):
    for identifier, sample in samples():
        depth = np.load(root / f'depth/{identifier}.npy', allow_pickle=False)
        assert depth.dtype == np.float32
        np.testing.assert_array_equal(depth, sample.depth)
        assert ((depth == 0) == ~sample.normals.any(axis=2)).all()


def test_a_folder_without_depth_is_completed(root, tmp_path):
    out = tmp_path / 'set'
    write(out)
    shutil.rmtree(out / 'depth')
    assert write(out).written == 8
    assert contents(out) == contents(root)


def test_label_maps_are_uint16(root):
    for identifier, sample in samples():
        label_map = loadmat(root / f'pascal-context/trainval/{identifier}.mat')['LabelMap']
        assert label_map.dtype == np.uint16
        np.testing.assert_array_equal(label_map, sample.label_map)


def test_annotations_nest_as_in_the_original_files(root):
    people = 0
    for identifier, sample in samples():
        anno = loadmat(root / f'human_parts/{identifier}.mat')['anno']
        assert anno[0][0][0][0] == identifier
        objects = anno[0][0][1][0]
        assert len(objects) == len(sample.objects)
        for stored, item in zip(objects, sample.objects):
            assert stored[0][0] == VOC_CLASSES[item.class_id]
            assert stored[1][0][0] == item.class_id
            assert stored[2].dtype == np.uint8
            np.testing.assert_array_equal(stored[2], item.mask)
            if item.class_id != 15:
                assert len(stored[3]) == 0
                continue
            people += 1
            parts = {part[0][0]: part[1] for part in stored[3][0]}
            assert set(parts) == set(item.parts) <= set(PART_LABELS)
            for name, mask in item.parts.items():
                np.testing.assert_array_equal(parts[name], mask)
    assert people > 0


def test_the_real_data_set_class_reads_it(root):
    dataset = PASCALContextMT(data_root=str(root), split='val', lazy_init=False)
    assert [dataset.get_data_info(i)['img_id'] for i in range(len(dataset))] == [
        'synth_000006',
        'synth_000007',
        'synth_000008',
    ]


def test_processes_change_nothing(root, tmp_path):
    assert write(tmp_path / 'two', jobs=2).written == 8
    assert contents(tmp_path / 'two') == contents(root)


def test_another_seed_gives_other_pictures_and_splits_differ(root, tmp_path):
    write(tmp_path / 'other', seed=SEED + 1, train=1, val=1)
    image = (tmp_path / 'other/JPEGImages/synth_000001.jpg').read_bytes()
    assert image not in [path.read_bytes() for path in (root / 'JPEGImages').iterdir()]
    assert len({path.read_bytes() for path in (root / 'JPEGImages').iterdir()}) == 8


def test_a_second_run_only_completes(root, tmp_path):
    out = tmp_path / 'set'
    write(out)
    before = contents(out)
    (out / 'human_parts/synth_000004.mat').unlink()
    (out / 'ImageSets/Context/val.txt').unlink()
    report = write(out)
    assert (report.written, report.skipped) == (1, 7)
    assert contents(out) == before
    report = write(out)
    assert (report.written, report.skipped, report.images_per_core_second) == (0, 8, 0)


def test_other_arguments_need_another_folder_or_overwrite(tmp_path):
    out = tmp_path / 'set'
    write(out, train=2, val=1)
    (out / 'notes.txt').write_text('mine')
    before = contents(out)
    with pytest.raises(FileExistsError, match=r'set holds .*seed 7 instead of 8.*another folder or pass --overwrite'):
        write(out, train=2, val=1, seed=8)
    assert contents(out) == before
    write(out, train=1, val=1, seed=8, overwrite=True)
    assert json.loads((out / 'synthetic.json').read_text())['seed'] == 8
    assert sorted(path.name for path in (out / 'JPEGImages').iterdir()) == ['synth_000001.jpg', 'synth_000002.jpg']
    assert (out / 'notes.txt').read_text() == 'mine'


@pytest.mark.parametrize('overwrite', [False, True])
def test_foreign_folders_are_left_alone(tmp_path, overwrite):
    (tmp_path / 'JPEGImages').mkdir()
    (tmp_path / 'JPEGImages/photo.jpg').write_bytes(b'mine')
    with pytest.raises(FileExistsError, match=r'is not empty and holds no synthetic\.json'):
        write(tmp_path, overwrite=overwrite)
    assert contents(tmp_path) == {'JPEGImages/photo.jpg': b'mine'}


@pytest.mark.parametrize(
    'text, message',
    [('{broken', r'synthetic\.json is not readable'), ('{"layout": "other"}', r'does not name the layout PASCAL_MT')],
)
def test_unreadable_manifests_are_errors(tmp_path, text, message):
    (tmp_path / 'synthetic.json').write_text(text)
    with pytest.raises(FileExistsError, match=message):
        write(tmp_path, overwrite=True)


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(FileExistsError, match='file is not a folder'):
        write(tmp_path / 'file')


@pytest.mark.parametrize(
    'changes, message',
    [
        (dict(train=-1), 'train is -1; it must be at least 1'),
        (dict(val=0), 'val is 0; it must be at least 1'),
        (dict(size=16), 'size 16 is too small'),
        (dict(seed=-2), 'seed is -2; it must not be negative'),
        (dict(jobs=0), 'jobs is 0; it must be at least 1'),
    ],
)
def test_bad_arguments_write_nothing(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        write(tmp_path / 'set', **changes)
    assert not (tmp_path / 'set').exists()
