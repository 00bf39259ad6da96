import json

import pytest
import torch
import torch.nn.functional as F
from encoders import ENCODERS, adapted
from tiny import FCN, FOUR_TASKS, GN, UPER, VMT, mmseg_heads_cfg, model_cfg, perturb, segmentor_head, tiny_model

from mmvmt.compat import RECORDS_GRAPHS
from mmvmt.models.export import MultiTaskGraph, example_images, export_graph, save_onnx
from mmvmt.registry import MODELS
from mmvmt.structures import NormalsAxes

FIVE_TASKS = (*FOUR_TASKS, 'depth')
# Batch, height, width: whole windows; one window; odd edges; smaller than a window.
SIZES = ((1, 64, 64), (2, 32, 16), (3, 131, 45), (1, 33, 97), (1, 7, 10))
TWO_STAGES = dict(depths=(1, 2), num_heads=(1, 2), strides=(4, 2), out_indices=(0, 1))
# Streams that tasks share, changed layers, copies of frozen layers, prompts, generated weights, tails,
# replaced norms, and mixed neighbours.
METHODS = {
    'VMTAdapter': dict(type='mmvmt.VMTAdapter', reduction=2),
    'LoRA': dict(type='mmvmt.LoRA', rank=2, norms=True),
    'BitFit': dict(type='mmvmt.BitFit'),
    'NormTuning': dict(type='mmvmt.NormTuning'),
    'RelativePositionBias': dict(type='mmvmt.RelativePositionBias'),
    'VPTShallow': dict(type='mmvmt.VPTShallow', prompts=3),
    'VPTDeep': dict(type='mmvmt.VPTDeep', prompts=3),
    'MTLoRAPlus': dict(type='mmvmt.MTLoRAPlus', rank=2, task_rank=1, scale=1.0),
    'DiTASK': dict(type='mmvmt.DiTASK', cells=8),
    'SSF': dict(type='mmvmt.SSF'),
    'Mona': dict(type='mmvmt.Mona', bottleneck=4),
    'PHMAdapter': dict(type='mmvmt.PHMAdapter', n=4),
    'PolyhistorLite': dict(type='mmvmt.PolyhistorLite', rank=2, embedding=5, hidden=16, code=6),
}


def test_the_description_names_the_axes_of_normals():
    graph = MultiTaskGraph(small_model(), axes=NormalsAxes('right', 'down'))
    outputs = json.loads(graph.description()['outputs'])
    assert outputs['normals'] == dict(kind='vectors', channels=3, normals_x='right', normals_y='down')
    assert 'normals_x' not in outputs['semseg']


def small_model(tasks=('semseg', 'normals'), plugins=(VMT,)):
    """A model of two stages, which is recorded in seconds; it has merging, padding and shifted windows."""
    cfg = model_cfg(tasks, plugins)
    cfg['backbone'] |= TWO_STAGES
    torch.manual_seed(0)
    model = MODELS.build(cfg)
    perturb(model)
    return model.eval()


