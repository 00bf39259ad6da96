import json
import runpy

import commands
import pytest
import torch
from hostile import write_hostile
from mmengine.config import Config
from tiny import perturb

from mmvmt.apis.tasks import enlarged_config, head_config, training_config
from mmvmt.apis.weights import build_model, load_weights
from mmvmt.models.checkpoint import read_checkpoint
from mmvmt.structures import TASKS, Task, declare_tasks

OLD_TASKS = ('semseg', 'human_parts', 'saliency', 'normals')
OPTIONS = [
    # The config has persistent_workers=True.
    *('--cfg-options', 'train_cfg.max_iters=2', 'train_cfg.val_interval=2', 'train_dataloader.num_workers=0'),
    'val_dataloader.num_workers=0',
]


@pytest.fixture(scope='module')
def tool():
    return runpy.run_path(str(commands.ROOT / 'tools/add_task.py'))['main']


@pytest.fixture(scope='module')
def checkpoint(tiny_config, tmp_path_factory):
    path = tmp_path_factory.mktemp('trained') / 'iter_9.pth'
    model = build_model(Config.fromfile(tiny_config))
    perturb(model)
    torch.save(dict(meta={}, state_dict=model.state_dict()), path)
    return path


@pytest.fixture(scope='module')
def added(tool, tiny_config, checkpoint, tmp_path_factory):
    """Depth, added by the tool."""
    work_dir = tmp_path_factory.mktemp('added')
    arguments = [tiny_config, checkpoint, '--task', 'depth', '--work-dir', work_dir, '--images', 3, '--head']
    assert tool([*map(str, arguments), 'channels=6', *OPTIONS]) == 0
    return work_dir


def test_says_which_outputs_stayed_identical(added):
    record = json.loads((added / 'added_task.json').read_text())
    assert record['identical'] == dict.fromkeys(OLD_TASKS, True)
    assert (record['task'], record['images'], record['iterations']) == ('depth', 3, 2)
    assert {'depth/rmse', 'depth/delta1'} <= set(record['metrics'])
    assert not any(name.startswith('semseg') for name in record['metrics'])
    assert 'torch' in record['versions']


def test_says_first_that_tasks_depend_on_each_other(tool, tiny_config, tmp_path, capsys):
    config, checkpoint = tmp_path / 'tadformer.py', tmp_path / 'start.pth'
    plugin = dict(cfg=dict(type='mmvmt.TADFormer', rank=2))
    config.write_text(f'_base_ = {str(tiny_config)!r}\nmodel = dict(backbone=dict(plugins=[{plugin!r}]))\n')
    model = build_model(Config.fromfile(config))
    perturb(model)
    torch.save(dict(meta={}, state_dict=model.state_dict()), checkpoint)
    arguments = [config, checkpoint, '--task', 'depth', '--work-dir', tmp_path / 'out', '--images', 1, *OPTIONS]
    with pytest.warns(
        UserWarning, match=r'with TADFormer the features of a task depend on which other tasks there are'
    ):
        assert tool([*map(str, arguments)]) == 0
    assert json.loads((tmp_path / 'out/added_task.json').read_text())['identical'] == dict.fromkeys(OLD_TASKS, False)
    assert 'outputs of other tasks have changed' not in capsys.readouterr().err


def test_nothing_but_the_new_task_moved(added, checkpoint):
    old = read_checkpoint(str(checkpoint))['state_dict']
    start, end = (read_checkpoint(str(added / name))['state_dict'] for name in ('start.pth', 'model.pth'))
    assert all(torch.equal(old[name], end[name]) for name in old)
    moved = {name for name in end if not torch.equal(start[name], end[name])}
    assert moved
    assert all('depth' in name for name in moved)
    new = sum(value.numel() for name, value in end.items() if name not in old)
    assert json.loads((added / 'added_task.json').read_text())['trained_parameters'] == new


def test_the_enlarged_config_has_everything_that_the_task_needs(added):
    cfg = Config.fromfile(added / 'config.py')
    assert set(cfg.model.heads) == {*OLD_TASKS, 'depth'}
    assert cfg.model.heads.depth.channels == 6
    assert cfg.model.heads.depth.output == dict(type='mmvmt.DepthOutput')
    assert cfg.model.get('train_cfg') is None
    assert set(cfg.val_evaluator.metrics) == {*OLD_TASKS, 'depth'}
    for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        assert cfg[loader].dataset.tasks == [*OLD_TASKS, 'depth']
    model = build_model(cfg)
    load_weights(model, added / 'model.pth')
    assert all(p.requires_grad for p in model.heads.parameters())


def test_the_enlarged_model_is_tested_as_any_other(added):
    commands.run(
        *('tools/test.py', added / 'config.py', added / 'model.pth', '--work-dir', added, '--out', added / 'out')
    )
    metrics = json.loads((added / 'out' / 'metrics.json').read_text())['metrics']
    assert {'semseg/mIoU', 'normals/mean', 'depth/rmse'} <= set(metrics)
    trained = json.loads((added / 'added_task.json').read_text())['metrics']
    assert metrics['depth/rmse'] == pytest.approx(trained['depth/rmse'])
    assert len(list((added / 'out' / 'depth').glob('*.npy'))) == 5


