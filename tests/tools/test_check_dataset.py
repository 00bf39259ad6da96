import importlib.util
import shutil
from pathlib import Path

import cityscapes_folder
import commands
import numpy as np
import nyud_folder
import pytest
from own_folder import build_own_folder
from pascal_mt_folder import build_folder, save_photo
from PIL import Image
from scipy.io import savemat

TOOL = Path(__file__).parents[2] / 'tools/dataset/check_dataset.py'


@pytest.fixture(scope='module')
def tool():
    spec = importlib.util.spec_from_file_location('check_dataset', TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def folder(tmp_path):
    return build_folder(tmp_path / 'PASCAL_MT')


@pytest.fixture
def check(tool, folder, capsys, monkeypatch):
    monkeypatch.setenv('COLUMNS', '200')

    def run(*args, root=folder.root):
        code = tool.main([str(root), '--jobs', '1', *args])
        return code, capsys.readouterr().out

    return run


def snapshot(root):
    return {path: path.stat().st_mtime_ns for path in root.rglob('*')}


def row(output, split, name):
    """Cells of one row of a split's table."""
    table = output.split(f'split {split}')[1]
    line = next(line for line in table.splitlines() if line.startswith(f'│ {name} '))
    return [cell.strip() for cell in line.strip('│').split('│')]


def test_a_good_folder(check, folder):
    before = snapshot(folder.root)
    code, output = check()
    assert code == 0
    assert output.rstrip().endswith('\nusable')
    assert 'PASCAL_MT' in output
    assert 'semseg from semseg/VOC12, else semseg/pascal-context' in output
    assert 'semseg, train: 2 from semseg/VOC12, 1 from semseg/pascal-context' in output
    assert 'semseg, val: 1 from semseg/VOC12, 1 from semseg/pascal-context' in output
    assert 'train: 3 images; the published split has 4,998' in output
    assert 'val: 2 images; the published split has 5,105' in output
    for name in ('image', 'semseg', 'human_parts', 'saliency', 'normals', 'edge'):
        assert row(output, 'train', name)[1:5] == ['3', '0', '3', '0']
    assert snapshot(folder.root) == before


def test_ranges_of_values(check, folder):
    _, output = check()
    assert row(output, 'train', 'image')[5] == '40 to 40 pixels high, 60 to 60 wide'
    ids = folder.train
    seen = np.unique(np.concatenate([folder.semseg[i].ravel() for i in ids]))
    ignored = np.mean([(folder.semseg[i] == 255).mean() for i in ids])
    semseg = row(output, 'train', 'semseg')[5]
    assert semseg.startswith(f'{len(seen) - 1} classes from 0 to {seen[-2]}; {ignored:.1%} ignored')
    assert 'labelled in 3 of 3 images' in semseg
    assert 'labelled in 2 of 3 images' in row(output, 'train', 'human_parts')[5]
    salient = np.mean([folder.saliency[i].mean() for i in ids])
    assert row(output, 'train', 'saliency')[5] == f'{salient:.1%} of pixels are 1'
    assert 'valid on 62.5% of pixels' in row(output, 'train', 'normals')[5]


def test_a_folder_shaped_like_the_archive_is_usable_and_what_was_done_is_named(check, folder):
    code, output = check()
    assert code == 0
    assert output.rstrip().endswith('\nusable')
    halved = {'train': folder.path('semseg', folder.train[2]), 'val': folder.path('saliency', folder.val[0])}
    for line in (
        'semseg, train: 2 from semseg/VOC12, 1 from semseg/pascal-context',
        'semseg, val: 1 from semseg/VOC12, 1 from semseg/pascal-context',
        'semseg, train: 1 of 3 maps have another size than their image and are resized to it, such as '
        f'{halved["train"]}, 20 x 30 pixels (height x width) for 40 x 60',
        'saliency, val: 1 of 2 maps have another size than their image and are resized to it, such as '
        f'{halved["val"]}, 20 x 30 pixels (height x width) for 40 x 60',
    ):
        assert line in output.splitlines()
    # One image without a person, one whose parts have empty masks.
    assert 'labelled in 2 of 3 images' in row(output, 'train', 'human_parts')[5]
    assert 'labelled in 1 of 2 images' in row(output, 'val', 'human_parts')[5]
    assert 'warning' not in output

    code, output = check('--strict')
    assert code == 1
    assert output.rstrip().endswith('\nunusable: 2 problems')
    assert row(output, 'train', 'semseg')[1:5] == ['3', '0', '2', '1']
    for path in halved.values():
        assert f'size mismatch: the label map in {path} has 20 x 30 pixels (height x width), the image has 40' in output


def test_a_copy_in_the_other_folder_replaces_a_missing_file(check, folder):
    for img_id in folder.train:
        shutil.copy(folder.path('semseg', img_id), folder.root / f'copy_{img_id}.png')
    shutil.rmtree(folder.root / 'semseg')
    for name in ('VOC12', 'pascal-context'):
        (folder.root / 'semseg' / name).mkdir(parents=True)
        for img_id in folder.train:
            shutil.copy(folder.root / f'copy_{img_id}.png', folder.root / 'semseg' / name / f'{img_id}.png')
    first, other = (folder.root / f'semseg/{name}/{folder.train[1]}.png' for name in ('VOC12', 'pascal-context'))
    first.unlink()
    code, output = check('--split', 'train')
    assert code == 0
    assert 'semseg, train: 2 from semseg/VOC12, 1 from semseg/pascal-context' in output
    other.unlink()
    code, output = check('--split', 'train')
    assert code == 1
    assert f'missing file {first} or {other}' in output


def test_masks_of_0_and_1(check, folder):
    for img_id in folder.train:
        Image.fromarray(folder.saliency[img_id]).save(folder.path('saliency', img_id))
    code, output = check('--split', 'train')
    assert code == 1
    assert 'refused, saliency, train: the masks are stored as 0 and 1 (3 maps)' in output
    assert output.splitlines()[-1] == 'unusable: 1 problem'


def test_a_constant_map_is_counted_and_most_of_them_are_warned_of(check, folder):
    for number, img_id in enumerate(folder.train[:2], 1):
        Image.new('L', (60, 40)).save(folder.path('saliency', img_id))
        code, output = check('--split', 'train', '--tasks', 'saliency')
        assert code == 0
        assert row(output, 'train', 'saliency')[5].endswith(f'; {number} of 3 hold a single value')
        assert ('warning, saliency, train: 2 of 3 maps are constant' in output) == (number == 2)


def test_what_is_unlikely_is_warned_of_and_strictly_refused(check, folder):
    for img_id in folder.train:
        path = folder.path('semseg', img_id)
        Image.fromarray(np.where(np.asarray(Image.open(path)) > 0, 255, 0).astype(np.uint8)).save(path)
    code, output = check('--split', 'train', '--tasks', 'semseg')
    assert code == 0
    assert 'warning, semseg, train: 3 maps hold 0 and 255 alone' in output
    code, output = check('--split', 'train', '--tasks', 'semseg', '--strict')
    assert code == 1
    # The third is of another size.
    assert 'refused, semseg, train: 2 maps hold 0 and 255 alone' in output


@pytest.mark.parametrize('orientation', [3, 6])
def test_photos_that_are_not_stored_upright(check, folder, orientation):
    save_photo(folder.path('image', folder.train[0]), np.zeros((40, 60, 3), np.uint8), orientation)
    code, output = check('--split', 'train', '--tasks', 'saliency')
    assert code == (1 if orientation > 4 else 0)
    assert 'photos that are not stored upright, by their EXIF data: 1; read as stored' in output
    assert ('load such photos by LoadMultiTaskImage(upright=True)' in output) == (orientation > 4)
    code, output = check('--split', 'train', '--tasks', 'saliency', '--upright')
    assert code == 0
    assert 'by their EXIF data: 1; turned upright' in output


@pytest.mark.parametrize('encoding', ['utf-8-sig', 'utf-16'])
def test_a_list_from_another_system(check, folder, encoding):
    text = ''.join(f'{img_id}\r\n' for img_id in folder.train)
    (folder.root / 'ImageSets/Context/train.txt').write_bytes(text.encode(encoding))
    assert check('--split', 'train')[0] == 0


@pytest.mark.parametrize('task', ['image', 'semseg', 'human_parts', 'saliency', 'normals', 'context'])
def test_missing_and_truncated_files(check, folder, task):
    missing, broken = folder.path(task, folder.train[0]), folder.path(task, folder.train[2])
    missing.unlink()
    broken.write_bytes(broken.read_bytes()[:-100])
    code, output = check()
    assert code == 1
    for name in ('normals', 'edge') if task == 'context' else (task,):
        # The labels of an image that cannot be read are not judged.
        assert row(output, 'train', name)[1:5] == ['3', '1', '1', '1']
    assert f'missing file {missing}' in output
    assert str(broken) in output
    assert output.splitlines()[-1].startswith('unusable: ')


def test_one_damaged_task_does_not_hide_another(check, folder):
    img_id = folder.train[0]
    savemat(folder.path('human_parts', img_id), {'wrong': 1})
    Image.fromarray(np.full((40, 60), 33, dtype=np.uint8)).save(folder.path('semseg', img_id))
    Image.fromarray(np.zeros((60, 40), dtype=np.uint8)).save(folder.path('saliency', img_id))
    code, output = check('--split', 'train')
    assert code == 1
    assert f'{img_id}.mat has no variable' in output
    assert f'{img_id}.png holds the class 33 at pixel (x=0, y=0)' in output
    assert 'turned by 90 degrees' in output
    assert row(output, 'train', 'normals')[1:5] == ['3', '0', '3', '0']
    assert 'unusable: 3 problems' in output


def test_long_lists_are_cut_unless_asked_for(check, tmp_path):
    many = build_folder(tmp_path / 'many', train=[f'image_{number}' for number in range(14)])
    for img_id in many.train:
        many.path('saliency', img_id).unlink()
    code, output = check('--tasks', 'saliency', root=many.root)
    assert code == 1
    assert 'saliency, train: 14 problems' in output
    assert (output.count('missing file'), '... and 4 more' in output) == (10, True)
    _, output = check('--tasks', 'saliency', '--list-all', root=many.root)
    assert (output.count('missing file'), '... and' in output) == (14, False)


def test_a_sample_decodes_some_files_and_still_sees_missing_ones(check, folder):
    code, output = check('--sample', '2', '--split', 'train', '--tasks', 'semseg')
    assert code == 0
    assert row(output, 'train', 'semseg')[1:5] == ['3', '0', '2', '0']
    folder.path('semseg', folder.train[1]).unlink()
    code, output = check('--sample', '2', '--split', 'train', '--tasks', 'semseg')
    assert code == 1
    assert row(output, 'train', 'semseg')[1:5] == ['3', '1', '2', '0']


def test_folders_that_are_absent_are_named_and_skipped(check, folder):
    shutil.rmtree(folder.root / 'human_parts')
    code, output = check()
    assert code == 0
    assert 'no folder, hence not checked: human_parts' in output
    code, output = check('--tasks', 'human_parts')
    assert code == 1
    assert 'has no folder human_parts' in output


def test_normals_without_their_validity(check, folder):
    shutil.rmtree(folder.root / 'pascal-context')
    code, output = check('--tasks', 'normals')
    assert code == 1
    assert 'pascal-context/trainval' in output


@pytest.mark.parametrize('text', ['', 'a\na\n'])
def test_bad_split_file(check, folder, text):
    (folder.root / 'ImageSets/Context/train.txt').write_text(text)
    code, output = check()
    assert code == 1
    assert 'train: the split file' in output
    assert row(output, 'val', 'semseg')[1:5] == ['2', '0', '2', '0']


def test_images_in_both_splits(check, folder):
    (folder.root / 'ImageSets/Context/val.txt').write_text('\n'.join(folder.train[1:]))
    code, output = check()
    assert code == 0
    assert f'warning: 2 images are in both splits, such as {folder.train[1]}' in output


def test_negated_normals(check, folder):
    for img_id in folder.train:
        path = folder.path('normals', img_id)
        Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    code, output = check('--split', 'train')
    assert code == 1
    assert 'refused, normals, train: 100% of the normals point away from the viewer' in output


@pytest.mark.parametrize('x, y', [('left', 'up'), ('right', 'up'), ('left', 'down'), ('right', 'down')])
def test_axes_of_normals_are_estimated(check, tmp_path, x, y):
    ids = [f'{number:06d}' for number in range(12)]
    folder = build_folder(tmp_path / 'balls', train=ids, val=ids[:1])
    row, column = np.mgrid[-1:1:40j, -1.5:1.5:60j]
    inside = row**2 + column**2 < 1
    ball = np.stack([column, row, np.sqrt(np.clip(1 - row**2 - column**2, 0, None))], axis=2) * inside[..., None]
    ball[..., 0] *= dict(left=-1, right=1)[x]
    ball[..., 1] *= dict(up=-1, down=1)[y]
    for img_id in ids:
        Image.fromarray(np.rint((ball + 1) * 127.5).astype(np.uint8)).save(folder.path('normals', img_id))
        Image.fromarray(inside.astype(np.uint8)).save(folder.path('semseg', img_id))
    code, output = check('--split', 'train', '--tasks', 'semseg', 'normals', root=folder.root)
    assert code == 0
    assert 'train: axes of normals as declared: x left, y up, z to the viewer' in output
    assert ("warning, train: the normals of this split look as if normals_x were 'right'" in output) == (x == 'right')
    assert ("warning, train: the normals of this split look as if normals_y were 'down'" in output) == (y == 'down')


def test_synthetic_folder(check, folder):
    (folder.root / 'synthetic.json').write_text('{}')
    code, output = check()
    assert code == 0
    assert 'layout: synthetic scenes' in output
    assert 'train: 3 images\n' in output


@pytest.mark.parametrize(
    'files, message',
    [
        ([], 'no known layout'),
        (['gt_sets/train.txt', 'images/1.png', 'normals/1.png'], r'the split file'),
        (['JPEGImages/1.jpg', 'SegmentationClassContext/1.png'], 'another benchmark'),
        (['PASCAL_MT/ImageSets/Context/train.txt'], 'give that one'),
        (['NYUD_MT/gt_sets/train.txt'], 'the NYUD-v2 folder is '),
        (['leftImg8bit/train/aachen/1.png'], 'no folder of any task: gtFine, gtFine, disparity, gtFinePanopticParts'),
        (['JPEGImages/1.jpg', 'ImageSets/Context/train.txt'], 'no folder of any task'),
    ],
)
def test_other_layouts(check, tmp_path, files, message):
    root = tmp_path / 'other'
    root.mkdir()
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text('1')
    code, output = check(root=root)
    assert code == 1
    assert message in output


@pytest.mark.parametrize(
    'edition,name',
    [('astmt', 'edition of ASTMT'), ('mtinet', 'edition of MTI-Net and MTLoRA'), ('atrc', 'edition of InvPT and ATRC')],
)
def test_nyud(check, tmp_path, edition, name):
    folder = nyud_folder.build_folder(tmp_path / 'NYUD_MT', edition)
    code, output = check(root=folder.root)
    assert code == 0, output
    assert f'layout: NYUD-v2, {name}\n' in output
    assert 'train: 3 images; the published split has 795' in output
    assert 'val: 2 images; the published split has 654' in output
    assert 'semseg, train: 1 of 3 maps have another size than their image' in output
    for task in ('image', 'semseg', 'depth', 'normals', 'edge'):
        assert row(output, 'train', task)[1:5] == ['3', '0', '3', '0']
        assert row(output, 'val', task)[1:5] == ['2', '0', '2', '0']
    assert row(output, 'train', 'depth')[5].startswith('0.7')
    folder.path('normals', '0004').unlink()
    folder.path('edge', '0001').write_bytes(b'')
    code, output = check('--tasks', 'normals', 'edge', root=folder.root)
    assert code == 1
    assert 'unusable: 2 problems' in output
    assert row(output, 'train', 'normals')[1:5] == ['3', '1', '2', '0']
    assert row(output, 'val', 'edge')[1:5] == ['2', '0', '1', '1']


def test_cityscapes(check, tmp_path):
    folder = cityscapes_folder.build_folder(tmp_path / 'cityscapes')
    code, output = check(root=folder.root)
    assert code == 0, output
    assert 'layout: Cityscapes\n' in output
    assert 'train: 3 images; the published split has 2,975' in output
    for task in ('image', 'semseg', 'depth', 'human_parts'):
        assert row(output, 'train', task)[1:5] == ['3', '0', '3', '0']
    assert 'labelled in 2 of 3 images' in row(output, 'train', 'human_parts')[5]
    shutil.rmtree(folder.root / 'gtFinePanopticParts')
    folder.path('camera', 'lindau/lindau_000000_000019').write_text('{"extrinsic": {"baseline": 0.2}}')
    folder.path('camera', 'munster/munster_000000_000019').unlink()
    code, output = check(root=folder.root)
    assert code == 1
    assert 'no folder, hence not checked: human_parts' in output
    assert row(output, 'val', 'depth')[1:5] == ['2', '1', '0', '1']
    assert 'lindau_000000_000019_camera.json has intrinsic.fx = None' in output


def test_missing_root_as_a_command(tmp_path):
    done = commands.run('tools/dataset/check_dataset.py', tmp_path / 'nowhere', check=False)
    assert done.returncode == 1
    assert 'nowhere is no folder' in done.stdout


@pytest.mark.parametrize(
    'args', [['--jobs', '0'], ['--sample', '0'], ['--tasks', 'depth'], ['--tasks', 'edge', 'edge']]
)
def test_bad_arguments(tool, folder, capsys, args):
    with pytest.raises(SystemExit, match='2'):
        tool.main([str(folder.root), *args])
    assert args[0] in capsys.readouterr().err


def test_another_number_of_classes(check, folder):
    path = folder.path('semseg', folder.train[0])
    labels = folder.semseg[folder.train[0]].copy()
    labels[0, 0] = 30
    Image.fromarray(labels).save(path)
    assert check('--tasks', 'semseg')[0] == 1
    assert check('--tasks', 'semseg', '--num-classes', '40')[0] == 0


OWN_CONFIG = """
default_scope = 'mmvmt'
pipeline = [dict(type='mmvmt.LoadMultiTaskImage'), dict(type='mmvmt.LoadMultiTaskAnnotations'), dict(type='No')]
own = {own}
voc = dict(type='PASCALContextMT', data_root={pascal!r}, tasks=['semseg', 'saliency'], pipeline=pipeline)
train_dataloader = dict(
    dataset=dict(type='ConcatDataset', datasets=[dict(type='RepeatDataset', times=3, dataset=own), voc])
)
val_dataloader = dict(dataset=dict(own, ann_file='lists/first.txt', test_mode=True))
test_dataloader = val_dataloader
"""


@pytest.fixture
def own(tmp_path, folder):
    own = build_own_folder(tmp_path / 'own')
    (tmp_path / 'config.py').write_text(OWN_CONFIG.format(own=own.config(), pascal=str(folder.root)))
    return own


def test_a_config_of_any_data_sets_ends_with_a_proposal(check, own, tmp_path, folder):
    before = snapshot(own.root) | snapshot(folder.root)
    code, output = check(root=tmp_path / 'config.py')
    assert code == 0
    lines = output.splitlines()
    assert 'train[0]: MultiTaskDataset, 6 images, tasks crops, lanes, albedo' in lines
    assert 'train[1]: PASCALContextMT, 3 images, tasks semseg, saliency' in lines
    assert row(output, 'train[0]', 'lanes')[1:5] == ['6', '0', '3', '0']
    assert row(output, 'train[0]', 'lanes')[5].endswith('3 of 6 images have a label')
    assert row(output, 'val', 'albedo')[5].startswith('channel 0 0.')
    assert 'split test' not in output
    assert 'crops, train[0]: 4 from crops/checked, 2 from crops/raw' in output
    assert 'warning: 4 images are in train[0] and val, such as field_00' in output
    assert 'crops, train[0]: 2 of 6 maps have another size' in output
    assert 'proposal, lanes, train[0]: 3 of 6 images have no label (50%)' in lines
    counts = np.bincount(np.concatenate([own.maps['crops'][i].ravel() for i in own.ids]), minlength=256)
    shares = counts[:3] / counts[:3].sum()
    line = next(line for line in lines if line.startswith('proposal, crops, train[0]: share of labelled pixels'))
    for index, name in enumerate(('soil', 'wheat', 'maize')):
        assert f'{index} ({name}) {shares[index]:.1%}' in line
    assert f'{counts[255] / counts.sum():.1%} of all are unlabelled' in line
    assert any(line.startswith('proposal, albedo, train[0]: values from 0.') for line in lines)
    assert any(line.startswith('proposal, semseg, train[1]: ') for line in lines)
    assert lines[-1] == 'usable'
    assert snapshot(own.root) | snapshot(folder.root) == before
    assert check('--split', 'val', '--strict', '--tasks', 'crops', root=tmp_path / 'config.py')[0] == 1


def test_a_config_whose_data_are_damaged(check, own, tmp_path):
    missing = own.root / f'photos/{own.ids[0]}.jpg'
    missing.unlink()
    (own.root / f'albedo/{own.ids[1]}.npz').write_bytes(b'PK')
    code, output = check('--split', 'val', root=tmp_path / 'config.py')
    assert code == 1
    assert f'missing file {missing}' in output
    assert f'cannot read {own.root}/albedo/{own.ids[1]}.npz' in output
    assert output.splitlines()[-1] == 'unusable: 2 problems'
    code, output = check('--data-root', str(tmp_path / 'nowhere'), root=tmp_path / 'config.py')
    assert code == 1
    assert "train: data_root '" in output


def test_options_of_folders_and_configs(tool, own, tmp_path, capsys):
    config = str(tmp_path / 'config.py')
    for argv in (
        [config, '--num-classes', '3'],
        [str(own.root), '--data-root', 'x'],
        [str(own.root), '--split', 'test'],
    ):
        with pytest.raises(SystemExit, match='2'):
            tool.main(argv)
        assert argv[1] in capsys.readouterr().err


def test_several_processes_find_the_same(check, tool, own, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(tool, 'SAMPLES_PER_JOB', 1)
    (own.root / f'crops/checked/{own.ids[0]}.png').write_bytes(b'')
    argv = ['--split', 'val']
    alone = check(*argv, root=tmp_path / 'config.py')
    assert alone[0] == 1
    code = tool.main([str(tmp_path / 'config.py'), *argv, '--jobs', '2'])
    assert (code, capsys.readouterr().out) == alone
