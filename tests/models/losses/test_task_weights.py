"""Weights of tasks: values by the papers' formulas, in the model, its files and its optimizer, and on two ranks."""

import copy
import math

import pytest
import torch
from distributed import run_ranks
from mmengine.logging import MessageHub
from mmengine.optim import build_optim_wrapper
from mmengine.structures import PixelData
from tiny import batch, losses_of, model_cfg, tiny_model

from mmvmt.apis.tasks import add_task, remove_task
from mmvmt.engine.adapter_file import load_adapter, read_adapter, save_adapter
from mmvmt.models import parameter_groups
from mmvmt.registry import MODELS

TASKS = ('semseg', 'saliency', 'normals')
UNCERTAINTY = dict(type='mmvmt.UncertaintyWeights')
AVERAGE = dict(type='mmvmt.DynamicWeightAverage', interval=2)
WRAPPER = dict(
    type='OptimWrapper',
    constructor='mmvmt.PEFTOptimWrapperConstructor',
    optimizer=dict(type='AdamW', lr=0.01, weight_decay=0.05),
)


def scalars(*values):
    return {task: torch.tensor(value, requires_grad=True) for task, value in zip(TASKS, values)}


def build(cfg):
    return MODELS.build(dict(cfg, tasks=TASKS))


def test_fixed_weights():
    losses = scalars(1.0, 2.0, 3.0)
    weighted, weights = build(dict(type='mmvmt.FixedWeights', weights=dict(saliency=5, normals=0.5)))(losses)
    assert {task: value.item() for task, value in weighted.items()} == dict(semseg=1, saliency=10, normals=1.5)
    assert {task: value.item() for task, value in weights.items()} == dict(semseg=1, saliency=5, normals=0.5)
    with pytest.raises(ValueError, match="task_weights names task 'depth'; the tasks are semseg, saliency, normals"):
        build(dict(type='mmvmt.FixedWeights', weights=dict(depth=1)))
    with pytest.raises(ValueError, match="of task 'semseg' must not be negative, got -1"):
        build(dict(type='mmvmt.FixedWeights', weights=dict(semseg=-1)))


def test_uncertainty_by_the_formula():
    module, losses = build(UNCERTAINTY), scalars(2.0, 0.0, 4.0)
    s = dict(semseg=0.3, saliency=-0.2, normals=-0.7)
    with torch.no_grad():
        for task, value in s.items():
            module.log_variances[task].fill_(value)
    weighted, weights = module(losses)
    # Saliency has no labels: neither the weight nor the head learns.
    assert weighted['semseg'].item() == pytest.approx(math.exp(-0.3) * 2 + 0.15)
    assert weighted['saliency'].item() == 0
    assert weighted['normals'].item() == pytest.approx(0.5 * math.exp(0.7) * 4 - 0.35)
    assert weights['normals'].item() == pytest.approx(0.5 * math.exp(0.7))
    sum(weighted.values()).backward()
    gradients = {task: parameter.grad.item() for task, parameter in module.log_variances.items()}
    assert gradients == pytest.approx(
        dict(semseg=0.5 - 2 * math.exp(-0.3), saliency=0, normals=0.5 - 0.5 * 4 * math.exp(0.7))
    )
    assert losses['normals'].grad.item() == pytest.approx(0.5 * math.exp(0.7))


def dwa(before_last, last, temperature):
    ratios = [b / a for a, b in zip(before_last, last)]
    powers = [math.exp(ratio / temperature) for ratio in ratios]
    return [len(ratios) * power / sum(powers) for power in powers]


def test_dynamic_weight_average_by_the_formula():
    module = build(AVERAGE | dict(temperature=0.5))
    steps = [(4, 2, 1), (2, 2, 3), (1, 2, 0), (2, 4, 3), (1, 1, 1), (9, 9, 9), (5, 5, 5)]
    # Means of two steps each; a step without labels does not count.
    means = [(3, 2, 2), (1.5, 3, 3), (5, 5, 5)]
    expected = [[1, 1, 1]] * 4 + [dwa(means[0], means[1], 0.5)] * 2 + [dwa(means[1], means[2], 0.5)]
    for values, wanted in zip(steps, expected):
        losses = scalars(*map(float, values))
        weighted, weights = module(losses)
        assert [weight.item() for weight in weights.values()] == pytest.approx(wanted)
        assert [loss.item() for loss in weighted.values()] == pytest.approx([a * b for a, b in zip(values, wanted)])
        sum(weighted.values()).backward()
        assert [loss.grad.item() for loss in losses.values()] == pytest.approx(wanted)
    state = copy.deepcopy(module.state_dict())
    module.eval()(scalars(1.0, 1.0, 1.0))
    assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())


