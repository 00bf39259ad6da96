"""Tasks added to a trained model and removed again: what stays, what trains, what runs."""

import copy

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from tiny import (
    FCN,
    FOUR_TASKS,
    OUTPUTS,
    UPER,
    VMT,
    batch,
    losses_of,
    mmseg_heads_cfg,
    model_cfg,
    perturb,
    segmentor_head,
    tiny_model,
    tiny_swin,
)
from torch import nn

import mmvmt
from mmvmt.adapters import Method, VMTAdapter
from mmvmt.apis.tasks import add_task, head_config, remove_task
from mmvmt.models.wrappers import unwrapped
from mmvmt.registry import ADAPTERS, MODELS

IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
NORM = dict(type='GN', num_groups=2)
HEAD = dict(type='mmvmt.MLPHead', channels=8, norm_cfg=NORM, output=OUTPUTS['depth'])
WRAPPER = dict(
    type='OptimWrapper',
    constructor='mmvmt.PEFTOptimWrapperConstructor',
    optimizer=dict(type='AdamW', lr=0.01, weight_decay=0.05),
)
FIVE_TASKS = (*FOUR_TASKS, 'depth')


def snapshot(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def flags(model):
    return {name: p.requires_grad for name, p in model.named_parameters()}


def train_two_iterations(model):
    wrapper = build_optim_wrapper(model, WRAPPER)
    model.train()
    for seed in range(2):
        losses = model.train_step(batch(FIVE_TASKS, seed=seed), wrapper)
    return wrapper, losses


@pytest.mark.parametrize('head_norm', ['GN', 'BN'])
@pytest.mark.parametrize(
    'plugin',
    [
        VMT,
        dict(cfg=dict(type='mmvmt.VMTAdapterLite', reduction=2, scale='learned')),
        dict(cfg=dict(type='mmvmt.Adapter')),
        dict(cfg=dict(type='mmvmt.MTLoRA', rank=2, task_rank=2)),
        dict(cfg=dict(type='mmvmt.DiTASK', cells=8)),
    ],
    ids=['VMTAdapter', 'VMTAdapterLite', 'Adapter', 'MTLoRA', 'DiTASK'],
)
def test_other_tasks_keep_every_bit_before_and_after_training_the_new_one(plugin, head_norm):
    cfg = model_cfg(plugins=[plugin])
    for head in cfg['heads'].values():
        head['norm_cfg'] = NORM if head_norm == 'GN' else dict(type='BN')
    model = MODELS.build(cfg)
    perturb(model)
    model.eval()

    def outputs():
        # As in inference: PyTorch's kernels may depend on which of an encoder's parameters want gradients.
        with torch.no_grad():
            return model(IMAGES)

    expected, before = outputs(), snapshot(model)
    add_task(model, 'depth', HEAD)
    assert model.tasks == FIVE_TASKS
    for name, logits in expected.items():
        assert torch.equal(outputs()[name], logits), name

    start = snapshot(model)
    _, log = train_two_iterations(model)
    assert set(log) == {'loss', 'loss_depth'}
    model.eval()
    got = outputs()
    for name, logits in expected.items():
        assert torch.equal(got[name], logits), name
    after = snapshot(model)
    assert all(torch.equal(after[name], value) for name, value in before.items())
    moved = {name for name, value in after.items() if not torch.equal(start[name], value)}
    assert {name for name in moved if not name.startswith('heads.depth.')}
    assert {name for name in moved if name.startswith('heads.depth.')}
    assert all('depth' in name for name in moved)


def test_the_new_task_starts_from_the_features_that_all_tasks_share():
    model = tiny_model()
    add_task(model, 'depth', HEAD)
    (adapter,) = model.backbone.adapters
    for extraction in adapter.extractions.values():
        assert (extraction['depth'].scale == 1).all()
        assert (extraction['depth'].shift == 0).all()
        assert not (extraction['semseg'].scale == 1).any()


def test_the_optimizer_gets_the_new_scale_shift_and_head_alone():
    model = tiny_model()
    add_task(model, 'depth', HEAD)
    wrapper, _ = train_two_iterations(model)
    held = [id(p) for group in wrapper.optimizer.param_groups for p in group['params']]
    new = {id(p): name for name, p in model.named_parameters() if 'depth' in name}
    assert sorted(held) == sorted(new)
    assert {name.rpartition('.')[2] for name in new.values() if 'extractions' in name} == {'scale', 'shift'}
    assert {group['name'] for group in wrapper.optimizer.param_groups} == {
        'adapters_no_decay',
        'decoders',
        'decoders_no_decay',
    }


def test_other_heads_are_neither_run_nor_in_training_mode_meanwhile():
    model = tiny_model()
    add_task(model, 'depth', HEAD)
    runs = []
    for name, head in model.heads.items():
        head.register_forward_hook(lambda *_, name=name: runs.append(name))
    train_two_iterations(model)
    assert runs == ['depth', 'depth']
    assert {name for name, head in model.heads.items() if head.training} == {'depth'}
    assert model.backbone.training


def test_the_new_task_gets_the_gradient_that_a_model_built_with_it_has():
    model = tiny_model()
    add_task(model, 'depth', HEAD)
    built = tiny_model(FIVE_TASKS, seed=3)
    built.load_state_dict(model.state_dict())
    losses = []
    for each in (model, built):
        each.train()
        data = each.data_preprocessor(batch(FIVE_TASKS), True)
        loss = each(**data, mode='loss')['loss_depth']
        loss.backward()
        losses.append(loss)
    torch.testing.assert_close(losses[0], losses[1])
    expected = dict(built.named_parameters())
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(parameter.grad, expected[name].grad, msg=name)
        else:
            assert parameter.grad is None


def test_remove_task_restores_the_model_exactly():
    model = tiny_model()
    expected, before, trained = model(IMAGES), snapshot(model), flags(model)
    add_task(model, 'depth', HEAD)
    remove_task(model, 'depth')
    assert (model.tasks, model.backbone.tasks, model.active_tasks) == (FOUR_TASKS,) * 3
    assert list(model.state_dict()) == list(before)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert flags(model) == trained
    assert all(torch.equal(model(IMAGES)[name], logits) for name, logits in expected.items())


def test_any_task_can_be_removed():
    model = tiny_model()
    expected = model(IMAGES)
    remove_task(model, 'human_parts')
    got = model(IMAGES)
    assert list(got) == ['semseg', 'saliency', 'normals']
    assert all(torch.equal(expected[name], logits) for name, logits in got.items())
    assert not any('human_parts' in name for name in model.state_dict())


@pytest.mark.parametrize('task_order', ['sequential', 'stacked'])
@pytest.mark.parametrize(
    'plugin', [VMT, dict(cfg=dict(type='mmvmt.VPTDeep', prompts=3))], ids=['VMTAdapter', 'VPTDeep']
)
def test_a_subset_computes_only_its_features_and_heads(plugin, task_order, monkeypatch):
    model = tiny_model(plugins=[plugin])
    model.backbone.task_order = task_order
    expected = model.test_step(batch())[0].pred
    heads, wanted = [], []
    for name, head in model.heads.items():
        head.register_forward_hook(lambda *_, name=name: heads.append(name))
    method = type(model.backbone.adapters[0])
    of_task = 'tap' if method.tap is not Method.tap else 'tokens'
    original = getattr(method, of_task)

    def spy(self, *args):
        tasks = args[-1]
        wanted.extend([tasks] if isinstance(tasks, str) else tasks)
        return original(self, *args)

    monkeypatch.setattr(method, of_task, spy)
    model.set_active_tasks(['normals', 'semseg'])
    pred = model.test_step(batch())[0].pred
    assert set(pred.keys()) == {'semseg', 'normals'}
    assert sorted(heads) == ['normals', 'semseg']
    assert set(wanted) == {'semseg', 'normals'}
    for name in ('semseg', 'normals'):
        torch.testing.assert_close(pred.get(name), expected.get(name))
    model.set_active_tasks()
    assert set(model.test_step(batch())[0].pred.keys()) == set(FOUR_TASKS)


def test_sliding_windows_and_the_constructor_know_subsets():
    model = tiny_model(
        test_cfg=dict(mode='slide', crop_size=(48, 48), stride=(32, 32)), train_cfg=dict(tasks=['saliency'])
    )
    model.set_active_tasks(['saliency'])
    assert list(model.test_step(batch())[0].pred.keys()) == ['saliency']
    assert all(('saliency' in name) == trains for name, trains in flags(model).items())


def test_all_tasks_again_trains_what_the_config_says():
    model = tiny_model(plugins=[dict(cfg=dict(type='mmvmt.VMTAdapter', reduction=2, unfreeze='norms'))])
    declared = flags(model)
    model.set_trained_tasks(['normals'])
    assert flags(model) != declared
    model.set_trained_tasks(['normals', *FOUR_TASKS[:3]])
    assert flags(model) == declared
    assert model.trained_tasks == FOUR_TASKS


def test_what_was_frozen_on_purpose_comes_back_frozen():
    cfg = model_cfg()
    cfg['heads']['semseg']['norm_cfg'] = dict(type='BN', requires_grad=False)
    cfg['heads']['normals']['norm_cfg'] = dict(type='GN', num_groups=2, requires_grad=False)
    model = MODELS.build(cfg)
    model.heads['saliency'].predictor.requires_grad_(False)
    next(model.backbone.adapters[0].parameters()).requires_grad = False
    own = flags(model)
    frozen = {name for name, trains in own.items() if not trains and name.startswith('heads')}
    assert frozen == {
        *(f'heads.{task}.fuse_norm.{part}' for task in ('semseg', 'normals') for part in ('weight', 'bias')),
        'heads.saliency.predictor.weight',
        'heads.saliency.predictor.bias',
    }
    for tasks in (['semseg'], ['saliency', 'normals'], None, ['human_parts'], None):
        model.set_trained_tasks(tasks)
        expected = own if tasks is None else {n: t and any(task in n for task in tasks) for n, t in own.items()}
        assert flags(model) == expected, tasks
    add_task(model, 'depth', HEAD)
    assert all(trains == ('depth' in name) for name, trains in flags(model).items())
    remove_task(model, 'depth')
    assert flags(model) == own
    assert flags(copy.deepcopy(model)) == own


def test_a_constant_of_a_method_is_not_trained():
    class Scaled(VMTAdapter):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.constant = nn.Parameter(torch.ones(3), requires_grad=False)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ADAPTERS.module_dict, 'Scaled', Scaled)
        model = tiny_model(plugins=[dict(cfg=dict(type='Scaled', reduction=2))])
    own = flags(model)
    assert own['backbone.adapters.0.constant'] is False
    assert all(
        trains for name, trains in own.items() if name.startswith('backbone.adapters') and 'constant' not in name
    )
    declared = {id(p) for p in model.backbone.declared_parameters()}
    assert all((id(p) in declared) == p.requires_grad for p in model.backbone.parameters())
    model.set_trained_tasks(['normals'])
    model.set_trained_tasks()
    assert flags(model) == own


