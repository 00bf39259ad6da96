import cv2
import numpy as np
import pytest
from label_maps import read_label
from PIL import Image
from scipy.io import savemat

from mmvmt.datasets import LabelReader
from mmvmt.structures import TASKS as TABLE
from mmvmt.structures import declare_tasks

SHAPE = (6, 8)
TASKS = dict(
    crops=dict(kind='classes', classes=5),
    species=dict(kind='classes', classes=300),
    lanes=dict(kind='binary'),
    wind=dict(kind='vectors', channels=3),
    drift=dict(kind='vectors', channels=2),
    range=dict(kind='metric', unit='m'),
    albedo=dict(kind='values', channels=3),
    heat=dict(kind='values', unit='K'),
)


@pytest.fixture(autouse=True)
def declared():
    declare_tasks(TASKS)


def write(path, array):
    """Write an array in the format that the ending names; MATLAB and .npz files hold other arrays besides."""
    path.parent.mkdir(exist_ok=True)
    ending = path.suffix
    if ending == '.npy':
        np.save(path, array)
    elif ending == '.npz':
        np.savez_compressed(path, wanted=array, other=np.zeros(3))
    elif ending == '.mat':
        savemat(path, dict(wanted=array, other=np.zeros(3)), do_compression=True)
    elif array.ndim == 3 or array.dtype.kind == 'f':
        # Some releases of OpenCV compress numbers in TIFFs with a loss.
        options = [cv2.IMWRITE_TIFF_COMPRESSION, 1] if ending == '.tif' else []
        assert cv2.imwrite(str(path), array[..., ::-1] if array.ndim == 3 else array, options)
    else:
        Image.fromarray(array).save(path)
    return path


def indices(top, dtype=np.uint8):
    return (np.arange(48).reshape(SHAPE) % top).astype(dtype)


