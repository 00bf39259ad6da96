import json
import logging
import math
from pathlib import Path

import pytest
import torch
from distributed import run_ranks
from evaluation_samples import NUM_CLASSES, random_samples
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.logging import MMLogger
from mmengine.model import BaseModel
from mmengine.registry import EVALUATOR, DefaultScope
from mmengine.runner import Runner
from mmengine.structures import PixelData
from torch.utils.data import Dataset

from mmvmt.evaluation import IoUMetric, MultiTaskEvaluator, NormalsMetric, delta_m, main_figures, relative_changes
from mmvmt.evaluation.references import load_references
from mmvmt.structures import MultiTaskDataSample

TASKS = ('semseg', 'saliency', 'normals', 'edge')
REFERENCES = {'semseg': 67.21, 'saliency': 62.35, 'normals': 17.97}


def metric_configs(out_dir='unused'):
    return {
        'semseg': {'type': 'mmvmt.IoUMetric', 'num_classes': NUM_CLASSES['semseg'], 'class_names': list('abcde')},
        'saliency': {'type': 'mmvmt.SaliencyMetric'},
        'normals': {'type': 'mmvmt.NormalsMetric'},
        'edge': {'type': 'mmvmt.EdgePictures', 'out_dir': str(out_dir)},
    }


def build(metrics, **arguments):
    return EVALUATOR.build(dict(type='mmvmt.MultiTaskEvaluator', metrics=metrics, **arguments))


def data_sample(sample):
    """The same sample as the element that a model returns."""
    element = MultiTaskDataSample(
        metainfo={key: value for key, value in sample.items() if key not in ('pred', 'gt')},
        pred=PixelData(**sample['pred']),
    )
    element.gt = PixelData(**sample['gt'])
    return element


def evaluate_share(rank, world_size, out_dir):
    samples = [data_sample(sample) for sample in random_samples(TASKS, 3)]
    evaluator = build(metric_configs(out_dir), references=REFERENCES)
    logger = MMLogger.get_instance('ranks')
    messages = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    logger.addHandler(handler)
    evaluator.process(samples[rank::world_size])
    return evaluator.evaluate(len(samples)), sum('Evaluation of' in message for message in messages)


@pytest.fixture
def logged():
    """Messages that go to the current logger."""
    messages = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    logger = MMLogger.get_current_instance()
    logger.addHandler(handler)
    yield messages
    logger.removeHandler(handler)


@pytest.fixture
def samples():
    return random_samples(TASKS, 4)


class TestDeltaM:
    def test_by_hand(self):
        results = {'semseg': 75.0, 'normals': 18.0}
        references = {'semseg': 60.0, 'normals': 20.0, 'saliency': 1.0}
        assert relative_changes(results, references) == pytest.approx({'semseg': 25, 'normals': 10})
        assert delta_m(results, references) == pytest.approx(17.5)

    def test_worse_is_negative(self):
        results, references = {'human_parts': 45.0, 'depth': 1.2}, {'human_parts': 50.0, 'depth': 1.0}
        assert relative_changes(results, references) == pytest.approx({'human_parts': -10, 'depth': -20})
        assert delta_m(results, references) == pytest.approx(-15)

    def test_references_themselves_give_zero(self):
        assert delta_m(REFERENCES, REFERENCES) == 0

    def test_nan_is_not_hidden(self):
        assert math.isnan(delta_m({**REFERENCES, 'semseg': math.nan}, REFERENCES))

    @pytest.mark.parametrize(
        'results,references,message',
        [
            ({}, REFERENCES, 'empty'),
            ({'pose': 1.0}, {'pose': 1.0}, "unknown task 'pose'"),
            ({'edge': 1.0}, {'edge': None}, "'edge' must be a positive number, got None"),
            ({'depth': 1.0}, REFERENCES, r"no value for task 'depth' \(rmse\)"),
            ({'depth': 1.0}, {'depth': 0}, "'depth' must be a positive number, got 0"),
            ({'depth': 1.0}, {'depth': '0.5'}, "'depth' must be a positive number, got '0.5'"),
            ({'depth': 1.0}, {'depth': math.nan}, 'positive number, got nan'),
        ],
    )
    def test_bad_input(self, results, references, message):
        with pytest.raises(ValueError, match=message):
            delta_m(results, references)