@pytest.mark.parametrize(
    'arguments, code, message',
    [
        (['--task', 'semseg'], 1, "add_task.py: the config has a head for task 'semseg' already"),
        (
            ['--task', 'depth', '--cfg-options', 'val_dataloader=None'],
            1,
            'add_task.py: the config has no val_dataloader',
        ),
        (['--task', 'heights'], 1, "add_task.py: unknown task 'heights'"),
        (['--task', 'heights', '--declare', 'kind=sets'], 1, "add_task.py: task 'heights': kind must be one of"),
        (['--task', 'depth', '--declare', 'kind=binary'], 1, "add_task.py: task 'depth' is declared as"),
        (['--task', 'depth', '--data-root', 'nowhere'], 2, "data: folder 'nowhere' does not exist"),
        (
            ['--task', 'depth', '--head', 'output.type=mmvmt.UnitVectorOutput'],
            1,
            "puts out 'vectors' maps, but the task",
        ),
        (
            ['--task', 'depth', '--cfg-options', 'val_dataloader.dataset.type=mmvmt.PASCALContextMT'],
            1,
            "PASCAL-Context has no labels for task 'depth'",
        ),
        (
            ['--task', 'depth', '--cfg-options', 'model.backbone.plugins.0.cfg.type=mmvmt.VMTAdapterLite'],
            1,
            'was trained with another method than this model',
        ),
    ],
)
def test_what_cannot_be_added_is_one_message_and_writes_nothing(
    arguments, code, message, tool, tiny_config, checkpoint, tmp_path, capsys
):
    work_dir = tmp_path / 'work'
    assert tool([str(tiny_config), str(checkpoint), '--work-dir', str(work_dir), *arguments]) == code
    assert message in capsys.readouterr().err
    assert not work_dir.exists()


def test_nothing_in_a_checkpoint_is_executed(tool, tiny_config, checkpoint, tmp_path, capsys):
    trace = write_hostile(tmp_path / 'hostile.pth', torch.load(checkpoint, weights_only=True))
    assert tool([str(tiny_config), str(tmp_path / 'hostile.pth'), '--task', 'depth']) == 1
    assert 'holding code that would be executed' in capsys.readouterr().err
    assert not trace.exists()


def test_a_missing_checkpoint(tool, tiny_config, capsys):
    assert tool([str(tiny_config), 'no.pth', '--task', 'depth']) == 2
    assert "checkpoint: file 'no.pth' does not exist" in capsys.readouterr().err


def test_classes_need_their_number_and_get_their_metric(tiny_config):
    cfg = Config.fromfile(tiny_config)
    del cfg.model.heads['human_parts']
    with pytest.raises(ValueError, match=r"'human_parts' has classes: say how many with --head output\.num_classes=N"):
        head_config(cfg, 'human_parts')
    head = head_config(cfg, 'human_parts', {'output.num_classes': 7})
    assert (head['type'], head['channels']) == ('mmvmt.MLPHead', 8)
    enlarged = enlarged_config(cfg, 'human_parts', head)
    assert enlarged.val_evaluator.metrics.human_parts == dict(type='mmvmt.IoUMetric', num_classes=7)


def test_a_declared_task_goes_into_every_part_of_the_config(tiny_config):
    cfg = Config.fromfile(tiny_config)
    flow = dict(kind='values', channels=2, loss=dict(type='mmvmt.HuberPixelLoss'))
    declare_tasks(dict(flow=flow))
    for evaluator in ('val_evaluator', 'test_evaluator'):
        cfg[evaluator] = dict(type='mmvmt.MultiTaskEvaluator', metrics=None, tasks=list(OLD_TASKS))
    head = head_config(cfg, 'flow')
    assert head['output'] == dict(type='mmvmt.ValuesOutput', channels=2, loss=flow['loss'])
    enlarged = enlarged_config(cfg, 'flow', head)
    declared = {task: {} for task in OLD_TASKS} | dict(flow=flow)
    assert enlarged.model.tasks == declared
    assert enlarged.train_dataloader.dataset.tasks == declared
    assert enlarged.val_evaluator.tasks == declared
    plan = training_config(enlarged, 'flow', load_from='start.pth')
    assert plan.train_dataloader.dataset.tasks == plan.val_evaluator.tasks == dict(flow=flow)
    assert plan.val_evaluator.metrics == dict(flow=dict(type='mmvmt.ValuesMetric'))
    assert plan.model.tasks == declared