RAMP = np.linspace(0, 1, 48).reshape(SHAPE)
VECTORS = np.stack([RAMP - 0.5, 0.5 - RAMP, 1 + RAMP], axis=2)
VECTORS /= np.linalg.norm(VECTORS, axis=2, keepdims=True)
KEY = dict(key='wanted')
# task, ending, stored array, options, map
CASES = {
    'classes, png': ('crops', '.png', indices(5), {}, indices(5)),
    'classes, tif': ('crops', '.tif', indices(5), {}, indices(5)),
    'classes, bmp': ('crops', '.bmp', indices(5), {}, indices(5)),
    'classes, 16-bit png': ('species', '.png', indices(300, np.uint16) * 6, {}, indices(300, np.int32) * 6),
    'classes, npy of 64 bits': ('crops', '.npy', indices(5, np.int64), {}, indices(5)),
    'classes, npy of floats': ('crops', '.npy', indices(5, np.float64), {}, indices(5)),
    'classes, one channel too many': ('crops', '.npy', indices(5)[..., None], {}, indices(5)),
    'classes, npz': ('crops', '.npz', indices(5), KEY, indices(5)),
    'classes, mat': ('crops', '.mat', indices(5), KEY, indices(5)),
    'classes, minus one': (
        'crops',
        '.png',
        indices(6),
        dict(reduce_zero_label=True),
        np.array([255, 0, 1, 2, 3, 4], np.uint8)[indices(6)],
    ),
    'classes, other ids': (
        'crops',
        '.png',
        indices(5) * 50,
        dict(id_map={50: 1, '100': 2}, unlisted=255),
        np.array([255, 1, 2, 255, 255], np.uint8)[indices(5)],
    ),
    'classes, some ids': (
        'crops',
        '.png',
        indices(4) + 3,
        dict(id_map={5: 0, 6: 0}),
        np.array([3, 4, 0, 0], np.uint8)[indices(4)],
    ),
    'classes, minus one and other ids': (
        'crops',
        '.png',
        indices(3),
        dict(reduce_zero_label=True, id_map={1: 4}),
        np.array([255, 0, 4], np.uint8)[indices(3)],
    ),
    'classes, negative is unknown': (
        'crops',
        '.npy',
        indices(5, np.int16) - 1,
        dict(invalid=-1),
        np.array([255, 0, 1, 2, 3], np.uint8)[indices(5)],
    ),
    'mask, png': ('lanes', '.png', indices(2) * 255, {}, indices(2)),
    'mask, 16 bits': ('lanes', '.png', indices(2, np.uint16) * 65535, {}, indices(2)),
    'mask, 0 1 255': (
        'lanes',
        '.png',
        np.array([0, 1, 255], np.uint8)[indices(3)],
        dict(threshold=0.5, invalid=255),
        np.array([0, 1, 255], np.uint8)[indices(3)],
    ),
    'mask, mat of 0 and 1': ('lanes', '.mat', indices(2), KEY, indices(2)),
    'mask, npy of truth values': ('lanes', '.npy', indices(2).astype(bool), {}, indices(2)),
    'mask, probabilities': ('lanes', '.npy', RAMP, dict(threshold=0.25), (RAMP > 0.25).astype(np.uint8)),
    'mask, NaN is unknown': (
        'lanes',
        '.npy',
        np.where(RAMP < 0.2, np.nan, RAMP),
        {},
        np.where(RAMP < 0.2, 255, RAMP > 0.5).astype(np.uint8),
    ),
    'mask, of some classes': (
        'lanes',
        '.png',
        indices(5),
        dict(id_map={3: 1, 4: 255}, unlisted=0),
        np.array([0, 0, 0, 1, 255], np.uint8)[indices(5)],
    ),
    'vectors, npy': ('wind', '.npy', VECTORS * 3, {}, VECTORS),
    'vectors, channels first': ('wind', '.npy', VECTORS.transpose(2, 0, 1), dict(channels_first=True), VECTORS),
    'vectors, png': ('wind', '.png', np.rint((VECTORS + 1) * 127.5).astype(np.uint8), {}, VECTORS),
    'vectors, 16-bit png': ('wind', '.png', np.rint((VECTORS + 1) * 32767.5).astype(np.uint16), {}, VECTORS),
    'vectors, codes as floats': ('wind', '.npy', (VECTORS + 1) * 127.5, dict(encoding='2x/255-1'), VECTORS),
    'vectors, black is unknown': (
        'wind',
        '.png',
        np.where(RAMP[..., None] < 0.3, 0, np.rint((VECTORS + 1) * 127.5)).astype(np.uint8),
        dict(invalid=0),
        np.where(RAMP[..., None] < 0.3, 0, VECTORS),
    ),
    'vectors in the plane': (
        'drift',
        '.npy',
        VECTORS[..., :2] * 9,
        {},
        VECTORS[..., :2] / np.linalg.norm(VECTORS[..., :2], axis=2, keepdims=True),
    ),
    'metric, npy': ('range', '.npy', RAMP, {}, RAMP),
    'metric, 16-bit png': (
        'range',
        '.png',
        indices(48, np.uint16) * 1000,
        dict(scale=1 / 256),
        indices(48, float) * 1000 / 256,
    ),
    'metric, offset': (
        'range',
        '.png',
        indices(48, np.uint16),
        dict(scale=1 / 4, offset=-0.25, invalid=0),
        np.maximum(0, (indices(48, float) - 1) / 4),
    ),
    'metric, floating-point tif': ('range', '.tif', RAMP.astype(np.float32), {}, RAMP),
    'metric, what is not measured': (
        'range',
        '.npz',
        np.where(RAMP < 0.2, np.nan, np.where(RAMP > 0.8, np.inf, RAMP)),
        KEY | dict(invalid=['nan', 'inf']),
        np.where((RAMP < 0.2) | (RAMP > 0.8), 0, RAMP),
    ),
    'values, png': (
        'albedo',
        '.png',
        np.rint(np.abs(VECTORS) * 200).astype(np.uint8),
        dict(scale=1 / 200),
        np.abs(VECTORS),
    ),
    'values, 16-bit tif': (
        'albedo',
        '.tif',
        np.rint(np.abs(VECTORS) * 5e4).astype(np.uint16),
        dict(scale=2e-5),
        np.abs(VECTORS),
    ),
    'values, floating-point tif': ('albedo', '.tif', VECTORS.astype(np.float32), {}, VECTORS),
    'values, one NaN among channels': (
        'albedo',
        '.npy',
        np.where(np.arange(3) + 10 * RAMP[..., None] < 1, np.nan, VECTORS),
        {},
        np.where(RAMP[..., None] < 0.1, np.nan, VECTORS),
    ),
    'values, one channel': ('heat', '.mat', RAMP, KEY | dict(scale=10, offset=-2, unit='K'), RAMP * 10 - 2),
    'values, invalid': (
        'heat',
        '.npy',
        np.where(RAMP > 0.5, -9999, RAMP),
        dict(invalid=-9999),
        np.where(RAMP > 0.5, np.nan, RAMP),
    ),
}


@pytest.mark.parametrize('case', CASES)
def test_formats_and_options(tmp_path, case):
    task, ending, stored, options, expected = CASES[case]
    path = write(tmp_path / f'label{ending}', stored)
    before = path.read_bytes()
    label = read_label(task, path, dict(crops=5, species=3000).get(task), **options)
    assert label.dtype == TABLE[task].dtype
    tolerance = (
        0.012
        if ending == '.png' and task == 'wind' and stored.dtype == np.uint8
        else 5e-3
        if label.dtype == np.float32
        else 0
    )
    np.testing.assert_allclose(label, expected, atol=tolerance, rtol=0)
    assert path.read_bytes() == before


