import numpy as np
import pytest
from label_maps import read_label
from pascal_mt_folder import FLOOR, SKY, WALL, rectangle, write_parts
from PIL import Image
from scipy.io import savemat

from mmvmt.datasets import formats

SHAPE = (12, 16)
# Merging as the benchmark describes it: left and right names count as one class.
MERGED = {
    'hair': 1,
    'head': 1,
    'lear': 1,
    'rear': 1,
    'lebrow': 1,
    'rebrow': 1,
    'leye': 1,
    'reye': 1,
    'nose': 1,
    'mouth': 1,
    'neck': 2,
    'torso': 2,
    'luarm': 3,
    'ruarm': 3,
    'llarm': 4,
    'rlarm': 4,
    'lhand': 4,
    'rhand': 4,
    'luleg': 5,
    'ruleg': 5,
    'llleg': 6,
    'rlleg': 6,
    'lfoot': 6,
    'rfoot': 6,
}


def person(*parts):
    return ('person', 15, np.ones(SHAPE, dtype=np.uint8), parts)


def truncate(path, share=0.6):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


def random_png(path, mode='RGB'):
    pixels = np.random.default_rng(0).integers(0, 21, (30, 40, 3) if mode == 'RGB' else (30, 40), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


@pytest.mark.parametrize(
    'read',
    [
        lambda path: read_label('semseg', path),
        lambda path: read_label('saliency', path),
        formats.read_normals,
        formats.read_context_labels,
        lambda path: formats.read_human_parts(path, SHAPE),
    ],
)
def test_missing_and_foreign_files_are_named(tmp_path, read):
    with pytest.raises(FileNotFoundError, match='no_such_file'):
        read(str(tmp_path / 'no_such_file'))
    (tmp_path / 'foreign').write_text('neither a picture nor a MATLAB file' * 10)
    with pytest.raises(ValueError, match='foreign'):
        read(str(tmp_path / 'foreign'))


@pytest.mark.parametrize('palette', [False, True])
def test_semseg_reads_indices(tmp_path, palette):
    labels = np.array([[0, 1, 20], [255, 15, 7]], dtype=np.uint8)
    picture = Image.fromarray(labels)
    if palette:
        picture.putpalette(list(range(256)) * 3)
    picture.save(tmp_path / 'a.png')
    np.testing.assert_array_equal(read_label('semseg', tmp_path / 'a.png', 21), labels)


def test_semseg_class_out_of_range(tmp_path):
    labels = np.zeros((6, 8), dtype=np.uint8)
    labels[4, 3] = 21
    Image.fromarray(labels).save(tmp_path / 'a.png')
    with pytest.raises(ValueError, match=r'a\.png holds the class 21 at pixel \(x=3, y=4\).*0 to 20'):
        read_label('semseg', tmp_path / 'a.png', 21)


@pytest.mark.parametrize('task', ['semseg', 'saliency'])
def test_colour_picture_instead_of_labels(tmp_path, task):
    random_png(tmp_path / 'a.png')
    with pytest.raises(ValueError, match=r"a\.png is a picture of mode 'RGB'"):
        read_label(task, tmp_path / 'a.png')


def test_grey_picture_instead_of_normals(tmp_path):
    random_png(tmp_path / 'a.png', mode='L')
    with pytest.raises(ValueError, match=r"a\.png is a picture of mode 'L'"):
        formats.read_normals(str(tmp_path / 'a.png'))


def test_saliency_is_foreground_above_one_half(tmp_path):
    Image.fromarray(np.array([[0, 127, 128, 255]], dtype=np.uint8)).save(tmp_path / 'a.png')
    np.testing.assert_array_equal(read_label('saliency', tmp_path / 'a.png'), [[0, 0, 1, 1]])


def test_normals_decode_to_unit_vectors(tmp_path):
    codes = np.array([[[255, 128, 128], [128, 128, 255], [128, 0, 128], [128, 127, 128]]], dtype=np.uint8)
    Image.fromarray(codes).save(tmp_path / 'a.png')
    normals = formats.read_normals(str(tmp_path / 'a.png'))
    np.testing.assert_allclose(normals[0, :3], [[1, 0, 0], [0, 0, 1], [0, -1, 0]], atol=6e-3)
    np.testing.assert_allclose(np.linalg.norm(normals[0, :3], axis=1), 1, atol=1e-6)
    assert not normals[0, 3].any(), 'grey has no direction'


def test_normals_are_valid_on_the_listed_classes():
    labels = np.array([[SKY, WALL, FLOOR, 0]], dtype=np.uint16)
    assert formats.normals_validity(labels).tolist() == [[False, True, True, False]]


@pytest.mark.parametrize('name, expected', MERGED.items())
def test_each_part_has_its_merged_class(tmp_path, name, expected):
    write_parts(tmp_path / 'a.mat', [person((name, rectangle(SHAPE, 2, 3, 5, 6)))])
    labels = formats.read_human_parts(str(tmp_path / 'a.mat'), SHAPE)
    np.testing.assert_array_equal(labels, expected * rectangle(SHAPE, 2, 3, 5, 6))


def test_every_part_name_is_covered():
    assert {name for names in formats.PART_GROUPS.values() for name in names} == set(MERGED)
    assert list(formats.PART_GROUPS) == ['head', 'torso', 'upper arms', 'lower arms', 'upper legs', 'lower legs']


def test_parts_of_several_persons_and_later_parts_win(tmp_path):
    write_parts(
        tmp_path / 'a.mat',
        [
            ('dog', 12, np.ones(SHAPE, dtype=np.uint8), [('head', np.ones(SHAPE, dtype=np.uint8))]),
            person(('torso', rectangle(SHAPE, 0, 0, 4, 4)), ('lhand', rectangle(SHAPE, 3, 3, 6, 6))),
            person(),
            person(('rfoot', rectangle(SHAPE, 8, 8, 10, 10))),
        ],
    )
    expected = np.zeros(SHAPE, dtype=np.uint8)
    expected[0:4, 0:4] = 2
    expected[3:6, 3:6] = 4
    expected[8:10, 8:10] = 6
    np.testing.assert_array_equal(formats.read_human_parts(str(tmp_path / 'a.mat'), SHAPE), expected)


@pytest.mark.parametrize(
    'objects',
    [[], [('dog', 12, np.ones(SHAPE), [('head', np.ones(SHAPE))])], [person()], [person(), person()]],
    ids=['no object', 'no person', 'person without parts', 'two persons without parts'],
)
def test_without_parts_of_persons_everything_is_ignored(tmp_path, objects):
    write_parts(tmp_path / 'a.mat', objects)
    labels = formats.read_human_parts(str(tmp_path / 'a.mat'), SHAPE)
    assert labels.shape == SHAPE
    assert (labels == 255).all()


def test_unknown_part_of_a_person(tmp_path):
    write_parts(tmp_path / 'a.mat', [person(('tail', np.ones(SHAPE)))])
    with pytest.raises(ValueError, match=r"a\.mat has a person with a part named 'tail'"):
        formats.read_human_parts(str(tmp_path / 'a.mat'), SHAPE)


def test_parts_of_different_sizes(tmp_path):
    write_parts(tmp_path / 'a.mat', [person(('head', np.ones(SHAPE))), person(('nose', np.ones((5, 7))))])
    with pytest.raises(ValueError, match=r"mask of part 'nose' in .*a\.mat has 5 x 7 .* another part has 12 x 16"):
        formats.read_human_parts(str(tmp_path / 'a.mat'), SHAPE)


def test_mat_without_the_variable(tmp_path):
    savemat(tmp_path / 'a.mat', {'other': 1})
    with pytest.raises(ValueError, match=r"a\.mat has no variable 'anno'"):
        formats.read_human_parts(str(tmp_path / 'a.mat'), SHAPE)
    with pytest.raises(ValueError, match=r"a\.mat has no variable 'LabelMap'"):
        formats.read_context_labels(str(tmp_path / 'a.mat'))


@pytest.mark.parametrize('value', [1.0, 'text', np.zeros((2, 2)), {'imname': 'a'}])
def test_anno_of_another_structure(tmp_path, value):
    savemat(tmp_path / 'a.mat', {'anno': value})
    with pytest.raises(ValueError, match=r'anno in .*a\.mat is not nested'):
        formats.read_human_parts(str(tmp_path / 'a.mat'), SHAPE)


@pytest.mark.parametrize('share', [0.0, 0.01, 0.5, 0.97])
def test_truncated_mat(tmp_path, share):
    write_parts(tmp_path / 'a.mat', [person(('head', np.random.default_rng(0).integers(0, 2, SHAPE)))])
    truncate(tmp_path / 'a.mat', share)
    with pytest.raises(ValueError, match=r'a\.mat'):
        formats.read_human_parts(str(tmp_path / 'a.mat'), SHAPE)


def test_context_labels(tmp_path):
    labels = np.array([[0, 1, 459], [SKY, WALL, FLOOR]], dtype=np.uint16)
    savemat(tmp_path / 'a.mat', {'LabelMap': labels})
    read = formats.read_context_labels(str(tmp_path / 'a.mat'))
    assert read.dtype == np.uint16
    np.testing.assert_array_equal(read, labels)


@pytest.mark.parametrize('labels', [np.array([[460]]), np.array([[-1]]), np.array([[1.5]]), np.ones((2, 2, 2), int)])
def test_context_labels_out_of_range(tmp_path, labels):
    savemat(tmp_path / 'a.mat', {'LabelMap': labels})
    with pytest.raises(ValueError, match=r'LabelMap in .*a\.mat'):
        formats.read_context_labels(str(tmp_path / 'a.mat'))


@pytest.mark.parametrize('mode', ['P', 'L', 'LA', 'I;16', 'RGB'])
def test_class_maps_in_other_containers(tmp_path, mode):
    labels = np.array([[0, 1, 20], [255, 15, 7]], dtype=np.uint8)
    picture = Image.fromarray(labels)
    if mode == 'P':
        picture.putpalette(list(range(256)) * 3)
    else:
        picture = Image.fromarray(labels.astype(np.uint16)) if mode == 'I;16' else picture.convert(mode)
    picture.save(tmp_path / 'a.png')
    read = read_label('semseg', tmp_path / 'a.png', 21)
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, labels)


