import copy
import pickle
import random

import mmcv.transforms
import mmpretrain.datasets.transforms  # noqa: F401  registers them
import numpy as np
import pytest
from mmcv.transforms import Compose
from mmengine.registry import DefaultScope
from PIL import Image

from mmvmt.datasets import PASCALContextMT, seeded_rng
from mmvmt.datasets.transforms import (
    FollowedTransform,
    LoadMultiTaskAnnotations,
    LoadMultiTaskImage,
    MultiTaskPad,
    MultiTaskRandomFlip,
    MultiTaskRandomRotate,
    MultiTaskRandomScaleCrop,
    MultiTaskResize,
    PackMultiTaskInputs,
    follow_picture,
)
from mmvmt.datasets.transforms.foreign import PHOTOMETRIC
from mmvmt.registry import TRANSFORMS
from mmvmt.structures import TASKS, NormalsAxes

SHAPE = HEIGHT, WIDTH = 60, 90


@pytest.fixture(autouse=True)
def scope():
    with DefaultScope.overwrite_default_scope('mmvmt'):
        yield


@pytest.fixture
def results():
    """A sample whose picture says at every pixel what the maps must say there."""
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    shown = np.random.default_rng(0).integers(0, 21, (HEIGHT // 5, WIDTH // 5)).repeat(5, 0).repeat(5, 1)
    # Seen from the front, a ball: its normals turn with the picture as its places do.
    u, v = (x - (WIDTH - 1) / 2) / 29, (y - (HEIGHT - 1) / 2) / 29
    inside = u**2 + v**2 < 1
    ball = np.stack([-u, -v, np.sqrt(np.clip(1 - u**2 - v**2, 0, None))], axis=2) * inside[..., None]
    return dict(
        img=np.stack([shown * 10, x, 3 * y], axis=2).astype(np.uint8),
        img_id='2008_000001',
        ori_shape=SHAPE,
        img_shape=SHAPE,
        gt_semseg=shown.astype(np.uint8),
        gt_saliency=(shown > 9).astype(np.uint8),
        gt_depth=1 + x,
        gt_normals=ball.astype(np.float32),
        **NormalsAxes().meta,
    )


def followed(config, **kwargs):
    return FollowedTransform(TRANSFORMS.build(config) if isinstance(config, dict) else config, **kwargs)


def assert_in_register(results):
    """Every map shows what the picture shows."""
    shape = results['img'].shape[:2]
    for task in TASKS.values():
        if task.gt_key in results:
            assert results[task.gt_key].shape[:2] == shape, task.name
    blue, green = results['img'][..., 0].astype(float), results['img'][..., 1].astype(float)
    known = results['gt_semseg'] != 255
    assert known.mean() > 0.4
    np.testing.assert_array_equal(results['gt_saliency'] == 255, ~known)
    np.testing.assert_array_equal(results['gt_depth'] == 0, ~known)
    # Colours are interpolated at the edges of the blocks, classes are not.
    assert (np.abs(blue - 10.0 * results['gt_semseg'])[known] < 3).mean() > 0.5
    np.testing.assert_array_equal((results['gt_semseg'] > 9)[known], (results['gt_saliency'] > 0)[known])
    assert (np.abs(green + 1 - results['gt_depth'])[known] < 3).mean() > 0.95


ALIKE = [
    (dict(type='mmseg.RandomCrop', crop_size=(40, 50)), (40, 50)),
    (dict(type='mmseg.RandomCrop', crop_size=(200, 200)), SHAPE),
    (dict(type='mmcv.CenterCrop', crop_size=(50, 40)), (40, 50)),
    (dict(type='mmcv.Resize', scale=(45, 40)), (40, 45)),
    (dict(type='mmseg.Resize', scale=(180, 180), keep_ratio=True), (120, 180)),
    (dict(type='mmcv.RandomResize', scale=(90, 60), ratio_range=(1.5, 1.5), resize_type='mmcv.Resize'), (90, 135)),
    (dict(type='mmcv.RandomChoiceResize', scales=[(70, 50)], resize_type='mmseg.Resize'), (50, 70)),
    (dict(type='mmseg.ResizeToMultiple', size_divisor=32), (64, 96)),
    (dict(type='mmseg.ResizeShortestEdge', scale=40, max_size=90), (40, 60)),
    (dict(type='mmcv.Pad', size_divisor=32), (64, 96)),
    (dict(type='mmseg.RandomCutOut', prob=1.0, n_holes=2, cutout_shape=(9, 9), seg_fill_in=255), SHAPE),
    (dict(type='mmcv.RandomApply', prob=1.0, transforms=[dict(type='mmcv.Resize', scale=(45, 40))]), (40, 45)),
]
FLIPS = [
    (dict(type='mmcv.RandomFlip', prob=1.0), (-1, 1)),
    (dict(type='mmseg.RandomFlip', prob=1.0, direction='horizontal'), (-1, 1)),
    (dict(type='mmseg.RandomFlip', prob=1.0, direction='vertical'), (1, -1)),
    (dict(type='mmcv.RandomFlip', prob=1.0, direction='diagonal'), (-1, -1)),
]


@pytest.mark.parametrize('config, shape', ALIKE, ids=[config['type'] for config, _ in ALIKE])
def test_maps_follow_transforms_of_mmseg_and_mmcv(config, shape, results):
    before = copy.deepcopy(results)
    with seeded_rng(1):
        results = followed(config)(results)
    assert results['img'].shape[:2] == shape
    assert_in_register(results)
    for task in TASKS.values():
        if task.gt_key in results:
            assert results[task.gt_key].dtype == before[task.gt_key].dtype
    assert {key for key in results if key.startswith('gt_')} == {key for key in before if key.startswith('gt_')}
    assert 'seg_fields' not in results
    length = np.linalg.norm(results['gt_normals'], axis=2)
    np.testing.assert_allclose(length[length > 0], 1, atol=1e-5)
    # Nothing was turned: the vectors are those of the pixels, and what was filled in is unknown.
    vectors = {tuple(vector) for vector in before['gt_normals'].reshape(-1, 3).tolist()}
    assert {tuple(vector) for vector in results['gt_normals'].reshape(-1, 3).tolist()} <= vectors


@pytest.mark.parametrize(
    'config',
    [
        *(config for config, _ in ALIKE[:10]),
        FLIPS[0][0],
        FLIPS[2][0],
        dict(type='mmseg.RandomRotate', prob=1.0, degree=30.0),
    ],
    ids=lambda config: config['type'],
)
def test_classes_are_those_that_mmseg_makes(config, results):
    transform = TRANSFORMS.build(config)
    plain = dict(img=results['img'], gt_seg_map=results['gt_semseg'], seg_fields=['gt_seg_map'], img_shape=SHAPE)
    with seeded_rng(5):
        expected = transform(copy.deepcopy(plain))
    with seeded_rng(5):
        found = followed(transform)(results)
    # A place half-way between two pixels may be rounded otherwise.
    assert (found['gt_semseg'] == expected['gt_seg_map']).mean() > 0.999
    np.testing.assert_array_equal(found['img'], expected['img'])
    for key in ('flip', 'flip_direction', 'scale', 'scale_factor', 'img_shape', 'pad_shape', 'keep_ratio'):
        assert found.get(key) == expected.get(key)


@pytest.mark.parametrize('config, signs', FLIPS)
@pytest.mark.parametrize('axes', [NormalsAxes(), NormalsAxes('right', 'down'), None], ids=str)
def test_flips_mirror_normals(config, signs, axes, results):
    before = copy.deepcopy(results)
    if axes is None:
        del results['normals_x']
    else:
        results |= axes.meta
    results = followed(config)(results)
    assert_in_register(results)
    places = np.s_[:: signs[1], :: signs[0]]
    np.testing.assert_array_equal(results['gt_normals'], before['gt_normals'][places] * np.float32([*signs, 1]))


@pytest.mark.parametrize(
    'config',
    [
        dict(type='mmseg.RandomRotate', prob=1.0, degree=(25.0, 30.0)),
        dict(type='mmseg.RandomRotate', prob=1.0, degree=(-70.0, -60.0)),
        dict(type='mmseg.RandomRotate', prob=1.0, degree=(90.0, 90.0)),
        dict(type='mmseg.RandomRotFlip', rotate_prob=0.0, flip_prob=1.0),
    ],
)
@pytest.mark.parametrize('axes', [NormalsAxes(), NormalsAxes('right', 'up'), NormalsAxes('left', 'down')], ids=str)
def test_rotations_turn_normals(config, axes, results):
    normals = results['gt_normals']
    results |= dict(gt_normals=NormalsAxes().convert(normals, axes), **axes.meta)
    transform = followed(config)
    for seed in range(4):
        with seeded_rng(seed):
            turned = transform(copy.deepcopy(results))
        assert_in_register(turned)
        # A ball looks the same from all sides, wherever it is seen; the picture may have been laid on its side.
        found = axes.convert(turned['gt_normals'], NormalsAxes())
        found, expected = (m[tuple(slice(n // 2 - 20, n // 2 + 20) for n in m.shape[:2])] for m in (found, normals))
        assert np.abs(found - expected).max() < 0.06


def test_rotations_need_the_axes_of_normals(results):
    del results['normals_y']
    with pytest.raises(ValueError, match=r'normals cannot follow: normals_x and normals_y do not say'):
        followed(dict(type='mmseg.RandomRotate', prob=1.0, degree=30.0))(results)
    del results['gt_normals']
    assert_in_register(followed(dict(type='mmseg.RandomRotate', prob=1.0, degree=30.0))(results))


def test_a_crop_that_looks_at_classes_sees_them(results):
    results['gt_semseg'] = (
        np.where(np.arange(WIDTH) < 70, 3, 9).astype(np.uint8).repeat(HEIGHT).reshape(WIDTH, HEIGHT).T
    )
    transform = followed(dict(type='mmseg.RandomCrop', crop_size=(40, 20), cat_max_ratio=0.75))
    both = 0
    for seed in range(10):
        with seeded_rng(seed):
            both += len(np.unique(transform(copy.deepcopy(results))['gt_semseg'])) == 2
    # A window that is placed at random shows both classes in a quarter of all cases.
    assert both >= 8


def bent(results):
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    places = (x + 6 * np.sin(y / 5)).astype(int).clip(0, WIDTH - 1)
    for key in ('img', 'gt_seg_map'):
        results[key] = results[key][y.astype(int), places]
    return results


def sheared(results):
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    places = (x + y // 2).clip(0, WIDTH - 1)
    for key in ('img', 'gt_seg_map'):
        results[key] = results[key][y, places]
    return results


@pytest.mark.parametrize('transform, reason', [(bent, 'bent'), (sheared, 'sheared|bent')])
def test_vectors_cannot_follow_where_they_have_no_one_turn(transform, reason, results):
    with pytest.raises(ValueError, match=f'moves the picture so that normals cannot follow: it is ({reason})'):
        followed(transform)(copy.deepcopy(results))
    del results['gt_normals']
    assert_in_register(followed(transform)(results))


def mirrored(results):
    results['img'] = np.ascontiguousarray(results['img'][:, ::-1])
    return results


def sometimes_mirrored(results):
    return mirrored(results) if random.random() < 0.3 else results


def rolled(results):
    results['img'] = np.roll(results['img'], 5, axis=1)
    return results


def resampled(results):
    results['img'] = np.ascontiguousarray(results['img'][5:-5, 5:-5].repeat(2, 0).repeat(2, 1)[:HEIGHT, :WIDTH])
    return results


def smaller(results):
    results['img'] = results['img'][::2, ::2]
    return results


def stored_small(results):
    results['img'] = results['img'][:, ::-1]
    results['gt_seg_map'] = results['gt_seg_map'].astype(np.uint8)[:, ::-1]
    return results


def map_alone(results):
    results['gt_seg_map'] = results['gt_seg_map'][:, ::-1]
    return results


class MyRandomRotation:
    def __call__(self, results):
        results['img'] = np.ascontiguousarray(results['img'][::-1, ::-1])
        return results


def _id(transform):
    """A name that is the same in every test process: an object's own would hold its address."""
    return str(transform) if isinstance(transform, dict) else getattr(transform, '__name__', type(transform).__name__)


REFUSED = [
    (
        mirrored,
        'mirrored moves the picture, but not its label maps .*MultiTaskRandomFlip or mmvmt.MultiTaskRandomRotate',
    ),
    (sometimes_mirrored, 'moves the picture, but not its label maps'),
    (rolled, 'moves the picture, but not its label maps'),
    (resampled, 'moves the picture, but not its label maps'),
    (MyRandomRotation(), r"not its label maps \(image '2008_000001'\); use mmvmt.MultiTaskRandomRotate, which"),
    (
        smaller,
        r'makes a picture of 30 x 45 pixels \(height x width\) of 60 x 90, and leaves its label maps as they are',
    ),
    (stored_small, r'converted \(from float64 to uint8\)'),
    (map_alone, 'moves the picture, but not its label maps'),
    (
        dict(type='mmpretrain.RandomCrop', crop_size=40),
        'mmpretrain.RandomCrop makes a .*use mmvmt.MultiTaskRandomScaleCrop',
    ),
    (dict(type='mmpretrain.RandomResizedCrop', scale=(60, 90)), 'RandomResizedCrop moves the picture'),
    (dict(type='mmpretrain.Rotate', angle=30.0, prob=0.5), 'mmpretrain.Rotate moves the picture'),
    (dict(type='mmpretrain.Shear', magnitude=0.3, prob=0.5), 'mmpretrain.Shear moves the picture'),
    (dict(type='mmpretrain.Translate', magnitude=0.3, prob=0.5), 'mmpretrain.Translate moves the picture'),
    (dict(type='mmpretrain.ResizeEdge', scale=30), 'mmpretrain.ResizeEdge makes a picture of 30 x 45'),
    (dict(type='mmseg.RandomRotFlip', rotate_prob=1.0), 'they are interpolated, which gives classes that are nowhere'),
    (dict(type='mmseg.SegRescale', scale_factor=0.5), 'gives the picture another size than the label maps'),
    (dict(type='mmcv.RandomFlip', prob=1.0, swap_seg_labels=[(1, 2)]), 'exchanges labels'),
    (
        dict(
            type='mmcv.RandomApply',
            prob=1.0,
            transforms=[dict(type='mmcv.RandomFlip', prob=1.0), dict(type='mmvmt.MultiTaskRandomFlip', prob=1.0)],
        ),
        'mmcv.RandomApply moves gt_seg_map and changes the label map of semseg, saliency, normals, depth too',
    ),
]


@pytest.mark.parametrize('transform, message', REFUSED, ids=[_id(t) for t, _ in REFUSED])
def test_what_maps_cannot_follow_is_refused_at_the_first_sample(transform, message, results):
    with seeded_rng(3), pytest.raises(ValueError, match=message):
        followed(transform)(results)


def test_an_unseen_move_is_refused_when_it_happens(results):
    # Too rare for the trials, but what moves gt_seg_map shows itself.
    calls = []

    def rare(results):
        calls.append(1)
        return stored_small(results) if len(calls) == 40 else results

    transform = followed(rare)
    for _ in range(7):
        transform(copy.deepcopy(results))
    with pytest.raises(ValueError, match='rare treats label maps'):
        transform(results)


PHOTOMETRIC_CONFIGS = {
    'mmcv.Normalize': dict(mean=[100, 110, 120], std=[50, 60, 70]),
    'mmcv.RandomGrayscale': dict(prob=0.5, keep_channels=True),
    'mmseg.AdjustGamma': dict(gamma=0.5),
    'mmseg.CLAHE': {},
    'mmseg.PhotoMetricDistortion': {},
    'mmseg.RGB2Gray': {},
    'mmseg.Rerange': {},
    'mmseg.RandomCutOut': dict(prob=1.0, n_holes=3, cutout_shape=(12, 12)),
    'mmseg.BioMedicalGaussianNoise': {},
    'mmpretrain.AutoContrast': {},
    'mmpretrain.Brightness': dict(magnitude=0.9),
    'mmpretrain.ColorJitter': dict(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1),
    'mmpretrain.Contrast': dict(magnitude=0.9),
    'mmpretrain.Cutout': dict(shape=20),
    'mmpretrain.Equalize': {},
    'mmpretrain.GaussianBlur': dict(magnitude_range=(0.1, 2.0), magnitude_std='inf'),
    'mmpretrain.Invert': {},
    'mmpretrain.Posterize': dict(bits=2),
    'mmpretrain.RandomErasing': dict(erase_prob=1.0, mode='rand'),
    'mmpretrain.Sharpness': dict(magnitude=0.9),
    'mmpretrain.Solarize': dict(thr=128),
}


@pytest.mark.parametrize('name', PHOTOMETRIC_CONFIGS)
def test_colours_may_change(name, results):
    before = copy.deepcopy(results)
    results = followed(dict(type=name, **PHOTOMETRIC_CONFIGS[name]))(results)
    for key, value in before.items():
        if key.startswith('gt_'):
            np.testing.assert_array_equal(results[key], value, err_msg=key)


def test_those_that_run_as_they_are_are_among_them():
    assert set(PHOTOMETRIC) <= set(PHOTOMETRIC_CONFIGS)


def test_transforms_that_treat_our_maps_are_left_to_it(results):
    before = copy.deepcopy(results)
    transform = followed(
        dict(type='mmcv.RandomApply', prob=1.0, transforms=[dict(type='mmvmt.MultiTaskRandomFlip', prob=1)])
    )
    results = transform(results)
    np.testing.assert_array_equal(results['gt_normals'], before['gt_normals'][:, ::-1] * np.float32([-1, 1, 1]))

    def forgetful(results):
        depth = results['gt_depth']
        results = MultiTaskRandomFlip(1.0)(results)
        return results | dict(gt_depth=depth)

    with pytest.raises(ValueError, match='forgetful moves the picture, but not its label maps'):
        followed(forgetful)(before)


def test_transforms_may_write_into_maps(results):
    def relabelled(results):
        semseg = results['gt_semseg']
        edge = np.zeros_like(semseg)
        edge[:, 1:] = semseg[:, 1:] != semseg[:, :-1]
        return results | dict(gt_edge=edge, gt_saliency=edge.copy(), gt_semseg=np.zeros_like(semseg))

    transform = followed(relabelled)
    once = transform(copy.deepcopy(results))
    assert (once['gt_edge'] == once['gt_saliency']).all()
    # Maps that it finds, too.
    assert not transform(once)['gt_semseg'].any()


def test_pictures_of_other_types(results):
    picture = Image.fromarray(results['img'])
    to_pil = followed(dict(type='mmpretrain.NumpyToPIL'))
    assert isinstance(to_pil(copy.deepcopy(results))['img'], Image.Image)

    def mirror(results):
        return results | dict(img=results['img'].transpose(Image.Transpose.FLIP_LEFT_RIGHT))

    with pytest.raises(ValueError, match='mirror moves the picture'):
        followed(mirror)(results | dict(img=picture))


def test_trials_leave_randomness_and_the_transform_alone(results):
    class Counting:
        calls = 0

        def __call__(self, results):
            self.calls += 1
            random.random()
            return results

    counting = Counting()
    transform = followed(counting)
    with seeded_rng(0):
        transform(copy.deepcopy(results))
        drawn = random.random()
    with seeded_rng(0):
        random.random()
        assert drawn == random.random()
    transform(results)
    assert counting.calls == 2


def test_a_sample_that_is_dropped_stays_dropped(results):
    assert followed(lambda results: None)(results) is None


def test_a_map_of_mmseg_s_own_goes_along(results):
    results |= dict(gt_seg_map=results['gt_semseg'].copy(), seg_fields=['gt_seg_map'])
    results = followed(dict(type='mmseg.RandomFlip', prob=1.0))(results)
    np.testing.assert_array_equal(results['gt_seg_map'], results['gt_semseg'])
    assert results['seg_fields'] == ['gt_seg_map']
    with pytest.raises(ValueError, match='moves gt_seg_map, but not all maps of seg_fields'):
        followed(dict(type='mmcv.RandomFlip', prob=1.0))(results)


def test_errors_say_what_the_transform_got(results):
    def picky(results):
        assert results['gt_seg_map'].dtype == np.uint8
        return results

    with pytest.raises(AssertionError) as caught:
        followed(picky)(results)
    assert caught.value.__notes__ == ['picky got the places of pixels (float64) as gt_seg_map and seg_fields']


BEFORE_LABELS = [
    (MultiTaskResize((45, 40)), None),
    (MultiTaskPad(size_divisor=64), None),
    (dict(type='mmcv.Resize', scale=(45, 40)), None),
    (dict(type='mmseg.Resize', scale=(300, 301)), None),
    (dict(type='mmseg.ResizeToMultiple', size_divisor=32), None),
    (dict(type='mmpretrain.ResizeEdge', scale=40), None),
    (dict(type='mmseg.PhotoMetricDistortion'), None),
    (MultiTaskRandomFlip(0.5), 'MultiTaskRandomFlip moves .* place it behind LoadMultiTaskAnnotations'),
    (MultiTaskRandomRotate(20), 'place it behind LoadMultiTaskAnnotations'),
    (MultiTaskRandomScaleCrop(40), 'place it behind LoadMultiTaskAnnotations'),
    (dict(type='mmcv.RandomFlip', prob=0.5), 'mmcv.RandomFlip .* place mmvmt.MultiTaskRandomFlip behind LoadMultiTask'),
    (dict(type='mmseg.RandomCrop', crop_size=(40, 40)), 'while maps are loaded or computed for the whole of it'),
    (dict(type='mmcv.CenterCrop', crop_size=40), 'while maps are loaded or computed for the whole of it'),
    (dict(type='mmcv.Pad', size_divisor=64), 'use mmvmt.MultiTaskPad, which notes what it adds'),
    (mirrored, 'while maps are loaded or computed for the whole of it'),
]


@pytest.mark.parametrize('transform, message', BEFORE_LABELS, ids=[_id(t) for t, _ in BEFORE_LABELS])
def test_before_labels_a_picture_may_be_resized_as_a_whole(transform, message, results):
    picture = {key: value for key, value in results.items() if not key.startswith('gt_')}
    transform = followed(transform, whole=True)
    if message is None:
        assert transform(picture)['img'].ndim == 3
        return
    with pytest.raises(ValueError, match=message):
        transform(picture)


def test_which_transforms_of_a_pipeline_are_replaced():
    crop, flip = mmcv.transforms.CenterCrop(8), mmcv.transforms.RandomFlip(0.5)
    several = mmcv.transforms.TestTimeAug(
        [[dict(type='mmcv.Resize', scale=(8, 8))], [dict(type='mmvmt.PackMultiTaskInputs')]]
    )
    transforms = [
        LoadMultiTaskImage(),
        MultiTaskResize(8),
        LoadMultiTaskAnnotations(),
        MultiTaskRandomFlip(),
        TRANSFORMS.build(dict(type='mmseg.PhotoMetricDistortion')),
        crop,
        flip,
        PackMultiTaskInputs(),
        several,
    ]
    pipeline = follow_picture(Compose(list(transforms)))
    wrapped = [type(transform) is FollowedTransform for transform in pipeline.transforms]
    assert wrapped == [False, True, False, False, False, True, True, False, False]
    assert pipeline.transforms[5].wrapped is crop
    assert repr(pipeline.transforms[5]) == repr(crop)
    # Where maps are computed, everything must leave the picture whole.
    inference = follow_picture([t for t in transforms if not isinstance(t, LoadMultiTaskAnnotations)], inference=True)
    assert [type(t) is FollowedTransform for t in inference] == [False, True, True, False, True, True, False, False]
    # Once more changes nothing, and workers get them by pickle.
    again = pickle.loads(pickle.dumps(follow_picture(pipeline)))
    assert [type(transform) is FollowedTransform for transform in again.transforms] == wrapped
    assert follow_picture(mirrored) is mirrored


def test_the_data_set_follows_whatever_pipeline_it_gets(pascal_mt):
    def pipeline(*transforms):
        return [LoadMultiTaskImage(), LoadMultiTaskAnnotations(), *transforms, PackMultiTaskInputs()]

    dataset = PASCALContextMT(str(pascal_mt.root), pipeline=pipeline(mmcv.transforms.CenterCrop(30)))
    packed = dataset[0]
    assert packed['inputs'].shape == (3, 30, 30)
    expected = pascal_mt.semseg[packed['data_samples'].img_id][5:35, 15:45]
    np.testing.assert_array_equal(packed['data_samples'].gt.semseg[0], expected)
    dataset.pipeline = Compose(pipeline(mirrored))
    with pytest.raises(ValueError, match='mirrored moves the picture'):
        dataset[0]
