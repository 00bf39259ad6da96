import argparse
import io
import logging
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hostile import write_hostile
from label_maps import read_label
from mmengine.config import Config
from mmengine.logging import MMLogger
from pascal_mt_folder import save_photo
from PIL import ExifTags, Image
from tiny import FOUR_TASKS, tiny_model

from mmvmt.apis import MultiTaskInferencer, UnreadableImagesError
from mmvmt.apis.inferencer import add_inferencer_arguments, build_inferencer
from mmvmt.apis.weights import build_model
from mmvmt.datasets import formats
from mmvmt.engine.adapter_file import save_adapter
from mmvmt.structures import encode_map

SIX_TASKS = (*FOUR_TASKS, 'edge', 'depth')


def picture(height=40, width=56, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture(scope='module')
def model():
    return tiny_model(SIX_TASKS)


@pytest.fixture(scope='module')
def inferencer(model):
    return MultiTaskInferencer(model, show_progress=False)


@pytest.fixture
def folder(tmp_path):
    """Pictures of two sizes, a damaged one, and a file that is none."""
    root = tmp_path / 'photos'
    root.mkdir()
    for index, (name, size) in enumerate({'b.png': (40, 56), 'a.PNG': (64, 48), 'd.png': (40, 56)}.items()):
        assert cv2.imwrite(str(root / name), picture(*size, seed=index))
    (root / 'notes.txt').write_text('no picture')
    return root


@pytest.fixture(scope='module')
def trained(tiny_checkpoint):
    """Path of a checkpoint of the tiny config, with random weights."""
    return tiny_checkpoint


def assert_same(a, b):
    assert a.keys() == b.keys()
    for task, expected in b.items():
        np.testing.assert_array_equal(a[task], expected)


@pytest.mark.parametrize('declared', [{}, dict(normals_x='right', normals_y='up')])
def test_axes_of_normals_are_those_of_the_weights(tiny_config, trained, tmp_path, declared):
    checkpoint = torch.load(trained, weights_only=True) | dict(meta=dict(dataset_meta=declared))
    torch.save(checkpoint, tmp_path / 'model.pth')
    inferencer = MultiTaskInferencer(str(tiny_config), str(tmp_path / 'model.pth'), show_progress=False)
    expected = declared or dict(normals_x='left', normals_y='up')
    assert inferencer.axes.meta == expected
    (prediction,) = inferencer.predict(picture())
    assert {key: prediction.sample.get(key) for key in expected} == expected


def test_an_array_gives_its_maps_at_its_size(inferencer, model):
    image = picture()
    maps = inferencer(image)
    shapes = {task: (array.shape, array.dtype.name) for task, array in maps.items()}
    plane = (40, 56)
    assert shapes == {
        'semseg': (plane, 'uint8'),
        'human_parts': (plane, 'uint8'),
        'saliency': (plane, 'float32'),
        'normals': ((3, *plane), 'float32'),
        'edge': (plane, 'float32'),
        'depth': (plane, 'float32'),
    }
    np.testing.assert_allclose(np.linalg.norm(maps['normals'], axis=0), 1, atol=1e-5)
    (sample,) = model.test_step(dict(inputs=[torch.from_numpy(image.transpose(2, 0, 1).copy())]))
    for task, array in maps.items():
        np.testing.assert_array_equal(array.reshape(sample.pred.get(task).shape), sample.pred.get(task).numpy())


def test_a_file_gives_what_its_pixels_give(inferencer, folder):
    assert_same(inferencer(folder / 'b.png'), inferencer(cv2.imread(str(folder / 'b.png'))))


@pytest.mark.parametrize('kind', ['folder', 'pattern', 'list'])
def test_several_pictures_are_named(kind, inferencer, folder):
    inputs = {
        'folder': folder,
        'pattern': str(folder / '*.[pP][nN][gG]'),
        'list': [folder / 'a.PNG', str(folder / 'b.png'), cv2.imread(str(folder / 'd.png'))],
    }[kind]
    maps = inferencer(inputs)
    assert list(maps) == (['a', 'b', 'array_2'] if kind == 'list' else ['a', 'b', 'd'])
    assert_same(maps['a'], inferencer(folder / 'a.PNG'))
    assert_same(maps[list(maps)[2]], inferencer(folder / 'd.png'))


def test_pictures_of_one_batch_may_differ_in_size(inferencer, folder):
    alone, together = inferencer(folder), inferencer(folder, batch_size=3)
    for name, maps in together.items():
        assert {task: array.shape for task, array in maps.items()} == {t: a.shape for t, a in alone[name].items()}
    # Nothing is padded where all are of one size: then the maps are the same.
    same_size = inferencer([folder / 'b.png', folder / 'd.png'], batch_size=2)
    for name in ('b', 'd'):
        np.testing.assert_allclose(same_size[name]['saliency'], alone[name]['saliency'], atol=1e-5)


def test_some_tasks_and_a_model_that_stays_as_it_was(model):
    before = dict(model.test_cfg)
    model.test_cfg = before | dict(resolution='input')
    calls = []
    hook = model.heads['semseg'].register_forward_hook(lambda *_: calls.append('semseg'))
    try:
        maps = MultiTaskInferencer(model, tasks=['depth', 'normals'], show_progress=False)(picture())
        assert model.test_cfg['resolution'] == 'input'
    finally:
        hook.remove()
        model.test_cfg = before
    assert set(maps) == {'depth', 'normals'}
    assert calls == []
    assert model.active_tasks == SIX_TASKS
    with pytest.raises(ValueError, match="unknown task 'flow'"):
        MultiTaskInferencer(model, tasks=['flow'])


@pytest.mark.parametrize(
    'transform, message',
    [
        (dict(type='mmcv.Resize', scale=(64, 48)), None),
        (dict(type='mmvmt.MultiTaskPad', size_divisor=32), None),
        (dict(type='mmcv.Pad', size_divisor=32), 'mmcv.Pad moves the picture.*use mmvmt.MultiTaskPad, which notes'),
        (dict(type='mmcv.CenterCrop', crop_size=32), 'mmcv.CenterCrop moves the picture.* for inference leave it out'),
        (
            dict(type='mmvmt.MultiTaskRandomRotate', degree=20.0),
            'MultiTaskRandomRotate moves the picture, while maps are',
        ),
    ],
)
def test_the_pipeline_keeps_the_picture_whole(transform, message, model):
    pipeline = [dict(type='mmvmt.LoadMultiTaskImage'), transform, dict(type='mmvmt.PackMultiTaskInputs')]
    inferencer = MultiTaskInferencer(model, pipeline=pipeline, show_progress=False)
    if message is None:
        assert inferencer(picture())['semseg'].shape == (40, 56)
        return
    with pytest.raises(ValueError, match=message):
        inferencer(picture())


def test_the_pipeline_resizes_and_the_maps_come_back(model):
    pipeline = [dict(type='mmvmt.LoadMultiTaskImage', scale=(32, 32)), dict(type='mmvmt.PackMultiTaskInputs')]
    inferencer = MultiTaskInferencer(model, pipeline=pipeline, show_progress=False)
    image = picture(70, 90)
    (prediction,) = inferencer.predict([image])
    assert prediction.maps['semseg'].shape == (70, 90)
    assert prediction.sample.img_shape == (32, 32)
    np.testing.assert_array_equal(prediction.image, image)


def test_saves_maps_and_pictures(inferencer, folder, tmp_path):
    out = tmp_path / 'out'
    maps = inferencer(folder, out_dir=out)
    assert sorted(path.name for path in out.iterdir()) == sorted([*SIX_TASKS, 'pictures'])
    for name, of_image in maps.items():
        semseg = cv2.imread(str(out / 'semseg' / f'{name}.png'), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(semseg, of_image['semseg'])
        np.testing.assert_array_equal(np.load(out / 'depth' / f'{name}.npy'), of_image['depth'])
        normals = cv2.imread(str(out / 'normals' / f'{name}.png'), cv2.IMREAD_UNCHANGED)[..., ::-1]
        np.testing.assert_array_equal(normals, encode_map('normals', torch.from_numpy(of_image['normals'])))
        drawn = cv2.imread(str(out / 'pictures' / f'{name}.png'))
        assert drawn.shape[1] > 7 * of_image['semseg'].shape[1]


def test_all_readable_pictures_are_computed_before_the_others_are_named(inferencer, folder, tmp_path):
    (folder / 'a2.png').write_bytes((folder / 'a.PNG').read_bytes()[:200])
    (folder / 'c.jpg').write_bytes(b'no picture at all')
    out = tmp_path / 'out'
    with pytest.raises(UnreadableImagesError) as caught:
        inferencer(folder, batch_size=2, out_dir=out)
    assert sorted(Path(path).name for path in caught.value.failures) == ['a2.png', 'c.jpg']
    message = str(caught.value)
    assert message.startswith('2 of the pictures cannot be read:')
    assert 'c.jpg' in message
    assert list(caught.value.maps) == ['a', 'b', 'd']
    assert sorted(path.stem for path in (out / 'semseg').iterdir()) == ['a', 'b', 'd']


def test_unreadable_pictures_can_be_skipped(inferencer, folder):
    (folder / 'c.jpg').write_bytes(b'no picture at all')
    records = []
    handler = logging.Handler()
    handler.emit = records.append
    logger = MMLogger.get_current_instance()
    logger.addHandler(handler)
    try:
        maps = inferencer(folder, on_unreadable='skip')
    finally:
        logger.removeHandler(handler)
    assert list(maps) == ['a', 'b', 'd']
    (record,) = (record for record in records if record.levelno == logging.WARNING)
    assert 'c.jpg' in record.getMessage()


@pytest.mark.parametrize(
    'inputs, error, message',
    [
        ('nowhere.jpg', FileNotFoundError, "picture 'nowhere.jpg' does not exist"),
        ('nowhere/*.jpg', FileNotFoundError, r"pattern 'nowhere/\*\.jpg' matches no file"),
        ([], ValueError, 'the list of inputs is empty'),
        (3, TypeError, 'input 0 must be a path, an array, a tensor, a PIL image, or a file or its bytes, got int'),
        (['a.jpg', None], TypeError, 'input 1 must be .*, got NoneType'),
        (np.zeros((4, 4, 2), np.uint8), ValueError, r'input 0 must be a picture \(H, W, 3\) uint8'),
        (torch.zeros(3, 4, 4), ValueError, r'input 0 must be a picture \(3, H, W\) uint8 in RGB .* torch.float32'),
        (torch.zeros(4, 4, 3, dtype=torch.uint8)[:2], ValueError, r'got \(2, 4, 3\) torch.uint8'),
        (b'no picture', ValueError, r'cannot decode array_0 \(10 bytes\): unknown format'),
        ([picture(), picture().astype(np.float32)], ValueError, 'input 1 must be a picture'),
    ],
)
def test_wrong_inputs(inputs, error, message, inferencer):
    with pytest.raises(error, match=message):
        inferencer(inputs)


def test_wrong_options(inferencer, tmp_path):
    with pytest.raises(FileNotFoundError, match='holds no picture'):
        inferencer(tmp_path)
    with pytest.raises(ValueError, match='batch_size must be 1 or more, got 0'):
        inferencer(picture(), batch_size=0)
    with pytest.raises(ValueError, match="got 'ignore'"):
        inferencer(picture(), on_unreadable='ignore')


def test_config_and_checkpoint(tiny_config, trained, scenes):
    image = sorted((scenes / 'JPEGImages').iterdir())[0]
    inferencer = MultiTaskInferencer(tiny_config, trained, device='cpu', show_progress=False)
    maps = inferencer(image)
    assert set(maps) == set(FOUR_TASKS)
    reference = build_model(Config.fromfile(tiny_config))
    reference.load_state_dict(torch.load(trained, weights_only=True)['state_dict'])
    assert_same(maps, MultiTaskInferencer(reference, show_progress=False)(image))
    assert not inferencer.model.training


def test_config_and_adapter_file(tiny_config, trained, tmp_path):
    whole = MultiTaskInferencer(tiny_config, trained, device='cpu', show_progress=False)
    adapter, encoder = tmp_path / 'adapter.safetensors', tmp_path / 'encoder.pth'
    save_adapter(whole.model, adapter)
    torch.save(whole.model.backbone.state_dict(), encoder)
    cfg = Config.fromfile(tiny_config)
    cfg.model.backbone.init_cfg = dict(type='Pretrained', checkpoint=str(encoder))
    small = MultiTaskInferencer(cfg, adapter, device='cpu', show_progress=False)
    assert_same(small(picture()), whole(picture()))
    with pytest.raises(ValueError, match='init_cfg'):
        MultiTaskInferencer(tiny_config, adapter, device='cpu')


def test_pipeline_of_the_config(tiny_config, trained):
    options = {'test_dataloader.dataset.pipeline.0.scale': (32, 32)}
    inferencer = MultiTaskInferencer(tiny_config, trained, device='cpu', cfg_options=options, show_progress=False)
    (prediction,) = inferencer.predict(picture())
    assert prediction.sample.img_shape == (32, 32)
    assert prediction.maps['semseg'].shape == (40, 56)


def test_wrong_models(tiny_config, trained, model, tmp_path):
    with pytest.raises(ValueError, match='a config alone gives a model with random weights'):
        MultiTaskInferencer(tiny_config)
    with pytest.raises(FileNotFoundError, match=r"config 'no\.py' does not exist"):
        MultiTaskInferencer('no.py', trained)
    with pytest.raises(FileNotFoundError, match='does not exist'):
        MultiTaskInferencer(tiny_config, tmp_path / 'no.pth')
    with pytest.raises(TypeError, match='must be a MultiTaskEncoderDecoder, got Linear'):
        MultiTaskInferencer(torch.nn.Linear(1, 1))
    with pytest.raises(TypeError, match='got int'):
        MultiTaskInferencer(3)
    with pytest.raises(ValueError, match='change a config, but a built model was given'):
        MultiTaskInferencer(model, cfg_options=dict(a=1))
    cfg = Config.fromfile(tiny_config)
    cfg.test_dataloader = None
    with pytest.raises(ValueError, match='has no test_dataloader'):
        MultiTaskInferencer(cfg, trained)


@pytest.mark.parametrize(
    'pipeline, message',
    [
        ([], 'must begin with LoadMultiTaskImage, got: nothing'),
        ([dict(type='mmvmt.PackMultiTaskInputs')], 'must begin with LoadMultiTaskImage, got: PackMultiTaskInputs'),
        ([dict(type='mmvmt.LoadMultiTaskImage')], 'must end with PackMultiTaskInputs, got: LoadMultiTaskImage'),
    ],
)
def test_wrong_pipelines(pipeline, message, model):
    with pytest.raises(ValueError, match=message):
        MultiTaskInferencer(model, pipeline=pipeline)


def test_nothing_in_the_weights_is_executed_unless_they_are_trusted(tiny_config, trained, tmp_path):
    path = tmp_path / 'hostile.pth'
    trace = write_hostile(path, torch.load(trained, weights_only=True))
    with pytest.raises(ValueError, match=r'holding code that would be executed.*--trust-checkpoint'):
        MultiTaskInferencer(tiny_config, path, device='cpu')
    assert not trace.exists()
    inferencer = MultiTaskInferencer(tiny_config, path, device='cpu', trusted=True)
    assert trace.exists()
    assert_same(inferencer(picture()), MultiTaskInferencer(tiny_config, trained, device='cpu')(picture()))


def test_adapter_files_and_their_encoders_execute_nothing(tiny_config, trained, tmp_path):
    whole = MultiTaskInferencer(tiny_config, trained, device='cpu')
    adapter, encoder = tmp_path / 'adapter.safetensors', tmp_path / 'encoder.pth'
    save_adapter(whole.model, adapter)
    trace = write_hostile(encoder, dict(state_dict=whole.model.backbone.state_dict()))
    cfg = Config.fromfile(tiny_config)
    cfg.model.backbone.init_cfg = dict(type='Pretrained', checkpoint=str(encoder))
    with pytest.raises(ValueError, match=r'encoder\.pth.*holding code that would be executed.*init_cfg\.trusted=True'):
        MultiTaskInferencer(cfg, adapter, device='cpu', trusted=True)
    write_hostile(adapter)
    with pytest.raises(ValueError, match='is damaged, or no safetensors file'):
        MultiTaskInferencer(cfg, adapter, device='cpu', trusted=True)
    assert not trace.exists()


def as_it_comes(image, mode):
    if mode == 'I;16':
        return Image.fromarray(image[..., 0].astype(np.uint16) * 257)
    return Image.fromarray(image).convert(mode)


@pytest.mark.parametrize('mode', ['L', 'I;16', 'RGBA', 'LA', 'P', '1'])
def test_pictures_of_every_kind_are_what_they_look_like(mode, inferencer, tmp_path):
    path = tmp_path / 'picture.png'
    as_it_comes(picture(), mode).save(path)
    shown = cv2.imread(str(path), cv2.IMREAD_COLOR)
    assert 20 < shown.std() < 130
    (prediction,) = inferencer.predict(path)
    np.testing.assert_array_equal(prediction.image, shown)
    assert_same(prediction.maps, inferencer(shown))


@pytest.mark.parametrize('scale, orientation', [*((None, number) for number in range(1, 9)), ((32, 24), 6)])
def test_photos_are_turned_upright(scale, orientation, model, tmp_path):
    path, shown = tmp_path / 'photo.jpg', picture(11, 8).repeat(8, axis=0).repeat(8, axis=1)
    save_photo(path, shown[..., ::-1], orientation)
    loader = dict(type='mmvmt.LoadMultiTaskImage', **(dict(scale=scale, reduced_decoding=True) if scale else {}))
    inferencer = MultiTaskInferencer(model, pipeline=[loader, dict(type='mmvmt.PackMultiTaskInputs')])
    upright = cv2.imread(str(path))
    assert np.abs(upright.astype(int) - shown).mean() < 12
    (prediction,) = inferencer.predict(path)
    np.testing.assert_allclose(prediction.image.astype(int), upright, atol=3)
    assert prediction.maps['normals'].shape == (3, 88, 64)
    assert_same(prediction.maps, inferencer(prediction.image))
    prediction.save(tmp_path / 'out')
    assert cv2.imread(str(tmp_path / 'out' / 'semseg' / 'photo.png'), cv2.IMREAD_UNCHANGED).shape == (88, 64)


def in_memory(image, kind):
    """A picture, BGR, as another library or a server has it."""
    rgb = Image.fromarray(image[..., ::-1])
    file = io.BytesIO()
    rgb.save(file, 'png')
    return {
        'array': lambda: image,
        'PIL': lambda: rgb,
        'bytes': file.getvalue,
        'bytearray': lambda: bytearray(file.getvalue()),
        'file': lambda: io.BytesIO(file.getvalue()),
        'opened': lambda: Image.open(io.BytesIO(file.getvalue())),
        'tensor': lambda: torch.from_numpy(image[..., ::-1].transpose(2, 0, 1).copy()),
        'tensor_with_alpha': lambda: torch.from_numpy(np.dstack([image[..., ::-1], image[..., 0]]).transpose(2, 0, 1)),
        'array_with_alpha': lambda: np.dstack([image, image[..., 0]]),
    }[kind]()


IN_MEMORY = ('array', 'PIL', 'bytes', 'bytearray', 'file', 'opened', 'tensor', 'tensor_with_alpha', 'array_with_alpha')


@pytest.mark.parametrize('kind', IN_MEMORY)
def test_a_picture_in_memory_is_what_its_file_would_be(kind, inferencer, tmp_path):
    image = picture()
    cv2.imwrite(str(tmp_path / 'picture.png'), image)
    expected = inferencer(tmp_path / 'picture.png')
    assert_same(inferencer(in_memory(image, kind)), expected)
    several = inferencer([in_memory(image, kind), tmp_path / 'picture.png'], batch_size=2)
    assert list(several) == ['array_0', 'picture']
    (prediction,) = inferencer.predict(in_memory(image, kind))
    np.testing.assert_array_equal(prediction.image, image)
    prediction.save(tmp_path / 'out')
    assert (tmp_path / 'out' / 'semseg' / 'array_0.png').is_file()


@pytest.mark.parametrize('mode', ['L', 'I;16', 'RGBA', 'LA', 'P', '1', 'CMYK', 'YCbCr'])
def test_pil_images_of_every_mode(mode, inferencer):
    image = as_it_comes(picture(), mode)
    (prediction,) = inferencer.predict(image)
    shown = image.point(lambda level: level / 256).convert('L') if mode == 'I;16' else image
    np.testing.assert_array_equal(prediction.image[..., ::-1], np.asarray(shown.convert('RGB')))


@pytest.mark.parametrize('mode', ['I', 'F'])
def test_pil_images_without_a_known_range(mode, inferencer):
    with pytest.raises(ValueError, match=f'array_0 holds grey levels of 32 bits .mode {mode!r}.'):
        inferencer(Image.fromarray(picture()[..., 0]).convert(mode))


def test_grey_arrays_and_tensors(inferencer):
    grey = picture()[..., 0]
    expected = inferencer(np.dstack([grey] * 3))
    for variant in (grey, grey[..., None], torch.from_numpy(grey), torch.from_numpy(grey)[None]):
        assert_same(inferencer(variant), expected)


def test_batches_and_iterators(inferencer):
    images = [picture(seed=seed) for seed in range(2)]
    expected = inferencer(images)
    for batch in (np.stack(images), torch.from_numpy(np.stack(images)[..., ::-1].copy()).permute(0, 3, 1, 2)):
        for name, maps in inferencer(batch).items():
            assert_same(maps, expected[name])
    assert list(inferencer(image for image in images)) == ['array_0', 'array_1']


@pytest.mark.parametrize('opened', [True, False])
def test_photos_in_memory_are_turned_upright(opened, model):
    exif, file = Image.Exif(), io.BytesIO()
    exif[ExifTags.Base.Orientation] = 6
    Image.fromarray(picture(64, 88)).save(file, 'png', exif=exif)
    source = Image.open(file) if opened else file.getvalue()
    for scale in (None, (32, 24)):
        loader = dict(type='mmvmt.LoadMultiTaskImage', scale=scale)
        inferencer = MultiTaskInferencer(model, pipeline=[loader, dict(type='mmvmt.PackMultiTaskInputs')])
        (prediction,) = inferencer.predict(source)
        np.testing.assert_array_equal(prediction.image[..., ::-1], np.rot90(picture(64, 88), -1))
        assert prediction.maps['normals'].shape == (3, 88, 64)


def test_damaged_pictures_in_memory_are_named(inferencer):
    data = in_memory(picture(), 'bytes')
    inputs = [picture(), data[:200], Image.open(io.BytesIO(data[:200])), b'']
    with pytest.raises(UnreadableImagesError) as caught:
        inferencer(inputs)
    assert list(caught.value.failures) == ['array_1', 'array_2', 'array_3']
    assert list(caught.value.maps) == ['array_0']
    assert all(f'cannot decode {name}' in reason for name, reason in caught.value.failures.items())


def test_saved_maps_are_read_as_labels(inferencer, folder, tmp_path):
    maps = inferencer(folder / 'a.PNG', out_dir=tmp_path)
    files = {task: str(tmp_path / task / ('a.npy' if task == 'depth' else 'a.png')) for task in SIX_TASKS}
    np.testing.assert_array_equal(read_label('semseg', files['semseg']), maps['semseg'])
    np.testing.assert_array_equal(read_label('human_parts', files['human_parts'], 7), maps['human_parts'])
    for task in ('saliency', 'edge'):
        np.testing.assert_array_equal(read_label(task, files[task]), np.rint(maps[task] * 255) > 127)
    normals = formats.read_normals(files['normals'])
    np.testing.assert_allclose(normals.transpose(2, 0, 1), maps['normals'], atol=0.01)
    np.testing.assert_array_equal(read_label('depth', files['depth']), maps['depth'])


@pytest.mark.parametrize('device', ['gpu', 'cuda:99'])
def test_a_device_that_is_not_there(device, model):
    with pytest.raises(ValueError, match=f"device '{device}' cannot be used: .*choose 'cpu'"):
        MultiTaskInferencer(model, device=device)


def test_arguments_of_programs(tiny_config, trained):
    parser = argparse.ArgumentParser()
    add_inferencer_arguments(parser)
    args = parser.parse_args([str(tiny_config), str(trained), '--tasks', 'normals, semseg', '--device', 'cpu'])
    assert build_inferencer(args).tasks == ('normals', 'semseg')
    args.tasks = ''
    with pytest.raises(ValueError, match="unknown task ''"):
        build_inferencer(args)