def test_class_map_of_two_classes_in_a_bilevel_picture(tmp_path):
    labels = rectangle(SHAPE, 2, 3, 5, 6)
    Image.fromarray(labels.astype(bool)).save(tmp_path / 'a.png')
    np.testing.assert_array_equal(read_label('semseg', tmp_path / 'a.png', 21), labels)


def test_classes_beyond_8_bits(tmp_path):
    Image.fromarray(np.full(SHAPE, 300, dtype=np.uint16)).save(tmp_path / 'a.png')
    with pytest.raises(ValueError, match=r'a\.png holds the class 300'):
        read_label('semseg', tmp_path / 'a.png', 21)


def test_indices_shifted_by_one_are_named(tmp_path):
    Image.fromarray(np.full(SHAPE, 21, dtype=np.uint8)).save(tmp_path / 'a.png')
    with pytest.raises(ValueError, match='Are they shifted by one'):
        read_label('semseg', tmp_path / 'a.png', 21)


GREYS = [(0, 0, 0), (255, 255, 255)]
COLOURS = [(0, 0, 0), (128, 0, 0)]


@pytest.mark.parametrize(
    'salient, palette',
    [
        (1, GREYS),
        (1, COLOURS),
        (255, COLOURS * 128),
        (255, [(level,) * 3 for level in range(256)]),
        (1, [(0, 0, 0), (200, 200, 200), (1, 2, 3)]),
    ],
)
def test_saliency_as_a_palette(tmp_path, salient, palette):
    mask = rectangle(SHAPE, 2, 3, 5, 6)
    picture = Image.fromarray(mask * np.uint8(salient))
    picture.putpalette([channel for color in palette for channel in color])
    picture.save(tmp_path / 'a.png')
    assert Image.open(tmp_path / 'a.png').mode == 'P'
    np.testing.assert_array_equal(read_label('saliency', tmp_path / 'a.png'), mask)