def test_dynamic_weight_average_by_epochs():
    hub = MessageHub.get_instance('epochs')
    module = build(dict(type='mmvmt.DynamicWeightAverage'))
    for info in (dict(), dict(max_epochs=1, epoch=0)):
        hub.runtime_info.update(info)
        with pytest.raises(ValueError, match=r'goes by epochs, .* give it interval=N steps'):
            module(scalars(1.0, 1.0, 1.0))
    hub.update_info('max_epochs', 3)
    for epoch, values in ((0, (4, 2, 1)), (1, (2, 2, 1)), (1, (4, 6, 3)), (2, (1, 1, 1))):
        hub.update_info('epoch', epoch)
        _, weights = module(scalars(*map(float, values)))
    assert [weight.item() for weight in weights.values()] == pytest.approx(dwa((4, 2, 1), (3, 4, 2), 2.0))
    for wrong in (dict(temperature=0), dict(interval=0)):
        with pytest.raises(ValueError, match='must be'):
            build(AVERAGE | wrong)


def shares(rank, world_size):
    """Two steps of both, of losses whose mean over ranks is that of one process."""
    found = []
    for cfg in (UNCERTAINTY, AVERAGE | dict(interval=1)):
        module = build(cfg)
        for step in range(3):
            # Of saliency only the first rank has labels.
            own = torch.tensor([[1.0, 3.0], [4.0, 0.0], [2.0, 2.0]]) * (1 + step)
            values = own.mean(1) if world_size == 1 else own[:, rank]
            weighted, weights = module({task: value.clone().requires_grad_() for task, value in zip(TASKS, values)})
            sum(weighted.values()).backward() if cfg is UNCERTAINTY else None
        found.append([weight.item() for weight in weights.values()])
        found.append([0.0 if p.grad is None else p.grad.item() for p in module.parameters()])
        found.append([value.item() for value in module.state_dict().values()])
    return found


def test_two_ranks_give_what_one_gives():
    (first, second), single = run_ranks(shares, 2), shares(0, 1)
    for mine, theirs, expected in zip(first, second, single):
        # Gradients are averaged over ranks; all else is the same on each.
        assert [(a + b) / 2 for a, b in zip(mine, theirs)] == pytest.approx(expected)
    assert [first[i] for i in (0, 2, 3, 5)] == [second[i] for i in (0, 2, 3, 5)]


@pytest.mark.parametrize('at_once', [True, False])
def test_the_model_trains_and_logs_weighted_losses(at_once):
    plain = losses_of(tiny_model(TASKS).train(), batch(TASKS))
    model = tiny_model(TASKS, gradients_at_once=at_once, task_weights=UNCERTAINTY).train()
    with torch.no_grad():
        model.task_weights.log_variances.semseg.fill_(0.4)
        model.task_weights.log_variances.saliency.fill_(0.0)
        model.task_weights.log_variances.normals.fill_(-0.4)
    losses = losses_of(model, batch(TASKS))
    assert list(losses)[:3] == [f'loss_{task}' for task in TASKS]
    weights = dict(semseg=math.exp(-0.4), saliency=1.0, normals=0.5 * math.exp(0.4))
    terms = dict(semseg=0.2, saliency=0.0, normals=-0.2)
    for task in TASKS:
        value = plain[f'loss_{task}'].item()
        assert losses[f'{task}.unweighted'].item() == pytest.approx(value)
        assert losses[f'{task}.weight'].item() == pytest.approx(weights[task])
        assert losses[f'loss_{task}'].item() == pytest.approx(weights[task] * value + terms[task])
    total, log = model.parse_losses(losses)
    torch.testing.assert_close(total, sum(losses[f'loss_{task}'] for task in TASKS))
    assert {'semseg.weight', 'semseg.unweighted'} <= set(log)
    total.backward()
    reference = tiny_model(TASKS, gradients_at_once=False).train()
    scaled = losses_of(reference, batch(TASKS))
    sum(weights[task] * scaled[f'loss_{task}'] for task in TASKS).backward()
    expected = {name: p.grad for name, p in reference.named_parameters() if p.grad is not None}
    for name, parameter in model.named_parameters():
        if name in expected:
            torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-4, atol=1e-6)
    assert all(p.grad.item() != 0 for p in model.task_weights.parameters())