def test_one_head_for_all_tasks_becomes_one_each(tiny_config):
    cfg = Config.fromfile(tiny_config)
    cfg.model.tasks, cfg.model.heads = list(OLD_TASKS), dict(type='mmvmt.MLPHead', channels=8)
    enlarged = enlarged_config(cfg, 'depth', head_config(cfg, 'depth'))
    assert list(enlarged.model.heads) == list(enlarged.model.tasks) == [*OLD_TASKS, 'depth']
    assert enlarged.model.heads.semseg == dict(type='mmvmt.MLPHead', channels=8)


def test_of_several_data_sets_each_gets_the_tasks_that_it_has_labels_of(tiny_config):
    cfg = Config.fromfile(tiny_config)
    own = dict(
        type='mmvmt.MultiTaskDataset', data_root='own', labels=dict(depth='{id}.npy', edge='{id}.png'), tasks=['edge']
    )
    repeated = dict(type='RepeatDataset', times=2, dataset=cfg.train_dataloader.dataset)
    streets = dict(type='mmvmt.FromMMSeg', task='semseg', dataset=dict(type='mmseg.CityscapesDataset', data_root='c'))
    cfg.train_dataloader.dataset = dict(type='mmvmt.ConcatDataset', datasets=[repeated, streets, own])
    cfg.train_dataloader.sampler = dict(type='mmvmt.RatioSampler', ratios=[3, 2, 1])
    enlarged = enlarged_config(cfg, 'depth', head_config(cfg, 'depth'))
    first, second, third = enlarged.train_dataloader.dataset.datasets
    assert first.dataset.tasks == [*OLD_TASKS, 'depth']
    assert second == streets
    assert third.tasks == ['depth']
    trained = training_config(enlarged, 'depth', 'start.pth').train_dataloader
    assert [part.get('dataset', part).tasks for part in trained.dataset.datasets] == [['depth'], ['depth']]
    assert trained.sampler.ratios == [3, 1]
    cfg.train_dataloader.dataset.datasets = [streets]
    with pytest.raises(ValueError, match='none of the 1 data sets of train_dataloader has labels of task depth'):
        training_config(enlarged_config(cfg, 'depth', head_config(cfg, 'depth')), 'depth', 'start.pth')


def test_a_task_is_declared_by_pairs_or_by_a_file(tool, tmp_path):
    declaration_of = tool.__globals__['declaration_of']
    assert declaration_of('lanes', None) == {}
    pairs = ['kind=values', 'channels=2', 'loss.type=mmvmt.L2PixelLoss', 'axes=(left,up)']
    expected = dict(kind='values', channels=2, loss=dict(type='mmvmt.L2PixelLoss'), axes=('left', 'up'))
    assert declaration_of('lanes', pairs) == expected
    (tmp_path / 'tasks.json').write_text(json.dumps(dict(tasks=dict(lanes=dict(kind='binary')))))
    assert declaration_of('lanes', [str(tmp_path / 'tasks.json')]) == dict(kind='binary')
    with pytest.raises(ValueError, match=r"tasks.json declares no task 'edges': its entry tasks is"):
        declaration_of('edges', [str(tmp_path / 'tasks.json')])
    with pytest.raises(ValueError, match="--declare takes key=value pairs or one file, got 'classes'"):
        declaration_of('lanes', ['kind=classes', 'classes'])


def test_references_go_where_they_lack_the_new_task(tiny_config):
    cfg = Config.fromfile(tiny_config)
    head = head_config(cfg, 'depth')
    for references, kept in ((dict(semseg=1.0), False), (dict(semseg=1.0, depth=2.0), True), ('file.json', False)):
        cfg.val_evaluator.references = references
        assert (enlarged_config(cfg, 'depth', head).val_evaluator.references is not None) == kept
        assert cfg.val_evaluator.references == references
    cfg.val_evaluator = [dict(type='mmvmt.DepthMetric')]
    with pytest.raises(ValueError, match=r'val_evaluator\.metrics must be a dictionary by task'):
        enlarged_config(cfg, 'depth', head)


def test_each_task_gets_its_own_metric(tiny_config):
    cfg = Config.fromfile(tiny_config)
    enlarged = enlarged_config(cfg, 'edge', head_config(cfg, 'edge'))
    assert enlarged.val_evaluator.metrics.edge == dict(type='mmvmt.EdgeMetric')


def test_a_task_without_a_main_figure_trains_without_validation(tiny_config, monkeypatch):
    monkeypatch.setitem(TASKS, 'edge', Task('edge', 'binary', metric=None, main_metric=None))
    cfg = Config.fromfile(tiny_config)
    enlarged = enlarged_config(cfg, 'edge', head_config(cfg, 'edge'))
    assert list(enlarged.val_evaluator.metrics) == list(OLD_TASKS)
    plan = training_config(enlarged, 'edge', load_from='start.pth')
    assert plan.val_dataloader is plan.val_evaluator is plan.val_cfg is None
    assert list(plan.train_dataloader.dataset.tasks) == ['edge']
    assert plan.model.train_cfg == dict(tasks=['edge'])
    assert enlarged.val_dataloader is not None
