"""What every registered method must keep, whatever it is: driven by one table and by the registry."""

import io
from copy import deepcopy
from functools import cache

import pytest
import torch
from contributing import example
from distributed import run_ranks
from tiny import FOUR_TASKS, SWIN, batch, losses_of, perturb, tiny_encoder, tiny_model

import mmvmt.adapters  # noqa: F401
from mmvmt.adapters import Method
from mmvmt.compat import RECORDS_GRAPHS
from mmvmt.models.parameter_groups import no_decay_ids, parameter_groups
from mmvmt.registry import ADAPTERS, MODELS, class_of

# Encoders of the same widths (8, 16, 32, 64), blocks (1, 2, 1, 1) and heads; the second is the one that CONTRIBUTING
# shows, with plain attention among all tokens.
SHAPE = dict(embed_dims=8, depths=(1, 2, 1, 1), num_heads=(1, 2, 2, 4))
ENCODERS = {
    'AdaptedSwin': dict(type='mmvmt.AdaptedSwin', **(SWIN | SHAPE)),
    'PlainEncoder': dict(type=example('plain').PlainEncoder, **SHAPE),
}
MODELS.module_dict.pop('PlainEncoder')

# One row per method: its config, and the number of its own parameters on these encoders for four tasks by its formula.
WIDTHS = (8, 16, 16, 32, 64)
CASES = {
    'VMTAdapter': (
        dict(type='mmvmt.VMTAdapter', reduction=2),
        sum(2 * d * (d // 2) + d // 2 + d + 4 * 2 * d for d in WIDTHS),
    ),
    'VMTAdapterLite': (
        dict(type='mmvmt.VMTAdapterLite', reduction=2),
        sum(d * (d // 2) + d // 2 + d + 4 * 2 * d for d in WIDTHS),
    ),
    'DecodersOnly': (dict(type='mmvmt.DecodersOnly'), 0),
    'FullFineTuning': (dict(type='mmvmt.FullFineTuning'), 0),
    # Copies per task: patch embedding (projection, norm), then per block norm1, qkv, proj, norm2, fc1 (ratio 2), fc2,
    # and the norm over four neighbours before each of the three mergings.
    'BitFit': (dict(type='mmvmt.BitFit'), 4 * (8 + 8 + sum(9 * d for d in WIDTHS) + 4 * (8 + 16 + 32))),
    'RelativePositionBias': (dict(type='mmvmt.RelativePositionBias'), 4 * 7 * 7 * (1 + 2 + 2 + 2 + 4)),
    'NormTuning': (dict(type='mmvmt.NormTuning'), 4 * (2 * 8 + sum(4 * d for d in WIDTHS) + 2 * 4 * (8 + 16 + 32))),
    # Per task and block: A and B of rank 2 on qkv, and the copy of norm1.
    'LoRA': (dict(type='mmvmt.LoRA', rank=2, norms=True), 4 * sum(2 * (d + 3 * d) + 2 * d for d in WIDTHS)),
    # A map of 8 cells for each of 4 layers of 5 blocks; for four tasks one of 4 cells for 3 layers of 4 last blocks.
    'DiTASK': (dict(type='mmvmt.DiTASK', cells=8, task_cells=4), 20 * 7 + 4 * 12 * 3),
    # As LoRA on qkv, one set for all tasks, and a length per row.
    'DoRA': (dict(type='mmvmt.DoRA', rank=2), sum(2 * (d + 3 * d) + 3 * d for d in WIDTHS)),
    # Norm, two scales of the input, both projections, convolutions of 3, 5, 7 and 1 pixels; twice per block.
    'Mona': (
        dict(type='mmvmt.Mona', bottleneck=4, dropout=0.0),
        2 * sum(2 * d + 2 * d + 4 * d + 4 + 4 * (9 + 25 + 49 + 3) + 4 * 4 + 4 + 4 * d + d for d in WIDTHS),
    ),
    # With s = 4 the random weights of these tests round too coarsely. Every block: qkv, proj, fc1, fc2 (ratio 2).
    # Each of four tasks: proj, fc1, fc2 in the last blocks.
    'MTLoRA': (
        dict(type='mmvmt.MTLoRA', rank=2, task_rank=1, scale=1.0, dropout=0.0),
        sum(2 * (4 + 2 + 3 + 3) * d for d in WIDTHS) + 4 * sum((2 + 3 + 3) * d for d in (8, 16, 32, 64)),
    ),
    'MTLoRAPlus': (
        dict(type='mmvmt.MTLoRAPlus', rank=2, task_rank=1, scale=1.0, dropout=0.0),
        sum(2 * (4 + 2 + 3 + 3) * d for d in WIDTHS)
        + 4 * sum((2 + 3 + 3) * d for d in (8, 16, 32, 64))
        + sum(2 * (4 + 2) * d for d in (8, 16, 32)),
    ),
    'PartTuning': (dict(type='mmvmt.PartTuning', merging=True), 0),
    # Patch embedding and its norm; per block two norms, qkv, proj, fc1 (ratio 2), fc2; per merging its norm and layer.
    'SSF': (
        dict(type='mmvmt.SSF'),
        2 * (2 * 8 + sum((2 + 3 + 1 + 2 + 1) * d for d in WIDTHS) + sum((4 + 2) * d for d in (8, 16, 32))),
    ),
    # Shared updates as MTLoRA; a prompt of width 8 per task, three layers between stages; per last block a norm, a
    # gate, and for proj, fc1 and fc2 a filter: a linear layer from 2 to 18, and 18 deviations and means.
    'TADFormer': (
        dict(type='mmvmt.TADFormer', rank=2, scale=1.0, dropout=0.0),
        sum(2 * (4 + 2 + 3 + 3) * d for d in WIDTHS)
        + 4 * 8
        + sum(2 * d * d for d in (8, 16, 32))
        + sum(2 * d + 1 + 3 * (2 * 18 + 18 + 2 * 18) for d in (8, 16, 32, 64)),
    ),
    'VPTShallow': (dict(type='mmvmt.VPTShallow', prompts=3), 4 * 3 * WIDTHS[0]),
    'VPTDeep': (dict(type='mmvmt.VPTDeep', prompts=3), 4 * 3 * sum(WIDTHS)),
    # Bottlenecks of width d / 2: both weights, both biases, and a LayerNorm; one per task, or one for all.
    'Adapter': (dict(type='mmvmt.Adapter'), 4 * sum(d * d + d // 2 + d + 2 * d for d in WIDTHS)),
    'SharedAdapter': (dict(type='mmvmt.SharedAdapter'), sum(d * d + d // 2 + d + 2 * d for d in WIDTHS)),
    # Rank 3 at a bottleneck of d / 2, no norm.
    'LowRankAdapter': (
        dict(type='mmvmt.LowRankAdapter', rank=3),
        4 * sum(2 * 3 * (d + d // 2) + d // 2 + d for d in WIDTHS),
    ),
    # The n^3 entries of the rules are there once. A weight of d x d / 2 has d * d / 2 / n entries in its n factors, or
    # d + d / 2 at rank 1, which does not depend on n.
    'PHMAdapter': (
        dict(type='mmvmt.PHMAdapter', n=4),
        4**3 + 4 * sum(d * d // 4 + d // 2 + d + 2 * d for d in WIDTHS),
    ),
    'Compacter': (
        dict(type='mmvmt.Compacter', n=4),
        4**3 + 4 * 2 * sum(2 * (d + d // 2) + d // 2 + d + 2 * d for d in WIDTHS),
    ),
    'CompacterPlusPlus': (
        dict(type='mmvmt.CompacterPlusPlus', n=4),
        4**3 + 4 * sum(2 * (d + d // 2) + d // 2 + d + 2 * d for d in WIDTHS),
    ),
    # e = 5, q = 16, p = 6, bottleneck d / 2. The MLP is (e + 1) q + (q + 1) p; a generator of n entries is (p + 1) n.
    # Besides the matrices an adapter has d / 2 + d entries of biases and 2 d of the norm.
    'HyperFormer': (
        dict(type='mmvmt.HyperFormer', reduction=2, embedding=5, hidden=16, code=6),
        4 * 5 + sum(6 * 16 + 17 * 6 + 7 * (d * d + d // 2 + 3 * d) for d in WIDTHS),
    ),
    'Polyhistor': (
        dict(type='mmvmt.Polyhistor', rank=3, embedding=5, hidden=16, code=6),
        4 * 5 + sum(6 * 16 + 17 * 6 + 7 * (2 * 3 * (d + d // 2) + d // 2 + 3 * d) for d in WIDTHS),
    ),
    # One hypernetwork for width 8, whose MLP takes 2 e; per block k embeddings, and for k = d / 8 > 1 a kernel, and a
    # coefficient each for biases and norm.
    'PolyhistorLite': (
        dict(type='mmvmt.PolyhistorLite', rank=2, embedding=5, hidden=16, code=6),
        4 * 5
        + (11 * 16 + 17 * 6 + 7 * (2 * 2 * (8 + 4) + 4 + 3 * 8))
        + sum(5 * k + (k**3 + 2 * k**2 if k > 1 else 0) for k in (d // 8 for d in WIDTHS)),
    ),
}
# Options that change what a method computes or has, all of a method at once.
VARIANTS = {
    # Without shifts, the scales of the last blocks alone, and a scalar per block.
    'VMTAdapter, other reading': (
        dict(
            type='mmvmt.VMTAdapter',
            reduction=2,
            **dict(input='stream', scale='learned', scale_start=0, tap='last', shift=False, start='gamma'),
        ),
        sum(2 * d * (d // 2) + d // 2 + d + 1 for d in WIDTHS) + 4 * sum((8, 16, 32, 64)),
    ),
    # As above without scale and shift of the norm: 2 * 8 entries of a template, and coefficients, fewer.
    'PolyhistorLite, other reading': (
        dict(
            type='mmvmt.PolyhistorLite',
            **dict(rank=2, embedding=5, hidden=16, code=6, position='parallel', input='normed', norm='none'),
        ),
        4 * 5
        + (11 * 16 + 17 * 6 + 7 * (2 * 2 * (8 + 4) + 4 + 8))
        + sum(5 * k + (k**3 + k**2 if k > 1 else 0) for k in (d // 8 for d in WIDTHS)),
    ),
}
ROWS = CASES | VARIANTS
# Methods that change the frozen network's output from the start, and why.
DECLARED_START: dict[str, str] = {
    'Mona': 'its up-projection starts as any linear layer, as published',
    'SSF': 'scales and shifts are drawn around 1 and 0, as published',
    'TADFormer': 'prompts take a share of the attention, and a skip mixes with the features, as soon as they are there',
    'VPTShallow': 'prompts take a share of the attention as soon as they are there',
    'VPTDeep': 'prompts take a share of the attention as soon as they are there',
}
# Methods that an encoder refuses, and why.
DECLARED_REFUSED = {('TADFormer', 'PlainEncoder'): 'do not hand out these products'}
# Parameters that are part of a published method although no feature depends on them: their gradient is zero.
DECLARED_UNREAD = {
    'DiTASK': tuple(f'adapters.0.maps.stage3_block0_{slot}.' for slot in ('proj', 'fc1', 'fc2')),
    'MTLoRA': ('adapters.0.updates.stage3_block0_fc2.',),
    'MTLoRAPlus': ('adapters.0.updates.stage3_block0_fc2.',),
}
IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
TASKS = ('semseg', 'normals')


def test_every_registered_method_has_a_row():
    assert set(ADAPTERS.module_dict) == set(CASES)
    assert all(issubclass(method, Method) for method in ADAPTERS.module_dict.values())


@pytest.fixture(params=sorted(ROWS))
def method(request):
    return request.param


@pytest.fixture(params=sorted(ENCODERS))
def encoder(request):
    if reason := DECLARED_REFUSED.get((request.getfixturevalue('method'), request.param)):
        pytest.skip(f'refused: {reason}')
    return ENCODERS[request.param]


@pytest.mark.parametrize('pair', sorted(DECLARED_REFUSED))
def test_refusals_say_why(pair):
    method, encoder = pair
    with pytest.raises(ValueError, match=DECLARED_REFUSED[pair]):
        tiny_encoder(ENCODERS[encoder], plugins=plugins_of(method))


def is_unread(method, name):
    return any(part in name for part in DECLARED_UNREAD.get(method, ()))


def plugins_of(method):
    return [dict(cfg=ROWS[method][0])]


def model_of(method, encoder, **kwargs):
    """A model for two tasks in training mode."""
    return tiny_model(TASKS, plugins_of(method), encoder, **kwargs).train()


@cache
def _after_a_step(method, encoder):
    """A model behind a backward pass, its losses, and its parameters before a step of SGD on its gradients."""
    model = model_of(method, ENCODERS[encoder])
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    losses = losses_of(model, batch(TASKS))
    sum(losses.values()).backward()
    torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1).step()
    return model, {task: loss.detach() for task, loss in losses.items()}, before


@pytest.fixture
def after_a_step(method, encoder, request):
    """One answer for all tests that look at gradients; none of them may change it."""
    return _after_a_step(method, request.node.callspec.params['encoder'])


@torch.no_grad()
def test_starts_from_the_frozen_network(method, encoder):
    if method in DECLARED_START:
        pytest.skip(DECLARED_START[method])
    plain = tiny_encoder(encoder, TASKS, None)
    adapted = tiny_encoder(encoder, TASKS, plugins_of(method))
    adapted.load_state_dict(plain.state_dict(), strict=False)
    for adapter in adapted.adapters:
        adapter.reset_parameters()
    expected, got = plain(IMAGES), adapted(IMAGES)
    for task in TASKS:
        for a, b in zip(expected[task], got[task]):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_own_parameters_equal_the_formula(method, encoder):
    assert (
        sum(p.numel() for p in tiny_encoder(encoder, plugins=plugins_of(method)).adapter_parameters())
        == ROWS[method][1]
    )


def test_only_declared_parameters_move(method, after_a_step):
    model, _, before = after_a_step
    declared = {id(p) for p in model.heads.parameters()} | {id(p) for p in model.backbone.adapter_parameters()}
    for adapter in model.backbone.adapters:
        declared.update(id(p) for p in adapter.encoder_parameters(model.backbone))
    for name, parameter in model.named_parameters():
        moved = not torch.equal(before[name], parameter)
        assert moved == (id(parameter) in declared and not is_unread(method, name)), name


def test_every_trainable_parameter_gets_a_gradient(method, after_a_step):
    model, *_ = after_a_step
    trained = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    assert [n for n, p in trained if p.grad is None] == []
    assert [n for n, p in trained if not p.grad.any()] == [n for n, _ in trained if is_unread(method, n)]
    assert all(p.grad is None for p in model.parameters() if not p.requires_grad)


def test_learning_starts_at_initialisation(method, encoder):
    model = model_of(method, encoder)
    for adapter in model.backbone.adapters:
        adapter.reset_parameters()
    sum(losses_of(model, batch(TASKS)).values()).backward()
    own = model.backbone.adapter_parameters()
    assert not own or any(p.grad.abs().sum() > 0 for p in own)


@torch.no_grad()
def test_save_and_load_round_trip(method, encoder):
    first, second = (model_of(method, encoder, seed=seed).eval() for seed in (0, 5))
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second.load_state_dict(torch.load(file, weights_only=True))
    expected, got = first(IMAGES), second(IMAGES)
    assert tuple(expected) == TASKS
    for task, logits in expected.items():
        assert torch.equal(logits, got[task]), task


def test_groups_hold_every_parameter_once(method, encoder):
    model = model_of(method, encoder)
    grouped = [id(p) for group in parameter_groups(model).values() for p in group]
    assert sorted(grouped) == sorted(id(p) for p in model.parameters())


@torch.no_grad()
def test_a_task_added_later_leaves_the_others_as_they_are(method, encoder):
    adapted = tiny_encoder(encoder, TASKS, plugins_of(method))
    expected, before = adapted(IMAGES), {name: value.clone() for name, value in adapted.state_dict().items()}
    adapted.add_task('depth')
    got = adapted(IMAGES)
    assert tuple(got) == adapted.tasks == (*TASKS, 'depth')
    for task in TASKS:
        same = [torch.equal(a, b) for a, b in zip(expected[task], got[task])]
        # A method declares it, where tasks depend on each other.
        assert not any(same) if class_of(ADAPTERS, ROWS[method][0]['type']).tasks_interact else all(same), task
    added = {name for name in adapted.state_dict() if name not in before}
    fresh = tiny_encoder(encoder, tasks=adapted.tasks, plugins=plugins_of(method))
    assert {name: value.shape for name, value in fresh.state_dict().items()} == {
        name: value.shape for name, value in adapted.state_dict().items()
    }
    own = {id(p) for adapter in adapted.adapters for p in adapter.task_parameters('depth')}
    assert {name for name, p in adapted.named_parameters() if id(p) in own} == added
    adapted.remove_task('depth')
    assert list(adapted.state_dict()) == list(before)
    assert all(torch.equal(before[name], value) for name, value in adapted.state_dict().items())


def test_the_parts_of_a_task_added_later_start_as_those_of_the_others_did(method, encoder):
    plain = tiny_encoder(encoder, (*TASKS, 'depth'), plugins_of(method))
    adapted = tiny_encoder(encoder, TASKS, plugins_of(method))
    for one in (plain, adapted):
        for adapter in one.adapters:
            adapter.reset_parameters()
    adapted.add_task('depth')
    first, later = (one.state_dict() for one in (plain, adapted))
    for name, value in later.items():
        if 'depth' in name:
            # Constants are equal; random values have the same spread.
            assert torch.equal(first[name], value) or 0.2 < value.std() / first[name].std() < 5, name


def test_biases_norms_scales_and_shifts_get_no_decay(method, encoder):
    model = model_of(method, encoder)
    ids = no_decay_ids(model)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and (parameter.ndim == 1 or name.endswith(('.scale', '.shift'))):
            assert id(parameter) in ids, name
        if name.endswith(('linears.0.weight', 'fuse.weight', 'down_weight', 'up_weight')):
            assert id(parameter) not in ids, name


def test_gradient_checkpointing_changes_nothing(method, encoder, after_a_step):
    plain, *_ = after_a_step
    checkpointed = model_of(method, encoder)
    for blocks in checkpointed.backbone.stage_blocks():
        for block in blocks:
            block.with_cp = True
    sum(losses_of(checkpointed, batch(TASKS)).values()).backward()
    for (name, a), b in zip(plain.named_parameters(), checkpointed.parameters()):
        if a.requires_grad:
            torch.testing.assert_close(a.grad, b.grad, msg=name)


def test_bfloat16_autocast_runs_and_trains(method, encoder):
    model = model_of(method, encoder)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        loss = sum(losses_of(model, batch(TASKS)).values())
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize('tasks', [('semseg',), (*FOUR_TASKS, 'depth', 'edge')])
@torch.no_grad()
def test_any_number_of_tasks_each_generated_for_once(method, encoder, tasks, monkeypatch):
    adapted = tiny_encoder(encoder, tasks=tasks, plugins=plugins_of(method)).train()
    (adapter,), made = adapted.adapters, []
    generate = adapter.generate
    monkeypatch.setattr(adapter, 'generate', lambda task: made.append(task) or generate(task))
    assert tuple(adapted(IMAGES)) == tasks
    if type(adapter).generate is not Method.generate:
        assert made == (list(tasks) if adapter.per_task else [None])


@torch.no_grad()
def test_without_tasks_it_drops_into_mmseg(method, encoder):
    adapted = tiny_encoder(encoder, tasks=None, plugins=plugins_of(method))
    maps = adapted(IMAGES)
    assert [tuple(m.shape) for m in maps] == [(2, 8, 16, 16), (2, 16, 8, 8), (2, 32, 4, 4), (2, 64, 2, 2)]
    assert all(p.requires_grad for i in range(4) for p in getattr(adapted, f'norm{i}').parameters())


@torch.no_grad()
def test_copies_are_independent(method, encoder):
    adapted = tiny_encoder(encoder, TASKS, plugins_of(method))
    twin = deepcopy(adapted)
    before = twin(IMAGES)
    perturb(adapted, seed=9)
    after = twin(IMAGES)
    for task in TASKS:
        assert all(torch.equal(a, b) for a, b in zip(before[task], after[task]))


def test_stacked_order_equals_sequential_order(method, encoder, after_a_step):
    sequential, losses, _ = after_a_step
    stacked = model_of(method, encoder)
    stacked.backbone.task_order = 'stacked'
    got = losses_of(stacked, batch(TASKS))
    assert set(got) == set(losses)
    for task, loss in losses.items():
        torch.testing.assert_close(got[task], loss, msg=task)
    sum(got.values()).backward()
    for (name, a), b in zip(sequential.named_parameters(), stacked.parameters()):
        if a.requires_grad:
            torch.testing.assert_close(b.grad, a.grad, atol=1e-4, rtol=1e-4, msg=name)


def test_evaluation_equals_training_mode_and_follows_every_change(method, encoder):
    """What a method keeps between evaluations must not outlive a change of its parameters."""
    adapted = tiny_encoder(encoder, TASKS, plugins_of(method))
    for change in (
        lambda: None,
        lambda: perturb(adapted, seed=3),
        lambda: adapted.load_state_dict(tiny_encoder(encoder, TASKS, plugins_of(method)).state_dict()),
    ):
        change()
        with torch.no_grad():
            kept, again = adapted.eval()(IMAGES), adapted(IMAGES)
        with torch.inference_mode():
            inference = adapted(IMAGES)
        fresh = adapted.train()(IMAGES)
        for task in TASKS:
            for a, b, c, d in zip(fresh[task], kept[task], again[task], inference[task]):
                torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
                assert torch.equal(b, c)
                torch.testing.assert_close(b, d, atol=1e-4, rtol=1e-4)


# Of these graphs have two blocks, the second with shifted windows, and another stage where something stands in between:
# features that leave, tokens that windows get besides, copies of layers. A graph of one block takes half the time.
WHOLE_GRAPHS = ('VMTAdapter', 'VPTDeep', 'LoRA', 'MTLoRAPlus')


def graph_of(method, encoder):
    """A small encoder for two tasks, and images for it."""
    stages = 1
    if method in WHOLE_GRAPHS:
        stages += 'downsample' in class_of(ADAPTERS, ROWS[method][0]['type']).positions
    cfg = encoder | dict(depths=((2 if method in WHOLE_GRAPHS else 1), 1)[:stages], num_heads=(1, 2)[:stages])
    cfg |= dict(out_indices=(0, 1)[:stages])
    cfg |= dict(strides=(4, 2)[:stages]) if 'window_size' in encoder else {}
    return tiny_encoder(cfg, TASKS, plugins_of(method)), IMAGES[:, :, :32, :32]


@pytest.mark.filterwarnings('ignore::torch.jit.TracerWarning')
def test_traces_as_it_computes(method, encoder):
    adapted, images = graph_of(method, encoder)
    file = io.BytesIO()
    with torch.no_grad():
        expected = adapted(images)
        torch.jit.save(torch.jit.trace(adapted, images, strict=False, check_trace=False), file)
    file.seek(0)
    for task, maps in torch.jit.load(file)(images).items():
        for a, b in zip(maps, expected[task], strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


@pytest.mark.skipif(not RECORDS_GRAPHS, reason='needs torch 2.7, which records graphs of the models')
@pytest.mark.parametrize('encoder', ['AdaptedSwin'], indirect=True)
def test_compiles_into_one_graph(method, encoder):
    adapted, images = graph_of(method, encoder)
    adapted.task_order = 'stacked'
    # Capturing the graph is what can break; a backend that also generates code would only take longer.
    compiled = torch.compile(adapted.train(), backend='eager', fullgraph=True)
    for got, expected in zip(compiled(images).values(), adapted(images).values(), strict=True):
        for a, b in zip(got, expected, strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    torch._dynamo.reset()


def two_steps_on_a_rank(rank, world_size):
    """Losses and final own parameters of every method after two steps; a parameter without gradient would stop DDP."""
    from mmengine.model import MMDistributedDataParallel

    results, encoder = {}, ENCODERS['AdaptedSwin'] | dict(depths=(1, 2), num_heads=(1, 2), strides=(4, 2))
    for name in sorted(CASES):
        model = tiny_model(TASKS, plugins_of(name), encoder | dict(out_indices=(0, 1))).train()
        wrapped = MMDistributedDataParallel(model, device_ids=None, find_unused_parameters=False)
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-3)
        for step in range(2):
            data = model.data_preprocessor(batch(TASKS, seed=2 * step + rank), True)
            loss = sum(wrapped(**data, mode='loss').values())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        results[name] = [p.detach() for p in model.backbone.parameters() if p.requires_grad]
    return results


def test_two_ranks_train_every_method_without_unused_parameters():
    first, second = run_ranks(two_steps_on_a_rank, 2)
    assert set(first) == set(CASES)
    for name, parameters in first.items():
        assert all(torch.equal(a, b) for a, b in zip(parameters, second[name])), name
