import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hostile import write_hostile
from mmengine.config import Config
from tiny import SWIN, perturb

from mmvmt.apis.weights import build_model
from mmvmt.compat import RECORDS_GRAPHS

TOOL = Path(__file__).parents[3] / 'tools/deployment/export_onnx.py'
NO_EXPORT = 'needs torch 2.7, which records graphs of the models'
CONFIG = """
head = dict(type='mmvmt.MLPHead', channels=8, norm_cfg=dict(type='GN', num_groups=2))
model = dict(
    type='mmvmt.MultiTaskEncoderDecoder',
    data_preprocessor=dict(type='mmvmt.MultiTaskDataPreProcessor'),
    backbone=dict(
        type='mmvmt.AdaptedSwin', plugins=[dict(cfg=dict(type='mmvmt.VMTAdapter', reduction=2))], depths=(1, 2),
        num_heads=(1, 2), strides=(4, 2), out_indices=(0, 1), {rest}
    ),
    heads=dict(
        semseg=head | dict(output=dict(type='mmvmt.ClassesOutput', num_classes=5)),
        normals=head | dict(output=dict(type='mmvmt.UnitVectorOutput')),
    ),
    test_cfg=dict(mode='slide', crop_size=(32, 32), stride=(32, 32)),
)
"""


@pytest.fixture(scope='module')
def tool():
    spec = importlib.util.spec_from_file_location('export_onnx', TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """Paths of a config and of a checkpoint."""
    folder = tmp_path_factory.mktemp('trained')
    rest = ', '.join(f'{key}={value!r}' for key, value in SWIN.items() if key not in ('depths', 'num_heads'))
    config, checkpoint = folder / 'config.py', folder / 'model.pth'
    config.write_text(CONFIG.format(rest=rest))
    model = build_model(Config.fromfile(config))
    perturb(model)
    meta = dict(dataset_meta=dict(normals_x='right', normals_y='up'))
    torch.save(dict(state_dict=model.state_dict(), meta=meta), checkpoint)
    return str(config), str(checkpoint)


@pytest.fixture(scope='module')
def model(trained):
    config, checkpoint = trained
    model = build_model(Config.fromfile(config))
    model.load_state_dict(torch.load(checkpoint, weights_only=True)['state_dict'])
    model.test_cfg = dict(mode='whole', resolution='original')
    return model


@pytest.fixture(scope='module')
def session(tool, trained, tmp_path_factory):
    """A session of onnxruntime with a file that the tool wrote for any size."""
    pytest.importorskip('onnx')
    pytest.importorskip('onnxscript')
    onnxruntime = pytest.importorskip('onnxruntime')
    if not RECORDS_GRAPHS:
        pytest.skip(NO_EXPORT)
    out = tmp_path_factory.mktemp('onnx') / 'folder' / 'model.onnx'
    assert tool.main([*trained, str(out), '--dynamic', '--height', '70', '--width', '99']) == 0
    assert [path.name for path in out.parent.iterdir()] == ['model.onnx']
    return onnxruntime.InferenceSession(str(out), providers=['CPUExecutionProvider'])


@pytest.mark.parametrize('batch, height, width', [(1, 64, 64), (2, 51, 37), (3, 131, 45), (1, 33, 200)])
def test_onnx_equals_the_model_at_sizes_that_were_not_traced(batch, height, width, session, model):
    generator = np.random.default_rng(height)
    images = generator.integers(0, 256, (batch, 3, height, width), dtype=np.uint8)
    semseg, normals = session.run(['semseg', 'normals'], {'image': images})
    samples = model.test_step(dict(inputs=torch.from_numpy(images)))
    expected = torch.stack([sample.pred.normals for sample in samples]).numpy()
    np.testing.assert_allclose(normals, expected, atol=1e-4)
    expected = torch.stack([sample.pred.semseg[0] for sample in samples]).numpy()
    assert semseg.dtype == np.uint8
    assert (semseg != expected).mean() < 1e-3


def test_the_file_says_what_it_takes_and_gives(session):
    (image,) = session.get_inputs()
    assert (image.name, image.shape, image.type) == ('image', ['batch', 3, 'height', 'width'], 'tensor(uint8)')
    shapes = {output.name: output.shape for output in session.get_outputs()}
    assert shapes == {'semseg': ['batch', 'height', 'width'], 'normals': ['batch', 3, 'height', 'width']}
    properties = session.get_modelmeta().custom_metadata_map
    assert properties['input'] == 'uint8, BGR'
    assert json.loads(properties['outputs']) == {
        'semseg': {'kind': 'classes', 'channels': 5},
        'normals': {'kind': 'vectors', 'channels': 3, 'normals_x': 'right', 'normals_y': 'up'},
    }


@pytest.mark.skipif(not RECORDS_GRAPHS, reason=NO_EXPORT)
@pytest.mark.filterwarnings('ignore:The given buffer is not writable')
def test_a_program_of_one_size_that_differs_is_not_given_its_name(tool, trained, model, tmp_path, capsys):
    options = ['--format', 'torch-export', '--height', '40', '--width', '50', '--tasks', 'normals', '--logits']
    assert tool.main([*trained, str(tmp_path / 'model.pt2'), *options, '--tolerance', '0']) == 1
    output = capsys.readouterr()
    assert output.out.count('largest difference') == 2
    assert 'differs from the model by more than 0' in output.err
    assert [path.name for path in tmp_path.iterdir()] == ['model.unchecked.pt2']

    files = dict(input='', outputs='')
    run = torch.export.load(tmp_path / 'model.unchecked.pt2', extra_files=files).module()
    assert files['input'] == 'uint8, BGR'
    outputs = {'normals': {'kind': 'logits', 'channels': 3, 'normals_x': 'right', 'normals_y': 'up'}}
    assert json.loads(files['outputs']) == outputs
    images = torch.randint(0, 256, (3, 3, 40, 50), dtype=torch.uint8)
    expected = model._whole(model.data_preprocessor(dict(inputs=images))['inputs'])['normals']
    torch.testing.assert_close(run(images)[0], expected, atol=1e-4, rtol=1e-4)
    with pytest.raises(AssertionError, match='Guard failed'):
        run(images[:, :, :, :44])


def test_differences_are_found(tool, model):
    graph = tool.MultiTaskGraph(model)
    images = tool.example_images(graph, 1, 40, 50)
    with torch.no_grad():
        semseg, normals = (output.numpy() for output in graph(images))
    assert tool.difference(model, graph, [semseg, normals], images) < 1e-4
    assert tool.difference(model, graph, [semseg, normals + 0.01], images) > 5e-3
    assert tool.difference(model, graph, [(semseg + 1) % 5, normals], images) > 1e-3
    with pytest.raises(ValueError, match="output 'normals' has the shape"):
        tool.difference(model, graph, [semseg, normals[:, :2]], images)


@pytest.mark.parametrize(
    'options, message',
    [
        (('--tasks', 'depth'), "unknown task 'depth'"),
        (('--cfg-options', 'model.backbone.frozen_dtype=bfloat16'), 'frozen_dtype=None'),
        (('--height', '20'), 'got 20 x 288'),
    ],
)
def test_what_cannot_be_exported(options, message, tool, trained, tmp_path, capsys):
    assert tool.main([*trained, str(tmp_path / 'model.pt2'), '--format', 'torch-export', *options]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_nothing_in_a_checkpoint_is_executed(tool, trained, tmp_path, capsys):
    config, checkpoint = trained
    trace = write_hostile(tmp_path / 'hostile.pth', torch.load(checkpoint, weights_only=True))
    out = tmp_path / 'model.pt2'
    assert tool.main([config, str(tmp_path / 'hostile.pth'), str(out), '--format', 'torch-export']) == 2
    assert 'holding code that would be executed' in capsys.readouterr().err
    assert not trace.exists()
    assert not out.exists()


def test_a_model_of_another_kind(tool, trained, tmp_path, capsys):
    config = tmp_path / 'config.py'
    config.write_text("model = dict(type='mmvmt.MultiTaskDataPreProcessor')")
    out = ['--format', 'torch-export']
    assert tool.main([str(config), trained[1], str(tmp_path / 'model.pt2'), *out]) == 2
    assert 'only a MultiTaskEncoderDecoder can be exported, got MultiTaskDataPre' in capsys.readouterr().err


def test_missing_packages_and_files(tool, trained, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(tool, 'find_spec', lambda name: None)
    assert tool.main([*trained, str(tmp_path / 'model.onnx')]) == 2
    assert 'onnx, onnxscript, onnxruntime: pip install -r requirements/optional.txt' in capsys.readouterr().err
    missing = str(tmp_path / 'no.pth')
    assert tool.main([trained[0], missing, str(tmp_path / 'model.pt2'), '--format', 'torch-export']) == 2
    assert f'checkpoint {missing!r} does not exist' in capsys.readouterr().err
    with pytest.raises(SystemExit, match='2'):
        tool.main([*trained, str(tmp_path / 'model.bin')])
    assert 'must end in .onnx' in capsys.readouterr().err