@pytest.mark.parametrize('mode', ['1', 'L', 'LA', 'I;16', 'RGB'])
def test_saliency_in_other_containers(tmp_path, mode):
    mask = rectangle(SHAPE, 2, 3, 5, 6)
    picture = Image.fromarray(mask * np.uint8(255))
    picture = Image.fromarray(mask * np.uint16(65535)) if mode == 'I;16' else picture.convert(mode)
    picture.save(tmp_path / 'a.png')
    np.testing.assert_array_equal(read_label('saliency', tmp_path / 'a.png'), mask)


def test_a_palette_of_colours_with_other_indices_is_refused(tmp_path):
    picture = Image.fromarray(np.arange(192, dtype=np.uint8).reshape(SHAPE) % 3)
    picture.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
    picture.save(tmp_path / 'a.png')
    with pytest.raises(ValueError, match=r'a\.png is a palette of colours with the indices \[0, 1, 2\]'):
        read_label('saliency', tmp_path / 'a.png')


@pytest.mark.parametrize('alpha', [255, 100])
def test_normals_with_an_opaque_channel(tmp_path, alpha):
    codes = random_png(tmp_path / 'rgb.png')
    Image.fromarray(np.dstack([codes, np.full(codes.shape[:2], alpha, np.uint8)])).save(tmp_path / 'a.png')
    if alpha == 255:
        np.testing.assert_array_equal(formats.read_normal_codes(str(tmp_path / 'a.png')), codes)
    else:
        with pytest.raises(ValueError, match="mode 'RGBA'"):
            formats.read_normal_codes(str(tmp_path / 'a.png'))