@pytest.mark.parametrize(
    'use, message',
    [
        (lambda m: add_task(m, 'semseg', HEAD), "the model has task 'semseg' already"),
        (lambda m: add_task(m, 'heights', HEAD), "unknown task 'heights'"),
        (lambda m: add_task(m, 'edge', HEAD), "task 'edge' puts out 'metric' maps, but the task has 'binary' maps"),
        (lambda m: remove_task(m, 'depth'), "the encoder has no task 'depth'; it has semseg, human_parts"),
        (lambda m: m.set_active_tasks(['depth']), "unknown task 'depth'; known tasks are semseg, human_parts"),
        (lambda m: m.set_trained_tasks([]), 'tasks is empty'),
    ],
)
def test_wrong_tasks_change_nothing(use, message):
    model = tiny_model()
    before, trained = snapshot(model), flags(model)
    with pytest.raises(ValueError, match=message):
        use(model)
    assert list(model.state_dict()) == list(before)
    assert flags(model) == trained
    assert model.active_tasks == FOUR_TASKS


def test_the_only_task_stays():
    with pytest.raises(ValueError, match="'semseg' is the only task of the encoder"):
        remove_task(tiny_model(('semseg',)), 'semseg')


class Undeclared(Method):
    per_task = True


def test_a_method_that_does_not_say_what_belongs_to_a_task_is_refused_as_a_whole():
    model = tiny_model()
    (vmt,) = model.backbone.adapters
    model.backbone.adapters.append(Undeclared((), FOUR_TASKS))
    before = snapshot(model)
    for use in (lambda: add_task(model, 'depth', HEAD), lambda: remove_task(model, 'semseg')):
        with pytest.raises(ValueError, match=r'Undeclared does not say .*: define task_parts\(\)'):
            use()
        assert list(model.state_dict()) == list(before)
        assert vmt.tasks == model.tasks == FOUR_TASKS


