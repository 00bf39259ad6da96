"""What autograd keeps for the backward pass: nothing that only a frozen weight would need."""

import pytest
import torch
from tiny import VMT, tiny_swin
from torch import nn

IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
FULL = dict(cfg=dict(type='mmvmt.FullFineTuning'))
# The output of the attention, which proj gets, is kept by the attention itself.
LAYERS = ('qkv', 'fc1', 'fc2')


def kept_inputs(swin):
    """Names of linear layers whose input is kept after a forward pass, and how many bytes are kept in all."""
    inputs, saved = {}, {}
    for stage, block in swin.block_indices():
        for name, layer in swin.stages[stage].blocks[block].layers.items():
            if name in LAYERS:
                key = f'stage{stage}_block{block}_{name}'
                layer.register_forward_hook(lambda m, i, o, key=key: inputs.__setitem__(key, i[0]))
    for stage in range(3):
        reduction = swin.stages[stage].downsample.reduction
        reduction.register_forward_hook(lambda m, i, o, s=stage: inputs.__setitem__(f'merging{s}', i[0]))

    def pack(tensor):
        saved[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        features = swin(IMAGES)
    parameters = {p.untyped_storage().data_ptr() for p in swin.parameters()}
    activations = {pointer: tensor for pointer, tensor in saved.items() if pointer not in parameters}
    kept = {key for key, tensor in inputs.items() if tensor.untyped_storage().data_ptr() in activations}
    bytes_kept = sum(tensor.untyped_storage().nbytes() for tensor in activations.values())
    return kept, set(inputs), bytes_kept, features


def test_no_input_of_a_frozen_layer_is_kept():
    of_stream = dict(cfg=dict(VMT['cfg'], input='stream'))
    kept, layers, of_adapter, _ = kept_inputs(tiny_swin(plugins=[of_stream]).train())
    assert len(layers) == 3 * 5 + 3
    assert kept == set()
    # What the adapter reads as well as the MLP is the adapter's input.
    kept, layers, _, _ = kept_inputs(tiny_swin(plugins=[VMT]).train())
    assert kept == {key for key in layers if key.endswith('fc1')}
    kept, layers, of_full, _ = kept_inputs(tiny_swin(plugins=[FULL]).train())
    assert kept == layers
    assert of_adapter < of_full


@pytest.mark.parametrize('slot', ['qkv', 'fc1'])
def test_the_input_of_an_adapted_layer_is_kept_and_no_other(slot):
    lora = dict(cfg=dict(type='mmvmt.LoRA', rank=2, per_task=False), position=slot)
    kept, layers, _, _ = kept_inputs(tiny_swin(plugins=[lora]).train())
    assert kept == {key for key in layers if key.endswith(slot)}


def test_with_the_decoders_only_nothing_is_kept():
    kept, _, of_frozen, features = kept_inputs(tiny_swin(plugins=[dict(cfg=dict(type='mmvmt.DecodersOnly'))]).train())
    assert kept == set()
    assert of_frozen == 0
    assert not features['semseg'][3].requires_grad


def test_frozen_weights_get_no_gradient_and_no_copy():
    swin = tiny_swin(plugins=[VMT]).train()
    before = {name: p.data_ptr() for name, p in swin.own_parameters().items()}
    sum(m.square().mean() for maps in swin(IMAGES).values() for m in maps).backward()
    for name, parameter in swin.own_parameters().items():
        assert parameter.grad is None, name
        assert parameter.data_ptr() == before[name], name
    assert all(isinstance(p, nn.Parameter) and p.grad is not None for p in swin.adapter_parameters())
