"""Where tensors stand, on a machine without a GPU: fake tensors on ``cuda:0`` have a device and no data, and every
operation over several devices raises, as it would there.

Covered: forward, losses and predictions. Not covered: the backward pass, which needs a context of the device, and what
works on values, such as metrics and drawing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F
from adapters.test_contract import CASES
from tiny import CLASSES, FCN, SWIN, batch, mmseg_heads_cfg, model_cfg, tiny_model
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode

from mmvmt.adapters import Method
from mmvmt.compat import operators
from mmvmt.registry import ADAPTERS, MODELS

DEVICE = torch.device('cuda', 0)
MIXED = (
    'Unhandled FakeTensor Device Propagation|Expected all tensors to be on the same device|found at least two devices'
)

pytestmark = [
    pytest.mark.filterwarnings('ignore:Accessing the data pointer of FakeTensor'),
    pytest.mark.skipif(
        not hasattr(torch, 'accelerator'), reason='fake tensors on a GPU that is not there abort PyTorch 2.4'
    ),
]


class FakeDevices(FakeTensorMode):
    """Fake tensors; every value that Python asks for is read as 1, or true: losses are finite."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._local_scalar_dense.default:
            return 1
        return super().__torch_dispatch__(func, types, args, kwargs)


@contextmanager
def on_fake_gpu(model: nn.Module) -> Iterator[nn.Module]:
    """The model with its parameters and buffers, and nothing else, on a GPU that does not exist."""
    with FakeDevices(allow_non_fake_inputs=True) as mode:
        for module in model.modules():
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    fake = mode.from_tensor(parameter.detach()).to(DEVICE)
                    module._parameters[name] = nn.Parameter(fake, requires_grad=parameter.requires_grad)
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    module._buffers[name] = mode.from_tensor(buffer).to(DEVICE)
        # As model.to() would have told it.
        model.data_preprocessor._device = DEVICE
        yield model


def run(model: nn.Module) -> dict[str, torch.device]:
    """Losses in training and predictions in evaluation; the devices of all of them."""
    with on_fake_gpu(model):
        devices = {}
        data = batch(tuple(model.heads))
        for sample in data['data_samples']:
            # Without this, labels are looked at, and there are none.
            sample.set_metainfo(dict(num_classes=CLASSES))
        losses = model.train()(**model.data_preprocessor(data, True), mode='loss')
        devices |= {name: loss.device for name, loss in losses.items()}
        model.eval()
        with torch.no_grad():
            samples = model(**model.data_preprocessor(batch(tuple(model.heads)), False), mode='predict')
        assert len(samples) == 2
        return devices | {f'{task} predicted': value.device for task, value in samples[0].pred.items()}


def build(name: str, **kwargs) -> nn.Module:
    # Gradients at once would be a backward pass.
    return tiny_model(plugins=[dict(cfg=CASES[name][0])], gradients_at_once=False, **kwargs)


# Every operation is dear: two stages, and heads of their own in the tests below.
SMALL = dict(
    tasks=('semseg', 'normals'),
    encoder=dict(
        type='mmvmt.AdaptedSwin', **(SWIN | dict(depths=(1, 2), num_heads=(1, 2), strides=(4, 2), out_indices=(0, 1)))
    ),
)


@pytest.mark.parametrize('name', sorted(CASES))
def test_every_method_stays_on_its_device(name):
    devices = run(build(name, **SMALL))
    assert len(devices) == 4
    assert set(devices.values()) == {DEVICE}


@pytest.mark.parametrize('name', ['VMTAdapter', 'BitFit', 'PolyhistorLite'])
def test_stacked_tasks_and_sliding_windows_do_too(name):
    model = build(name, **SMALL, test_cfg=dict(mode='slide', crop_size=(32, 32), stride=(32, 32)))
    model.backbone.task_order = 'stacked'
    assert set(run(model).values()) == {DEVICE}


def test_all_tasks_do_too():
    tasks = ('semseg', 'human_parts', 'saliency', 'normals', 'edge', 'depth')
    devices = run(MODELS.build(model_cfg(tasks, gradients_at_once=False)))
    assert len(devices) == 12
    assert set(devices.values()) == {DEVICE}