@torch.no_grad()
def assert_same_maps(model, images, outputs, tasks):
    samples = model.test_step(dict(inputs=images))
    logits = model.encode_decode(model.data_preprocessor(dict(inputs=images))['inputs'])
    for task, output in zip(tasks, outputs):
        expected = torch.stack([sample.pred.get(task) for sample in samples])
        if output.ndim == 3:
            expected = expected.squeeze(1)
        assert output.dtype == expected.dtype
        assert output.shape == expected.shape
        if output.dtype == torch.uint8:
            # Where two classes are as good as equal, rounding decides.
            resized = F.interpolate(logits[task], images.shape[2:], mode='bilinear', align_corners=False)
            best = resized.topk(2, dim=1).values
            clear = best[:, 0] - best[:, 1] > 1e-4
            assert clear.any()
            assert torch.equal(output[clear], expected[clear])
        else:
            torch.testing.assert_close(output, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize('method', METHODS)
def test_equals_the_model_at_any_size(method):
    # Every kind of output with one of them.
    tasks = FIVE_TASKS if method == 'VMTAdapter' else ('semseg', 'depth')
    model = tiny_model(tasks, plugins=(dict(cfg=METHODS[method]),))
    graph = MultiTaskGraph(model)
    for seed, (batch, height, width) in enumerate(SIZES):
        images = example_images(graph, batch, height, width, seed)
        with torch.no_grad():
            assert_same_maps(model, images, graph(images), tasks)


def test_normalised_images_and_logits():
    model = tiny_model()
    graph = MultiTaskGraph(model, normalised=True, logits=True)
    images = example_images(graph, 2, 50, 37)
    assert images.dtype == torch.float32
    with torch.no_grad():
        expected, got = model(images), graph(images)
    for task, logits in zip(FOUR_TASKS, got):
        resized = F.interpolate(expected[task], size=(50, 37), mode='bilinear', align_corners=False)
        torch.testing.assert_close(logits, resized, atol=1e-5, rtol=1e-4)


def test_some_tasks_in_the_order_asked_for():
    model = tiny_model()
    graph = MultiTaskGraph(model, tasks=('normals', 'semseg'))
    images = example_images(graph, 1, 40, 40)
    with torch.no_grad():
        normals, semseg = graph(images)
    assert normals.shape == (1, 3, 40, 40)
    assert_same_maps(model, images, (normals, semseg), ('normals', 'semseg'))
    with pytest.raises(ValueError, match="unknown task 'depth'"):
        MultiTaskGraph(model, tasks=('depth',))


def test_the_model_keeps_its_modules_and_the_graph_its_weights():
    model = tiny_model()
    before = model(torch.zeros(1, 3, 64, 64))['semseg']
    graph = MultiTaskGraph(model)
    assert {p.data_ptr() for p in graph.parameters()} == {p.data_ptr() for p in model.parameters()}
    assert torch.equal(model(torch.zeros(1, 3, 64, 64))['semseg'], before)


@pytest.mark.skipif(not RECORDS_GRAPHS, reason='needs torch 2.7, which records graphs of the models')
def test_one_program_for_all_sizes():
    # Prompts that are carried from block to block take every way that the stream has.
    model = small_model(('semseg',), (dict(cfg=METHODS['VPTShallow']),))
    graph = MultiTaskGraph(model)
    run = export_graph(graph, height=70, width=99).module()
    for seed, (batch, height, width) in enumerate(((1, 64, 64), (2, 33, 40), (3, 131, 45))):
        images = example_images(graph, batch, height, width, seed)
        with torch.no_grad():
            assert_same_maps(model, images, run(images), graph.tasks)


def test_what_cannot_be_exported():
    half = small_model()
    half.backbone.frozen_dtype = torch.bfloat16
    with pytest.raises(ValueError, match=r'model\.backbone\.frozen_dtype=None'):
        MultiTaskGraph(half)

    padding = small_model()
    padding.data_preprocessor.size_divisor = 32
    with pytest.raises(ValueError, match='size_divisor=32'):
        MultiTaskGraph(padding)
    assert MultiTaskGraph(padding, normalised=True).normalised

    foreign = small_model()
    foreign.backbone = torch.nn.Identity()
    with pytest.raises(
        ValueError, match='only models with an AdaptedSwin or AdaptedBackbone can be exported, got Identity'
    ):
        MultiTaskGraph(foreign)

    cfg = model_cfg(('semseg',))
    cfg['heads']['semseg']['type'] = 'mmvmt.DeformableHead'
    with pytest.raises(ValueError, match="of task 'semseg', DeformableHead, cannot be exported: graphs do not have"):
        MultiTaskGraph(MODELS.build(cfg))
    cfg = mmseg_heads_cfg()
    cfg['heads']['semseg']['decode_head'] = dict(type='PSAHead', channels=8, mask_size=(8, 8), norm_cfg=GN)
    with pytest.raises(ValueError, match=r"PSAHead.* graphs do not have mmcv's compiled operators"):
        MultiTaskGraph(MODELS.build(cfg))
    cfg['heads']['semseg']['decode_head'] = dict(UPER, type='LightHamHead', ham_channels=8, ham_kwargs=dict(MD_R=2))
    del cfg['heads']['semseg']['decode_head']['pool_scales']
    with pytest.raises(ValueError, match=r'LightHamHead.* it computes with random numbers'):
        MultiTaskGraph(MODELS.build(cfg))


def small_mmseg_model(semseg):
    """Two stages and heads of mmseg behind a neck."""
    cfg = mmseg_heads_cfg(plugins=(), neck=dict(type='FPN', out_channels=8, num_outs=2))
    cfg['backbone'] |= TWO_STAGES
    cfg['heads']['semseg'] |= dict(decode_head=semseg, auxiliary_head=dict(FCN, in_index=1))
    cfg['heads']['normals']['decode_head'] = dict(FCN, in_index=1, align_corners=True)
    torch.manual_seed(0)
    model = MODELS.build(cfg)
    perturb(model)
    return model.eval()


def test_heads_of_mmseg_equal_the_model():
    model = small_mmseg_model(dict(UPER, in_index=[0, 1]))
    images = example_images(MultiTaskGraph(model), 2, 50, 37)
    with torch.no_grad():
        assert_same_maps(model, images, MultiTaskGraph(model)(images), model.tasks)


@pytest.mark.skipif(not RECORDS_GRAPHS, reason='needs torch 2.7, which records graphs of the models')
def test_heads_of_mmseg_are_recorded_for_any_size_where_files_can_be(tmp_path, monkeypatch):
    pytest.importorskip('onnxscript')
    cfg = mmseg_heads_cfg(plugins=())
    cfg['backbone'] |= dict(depths=(1,), num_heads=(1,), strides=(4,), out_indices=(0,))
    cfg['heads'] = dict(semseg=segmentor_head('semseg', dict(UPER, in_index=[0])))
    model = MODELS.build(cfg).eval()
    graph = MultiTaskGraph(model)
    program = export_graph(graph, height=64, width=40)
    images = example_images(graph, 3, 50, 70)
    with torch.no_grad():
        assert_same_maps(model, images, program.module()(images), graph.tasks)
    with pytest.raises(ValueError, match=r'pools into .*\[2, 2\].* which an ONNX file cannot for images of any size'):
        save_onnx(program, graph, str(tmp_path / 'model.onnx'))

    def refuse(*args, **kwargs):
        raise RuntimeError('Constraints violated (height)')

    monkeypatch.setattr('torch.export.export', refuse)
    with pytest.raises(ValueError, match=r'of this model; export it with a fixed size: Constraints violated'):
        export_graph(graph, height=64, width=40)


def test_sizes_that_cannot_be_traced():
    graph = MultiTaskGraph(small_model())
    with pytest.raises(ValueError, match='got 32 x 64'):
        export_graph(graph, height=32, width=64)
    graph.backbone.use_abs_pos_embed = True
    with pytest.raises(ValueError, match='use_abs_pos_embed'):
        export_graph(graph, height=64, width=64)


def test_older_releases_of_torch_are_refused(monkeypatch):
    monkeypatch.setattr('mmvmt.compat.RECORDS_GRAPHS', False)
    with pytest.raises(ImportError, match=r'of a multi-task model needs torch 2\.7 or later, this is torch \d'):
        export_graph(MultiTaskGraph(small_model()), height=64, width=64)


def test_onnx_packages_are_asked_for(monkeypatch, tmp_path):
    monkeypatch.setattr('mmvmt.models.export.importlib.util.find_spec', lambda name: None)
    with pytest.raises(ImportError, match=r'onnx and onnxscript: pip install -r requirements/optional\.txt'):
        save_onnx(None, None, str(tmp_path / 'model.onnx'))


@pytest.mark.skipif(not RECORDS_GRAPHS, reason='needs torch 2.7, which records graphs of the models')
@pytest.mark.parametrize('family', ['mmseg.VisionTransformer', 'timm.Eva'])
def test_encoders_of_other_libraries_are_recorded_for_one_size_and_any_number_of_images(family):
    if family not in ENCODERS:
        pytest.skip('timm is not installed')
    model = tiny_model(('semseg', 'normals'), [VMT], adapted(family))
    graph = MultiTaskGraph(model)
    with pytest.raises(ValueError, match=f'{family} computes with the size of an image: export it with a fixed size'):
        export_graph(graph, height=64, width=96)
    program = export_graph(graph, height=64, width=96, dynamic=False)
    images = torch.randint(0, 256, (3, 3, 64, 96), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    assert_same_maps(model, images, program.module()(images), ('semseg', 'normals'))


@pytest.mark.skipif(not RECORDS_GRAPHS, reason='needs torch 2.7, which records graphs of the models')
def test_an_encoder_of_convolutional_positions_is_recorded_for_any_size():
    stages = dict(num_stages=2, num_layers=[1, 1], num_heads=[1, 2], patch_sizes=[7, 3], strides=[4, 2])
    encoder = adapted('mmseg.MixVisionTransformer', sr_ratios=[8, 4], out_indices=(0, 1), **stages)
    model = tiny_model(('semseg',), [VMT], encoder)
    graph = MultiTaskGraph(model)
    with pytest.raises(ValueError, match='traced with 65 to 8192 pixels along an edge, got 64 x 96'):
        export_graph(graph, height=64, width=96)
    program = export_graph(graph, height=96, width=128)
    for size in ((1, 65, 96), (3, 131, 90)):
        images = example_images(graph, *size)
        assert_same_maps(model, images, program.module()(images), ('semseg',))


def test_a_swin_by_its_own_modules_is_not_recorded():
    model = tiny_model(('semseg', 'normals'), [VMT], adapted('mmseg.SwinTransformer'))
    with pytest.raises(ValueError, match=r"model\.backbone\.type='mmvmt\.AdaptedSwin'"):
        MultiTaskGraph(model)