def test_exr_where_opencv_has_it(tmp_path, monkeypatch):
    monkeypatch.setenv('OPENCV_IO_ENABLE_OPENEXR', '1')
    path = tmp_path / 'label.exr'
    try:
        assert cv2.imwrite(str(path), VECTORS.astype(np.float32)[..., ::-1])
    except cv2.error:
        path.write_bytes(b'v/1\x01' + bytes(100))
        with pytest.raises(ValueError, match=r'label\.exr .*OpenEXR needs an OpenCV that has it'):
            read_label('albedo', path)
        return
    np.testing.assert_allclose(read_label('albedo', path), VECTORS, atol=1e-6)


# task, ending, stored array, options, message
REFUSED = [
    ('crops', '.png', indices(6), {}, r'label\.png holds the class 5 at pixel \(x=5, y=0\); crops classes are 0 to 4'),
    ('crops', '.npy', indices(3, int) - 1, {}, r'holds the class -1 at'),
    ('crops', '.npy', RAMP, {}, 'holds float64 that are no indices'),
    ('crops', '.npy', VECTORS, {}, r'holds an array \(6, 8, 3\); class maps have one channel'),
    ('crops', '.png', (VECTORS * 200).astype(np.uint8), {}, "is a picture of mode 'RGB', in colours; class maps"),
    ('crops', '.npz', indices(5), {}, r"has several arrays.*\['other', 'wanted'\]: name one as key"),
    ('crops', '.mat', indices(5), dict(key='labels'), "has no variable 'labels'"),
    ('crops', '.npy', np.array(['a']), {}, r'holds <U1 of shape \(1,\); a label map is'),
    ('lanes', '.png', indices(3), dict(id_map={1: 1}), r'holds the class 2 .*lanes classes are 0 to 1'),
    ('range', '.png', indices(48), {}, r'whole numbers \(uint8\), and labels\.range\.scale does not say'),
    (
        'range',
        '.npy',
        RAMP - 0.5,
        {},
        r"negative or infinite values or NaN.*labels\.range\.invalid=\['nan', 'inf', -1\]",
    ),
    ('range', '.npy', np.rint(RAMP * 5000), {}, r'whole numbers alone.*labels\.range\.scale has to be 1/1000'),
    ('range', '.npy', VECTORS, {}, r'holds an array \(6, 8, 3\); maps of range have one channel'),
    ('albedo', '.npy', RAMP, {}, r'holds an array \(6, 8\), with 1 channels; maps of task .albedo. have 3'),
    ('albedo', '.npy', VECTORS.transpose(2, 0, 1), {}, r'with 8 channels.*labels\.albedo\.channels_first=True'),
    ('heat', '.npy', np.where(RAMP > 0, np.inf, RAMP), {}, r"holds infinite values; .*labels\.heat\.invalid=\['inf'\]"),
    ('wind', '.png', indices(48), {}, r"is a picture of mode 'L', with 1 channels; maps of task 'wind' have 3"),
    ('wind', '.npy', VECTORS.astype(np.int32), {}, r'holds int32; say by labels\.wind\.encoding'),
]


@pytest.mark.parametrize('task, ending, stored, options, message', REFUSED)
def test_maps_that_are_not_what_was_declared(tmp_path, task, ending, stored, options, message):
    path = write(tmp_path / f'label{ending}', stored)
    with pytest.raises(ValueError, match=message) as caught:
        read_label(task, path, 5 if task == 'crops' else None, **options)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize('ending', ['.png', '.tif', '.npy', '.npz', '.mat'])
def test_cut_files_are_named(tmp_path, ending):
    path = write(tmp_path / f'label{ending}', np.tile(indices(5), (30, 30)))
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    with pytest.raises(ValueError, match=str(path)):
        read_label('crops', path, 5, **(KEY if ending in ('.npz', '.mat') else {}))


@pytest.mark.parametrize(
    'task, options, message',
    [
        ('crops', dict(path='crops/a.png'), r"labels\.crops\.path is 'crops/a.png', which names the same file.*\{id\}"),
        ('crops', dict(missing='skip'), r"labels\.crops\.missing must be 'error' or 'ignore', got 'skip'"),
        ('crops', dict(scale=2), r"labels\.crops\.scale does not fit task 'crops'.*'classes'; those have reduce_zero"),
        ('range', dict(id_map={1: 2}), r"labels\.range\.id_map does not fit task 'range'"),
        ('lanes', dict(unlisted=0), r'labels\.lanes\.unlisted needs id_map'),
        ('lanes', dict(threshold=3, id_map={1: 0}), r'labels\.lanes\.threshold and id_map both'),
        ('wind', dict(encoding='rgb'), r"labels\.wind\.encoding must be one of .*'raw'.*got 'rgb'"),
        ('range', dict(unit='mm'), r"labels\.range\.unit is 'mm', but the unit of task 'range' is 'm'"),
        ('range', dict(invalid='none'), r"labels\.range\.invalid must be numbers, or among .*got 'none'"),
    ],
)
def test_wrong_options(task, options, message):
    with pytest.raises(ValueError, match=message):
        LabelReader(task, **options)