def test_a_merged_method_gets_no_task():
    model = tiny_model(plugins=[dict(cfg=dict(type='mmvmt.LoRA', rank=2, per_task=False))])
    model.backbone.adapters[0].merge(model.backbone)
    with pytest.raises(ValueError, match=r'LoRA is merged and cannot get a task: call unmerge\(encoder\) first'):
        add_task(model, 'depth', HEAD)


class Ranks(torch.nn.parallel.DistributedDataParallel):
    """A wrapper that keeps track of parameters for several ranks, without ranks."""

    def __init__(self, module):
        torch.nn.Module.__init__(self)
        self.module = module


@pytest.mark.parametrize('wrap', [torch.compile, torch.nn.DataParallel, torch.optim.swa_utils.AveragedModel])
def test_a_model_in_other_wrappers_gets_and_loses_tasks(wrap):
    wrapped = wrap(tiny_model())
    model = unwrapped(wrapped)
    names = set(model.state_dict())
    add_task(wrapped, 'depth', HEAD)
    assert model.tasks == (*FOUR_TASKS, 'depth')
    remove_task(wrapped, 'depth')
    assert set(model.state_dict()) == names


def test_wrapped_models_and_encoders_without_tasks_are_refused():
    with pytest.raises(TypeError, match=r'got Ranks; of a wrapped model pass model\.module'):
        mmvmt.add_task(Ranks(tiny_model()), 'depth', HEAD)
    with pytest.raises(ValueError, match="an encoder without tasks cannot get task 'depth'"):
        tiny_swin(tasks=None).add_task('depth')