@pytest.mark.parametrize(
    'task_weights', [dict(type='mmvmt.UncertaintyWeights'), dict(type='mmvmt.DynamicWeightAverage', interval=1)]
)
def test_declared_tasks_and_weights_of_tasks_do_too(task_weights):
    tasks = dict(
        flow=dict(kind='values', channels=2, motion='displacement', loss=dict(type='mmvmt.HuberPixelLoss')),
        range=dict(kind='metric', scale='log', motion='disparity'),
        wind=dict(kind='vectors', channels=2),
        lanes=dict(kind='binary'),
    )
    devices = run(MODELS.build(model_cfg(tasks, gradients_at_once=False, task_weights=task_weights)))
    assert {'flow.weight', 'lanes.unweighted', 'range predicted'} < set(devices)
    assert set(devices.values()) == {DEVICE}


def test_heads_of_mmseg_behind_a_neck_do_too():
    cfg = mmseg_heads_cfg(neck=dict(type='FPN', out_channels=8, num_outs=4), gradients_at_once=False)
    cfg['heads']['semseg']['auxiliary_head'] = dict(FCN, loss_decode=dict(type='CrossEntropyLoss', loss_weight=0.4))
    devices = run(MODELS.build(cfg))
    assert {'semseg.ce_aux', 'loss_normals', 'semseg predicted'} <= devices.keys()
    assert set(devices.values()) == {DEVICE}


def test_deformable_heads_do_too(monkeypatch):
    """mmcv's operator is compiled and sees addresses: here something of its shape, made of all that it takes."""

    def fake_operator(x, offset, mask, weight, bias, stride, padding, *_):
        convolved = F.conv2d(x, weight, bias, stride, padding)
        return convolved + 0 * offset.sum(1, keepdim=True) + 0 * mask.sum(1, keepdim=True)

    monkeypatch.setattr(operators('a test'), 'modulated_deform_conv2d', fake_operator)
    cfg = model_cfg(gradients_at_once=False)
    for head in cfg['heads'].values():
        head['type'] = 'mmvmt.DeformableHead'
    devices = run(MODELS.build(cfg))
    assert set(devices.values()) == {DEVICE}


class Misplaced(Method):
    """A method with a constant on the CPU."""

    positions = ('ffn',)
    kind = 'made in the pass'

    def __init__(self, sites, tasks):
        super().__init__(sites, tasks)
        self.attribute = torch.ones(sites[0].out_channels)
        self.register_buffer('registered', torch.ones(sites[0].out_channels), persistent=False)

    def adapt(self, site, inputs, outputs, task, generated):
        constant: dict[str, Tensor] = {
            'made in the pass': torch.ones(site.out_channels),
            'attribute': self.attribute,
            'registered': self.registered,
            'made like the outputs': outputs.new_ones(site.out_channels),
        }
        return outputs + constant[self.kind], None


@pytest.fixture
def misplaced():
    ADAPTERS.register_module(module=Misplaced)
    yield dict(cfg=dict(type='Misplaced'), stages=(True, False, False, False))
    del ADAPTERS.module_dict['Misplaced']


@pytest.mark.parametrize('kind', ['made in the pass', 'attribute', 'registered', 'made like the outputs'])
def test_a_constant_on_the_cpu_is_found(misplaced, monkeypatch, kind):
    monkeypatch.setattr(Misplaced, 'kind', kind)
    model = tiny_model(plugins=[misplaced], gradients_at_once=False)
    if kind in ('registered', 'made like the outputs'):
        assert set(run(model).values()) == {DEVICE}
        return
    with pytest.raises(RuntimeError, match=MIXED):
        run(model)


@pytest.mark.parametrize('part', ['loss', 'prediction'])
def test_weights_of_a_loss_and_outputs_left_on_the_cpu_are_found(monkeypatch, part):
    model = build('VMTAdapter')
    output = model.heads['semseg'].output
    if part == 'loss':
        weights = torch.ones(output.channels)
        monkeypatch.setattr(output, 'losses', lambda logits, target: {'': (logits.mean((2, 3)) * weights).mean()})
        with pytest.raises(RuntimeError, match=MIXED):
            run(model)
    else:
        predict = output.predict
        monkeypatch.setattr(output, 'predict', lambda logits: predict(logits).cpu())
        assert run(model)['semseg predicted'] == torch.device('cpu')
