"""Losses whose gradients are computed at once against losses that autograd walks back through at the end."""

import pytest
import torch
from tiny import FOUR_TASKS, batch, losses_of, tiny_model
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.speed.measurement import peak_of_tensors
from mmvmt.models.gradients_at_once import loss_with_gradients


def gradients(at_once, factor=1.0, plugins=..., **kwargs):
    kwargs |= {} if plugins is ... else dict(plugins=plugins)
    model = tiny_model(gradients_at_once=at_once, **kwargs).train()
    losses = losses_of(model, batch())
    (factor * sum(losses.values())).backward()
    return losses, {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize(
    'plugins', [None, [dict(cfg=dict(type='mmvmt.VMTAdapter'))], [dict(cfg=dict(type='mmvmt.LoRA', rank=2))]]
)
def test_losses_and_gradients_are_the_same(plugins):
    losses, grads = gradients(True, plugins=plugins)
    expected_losses, expected_grads = gradients(False, plugins=plugins)
    assert list(losses) == list(expected_losses)
    for name, loss in expected_losses.items():
        assert torch.equal(losses[name], loss)
    for name, gradient in expected_grads.items():
        assert (gradient is None) == (grads[name] is None), name
        if gradient is not None:
            torch.testing.assert_close(grads[name], gradient, atol=1e-6, rtol=1e-5, msg=name)


def test_gradients_follow_what_the_losses_are_multiplied_with():
    _, grads = gradients(True, factor=8.0)
    _, expected = gradients(False)
    for name, gradient in expected.items():
        if gradient is not None:
            torch.testing.assert_close(grads[name], 8 * gradient, atol=1e-5, rtol=1e-5, msg=name)


def test_gradients_are_the_same_under_bfloat16():
    def under_autocast(at_once):
        model = tiny_model(gradients_at_once=at_once).train()
        with torch.autocast('cpu', dtype=torch.bfloat16):
            loss = sum(losses_of(model, batch()).values())
        loss.backward()
        return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    expected = under_autocast(False)
    for name, gradient in under_autocast(True).items():
        assert gradient.dtype == torch.float32
        torch.testing.assert_close(gradient, expected[name], atol=1e-3, rtol=1e-2, msg=name)


def test_in_float16_the_scale_of_the_loss_comes_before_its_gradients():
    weight = nn.Parameter(torch.ones(1))
    feature = torch.full((1,), 1e-6, requires_grad=True)
    # 1e-6 * 1e-3 is below what float16 holds, and 2**16 times that is not.
    with torch.autocast('cpu', dtype=torch.float16):
        loss = loss_with_gradients(lambda x: (x[0].half() * weight.half()).float().sum() * 1e-3, [feature], [weight])
    (loss * 2**16).backward()
    assert weight.grad.item() == pytest.approx(1e-9 * 2**16, rel=0.1)


def test_without_gradients_it_is_the_loss():
    model = tiny_model()
    with torch.no_grad():
        assert not any(loss.requires_grad for loss in losses_of(model, batch()).values())
    fixed = loss_with_gradients(lambda x: x[0].sum(), [torch.ones(3)], [])
    assert fixed.item() == 3
    assert not fixed.requires_grad


def test_what_is_not_used_has_no_gradient():
    used, unused = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    loss_with_gradients(lambda x: (x[0] * used).sum(), [torch.full((2,), 3.0)], [used, unused]).backward()
    assert used.grad.tolist() == [3, 3]
    assert unused.grad is None


def test_intermediate_results_of_one_head_are_in_memory_at_a_time():
    def peak(at_once):
        model = tiny_model(gradients_at_once=at_once).train()
        data = model.data_preprocessor(batch(sizes=((128, 128),)), True)

        def step():
            sum(model(**data, mode='loss').values()).backward()

        step()
        return peak_of_tensors(step)

    assert peak(True) < peak(False)


def test_operations_can_be_counted():
    def operations(at_once):
        model = tiny_model(gradients_at_once=at_once).train()
        data = model.data_preprocessor(batch(), True)
        with FlopCounterMode(display=False) as counter:
            sum(model(**data, mode='loss').values()).backward()
        return counter.get_total_flops()

    assert operations(True) == operations(False) > 0


def test_every_trained_task_has_a_loss_and_no_other():
    model = tiny_model().train()
    model.set_trained_tasks(['normals', 'semseg'])
    assert list(losses_of(model, batch())) == [f'loss_{task}' for task in FOUR_TASKS if task in ('normals', 'semseg')]
