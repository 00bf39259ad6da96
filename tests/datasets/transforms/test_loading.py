import numpy as np
import pytest
from pascal_mt_folder import SKY, WALL, save_photo
from PIL import Image
from scipy.io import savemat

from mmvmt.datasets import PASCALContextMT, formats, plausibility
from mmvmt.datasets import files as raw_files
from mmvmt.datasets.edges import label_edges
from mmvmt.datasets.images import read_photo
from mmvmt.datasets.transforms import (
    LoadMultiTaskAnnotations,
    LoadMultiTaskImage,
    MultiTaskResize,
    PackMultiTaskInputs,
)

ALL = ('semseg', 'human_parts', 'saliency', 'normals', 'edge')


def info(folder, tasks=ALL, **kwargs):
    dataset = PASCALContextMT(str(folder.root), tasks=tasks, **kwargs)
    return dataset.get_data_info(0)


def load(folder, **kwargs):
    return LoadMultiTaskAnnotations().transform(LoadMultiTaskImage().transform(info(folder, **kwargs)))


def test_kinds_of_maps(pascal_mt):
    results = load(pascal_mt)
    assert results['img'].shape == (40, 60, 3)
    assert results['ori_shape'] == results['img_shape'] == (40, 60)
    for task in ('semseg', 'human_parts', 'saliency', 'edge'):
        assert results[f'gt_{task}'].shape == (40, 60)
        assert results[f'gt_{task}'].dtype == np.uint8
    assert results['gt_normals'].shape == (40, 60, 3)
    assert results['gt_normals'].dtype == np.float32


def test_normals_are_unit_where_valid_and_zero_elsewhere(pascal_mt):
    results = load(pascal_mt)
    length = np.linalg.norm(results['gt_normals'], axis=2)
    assert (length[:15] == 0).all(), 'sky'
    np.testing.assert_allclose(length[15:], 1, atol=1e-6)


def test_context_labels_are_read_once_for_two_tasks(pascal_mt, monkeypatch):
    read, paths = formats.read_context_labels, []
    monkeypatch.setattr(formats, 'read_context_labels', lambda path: (paths.append(path), read(path))[1])
    load(pascal_mt, tasks=('normals', 'edge'))
    assert len(paths) == 1


@pytest.mark.parametrize(
    'tasks, files',
    [
        (('semseg',), ['semseg']),
        (('human_parts',), ['human_parts']),
        (('saliency',), ['saliency']),
        (('normals',), ['normals', 'context']),
        (('edge',), ['context']),
        (('edge', 'saliency', 'normals'), ['context', 'saliency', 'normals']),
        (ALL, ['semseg', 'human_parts', 'saliency', 'normals', 'context']),
    ],
)
@pytest.mark.parametrize('cached', [False, True])
def test_only_files_of_enabled_tasks_are_opened_and_each_once(pascal_mt, tmp_path, monkeypatch, tasks, files, cached):
    read, opened = raw_files.read_bytes, []
    monkeypatch.setattr(raw_files, 'read_bytes', lambda path: (opened.append(path), read(path))[1])
    load(pascal_mt, tasks=tasks, cache_dir=str(tmp_path / 'cache') if cached else None)
    img_id = pascal_mt.train[0]
    assert sorted(opened) == sorted(str(pascal_mt.path(name, img_id)) for name in ('image', *files))


def test_some_tasks_of_the_sample(pascal_mt):
    results = LoadMultiTaskImage().transform(info(pascal_mt))
    results = LoadMultiTaskAnnotations(tasks=['edge']).transform(results)
    assert [key for key in results if key.startswith('gt_')] == ['gt_edge']


def test_after_the_resize_maps_keep_the_original_size(pascal_mt):
    results = MultiTaskResize((30, 20)).transform(LoadMultiTaskImage().transform(info(pascal_mt)))
    results = LoadMultiTaskAnnotations().transform(results)
    assert results['img'].shape[:2] == (20, 30)
    assert results['gt_semseg'].shape == results['gt_human_parts'].shape == (40, 60)