def test_an_enlarged_model_can_be_copied_and_saved(tmp_path):
    model = tiny_model()
    add_task(model, 'depth', HEAD)
    twin = copy.deepcopy(model)
    torch.save(model.state_dict(), tmp_path / 'model.pth')
    built = tiny_model(FIVE_TASKS, seed=4)
    built.load_state_dict(torch.load(tmp_path / 'model.pth', weights_only=True))
    for name, logits in model(IMAGES).items():
        assert torch.equal(logits, built(IMAGES)[name])
        assert torch.equal(logits, twin(IMAGES)[name])


def test_a_head_of_mmseg_is_added_and_what_tasks_share_keeps_every_bit():
    cfg = mmseg_heads_cfg(neck=dict(type='FPN', out_channels=8, num_outs=4, norm_cfg=dict(type='BN')))
    model = MODELS.build(cfg).eval()
    images = torch.randn(2, 3, 64, 64)
    before = model(images)
    add_task(model, 'depth', segmentor_head('depth', FCN, auxiliary_head=FCN))
    assert {n.split('.')[1] for n, p in model.named_parameters() if p.requires_grad and 'heads' in n} == {'depth'}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    sum(losses_of(model.train(), batch(('depth',))).values()).backward()
    optimizer.step()
    after = model.eval()(images)
    assert all(torch.equal(after[task], logits) for task, logits in before.items())


def test_the_head_of_a_new_task_is_made_like_one_of_mmseg():
    loss = dict(type='CrossEntropyLoss', loss_weight=0.4)
    first = segmentor_head(
        'semseg', dict(UPER, num_classes=5), auxiliary_head=[dict(FCN, num_classes=5, loss_decode=loss)]
    )
    head = head_config(Config(dict(model=dict(heads=dict(semseg=first)))), 'depth', {'decode_head.channels': 4})
    assert head['decode_head'] == dict(UPER, channels=4)
    assert head['auxiliary_head'] == [FCN]
    assert MODELS.build(dict(head, in_channels=(8, 16, 32, 64))).output.kind == 'metric'