@pytest.mark.parametrize('dtype', [np.float64, np.float32, np.uint8, np.int32])
def test_context_labels_of_any_type_of_numbers(tmp_path, dtype):
    labels = np.array([[0, 1, 59], [7, 3, 5]], dtype=dtype)
    savemat(tmp_path / 'a.mat', {'LabelMap': labels})
    read = formats.read_context_labels(str(tmp_path / 'a.mat'))
    assert read.dtype == np.uint16
    np.testing.assert_array_equal(read, labels)


EMPTY = np.zeros(SHAPE, dtype=np.uint8)


@pytest.mark.parametrize(
    'objects',
    [
        [person(('head', EMPTY), ('torso', EMPTY))],
        [person(('head', np.zeros((0, 0))))],
        [('person', 15, EMPTY, [('head', rectangle(SHAPE, 2, 3, 5, 6))])],
        [('person', 15, np.zeros((0, 0)), [('head', rectangle(SHAPE, 2, 3, 5, 6))])],
    ],
    ids=['parts', 'parts without pixels', 'person', 'person without pixels'],
)
def test_empty_masks_count_as_absent(tmp_path, objects):
    write_parts(tmp_path / 'a.mat', objects)
    assert (formats.read_human_parts(str(tmp_path / 'a.mat'), SHAPE) == 255).all()
    write_parts(tmp_path / 'a.mat', [*objects, person(('nose', rectangle(SHAPE, 7, 7, 9, 9)))])
    expected = rectangle(SHAPE, 7, 7, 9, 9)
    np.testing.assert_array_equal(formats.read_human_parts(str(tmp_path / 'a.mat'), SHAPE), expected)


def test_a_person_by_another_index(tmp_path):
    write_parts(tmp_path / 'a.mat', [('person', 14, np.ones(SHAPE), [('head', np.ones(SHAPE))])])
    with pytest.raises(ValueError, match=r'a\.mat has a person with the class index 14; it must be 15'):
        formats.read_human_parts(str(tmp_path / 'a.mat'), SHAPE)