@pytest.mark.parametrize('task', ALL)
def test_maps_of_another_size_than_their_image_are_resized(pascal_mt, task):
    small = load(pascal_mt, tasks=(task,))[f'gt_{task}']
    img_id = pascal_mt.train[0]
    Image.new('RGB', (120, 80)).save(pascal_mt.path('image', img_id))
    label = load(pascal_mt, tasks=(task,))[f'gt_{task}']
    assert label.dtype == small.dtype
    if task == 'edge':
        # Edges of the enlarged labels are as thin as others.
        context = pascal_mt.context[img_id].repeat(2, axis=0).repeat(2, axis=1)
        np.testing.assert_array_equal(label, label_edges(context))
    elif task == 'normals':
        length = np.linalg.norm(label, axis=2)
        assert (length[:30] == 0).all()
        np.testing.assert_allclose(length[30:], 1, atol=1e-5)
        # Bilinear weights of a new pixel are 9, 3, 3 and 1 sixteenths.
        expected = np.tensordot(np.array([9, 3, 3, 1]), small[20:22, 30:32].reshape(4, 3), 1)
        np.testing.assert_allclose(label[41, 61], expected / np.linalg.norm(expected), atol=1e-4)
    else:
        np.testing.assert_array_equal(label, small.repeat(2, axis=0).repeat(2, axis=1))


@pytest.mark.parametrize('task', ALL)
def test_strictly_a_map_of_another_size_is_refused_by_name_and_both_sizes(pascal_mt, task):
    img_id = pascal_mt.train[0]
    Image.new('RGB', (50, 30)).save(pascal_mt.path('image', img_id))
    with pytest.raises(ValueError, match=rf'size mismatch.*{img_id}\.(png|mat) has 40 x 60 .* 30 x 50.*strict'):
        load(pascal_mt, tasks=(task,), strict=True)


@pytest.mark.parametrize('size, factor', [((20, 30), 2), ((80, 120), 0.5)])
def test_normals_and_their_validity_may_differ_in_size(pascal_mt, size, factor):
    img_id = pascal_mt.train[0]
    context = np.full(size, SKY, dtype=np.uint16)
    context[: size[0] // 2] = WALL
    savemat(pascal_mt.path('context', img_id), {'LabelMap': context})
    normals = load(pascal_mt, tasks=('normals',))['gt_normals']
    assert normals.any(axis=2)[:20].all()
    assert not normals[20:].any()
    np.testing.assert_allclose(normals[:20], pascal_mt.normals[img_id][:20], atol=0.02)
    with pytest.raises(ValueError, match=rf'size mismatch.*{img_id}\.mat has {size[0]} x {size[1]}'):
        load(pascal_mt, tasks=('normals',), strict=True)


@pytest.mark.parametrize('task', ALL)
@pytest.mark.parametrize('factor', [1, 2])
def test_a_map_that_is_turned_against_its_image_is_refused(pascal_mt, task, factor):
    Image.new('RGB', (40 * factor, 60 * factor)).save(pascal_mt.path('image', pascal_mt.train[0]))
    with pytest.raises(ValueError, match=r'turned by 90 degrees against its image of .*; turn it, or fetch'):
        load(pascal_mt, tasks=(task,))


@pytest.fixture
def warnings(monkeypatch):
    messages = []
    monkeypatch.setattr(plausibility, 'print_log', lambda message, **_: messages.append(message))
    return messages


def stored_photo(folder, orientation):
    """A photo, bright where something is salient, whose labels were drawn over what viewers show."""
    img_id = folder.train[0]
    save_photo(folder.path('image', img_id), folder.saliency[img_id][..., None].repeat(3, axis=2) * 255, orientation)
    return info(folder, tasks=('saliency', 'normals', 'human_parts'))


@pytest.mark.parametrize('orientation', range(1, 9))
@pytest.mark.parametrize('reduced_decoding', [True, False])
def test_labels_drawn_upright_fit_a_photo_that_is_loaded_upright(pascal_mt, warnings, orientation, reduced_decoding):
    sample = stored_photo(pascal_mt, orientation)
    options = dict(scale=(60, 40), reduced_decoding=True) if reduced_decoding else {}
    results = LoadMultiTaskImage(upright=True, **options).transform(sample)
    results = LoadMultiTaskAnnotations().transform(results)
    assert results['img'].shape[:2] == results['gt_saliency'].shape == (40, 60)
    salient = results['gt_saliency'] == 1
    assert results['img'][salient].mean() > 240
    assert results['img'][~salient].mean() < 10
    sample = PackMultiTaskInputs()(results)['data_samples']
    assert sample.upright is True
    assert not [message for message in warnings if 'EXIF' in message]


@pytest.mark.parametrize('orientation', [5, 6, 7, 8])
def test_labels_drawn_upright_over_a_photo_stored_sideways_are_refused_with_the_remedy(pascal_mt, orientation):
    sample = stored_photo(pascal_mt, orientation)
    message = rf'turned by 90 degrees .*EXIF orientation {orientation}.*viewers show.*upright=True'
    with pytest.raises(ValueError, match=message):
        LoadMultiTaskAnnotations().transform(LoadMultiTaskImage().transform(sample))
    # The other way round: labels drawn over the pixels as they are stored.
    path = pascal_mt.path('image', pascal_mt.train[0])
    save_photo(path, np.zeros((60, 40, 3), np.uint8), orientation)
    LoadMultiTaskAnnotations().transform(LoadMultiTaskImage().transform(dict(sample)))
    with pytest.raises(ValueError, match=rf'EXIF orientation {orientation}.*as they are stored.*upright=False'):
        LoadMultiTaskAnnotations().transform(LoadMultiTaskImage(upright=True).transform(dict(sample)))


@pytest.mark.parametrize('orientation', [2, 3, 4])
def test_what_no_size_tells_is_warned_of_once(pascal_mt, warnings, orientation):
    sample = stored_photo(pascal_mt, orientation)
    transform = LoadMultiTaskAnnotations()
    for _ in range(3):
        transform.transform(LoadMultiTaskImage().transform(dict(sample)))
    (message,) = (message for message in warnings if 'EXIF' in message)
    assert f'{pascal_mt.train[0]}.jpg is stored with the EXIF orientation {orientation}' in message
    assert 'LoadMultiTaskImage(upright=True)' in message


@pytest.mark.parametrize('task', [*ALL[:4], 'context'])
def test_missing_and_truncated_label_files_are_named(pascal_mt, task):
    path = pascal_mt.path(task, pascal_mt.train[0])
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=str(path)):
        load(pascal_mt)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=str(path)):
        load(pascal_mt)


