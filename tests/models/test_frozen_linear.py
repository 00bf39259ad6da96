"""Frozen linear layers by oneDNN against the same layers by ``F.linear``."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mmvmt.models import frozen_linear as module
from mmvmt.models.backbones import AdaptedSwin
from mmvmt.models.frozen_linear import FrozenLinear, use_onednn


def frozen(bias=True, trained_bias=False, seed=0, inputs=24, outputs=40):
    torch.manual_seed(seed)
    layer = nn.Linear(inputs, outputs, bias=bias)
    layer.requires_grad_(False)
    if trained_bias:
        layer.bias.requires_grad = True
    return FrozenLinear.over(layer)


@pytest.fixture
def calls(monkeypatch):
    """Shapes of the products that oneDNN computes."""
    if module._ONEDNN_LINEAR is None:
        pytest.skip('this PyTorch has no oneDNN')
    seen = []

    def recording(x, weight, *args):
        seen.append((tuple(x.shape), tuple(weight.shape)))
        return torch.ops.mkldnn._linear_pointwise(x, weight, *args)

    monkeypatch.setattr(module, '_ONEDNN_LINEAR', recording)
    return seen


@pytest.mark.parametrize('bias', [True, False])
@pytest.mark.parametrize('shape', [(7, 24), (2, 5, 24), (3, 2, 49, 24), (1, 24)])
def test_equals_f_linear_with_gradients(bias, shape, calls):
    layer = frozen(bias)
    x = torch.randn(shape, requires_grad=True)
    gradient = torch.randn(*shape[:-1], 40)
    expected = F.linear(x, layer.weight, layer.bias)
    got = layer(x)
    torch.testing.assert_close(got, expected, atol=1e-6, rtol=1e-5)
    (a,), (b,) = torch.autograd.grad(expected, x, gradient), torch.autograd.grad(got, x, gradient)
    torch.testing.assert_close(b, a, atol=1e-6, rtol=1e-5)
    assert [weight for _, weight in calls] == [(40, 24), (24, 40)]


@pytest.mark.parametrize('change', ['x', 'gradient'])
def test_memory_order_does_not_matter(change, calls):
    layer = frozen()
    x = torch.randn(24, 9).t() if change == 'x' else torch.randn(9, 24)
    gradient = torch.randn(40, 9).t() if change == 'gradient' else torch.randn(1, 40).expand(9, 40)
    x.requires_grad_()
    (a,) = torch.autograd.grad(F.linear(x, layer.weight, layer.bias), x, gradient)
    (b,) = torch.autograd.grad(layer(x), x, gradient)
    torch.testing.assert_close(b, a, atol=1e-6, rtol=1e-5)
    assert len(calls) == 2


def test_a_bias_that_trains_gets_its_gradient(calls):
    layer = frozen(trained_bias=True)
    x = torch.randn(2, 9, 24)
    gradient = torch.randn(2, 9, 40)
    (got,) = torch.autograd.grad(layer(x), layer.bias, gradient)
    torch.testing.assert_close(got, gradient.sum((0, 1)))
    assert len(calls) == 1, 'a gradient of the inputs, which nobody asked for, was computed'


def test_gradients_have_gradients(calls):
    layer = frozen()
    x = torch.randn(5, 24, requires_grad=True)
    (first,) = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    expected = 2 * (layer.weight.t() @ layer.weight).sum(0).expand(5, 24)
    torch.testing.assert_close(second, expected, atol=1e-5, rtol=1e-5)


def test_nothing_but_the_weight_is_kept(calls):
    layer, kept = frozen(), []
    x = torch.randn(5, 24, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        layer(x)
    assert [t.data_ptr() for t in kept] == [layer.weight.data_ptr()]


@pytest.mark.filterwarnings('ignore:TF32')
def test_all_else_is_f_linear(calls):
    layer, x = frozen(), torch.randn(5, 24)
    with torch.autocast('cpu', torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    assert layer.double()(x.double()).dtype == torch.float64
    layer.float()
    with torch.backends.mkldnn.flags(enabled=False):
        layer(x)
    torch.jit.trace(layer, x, check_trace=False)
    assert layer(x[0]).shape == (40,)
    assert layer(x[:0]).shape == (0, 40)
    layer.weight.requires_grad = True
    layer(x).sum().backward()
    torch.testing.assert_close(layer.weight.grad, x.sum(0).expand(40, 24))
    assert not calls
    with torch.no_grad():
        layer(x)
    assert len(calls) == 1


def test_without_onednn_it_is_f_linear(monkeypatch):
    monkeypatch.setattr(module, '_ONEDNN_LINEAR', None)
    layer, x = frozen(), torch.randn(5, 24)
    assert torch.equal(layer(x), F.linear(x, layer.weight, layer.bias))


def test_graphs_record_a_plain_linear_layer(calls):
    layer, x = frozen(), torch.randn(5, 24)
    compiled = torch.compile(layer, backend='eager', fullgraph=True)
    torch.testing.assert_close(compiled(x), F.linear(x, layer.weight, layer.bias))
    torch._dynamo.reset()
    assert not calls


def test_operations_are_counted():
    layer, x = frozen(), torch.randn(3, 5, 24, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        layer(x).sum().backward()
    assert counter.get_total_flops() == 2 * (2 * 15 * 24 * 40)


def test_every_linear_layer_of_the_encoder_is_one_of_these():
    encoder = AdaptedSwin(embed_dims=8, depths=(1, 1), num_heads=(1, 2), strides=(4, 2), out_indices=(0, 1))
    layers = [layer for layer in encoder.modules() if isinstance(layer, nn.Linear)]
    assert len(layers) == 4 + 1 + 4
    assert all(isinstance(layer, FrozenLinear) for layer in layers)


def test_plain_layers_alone_are_made_such_and_keep_what_they_have():
    class Other(nn.Linear):
        pass

    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Sequential(Other(4, 4)))
    layer, weight, seen = model[0], model[0].weight, []
    layer.register_forward_hook(lambda *_: seen.append(1))
    keys = list(model.state_dict())
    use_onednn(model)
    assert model[0] is layer
    assert isinstance(layer, FrozenLinear)
    assert type(model[2][0]) is Other
    assert layer.weight is weight
    assert list(model.state_dict()) == keys
    model(torch.randn(2, 4))
    assert seen == [1]
    for copied in (copy.deepcopy(layer), pickle.loads(pickle.dumps(FrozenLinear.over(nn.Linear(4, 4))))):
        assert isinstance(copied, FrozenLinear)