class TestBuilding:
    @pytest.mark.parametrize('scope', ['mmengine', 'mmseg', 'mmvmt'])
    def test_from_config_in_any_scope(self, scope):
        with DefaultScope.overwrite_default_scope(scope):
            evaluator = build(metric_configs())
        assert isinstance(evaluator, MultiTaskEvaluator)
        assert [metric.task for metric in evaluator.metrics] == list(TASKS)

    def test_list_one_config_or_built(self):
        one = {'type': 'mmvmt.NormalsMetric'}
        assert [metric.prefix for metric in build(one).metrics] == ['normals']
        mixed = build([one, IoUMetric('semseg', 3)])
        assert [metric.prefix for metric in mixed.metrics] == ['normals', 'semseg']

    def test_from_parsed_config(self):
        config = Config(
            {'test': {'type': 'mmvmt.MultiTaskEvaluator', 'metrics': metric_configs(), 'references': REFERENCES}}
        )
        assert EVALUATOR.build(config.test).references == REFERENCES

    def test_dataset_meta_reaches_metrics(self):
        evaluator = build(metric_configs())
        evaluator.dataset_meta = {'name': 'toy'}
        assert evaluator.dataset_meta == {'name': 'toy'}
        assert all(metric.dataset_meta == {'name': 'toy'} for metric in evaluator.metrics)

    @pytest.mark.parametrize(
        'arguments,message',
        [
            ({'protocol': 'ours'}, "unknown protocol 'ours'; known protocols are mti, mtlora"),
            ({'metrics': {'pose': {'type': 'mmvmt.NormalsMetric'}}}, "unknown task 'pose'"),
            ({'metrics': {'normals': {'type': 'mmvmt.NormalsMetric', 'task': 'depth'}}}, "metric of task 'depth'"),
            ({'metrics': [{'type': 'mmvmt.NormalsMetric'}] * 2}, "NormalsMetric have the prefix 'normals'"),
            ({'references': {'semseg': 1.0}}, r"no value for task 'saliency' \(mIoU\); .*\['semseg'\]"),
            ({'references': {'semseg': -1.0}}, "'semseg' must be a positive number, got -1.0"),
        ],
    )
    def test_bad_arguments(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            build(**{'metrics': metric_configs(), **arguments})

    def test_same_metric_twice_with_another_prefix(self, samples):
        variants = [IoUMetric('semseg', 6), IoUMetric('semseg', 6, absent_class='zero', prefix='semseg_zero')]
        results = run(build(variants, references=REFERENCES), samples)
        assert results['semseg_zero/mIoU'] == pytest.approx(results['semseg/mIoU'] * 5 / 6)
        assert set(results) == {'semseg/mIoU', 'semseg_zero/mIoU', 'delta/semseg', 'delta_m'}

    def test_two_metrics_with_the_same_key(self, samples):
        class Other(NormalsMetric):
            pass

        with pytest.raises(ValueError, match='same metric name normals/mean'):
            run(build([NormalsMetric(), Other()]), samples)


class TestReferenceFiles:
    @pytest.mark.parametrize(
        'content', [REFERENCES, {'metrics': {'semseg/mIoU': 67.21, 'saliency/mIoU': 62.35, 'normals/mean': 17.97}}]
    )
    def test_both_layouts(self, tmp_path, content):
        path = tmp_path / 'single_task.json'
        path.write_text(json.dumps(content))
        assert build(metric_configs(), references=str(path)).references == REFERENCES

    def test_missing_file(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r'nowhere\.json does not exist'):
            build(metric_configs(), references=str(tmp_path / 'nowhere.json'))

    @pytest.mark.parametrize(
        'text,message',
        [
            ('{"semseg": ', 'is not valid JSON'),
            ('[1, 2]', 'must hold a dictionary, got list'),
            ('{"semseg": 1}', "no value for task 'saliency'"),
            ('{"metrics": {"semseg/mIoU": 1, "saliency/maxF": 2}}', "no value for task 'saliency'"),
            ('{"semseg": null}', "'semseg' must be a positive number, got None"),
        ],
    )
    def test_bad_file(self, tmp_path, text, message):
        path = tmp_path / 'single_task.json'
        path.write_text(text)
        with pytest.raises(ValueError, match=rf'single_task\.json.*{message}'):
            build(metric_configs(), references=str(path))


def run(evaluator, samples):
    evaluator.process([data_sample(sample) for sample in samples])
    return evaluator.evaluate(len(samples))


def test_results_and_delta_m(tmp_path, samples):
    results = run(build(metric_configs(tmp_path), references=REFERENCES), samples)
    for key in ('semseg/mIoU', 'saliency/maxF', 'normals/within_11.25'):
        assert 0 < results[key] < 100
    assert results['edge/pictures'] == 4
    assert results['delta/semseg'] == pytest.approx(100 * (results['semseg/mIoU'] - 67.21) / 67.21)
    assert results['delta/normals'] == pytest.approx(100 * (17.97 - results['normals/mean']) / 17.97)
    changes = [results[f'delta/{task}'] for task in REFERENCES]
    assert results['delta_m'] == pytest.approx(sum(changes) / 3)
    assert 'delta/edge' not in results


def test_task_without_a_known_reference(samples, logged):
    metrics = metric_configs() | {'edge': {'type': 'mmvmt.EdgeMetric'}}
    with pytest.raises(ValueError, match=r"no value for task 'edge' \(odsF\); .* or None if there is none"):
        build(metrics, references=REFERENCES)
    known = run(build(metrics, references={**REFERENCES, 'edge': 50.0}), samples)
    assert known['delta/edge'] == pytest.approx(100 * (known['edge/odsF'] - 50) / 50)
    assert known['delta_m'] == pytest.approx(sum(known[f'delta/{task}'] for task in TASKS) / 4)
    evaluator = build(metrics, references={**REFERENCES, 'edge': None}, references_protocol={'protocol': 'mti'})
    unknown = run(evaluator, samples)
    assert 'delta/edge' not in unknown
    assert unknown['delta_m'] == pytest.approx(sum(unknown[f'delta/{task}'] for task in REFERENCES) / 3)
    assert 'edge has no reference and does not enter Delta_m.' in logged[-1]
    only_edge = build({'edge': metrics['edge']}, references={'edge': None})
    assert not [key for key in run(only_edge, samples) if 'delta' in key]


def test_without_references_there_is_no_delta(tmp_path, samples):
    assert not [key for key in run(build(metric_configs(tmp_path)), samples) if 'delta' in key]


def test_one_table_per_evaluation(tmp_path, samples, logged):
    evaluator = build(metric_configs(tmp_path), references=REFERENCES)
    results = run(evaluator, samples)
    tables = [message for message in logged if 'Evaluation of' in message]
    assert len(tables) == 1
    lines = tables[0].strip().splitlines()
    assert lines[0] == "Evaluation of 4 images, protocol mti: compared at the image's original size"
    cells = {line.split()[0]: line.split() for line in lines[3:]}
    assert cells['semseg'][1:6] == [
        'mIoU', 'higher', f'{results["semseg/mIoU"]:.2f}', '67.21', f'{results["delta/semseg"]:+.2f}',
    ]  # fmt: skip
    assert cells['normals'][1:5] == ['mean', 'lower', f'{results["normals/mean"]:.2f}', '17.97']
    assert cells['edge'] == ['edge', 'has', 'no', 'main', 'figure', 'and', 'does', 'not', 'enter', 'Delta_m.']
    assert cells['Delta_m'] == ['Delta_m', f'{results["delta_m"]:+.2f}']
    assert 'IoU of the classes of semseg (absent classes are left out):' in lines


def test_task_without_prediction_is_an_error(samples):
    del samples[1]['pred']['saliency']
    with pytest.raises(ValueError, match="saliency of image 'image_1': no prediction"):
        run(build(metric_configs()), samples)


def test_nothing_processed_is_an_error():
    with pytest.raises(RuntimeError, match='no sample was scored'):
        build(metric_configs()).evaluate(4)


def test_main_figure_missing_from_results(samples):
    class OtherFigures(NormalsMetric):
        def compute(self, state):
            return {'median': super().compute(state)['median']}

    with pytest.raises(KeyError, match="Delta_m needs 'normals/mean'"):
        run(build([OtherFigures()], references=REFERENCES), samples)


class TestProtocol:
    def sample(self, pred, gt, ori=(8, 10), inp=(4, 5)):
        element = MultiTaskDataSample(metainfo={'img_id': 'b2', 'ori_shape': ori, 'img_shape': inp})
        element.pred = PixelData(semseg=torch.zeros(1, *pred, dtype=torch.uint8))
        element.gt = PixelData(semseg=torch.zeros(1, *gt, dtype=torch.uint8))
        return element

    @pytest.mark.parametrize('protocol,size', [('mti', (8, 10)), ('mtlora', (4, 5))])
    def test_accepts_its_size(self, protocol, size):
        evaluator = build([IoUMetric('semseg', 3)], protocol=protocol)
        evaluator.process([self.sample(size, size)])
        assert evaluator.evaluate(1) == {'semseg/mIoU': 100}

    @pytest.mark.parametrize(
        'protocol,pred,gt,message',
        [
            ('mti', (4, 5), (8, 10), r"'b2': the prediction is \(4, 5\), .*'mti'.*ori_shape \(8, 10\).*='original'"),
            ('mti', (8, 10), (4, 5), r"'b2': the truth is \(4, 5\), .*LoadMultiTaskAnnotations after the resize"),
            ('mtlora', (8, 10), (4, 5), r"the prediction is \(8, 10\), .*'mtlora'.*img_shape \(4, 5\).*='input'"),
            ('mtlora', (4, 5), (8, 10), r'the truth is \(8, 10\), .*LoadMultiTaskAnnotations before the resize'),
            ('mti', (4, 5), (4, 5), "resolution='original'"),
        ],
    )
    def test_refuses_another_size(self, protocol, pred, gt, message):
        with pytest.raises(ValueError, match=message):
            build([IoUMetric('semseg', 3)], protocol=protocol).process([self.sample(pred, gt)])

    def test_needs_the_meta_key(self):
        element = self.sample((8, 10), (8, 10))
        del element.ori_shape
        with pytest.raises(ValueError, match="'b2': protocol 'mti' needs the meta key 'ori_shape'"):
            build([IoUMetric('semseg', 3)]).process([element])


class TestTruth:
    """Protocol ``mtlora`` on the aligned truth and on the published one."""

    def sample(self, truth, size=(4, 5), **maps):
        element = MultiTaskDataSample(metainfo={'img_id': 'b2', 'ori_shape': (8, 10), 'img_shape': size})
        if truth:
            element.set_metainfo({'truth': truth})
        maps = {'semseg': torch.zeros(1, *size, dtype=torch.uint8)}
        element.pred, element.gt = PixelData(**maps), PixelData(**maps)
        return element

    @pytest.mark.parametrize('truth', ['aligned', 'published'])
    def test_the_log_says_which(self, truth, logged):
        evaluator = build([IoUMetric('semseg', 3)], protocol='mtlora', truth=truth)
        evaluator.process([self.sample(truth)])
        assert evaluator.evaluate(1) == {'semseg/mIoU': 100}
        place = f"protocol mtlora: compared at the network's input size, with the {truth} truth"
        assert sum(place in message for message in logged) == 1
        assert evaluator.protocol_record() == dict(protocol='mtlora', truth=truth, size=(4, 5))

    @pytest.mark.parametrize('truth, theirs', [('published', 'aligned'), ('published', None), ('aligned', 'published')])
    def test_the_other_one_is_refused(self, truth, theirs):
        message = f"'b2': its truth is '{theirs or 'aligned'}', .*MultiTaskResize', truth='{truth}'"
        with pytest.raises(ValueError, match=message):
            build([IoUMetric('semseg', 3)], protocol='mtlora', truth=truth).process([self.sample(theirs)])

    def test_wrong_names(self):
        with pytest.raises(ValueError, match="unknown truth 'ours'; known are aligned, published"):
            build([IoUMetric('semseg', 3)], protocol='mtlora', truth='ours')
        with pytest.raises(ValueError, match="truth='published' belongs to protocol 'mtlora'"):
            build([IoUMetric('semseg', 3)], truth='published')


class TestReferencesProtocol:
    """References count under their own protocol alone."""

    PUBLISHED = dict(protocol='mtlora', truth='published', size=(448, 448))

    def evaluate(self, references_protocol=None, references=None, size=(4, 5), **arguments):
        references = {'semseg': 50.0} if references is None else references
        evaluator = build(
            [IoUMetric('semseg', 3)], references=references, references_protocol=references_protocol, **arguments
        )
        evaluator.process([TestTruth().sample(arguments.get('truth'), size)])
        return evaluator.evaluate(1)

    @pytest.mark.parametrize(
        'theirs, arguments, size',
        [
            (None, dict(protocol='mti'), (8, 10)),
            (dict(protocol='mti'), dict(protocol='mti'), (8, 10)),
            (dict(protocol='mtlora'), dict(protocol='mtlora'), (4, 5)),
            (PUBLISHED, dict(protocol='mtlora', truth='published'), (448, 448)),
            (PUBLISHED | dict(size=[448, 448]), dict(protocol='mtlora', truth='published'), (448, 448)),
        ],
    )
    def test_of_the_same_protocol_they_give_delta_m(self, theirs, arguments, size, logged):
        assert self.evaluate(theirs, size=size, **arguments) == {
            'semseg/mIoU': 100, 'delta/semseg': 100, 'delta_m': 100,
        }  # fmt: skip
        assert not any('No Delta_m' in message for message in logged)

    @pytest.mark.parametrize(
        'arguments, size, ours',
        [
            (dict(protocol='mti'), (8, 10), 'mti'),
            (dict(protocol='mtlora'), (448, 448), 'mtlora with the aligned truth at 448 x 448 pixels'),
            (
                dict(protocol='mtlora', truth='published'),
                (512, 512),
                'mtlora with the published truth at 512 x 512 pixels',
            ),
        ],
    )
    def test_of_another_protocol_there_is_none_and_the_log_says_how_to_get_one(self, arguments, size, ours, logged):
        assert self.evaluate(self.PUBLISHED, size=size, **arguments) == {'semseg/mIoU': 100}
        (table,) = [message for message in logged if 'Evaluation of' in message]
        theirs = 'mtlora with the published truth at 448 x 448 pixels'
        assert f'No Delta_m: the references of semseg were measured under {theirs}, and this is {ours}.' in table
        assert 'tools/test.py configs/baselines/swin_t_single_TASK_pascal.py CHECKPOINT --out DIR' in table
        assert 'test_evaluator.references.TASK=DIR/metrics.json' in table
        assert 'reference ' not in table

    @pytest.mark.parametrize('protocol, compared', [({}, True), (dict(protocol='mti'), True), (PUBLISHED, False)])
    def test_a_results_file_says_it_itself(self, tmp_path, protocol, compared):
        path = tmp_path / 'metrics.json'
        path.write_text(json.dumps({'metrics': {'semseg/mIoU': 50.0}} | ({'protocol': protocol} if protocol else {})))
        for references in (str(path), {'semseg': str(path)}):
            # What the config says is of the figures in it, not of the file.
            results = self.evaluate(self.PUBLISHED, references, size=(8, 10), protocol='mti')
            assert ('delta_m' in results) == compared

    @pytest.mark.parametrize(
        'protocol, message',
        [
            (dict(truth='published'), 'references_protocol needs protocol'),
            (dict(protocol='mtlora', where='448'), 'takes truth and size besides'),
            (dict(protocol='theirs'), "unknown protocol 'theirs'"),
        ],
    )
    def test_wrong_protocols(self, protocol, message):
        with pytest.raises(ValueError, match=message):
            build([IoUMetric('semseg', 3)], references={'semseg': 1.0}, references_protocol=protocol)


def test_declared_tasks_have_their_metrics_and_directions():
    tasks = dict(
        semseg=dict(kind='classes', classes=NUM_CLASSES['semseg']),
        saliency=None,
        flow=dict(kind='values', channels=2, main_metric='mae', metric=dict(type='mmvmt.ValuesMetric')),
        crops=dict(kind='binary', metric=None),
    )
    evaluator = build(None, tasks=tasks, references=dict(semseg=50.0, saliency=40.0, flow=2.0))
    assert [type(metric).__name__ for metric in evaluator.metrics] == ['IoUMetric', 'SaliencyMetric', 'ValuesMetric']
    samples = random_samples(('semseg', 'saliency', 'flow'), 3)
    evaluator.process([data_sample(sample) for sample in samples])
    results = evaluator.evaluate(3)
    changes = dict(
        semseg=100 * (results['semseg/mIoU'] - 50) / 50,
        saliency=100 * (results['saliency/mIoU'] - 40) / 40,
        flow=100 * (2 - results['flow/mae']) / 2,
    )
    assert {task: results[f'delta/{task}'] for task in changes} == pytest.approx(changes)
    assert results['delta_m'] == pytest.approx(sum(changes.values()) / 3)
    changed = build(dict(semseg=dict(absent_class='zero'), flow={}), tasks=tasks)
    assert [metric.task for metric in changed.metrics] == ['semseg', 'flow']
    assert changed.metrics[0].absent_class == 'zero'
    with pytest.raises(ValueError, match=r"task 'crops' has no metric by default; give metrics\.crops a type"):
        build(dict(crops={}), tasks=tasks)
    with pytest.raises(ValueError, match=r'metrics is None, and no metric is declared with the tasks \[\]'):
        build(None)


def test_other_metrics_may_stand_beside(samples):
    class Count(BaseMetric):
        def process(self, data_batch, data_samples):
            self.results += data_samples

        def compute_metrics(self, results):
            return {'samples': len(results)}

    results = run(build([NormalsMetric(), Count(prefix='count')]), samples)
    assert results['count/samples'] == 4


def test_offline_evaluation_equals_online(tmp_path, samples):
    online = run(build(metric_configs(tmp_path)), samples)
    assert build(metric_configs(tmp_path)).offline_evaluate(samples, chunk_size=3) == online


def test_ranks_agree_with_one_process_and_rank_0_reports(tmp_path):
    expected = run(build(metric_configs(tmp_path), references=REFERENCES), random_samples(TASKS, 3))
    (first, first_tables), (second, second_tables) = run_ranks(evaluate_share, 2, str(tmp_path))
    assert first == second == pytest.approx(expected)
    assert (first_tables, second_tables) == (1, 0)


class SampleDataset(Dataset):
    metainfo = {'name': 'toy'}

    def __init__(self):
        self.samples = random_samples(TASKS, 5)

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        return data_sample(self.samples[index])


class EchoModel(BaseModel):
    """A model whose predictions come with the samples."""

    def forward(self, *inputs, **kwargs):
        return inputs

    def val_step(self, data):
        return data

    test_step = val_step


@pytest.mark.parametrize('phase', ['val', 'test'])
def test_in_a_runner(tmp_path, phase):
    loader = {
        'dataset': SampleDataset(),
        'batch_size': 2,
        'sampler': {'type': 'DefaultSampler', 'shuffle': False, 'round_up': False},
        'collate_fn': {'type': 'pseudo_collate'},
    }
    evaluator = {
        'type': 'mmvmt.MultiTaskEvaluator',
        'metrics': metric_configs(tmp_path / 'e'),
        'references': REFERENCES,
    }
    runner = Runner(
        model=EchoModel(),
        work_dir=str(tmp_path),
        default_scope='mmseg',
        experiment_name=f'{phase}_{Path(tmp_path).name}',
        **{f'{phase}_dataloader': loader, f'{phase}_cfg': {}, f'{phase}_evaluator': evaluator},
    )
    results = getattr(runner, phase)()
    loop = getattr(runner, f'{phase}_loop')
    assert isinstance(loop.evaluator, MultiTaskEvaluator)
    assert loop.evaluator.dataset_meta == {'name': 'toy'}
    expected = run(build(metric_configs(tmp_path / 'f'), references=REFERENCES), random_samples(TASKS, 5))
    assert results == pytest.approx(expected)


def test_references_may_name_a_results_file_per_task(tmp_path):
    for task, key, value in (('semseg', 'semseg/mIoU', 67.0), ('normals', 'normals/mean', 18.0)):
        (tmp_path / f'{task}.json').write_text(json.dumps({'metrics': {key: value, 'other/mIoU': 1.0}}))
    references = {'semseg': str(tmp_path / 'semseg.json'), 'normals': tmp_path / 'normals.json', 'saliency': 62.0}
    expected = {'semseg': 67.0, 'normals': 18.0, 'saliency': 62.0}
    assert load_references(references, ['semseg', 'normals', 'saliency']) == expected


@pytest.mark.parametrize('references', [{'human_parts': 61.93}, None])
def test_a_task_without_a_labelled_pixel_is_an_error(references):
    metrics = {'human_parts': {'type': 'mmvmt.IoUMetric', 'num_classes': 7}}
    evaluator = build(metrics, references=references)
    maps = {'human_parts': torch.full((1, 4, 4), 255, dtype=torch.uint8)}
    predicted = {'human_parts': torch.zeros(1, 4, 4, dtype=torch.uint8)}
    evaluator.process([{'img_id': 'a', 'ori_shape': (4, 4), 'gt': maps, 'pred': predicted}])
    with pytest.raises(ValueError, match='human_parts: no labelled pixel in the whole set; check the label files'):
        evaluator.evaluate(1)


def test_a_metric_that_gives_no_number_is_an_error(samples, monkeypatch):
    monkeypatch.setattr(NormalsMetric, 'compute', lambda self, state: {'mean': math.nan})
    evaluator = build({'normals': {'type': 'mmvmt.NormalsMetric'}})
    evaluator.process(samples)
    with pytest.raises(ValueError, match='no result for task normals: its metric gives no number'):
        evaluator.evaluate(len(samples))


@pytest.mark.parametrize('encoding', ['utf-8-sig', 'utf-16'])
def test_references_from_another_system(tmp_path, encoding):
    path = tmp_path / 'references.json'
    path.write_text(json.dumps(REFERENCES, indent=1), encoding, newline='\r\n')
    assert load_references(path, ['semseg', 'normals']) == {'semseg': 67.21, 'normals': 17.97}


def test_main_figures_of_what_was_scored():
    metrics = {'semseg/mIoU': 60.0, 'normals/mean': 17.0, 'normals/rmse': 25.0, 'saliency/maxF': 70.0, 'delta_m': 1.0}
    assert main_figures(metrics) == dict(semseg=60.0, normals=17.0)