def test_truncated_image_is_named(pascal_mt):
    path = pascal_mt.path('image', pascal_mt.train[0])
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(ValueError, match=str(path)):
        load(pascal_mt)


def blobs(path, width, height, centres, radius):
    """A JPEG with a soft blob in each colour, at the given fractions of its width and height."""
    x, y = np.arange(width) + 0.5, np.arange(height)[:, None] + 0.5
    channels = [np.exp(-((x - c_x * width) ** 2 + (y - c_y * height) ** 2) / (2 * radius**2)) for c_x, c_y in centres]
    Image.fromarray((255 * np.stack(channels, axis=2)).astype(np.uint8)).save(path, quality=100, subsampling=0)
    return path


@pytest.mark.parametrize('reduced_decoding', [True, False])
@pytest.mark.parametrize(
    'size, scale, reduction',
    [
        ((480, 320), (240, 160), 2),
        ((481, 323), (200, 140), 2),
        ((483, 321), (120, 80), 4),
        ((321, 489), (40, 60), 8),
        ((321, 489), (80, 30), 4),
    ],
)
def test_reduced_decoding_keeps_every_point_where_it_was(tmp_path, size, scale, reduction, reduced_decoding):
    centres = [(0.15, 0.2), (0.5, 0.8), (0.85, 0.8)]
    path = blobs(str(tmp_path / 'picture.jpg'), *size, centres, radius=16)
    image, shape, found, _ = read_photo(path, smallest=lambda *_: scale[::-1])
    assert (shape, found) == (size[::-1], reduction)
    assert image.shape[:2] == tuple(-(-edge // reduction) for edge in shape)
    results = LoadMultiTaskImage(scale, reduced_decoding=reduced_decoding).transform(dict(img_path=path))
    assert results['img'].shape[1::-1] == scale
    for (c_x, c_y), channel in zip(centres, (2, 1, 0), strict=True):
        weight = np.clip(results['img'][..., channel].astype(float) - 10, 0, None)
        at_x = (weight.sum(axis=0) * (np.arange(scale[0]) + 0.5)).sum() / weight.sum()
        at_y = (weight.sum(axis=1) * (np.arange(scale[1]) + 0.5)).sum() / weight.sum()
        assert (at_x, at_y) == pytest.approx((c_x * scale[0], c_y * scale[1]), abs=0.05)


@pytest.mark.parametrize('scale, keep_ratio', [((30, 20), False), ((25, 31), True), (17, False)])
@pytest.mark.parametrize('reduced_decoding', [True, False])
def test_resizing_while_loading_equals_resizing_afterwards(pascal_mt, scale, keep_ratio, reduced_decoding):
    expected = MultiTaskResize(scale, keep_ratio).transform(load(pascal_mt))
    results = LoadMultiTaskImage(scale, keep_ratio, reduced_decoding).transform(info(pascal_mt))
    original = LoadMultiTaskAnnotations().transform(dict(results))
    results = LoadMultiTaskAnnotations(resize=True).transform(results)
    assert set(results) == set(expected)
    assert original['gt_semseg'].shape == results['ori_shape'] == (40, 60)
    for key, value in expected.items():
        if key.startswith('gt_'):
            np.testing.assert_array_equal(results[key], value, err_msg=key)
            assert results[key].dtype == value.dtype
        elif key != 'img':
            assert results[key] == value, key
    tolerance = 12 if reduced_decoding else 0
    np.testing.assert_allclose(results['img'].astype(int), expected['img'].astype(int), atol=tolerance)


@pytest.mark.parametrize('scale, reduction', [(21, 1), (20, 2), (11, 2), (10, 4), (6, 4), (5, 8), (1, 8)])
def test_the_reduction_leaves_at_least_the_target(tmp_path, scale, reduction):
    path = tmp_path / 'picture.jpg'
    Image.new('RGB', (60, 41)).save(path)
    assert read_photo(str(path), smallest=lambda *_: (scale, scale)).reduction == reduction


@pytest.mark.parametrize('mode, extension, reduction', [('RGB', 'png', 1), ('L', 'jpg', 2), ('CMYK', 'jpg', 2)])
def test_other_pictures_load_as_without_reduced_decoding(tmp_path, mode, extension, reduction):
    path = str(tmp_path / f'picture.{extension}')
    color = dict(RGB=(10, 90, 200), L=70, CMYK=(10, 90, 200, 30))[mode]
    Image.new(mode, (61, 41), color).save(path)
    assert read_photo(path, smallest=lambda *_: (20, 30)).reduction == reduction
    loaded = [LoadMultiTaskImage((30, 20), reduced_decoding=r).transform(dict(img_path=path)) for r in (True, False)]
    np.testing.assert_allclose(loaded[0]['img'].astype(int), loaded[1]['img'].astype(int), atol=2)


def test_reduced_decoding_refuses_truncated_and_missing_files(pascal_mt):
    transform, path = LoadMultiTaskImage((15, 10), reduced_decoding=True), pascal_mt.path('image', pascal_mt.train[0])
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(ValueError, match=str(path)):
        transform.transform(info(pascal_mt))
    path.unlink()
    with pytest.raises(FileNotFoundError, match=str(path)):
        transform.transform(info(pascal_mt))


@pytest.mark.parametrize('options', [dict(keep_ratio=True), dict(reduced_decoding=True)])
def test_options_of_resizing_need_a_scale(options):
    with pytest.raises(ValueError, match='give scale too'):
        LoadMultiTaskImage(**options)


def test_maps_follow_only_an_image_that_was_resized(pascal_mt):
    results = LoadMultiTaskImage().transform(info(pascal_mt))
    with pytest.raises(KeyError, match='give LoadMultiTaskImage a scale'):
        LoadMultiTaskAnnotations(resize=True).transform(results)


def test_unlabelled_samples_are_dropped_on_demand(pascal_mt):
    empty = PASCALContextMT(str(pascal_mt.root), tasks=['human_parts']).get_data_info(1)
    assert LoadMultiTaskAnnotations().transform(LoadMultiTaskImage().transform(empty)) is None
    assert load(pascal_mt, tasks=['human_parts']) is not None


def test_task_without_files(pascal_mt):
    results = LoadMultiTaskImage().transform(info(pascal_mt, tasks=('edge',)))
    with pytest.raises(KeyError, match=r"no label file for task 'semseg' of image .*gives edge"):
        LoadMultiTaskAnnotations(tasks=['semseg']).transform(results)


@pytest.mark.parametrize('tasks', [['flow'], ['semseg', 'semseg'], []])
def test_bad_tasks(tasks):
    with pytest.raises(ValueError, match='task'):
        LoadMultiTaskAnnotations(tasks=tasks)