def test_no_gradient_without_labels():
    model = tiny_model(TASKS, task_weights=UNCERTAINTY).train()
    data = batch(TASKS)
    for sample in data['data_samples']:
        maps = dict(sample.gt.items())
        sample.gt = PixelData(**maps | dict(saliency=torch.full_like(maps['saliency'], 255)))
    sum(value for name, value in losses_of(model, data).items() if 'loss' in name).backward()
    parts = (*model.heads.saliency.parameters(), model.task_weights.log_variances.saliency)
    assert not any(p.grad.any() for p in parts)
    assert model.task_weights.log_variances.semseg.grad != 0


def test_what_is_learned_is_in_the_optimizer_without_decay():
    model = tiny_model(TASKS, task_weights=UNCERTAINTY)
    learned = list(model.task_weights.parameters())
    assert len(learned) == 3
    assert [id(p) for p in parameter_groups(model)['task_weights']] == list(map(id, learned))
    groups = {group['name']: group for group in build_optim_wrapper(model, WRAPPER).optimizer.param_groups}
    assert groups['task_weights_no_decay']['weight_decay'] == 0
    assert len(groups['task_weights_no_decay']['params']) == 3
    assert 'task_weights' not in groups


def steps(model, wrapper, numbers):
    model.train()
    return [model.train_step(batch(TASKS, ((32, 32),), number), wrapper)['loss'] for number in numbers]


@pytest.mark.parametrize('cfg', [UNCERTAINTY, AVERAGE], ids=['uncertainty', 'average'])
def test_a_resumed_training_is_the_same_to_the_bit(cfg):
    def start():
        torch.manual_seed(0)
        model = tiny_model(TASKS, task_weights=cfg | dict(interval=1) if 'interval' in cfg else cfg)
        return model, build_optim_wrapper(model, WRAPPER)

    model, wrapper = start()
    steps(model, wrapper, range(2))
    saved = copy.deepcopy((model.state_dict(), wrapper.state_dict()))
    expected = steps(model, wrapper, range(2, 4))
    other, wrapper = start()
    other.load_state_dict(saved[0])
    wrapper.load_state_dict(saved[1])
    assert steps(other, wrapper, range(2, 4)) == expected
    state = other.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert not all(torch.equal(value, saved[0][name]) for name, value in state.items() if 'task_weights' in name)


@pytest.mark.parametrize('cfg', [UNCERTAINTY, AVERAGE], ids=['uncertainty', 'average'])
def test_files_for_predictions_do_not_need_it(cfg, tmp_path):
    weighted, plain = tiny_model(TASKS, seed=1, task_weights=cfg), tiny_model(TASKS)
    save_adapter(weighted, tmp_path / 'adapter.safetensors')
    assert not [name for name in read_adapter(tmp_path / 'adapter.safetensors').tensors if 'task_weights' in name]
    state, other = weighted.state_dict(), tiny_model(TASKS, task_weights=cfg)
    plain.load_state_dict(dict(state))
    other.load_state_dict(plain.state_dict())
    for name, value in plain.state_dict().items():
        assert torch.equal(value, state[name])
        assert torch.equal(value, other.state_dict()[name])
    load_adapter(other, tmp_path / 'adapter.safetensors')
    load_adapter(plain, tmp_path / 'adapter.safetensors')


@pytest.mark.parametrize('cfg', [UNCERTAINTY, AVERAGE, dict(type='mmvmt.FixedWeights', weights=dict(semseg=2))])
def test_tasks_come_and_go_and_train_alone(cfg):
    model = tiny_model(TASKS, task_weights=cfg)
    before = {name: value.clone() for name, value in model.task_weights.state_dict().items()}
    add_task(model, 'depth', model_cfg(('depth',))['heads']['depth'])
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert all('depth' in name for name in trained)
    assert ('task_weights.log_variances.depth' in trained) == (cfg is UNCERTAINTY)
    assert list(losses_of(model.train(), batch((*TASKS, 'depth')))) == [
        'loss_depth',
        'depth.unweighted',
        'depth.weight',
    ]
    remove_task(model, 'depth')
    after = model.task_weights.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items() if 'histories' in name)
    assert all(p.requires_grad for p in model.task_weights.parameters())
