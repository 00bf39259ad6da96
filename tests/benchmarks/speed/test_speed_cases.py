"""The models and training steps that the benchmark of speed measures."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from benchmarks.speed import cases
from benchmarks.speed.cases import (
    ENCODER,
    FOUR_TASKS,
    QUICK,
    VMT,
    Settings,
    build,
    check_equal,
    fine_tuning,
    floor,
    head,
    inference,
    model_config,
    random_image,
    random_maps,
    random_samples,
    stacked,
    step,
    swin_config,
    task_names,
    training,
)
from benchmarks.speed.measurement import count_flops
from mmvmt.models.parameter_groups import count

ADAPTER = 'baselines/swin_t_adapter_pascal'
FULL = 'baselines/swin_t_full_multitask_pascal'
EDGE = 'vmt/swin_t_edge_pascal'
SETTINGS = Settings(**QUICK)


def model_of(config, tasks=None, **changes):
    return build(model_config(config, SETTINGS, tasks, **changes), SETTINGS)


@pytest.fixture
def built(monkeypatch):
    """What cases build."""
    modules, original = [], cases.build
    monkeypatch.setattr(cases, 'build', lambda *args: modules.append(original(*args)) or modules[-1])
    return modules


def test_settings_without_quick_are_those_of_the_configs():
    cfg = model_config(VMT, Settings())
    assert 'init_cfg' not in cfg['backbone']
    assert (cfg['backbone']['embed_dims'], cfg['backbone']['depths']) == (96, (2, 2, 6, 2))
    assert {head['channels'] for head in cfg['heads'].values()} == {256}
    small = model_config(VMT, SETTINGS)
    assert {head['channels'] for head in small['heads'].values()} == {16}
    assert small['backbone']['depths'] == (1, 1, 2, 1)
    assert small['backbone']['plugins'] == cfg['backbone']['plugins']
    assert 'plugins' not in swin_config(VMT, SETTINGS, 'mmvmt.AdaptedSwin')


@pytest.mark.parametrize('config', [VMT, ADAPTER])
def test_with_four_tasks_the_model_is_that_of_the_config(config):
    model, same = model_of(config), model_of(config, 4)
    assert same.tasks == model.tasks == FOUR_TASKS
    assert list(same.state_dict()) == list(model.state_dict())
    trained = [[name for name, p in m.named_parameters() if p.requires_grad] for m in (model, same)]
    assert trained[0] == trained[1]


@pytest.mark.parametrize('config', [VMT, ADAPTER])
def test_a_repeated_task_is_the_task(config):
    model = model_of(config, 6).eval()
    state = model.state_dict()
    model.load_state_dict({key: state[key.replace('semseg-1', 'semseg')] for key in state})
    with torch.no_grad():
        logits = model(random_image(SETTINGS, 64))
    assert list(logits) == list(task_names(6)) == [*FOUR_TASKS, 'semseg-1', 'human_parts-1']
    torch.testing.assert_close(logits['semseg-1'], logits['semseg'])


def test_a_task_more_adds_a_scale_and_a_shift_per_block_and_a_head():
    four, six = (model_of(VMT, number) for number in (4, 6))
    depths, dims = SETTINGS.shrunk['depths'], [40, 80, 160, 320]
    added = count(six.backbone.adapter_parameters()) - count(four.backbone.adapter_parameters())
    assert added == 2 * 2 * sum(depth * dim for depth, dim in zip(depths, dims))
    losses = six(random_image(SETTINGS, 64), random_samples(six.heads, SETTINGS, 64), mode='loss')
    assert list(losses) == [f'loss_{name}' for name in task_names(6)]


def test_random_labels():
    samples = random_samples(model_of(VMT).heads, SETTINGS, 64)
    assert len(samples) == SETTINGS.batch
    for task, values in dict(semseg={*range(21), 255}, saliency={0, 1, 255}).items():
        labels = stacked(samples, task)
        assert labels.dtype == torch.uint8
        assert set(labels.unique().tolist()) == values
        assert (labels == 255).float().mean() == pytest.approx(0.1, abs=0.02)
    length = stacked(samples, 'normals').norm(dim=1)
    known = length > 0
    torch.testing.assert_close(length[known], torch.ones(int(known.sum())))
    assert known.float().mean() == pytest.approx(0.9, abs=0.02)


def test_maps_have_the_sizes_and_the_memory_order_of_an_encoders():
    model = model_of(VMT)
    features = model.backbone(random_image(SETTINGS, 64))['semseg']
    maps = random_maps(model.backbone.num_features, SETTINGS, 64)
    assert [x.shape for x in maps] == [x.shape for x in features]
    assert [x.stride() for x in maps] == [x.stride() for x in features]


@pytest.mark.parametrize('gradients', [None, [torch.tensor(2.0)]])
def test_a_step_has_a_forward_a_backward_and_with_a_loss_an_update(monkeypatch, gradients):
    linear = nn.Linear(2, 1)
    seen, inputs = [], torch.ones(3, 2)
    monkeypatch.setattr(torch.optim.AdamW, 'step', lambda self: seen.append(linear.weight.grad.tolist()))
    linear.weight.register_hook(lambda grad: seen.append(grad.tolist()) if gradients else None)
    run = training(linear, lambda: dict(a=linear(inputs).sum(), b=linear(inputs).sum()), SETTINGS, gradients=gradients)
    run()
    outputs = run()
    # Without given gradients that of the sum of both losses, with them twice as much; never that of two runs.
    assert seen == [[[6.0, 6.0]]] * 2 if gradients is None else seen[-1] == [[12.0, 12.0]]
    assert linear.weight.grad is None
    assert [x.requires_grad for x in outputs] == [False, False]


@pytest.mark.parametrize('frozen', [False, True])
def test_what_fine_tuning_trains_and_by_which_losses(built, monkeypatch, frozen):
    steps = []
    monkeypatch.setattr(cases, 'training', lambda module, losses, settings: steps.append((module, losses)))
    fine_tuning(SETTINGS, VMT, frozen)
    ((model, losses),) = steps
    values = losses()
    sum(values).backward()
    with_gradient = {name for name, p in model.named_parameters() if p.grad is not None}
    own = {name for name, _ in model.named_parameters() if name.startswith('backbone.')}
    norms = {name for name in own if name.startswith('backbone.norm')}
    assert len(norms) == 8
    # The predictor of mmseg's heads is conv_seg; all of it trains.
    heads = {name for name, _ in model.named_parameters()} - own
    assert with_gradient == heads | (norms if frozen else own)
    assert not any(isinstance(module, nn.Dropout2d) for module in model['heads'].modules())
    # The losses of ours on the same logits.
    ours = model_of(VMT)
    logits = {task: torch.randn(2, head.output.channels, 16, 16) for task, head in ours.heads.items()}
    for task, module in model['heads'].items():
        module.forward = lambda features, task=task: logits[task]
    samples = random_samples(ours.heads, SETTINGS, 64)
    expected = [module.loss(logits[task], stacked(samples, task)) for task, module in ours.heads.items()]
    torch.testing.assert_close(losses(), expected)


def test_the_floor_goes_back_to_the_tokens_and_trains_heads_only(built):
    tokens, trained = [], []
    run = floor(SETTINGS, VMT)
    (model,) = built
    model.backbone.patch_embed.register_forward_hook(lambda module, args, out: tokens.append(out[0]))
    for name, parameter in model.named_parameters():
        parameter.register_hook(lambda grad, name=name: trained.append(name)) if parameter.requires_grad else None
    run()
    assert len(model.backbone.adapters) == 0
    assert tokens[0].grad.abs().sum() > 0
    assert set(trained) == {name for name, _ in model.named_parameters() if name.startswith('heads.')}


@pytest.mark.parametrize(
    'prepare',
    [
        lambda: step(SETTINGS, EDGE),
        lambda: step(SETTINGS, VMT, frozen_dtype='bfloat16'),
        lambda: fine_tuning(SETTINGS, VMT, frozen=True),
        lambda: head(SETTINGS, 'training', config=EDGE, task='edge'),
        lambda: head(SETTINGS, small=True, mmseg=True),
        lambda: step(SETTINGS, ADAPTER, tasks=3),
        lambda: step(SETTINGS, ADAPTER, part=ENCODER, tasks=3),
        lambda: inference(SETTINGS, ADAPTER, tasks=3),
        lambda: inference(SETTINGS, VMT, batch=1, frozen_dtype='bfloat16'),
    ],
    ids=[
        'five tasks',
        'bfloat16',
        'fine-tuning',
        'head',
        'segformer',
        'whole model',
        'encoder',
        'encoder in evaluation',
        'inference',
    ],
)
def test_every_case_runs_again_and_again(prepare):
    run = prepare()
    flops = [count_flops(run) for _ in range(2)]
    assert flops[0] == flops[1] > 1e6


def test_adapters_from_a_later_stage_on_compute_no_gradient_below(built):
    flops = [count_flops(step(SETTINGS, VMT, first_stage=stage)) for stage in (1, 2, 3, 4)]
    filled = [{site.stage + 1 for method in model.backbone.adapters for site in method.sites} for model in built]
    assert filled == [{1, 2, 3, 4}, {2, 3, 4}, {3, 4}, {4}]
    # Each stage that is left out saves its backward pass, which is more than its adapters' share of the forward pass.
    inputs = random_image(SETTINGS, SETTINGS.image)
    forward = [count_flops(lambda model=model: model.backbone(inputs)) for model in built]
    saved = [(flops[i] - flops[i + 1], forward[i] - forward[i + 1]) for i in range(3)]
    assert all(step > 2 * adapters > 0 for step, adapters in saved)


def test_our_own_fine_tuning_trains_everything(built):
    run = step(SETTINGS, FULL)
    assert all(parameter.requires_grad for parameter in built[0].parameters())
    assert count_flops(run) > count_flops(step(SETTINGS, VMT))


def test_the_encoder_step_trains_the_adapters_of_all_tasks(built):
    run, trained = step(SETTINGS, VMT, part=ENCODER, tasks=2), set()
    for name, parameter in built[0].backbone.named_parameters():
        if parameter.requires_grad:
            parameter.register_hook(lambda grad, name=name: trained.add(name))
    run()
    extractions = {name for name, _ in built[0].backbone.named_parameters() if 'extractions' in name}
    assert len(extractions) == 2 * 2 * 4
    assert extractions <= trained


def test_things_that_differ_are_not_compared():
    x = torch.ones(3)
    assert check_equal('x', [x], dict(a=x + 2**-16), 1e-4) == 2**-16
    with pytest.raises(RuntimeError, match=r'x: outputs differ by up to 0\.25'):
        check_equal('x', (x, [x]), (x, [x + 0.25]), 1e-4)
    with pytest.raises(RuntimeError, match='differ by up to nan'):
        check_equal('x', [x, x], [x, x * float('nan')], 1e-4)


def test_equal_seeds_give_equal_inputs():
    torch.testing.assert_close(random_image(SETTINGS, 64), random_image(SETTINGS, 64), rtol=0, atol=0)
    assert not torch.equal(random_image(SETTINGS, 64), random_image(replace(SETTINGS, seed=1), 64))
