"""The fused sums against the same sums op by op."""

import pytest
import torch

from mmvmt.adapters import task_features as module
from mmvmt.adapters.task_features import task_features


def op_by_op(x, scales, shifts, branches):
    features = []
    for of_task, shift in zip(scales, shifts):
        feature = x + shift
        for a, scale in zip(branches, of_task):
            feature = feature + scale * a
        features.append(feature)
    return features


def inputs(tasks, blocks, dtype=torch.float64, shape=(2, 37, 6), seed=0):
    generator = torch.Generator().manual_seed(seed)

    def draw(*size):
        return torch.randn(*size, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()

    return draw(*shape), draw(tasks, blocks, shape[-1]), draw(tasks, shape[-1]), [draw(*shape) for _ in range(blocks)]


@pytest.mark.parametrize('tasks', [1, 2, 5])
@pytest.mark.parametrize('blocks', [1, 3])
@pytest.mark.parametrize('cache_bytes', [1, 2**12, 2**19])
def test_equals_the_sums_op_by_op(tasks, blocks, cache_bytes, monkeypatch):
    monkeypatch.setattr(module, '_CACHE_BYTES', cache_bytes)
    x, scales, shifts, branches = inputs(tasks, blocks, shape=(2, 137, 6))
    gradients = [torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(t)) for t in range(tasks)]
    leaves = (x, scales, shifts, *branches)
    expected = op_by_op(x, scales, shifts, branches)
    got = task_features(x, scales, shifts, branches)
    for a, b in zip(expected, got):
        torch.testing.assert_close(b, a, atol=1e-12, rtol=1e-12)
    for a, b in zip(torch.autograd.grad(expected, leaves, gradients), torch.autograd.grad(got, leaves, gradients)):
        torch.testing.assert_close(b, a, atol=1e-11, rtol=1e-11)


def test_gradients_by_differences():
    x, scales, shifts, branches = inputs(2, 2, shape=(1, 5, 3))
    assert torch.autograd.gradcheck(lambda x, s, b, *a: task_features(x, s, b, a), (x, scales, shifts, *branches))


@pytest.mark.parametrize('frozen', [0, 1, 2, 3])
def test_what_needs_no_gradient_gets_none(frozen):
    x, scales, shifts, branches = inputs(3, 2)
    leaves = [x, scales, shifts, *branches]
    leaves[frozen].requires_grad_(False)
    sum(f.square().sum() for f in task_features(x, scales, shifts, branches)).backward()
    assert [leaf.grad is None for leaf in leaves] == [index == frozen for index in range(len(leaves))]


def test_a_task_that_nobody_uses_has_gradient_zero():
    x, scales, shifts, branches = inputs(3, 2)
    task_features(x, scales, shifts, branches)[1].sum().backward()
    assert scales.grad[1].any()
    assert not scales.grad[0].any()
    assert not shifts.grad[2].any()


@pytest.mark.parametrize(
    'stream, tables',
    [(torch.float32, torch.float32), (torch.bfloat16, torch.float32), (torch.bfloat16, torch.bfloat16)],
)
def test_types_and_values_are_those_of_the_sums_op_by_op(stream, tables):
    x, _, _, branches = inputs(2, 2, torch.bfloat16)
    _, scales, shifts, _ = inputs(2, 2, tables)
    x = x.detach().to(stream).requires_grad_()
    expected, got = op_by_op(x, scales, shifts, branches), task_features(x, scales, shifts, branches)
    for a, b in zip(expected, got):
        assert a.dtype == b.dtype
        torch.testing.assert_close(a, b, atol=0.02, rtol=0.02)
    leaves = (x, scales, shifts, *branches)
    weights = [torch.randn(f.shape, generator=torch.Generator().manual_seed(i)) for i, f in enumerate(got)]
    wanted, given = (
        torch.autograd.grad(sum((w * f).sum() for w, f in zip(weights, fs)), leaves) for fs in (expected, got)
    )
    for leaf, a, b in zip(leaves, wanted, given):
        assert b.dtype == leaf.dtype
        torch.testing.assert_close(a, b, atol=0.05, rtol=0.02)


def test_compiled_it_is_the_same_function():
    x, scales, shifts, branches = inputs(2, 3)
    compiled = torch.compile(task_features, backend='eager', fullgraph=True)
    for a, b in zip(task_features(x, scales, shifts, branches), compiled(x, scales, shifts, branches)):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=1e-12)
    torch._dynamo.reset()
