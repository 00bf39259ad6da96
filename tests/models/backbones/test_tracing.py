"""Traces of ``torch.jit``, and what mmengine counts by them, as mmseg's ``get_flops.py`` does."""

import io

import pytest
import torch
from mmengine.analysis import FlopAnalyzer, get_model_complexity_info
from mmseg.models import EncoderDecoder, SegDataPreProcessor
from mmseg.models.backbones.swin import SwinTransformer
from mmseg.structures import SegDataSample
from segmentors import WIDTHS
from tiny import FOUR_TASKS, SWIN, tiny_model, tiny_swin

pytestmark = pytest.mark.filterwarnings('ignore::torch.jit.TracerWarning')
IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def mmsegs_and_ours():
    ours = tiny_swin(tasks=None, plugins=None)
    theirs = SwinTransformer(**SWIN)
    theirs.load_state_dict(ours.state_dict())
    theirs.eval()
    return theirs, ours


def test_a_saved_trace_computes_the_same():
    _, swin = mmsegs_and_ours()
    file = io.BytesIO()
    # With PyTorch's own check: a second trace is the same graph.
    torch.jit.save(torch.jit.trace(swin, IMAGES), file)
    file.seek(0)
    for a, b in zip(torch.jit.load(file)(IMAGES), swin(IMAGES)):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_a_trace_can_be_trained():
    _, swin = mmsegs_and_ours()
    gradients = []
    for run in (torch.jit.trace(swin, IMAGES, check_trace=False), swin):
        swin.zero_grad()
        sum(m.square().mean() for m in run(IMAGES)).backward()
        gradients.append([p.grad for p in swin.parameters()])
    for a, b in zip(*gradients):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize('size', [(64, 64), (61, 90)])
def test_mmengine_counts_what_it_counts_of_mmsegs(size):
    theirs, ours = (
        get_model_complexity_info(m, (3, *size), show_table=False, show_arch=False) for m in mmsegs_and_ours()
    )
    for figure in ('flops', 'params', 'activations'):
        assert ours[figure] == theirs[figure] > 0, figure


def test_a_segmentor_is_counted_as_get_flops_does():
    figures = []
    for kind in ('mmseg.SwinTransformer', 'mmvmt.AdaptedSwin'):
        head = dict(type='SegformerHead', in_channels=WIDTHS, in_index=[0, 1, 2, 3], channels=8, num_classes=5)
        preprocessor = SegDataPreProcessor(size=(64, 64))
        model = EncoderDecoder(dict(type=kind, **SWIN), head, data_preprocessor=preprocessor).eval()
        sample = SegDataSample(metainfo=dict(ori_shape=(64, 64), pad_shape=(64, 64)))
        data = model.data_preprocessor(dict(inputs=[torch.rand(3, 64, 64)], data_samples=[sample]))
        figures.append(get_model_complexity_info(model, inputs=data['inputs'], show_table=False, show_arch=False))
    assert figures[1]['flops'] == figures[0]['flops'] > 0
    assert figures[1]['params'] == figures[0]['params']


def test_a_multi_task_model_is_traced_and_counted():
    model, plain = tiny_model(), tiny_model(plugins=None)
    with torch.no_grad():
        traced = torch.jit.trace(model, IMAGES, strict=False, check_trace=False)(IMAGES)
        for task, logits in model(IMAGES).items():
            torch.testing.assert_close(traced[task], logits, atol=1e-5, rtol=1e-5, msg=task)
        counted = [FlopAnalyzer(m, (IMAGES,)).unsupported_ops_warnings(False) for m in (model, plain)]
    # Two linear layers between widths d and d / 2 per block; scales and shifts are no products of matrices.
    widths, tokens = (8, 16, 16, 32, 64), (256, 64, 64, 16, 4)
    adapters = sum(len(IMAGES) * n * 2 * d * (d // 2) for d, n in zip(widths, tokens))
    assert counted[0].total('backbone') - counted[1].total('backbone') == adapters
    assert all(counted[0].total(f'heads.{task}') == counted[1].total(f'heads.{task}') > 0 for task in FOUR_TASKS)
