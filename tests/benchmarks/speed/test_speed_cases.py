"""The models and training steps that the benchmark of speed measures."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.speed import cases as speed_cases
from benchmarks.speed.cases import (
    ENCODER,
    FOUR_TASKS,
    QUICK,
    WHOLE,
    FineTuning,
    Settings,
    build_model,
    build_with_tasks,
    check_equal,
    count_flops,
    encoder_config,
    encoder_step,
    model_config,
    output_channels,
    prepare_fine_tuning,
    prepare_floor,
    prepare_head,
    prepare_ours,
    prepare_tasks,
    random_image,
    random_labels,
    random_maps,
    random_samples,
    task_names,
    training_step,
    widths,
)
from mmvmt.models.parameter_groups import count

CONFIGS = Path(__file__).parents[3] / 'configs'
VMT = CONFIGS / 'vmt/swin_t_pascal.py'
ADAPTER = CONFIGS / 'baselines/swin_t_adapter_pascal.py'
FULL = CONFIGS / 'baselines/swin_t_full_multitask_pascal.py'
SETTINGS = Settings(**QUICK)


def test_settings_without_quick_are_those_of_the_configs():
    cfg = model_config(VMT, Settings())
    assert 'init_cfg' not in cfg['backbone']
    assert (cfg['backbone']['embed_dims'], cfg['backbone']['depths']) == (96, (2, 2, 6, 2))
    assert {head['channels'] for head in cfg['heads'].values()} == {256}
    small = model_config(VMT, SETTINGS)
    assert {head['channels'] for head in small['heads'].values()} == {16}
    assert small['backbone']['depths'] == (1, 1, 2, 1)
    assert small['backbone']['plugins'] == cfg['backbone']['plugins']
    assert 'plugins' not in encoder_config(VMT, SETTINGS)


@pytest.mark.parametrize('config', [VMT, ADAPTER])
def test_with_four_tasks_the_model_is_that_of_the_config(config):
    model, same = build_model(config, SETTINGS), build_with_tasks(config, 4, SETTINGS)
    assert same.tasks == model.tasks == FOUR_TASKS
    assert list(same.state_dict()) == list(model.state_dict())
    trained = [[name for name, p in m.named_parameters() if p.requires_grad] for m in (model, same)]
    assert trained[0] == trained[1]


@pytest.mark.parametrize('config', [VMT, ADAPTER])
def test_a_repeated_task_is_the_task(config):
    model = build_with_tasks(config, 6, SETTINGS).eval()
    state = model.state_dict()
    model.load_state_dict({key: state[key.replace('semseg-1', 'semseg')] for key in state})
    with torch.no_grad():
        logits = model(random_image(SETTINGS, 64))
    assert list(logits) == list(task_names(6)) == [*FOUR_TASKS, 'semseg-1', 'human_parts-1']
    torch.testing.assert_close(logits['semseg-1'], logits['semseg'])


def test_a_task_more_adds_a_scale_and_a_shift_per_block_and_a_head():
    four, six = (build_with_tasks(VMT, number, SETTINGS) for number in (4, 6))
    depths, dims = SETTINGS.shrunk['depths'], [40, 80, 160, 320]
    added = count(six.backbone.adapter_parameters()) - count(four.backbone.adapter_parameters())
    assert added == 2 * 2 * sum(depth * dim for depth, dim in zip(depths, dims))
    samples = random_samples(output_channels(six.heads), SETTINGS, 64)
    losses = six(random_image(SETTINGS, 64), samples, mode='loss')
    assert list(losses) == [f'loss_{name}' for name in task_names(6)]


@pytest.mark.parametrize('task, channels, values', [('semseg', 21, {*range(21), 255}), ('saliency', 1, {0, 1, 255})])
def test_labels_of_classes(task, channels, values):
    labels = random_labels(task, channels, 64, torch.Generator().manual_seed(0))
    assert labels.dtype == torch.uint8
    assert set(labels.unique().tolist()) == values
    assert (labels == 255).float().mean() == pytest.approx(0.1, abs=0.02)


def test_labels_of_vectors():
    labels = random_labels('normals', 3, 64, torch.Generator().manual_seed(0))
    length = labels.norm(dim=0)
    known = length > 0
    torch.testing.assert_close(length[known], torch.ones(int(known.sum())))
    assert known.float().mean() == pytest.approx(0.9, abs=0.02)


def test_maps_have_the_sizes_and_the_memory_order_of_an_encoders():
    model = build_model(VMT, SETTINGS)
    features = model.backbone(random_image(SETTINGS, 64))['semseg']
    maps = random_maps(widths(model.backbone), SETTINGS, 64)
    assert [x.shape for x in maps] == [x.shape for x in features]
    assert [x.stride() for x in maps] == [x.stride() for x in features]


def test_a_step_has_a_forward_a_backward_and_an_update(monkeypatch):
    linear = nn.Linear(2, 1)
    seen = []
    monkeypatch.setattr(torch.optim.AdamW, 'step', lambda self: seen.append(linear.weight.grad.clone()))
    inputs = torch.ones(3, 2)
    run = training_step(linear, lambda: linear(inputs).sum(), SETTINGS)
    run()
    run()
    assert [grad.tolist() for grad in seen] == [[[3.0, 3.0]]] * 2
    assert linear.weight.grad is None


@pytest.mark.parametrize('frozen', [False, True])
def test_what_fine_tuning_trains(frozen):
    model = FineTuning(model_config(VMT, SETTINGS), frozen).train()
    channels = {task: output.channels for task, output in model.outputs.items()}
    model.loss(random_image(SETTINGS, 64), random_samples(channels, SETTINGS, 64)).backward()
    with_gradient = {name for name, p in model.named_parameters() if p.grad is not None}
    own = {name for name, _ in model.named_parameters() if name.startswith('backbone.')}
    norms = {name for name in own if name.startswith('backbone.norm')}
    assert len(norms) == 8
    # The predictor of mmseg's heads is conv_seg; all of it trains.
    heads = {name for name, _ in model.named_parameters()} - own
    assert with_gradient == heads | (norms if frozen else own)
    assert not any(isinstance(module, nn.Dropout2d) for module in model.heads.modules())


def test_fine_tuning_has_the_losses_of_ours():
    ours = build_model(VMT, SETTINGS)
    model = FineTuning(model_config(VMT, SETTINGS), False)
    samples = random_samples(output_channels(ours.heads), SETTINGS, 64)
    logits = {task: torch.randn(2, n, 16, 16) for task, n in output_channels(ours.heads).items()}
    for task, head in model.heads.items():
        head.forward = lambda features, task=task: logits[task]
    expected = sum(
        head.loss(logits[task], torch.stack([s.gt.get(task) for s in samples])) for task, head in ours.heads.items()
    )
    torch.testing.assert_close(model.loss(random_image(SETTINGS, 64), samples), expected)


def test_the_floor_goes_back_to_the_tokens_and_trains_heads_only(monkeypatch):
    built, tokens, trained = [], [], []
    build = speed_cases.build_model
    monkeypatch.setattr(
        speed_cases, 'build_model', lambda *args, **kwargs: built.append(build(*args, **kwargs)) or built[-1]
    )
    run = prepare_floor(VMT, SETTINGS)
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
        lambda: prepare_ours(VMT, SETTINGS, fifth=True),
        lambda: prepare_ours(VMT, SETTINGS, bfloat16=True),
        lambda: prepare_fine_tuning(VMT, SETTINGS, frozen=True),
        lambda: prepare_head(VMT, 'edge', SETTINGS),
        lambda: prepare_tasks(ADAPTER, 3, WHOLE, SETTINGS),
        lambda: prepare_tasks(ADAPTER, 3, ENCODER, SETTINGS),
    ],
    ids=['five tasks', 'bfloat16', 'fine-tuning', 'head', 'whole model', 'encoder'],
)
def test_every_case_runs_again_and_again(prepare):
    run = prepare()
    flops = [count_flops(run) for _ in range(2)]
    assert flops[0] == flops[1] > 1e6


def test_adapters_from_a_later_stage_on_compute_no_gradient_below(monkeypatch):
    built, build = [], speed_cases.build_model
    monkeypatch.setattr(
        speed_cases, 'build_model', lambda *args, **kwargs: built.append(build(*args, **kwargs)) or built[-1]
    )
    flops = [count_flops(prepare_ours(VMT, SETTINGS, first_stage=stage)) for stage in (1, 2, 3, 4)]
    filled = [{site.stage + 1 for method in model.backbone.adapters for site in method.sites} for model in built]
    assert filled == [{1, 2, 3, 4}, {2, 3, 4}, {3, 4}, {4}]
    # Each stage that is left out saves its backward pass, which is more than its adapters' share of the forward pass.
    inputs = random_image(SETTINGS, SETTINGS.image)
    forward = [count_flops(lambda model=model: model.backbone(inputs)) for model in built]
    saved = [(flops[i] - flops[i + 1], forward[i] - forward[i + 1]) for i in range(3)]
    assert all(step > 2 * adapters > 0 for step, adapters in saved)


def test_our_own_fine_tuning_trains_everything():
    model = build_model(FULL, SETTINGS)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert count_flops(prepare_ours(FULL, SETTINGS)) > count_flops(prepare_ours(VMT, SETTINGS))


def test_the_encoder_step_trains_the_adapters_of_all_tasks():
    model = build_with_tasks(VMT, 2, SETTINGS)
    trained = set()
    for name, parameter in model.backbone.named_parameters():
        if parameter.requires_grad:
            parameter.register_hook(lambda grad, name=name: trained.add(name))
    encoder_step(model.backbone, SETTINGS, 64)()
    extractions = {name for name, _ in model.backbone.named_parameters() if 'extractions' in name}
    assert len(extractions) == 2 * 2 * 4
    assert extractions <= trained


def test_operations_by_hand():
    linear, x = nn.Linear(8, 4), torch.randn(3, 8, requires_grad=True)
    # The product, and in the backward pass one for the input and one for the weight.
    assert count_flops(lambda: linear(x).sum().backward()) == 3 * (2 * 3 * 8 * 4)
    q, k, v = (torch.randn(2, 3, 16, 8) for _ in range(3))
    mask = torch.zeros(1, 3, 16, 16)
    attention = 2 * (2 * 2 * 3 * 16 * 16 * 8)
    assert count_flops(lambda: F.scaled_dot_product_attention(q, k, v, attn_mask=mask)) == attention


def test_things_that_differ_are_not_compared():
    x = torch.ones(3)
    assert check_equal('x', [x], [x + 2**-16]) == 2**-16
    with pytest.raises(RuntimeError, match=r'x: outputs differ by up to 0\.25'):
        check_equal('x', [x, x], [x, x + 0.25])
    with pytest.raises(RuntimeError, match='differ by up to nan'):
        check_equal('x', [x, x], [x, x * float('nan')])


def test_equal_seeds_give_equal_inputs():
    torch.testing.assert_close(random_image(SETTINGS, 64), random_image(SETTINGS, 64), rtol=0, atol=0)
    assert not torch.equal(random_image(SETTINGS, 64), random_image(replace(SETTINGS, seed=1), 64))
