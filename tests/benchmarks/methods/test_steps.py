"""The steps of the comparison: training and going on with it, the search for rates, collecting what was found."""

import json
import math
import re
import shutil
from pathlib import Path

import commands
import pytest
import torch
from mmengine.config import Config
from safetensors.torch import save_file

from benchmarks.methods import results, steps
from benchmarks.methods.methods import MODELS as COMPARED
from benchmarks.methods.methods import SPEC, Comparison
from benchmarks.methods.records import Records
from mmvmt.registry import MODELS
from mmvmt.synthetic import write_pascal_mt

OPTIONS = dict(iters=8, train=6, few=4, many=12, select=2, val=2, size=32, seeds=2, methods='decoders_only,vmt_adapter')
OPTIONS |= dict(trial_part=2, amp=True, multipliers='0.1,0.3,0.9', learning_rates='0.002,0.004,0.008')
DIVERGED = 'loss of task normals (nan) is not finite at iteration 8'
METRICS = {'semseg/mIoU': 20.0, 'human_parts/mIoU': 15.0, 'saliency/mIoU': 40.0, 'normals/mean': 25.0}
TRAINED = [*(model for model in COMPARED if model.startswith('single_task-')), 'decoders_only', 'vmt_adapter']


def begun(folder, **options):
    """The records of a comparison that has begun in a folder with a written encoder."""
    (folder / 'encoder.safetensors').write_text('weights')
    comparison = Comparison(OPTIONS | dict(encoder=str(folder / 'encoder.safetensors')) | options)
    records = Records(comparison, folder)
    records.begin(comparison.command)
    return records


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of a comparison in which everything before a training is there."""
    monkeypatch.chdir(tmp_path)
    begun(tmp_path)
    for name, content in (
        ('rates/main/decoders_only', dict(learning_rate=4e-3, multiplier=None)),
        ('rates/main/vmt_adapter', dict(learning_rate=4e-3, multiplier=0.5)),
    ):
        path = tmp_path / f'{name}.json'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    monkeypatch.setattr(steps, 'write_pascal_mt', rendered_list)
    return tmp_path


def rendered_list(folder, train, val, size, **_):
    """Stands in for the renderer: the list of scenes alone."""
    path = Path(folder, 'ImageSets/Context/train.txt')
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(''.join(f'synth_{index}\n' for index in range(train)))


class Machine:
    """Stands in for what runs a command: leaves behind what a training would. The best rate of the heads is
    ``best_rate``, the best multiple of it ``best_multiple``; ``lost`` are those that diverge."""

    def __init__(self, monkeypatch):
        self.ran, self.loss, self.validates, self.stops = [], 1.0, True, False
        self.best_rate, self.best_multiple, self.lost = 4e-3, 0.3, ()
        monkeypatch.setattr(steps, 'run', self)

    def options(self, place=-1):
        return dict(word.split('=', 1) for word in self.ran[place] if '=' in word)

    def __call__(self, arguments):
        words = [str(word) for word in arguments]
        self.ran.append(words)
        work_dir = Path(words[words.index('--work-dir') + 1])
        options = self.options()
        if words[0] == 'tools/test.py':
            out = Path(words[words.index('--out') + 1])
            out.mkdir()
            (out / 'metrics.json').write_text(json.dumps(dict(metrics=METRICS)))
            return
        iters = int(options['train_cfg.max_iters'])
        rate, multiple = (
            float(options[f'optim_wrapper.{key}']) for key in ('optimizer.lr', 'paramwise_cfg.adapter_lr_mult')
        )
        heads = 'decoders_only' in words[1]
        tried, best = (rate, self.best_rate) if heads else (multiple, self.best_multiple)
        quality = 20 - abs(math.log(tried / best))
        metrics = dict(METRICS, **{'semseg/mIoU': quality, 'semseg/mAcc': 50.0})
        lost = tried in self.lost or not math.isfinite(self.loss)
        log = work_dir / f'start{len(self.ran)}' / 'vis_data' / 'scalars.json'
        log.parent.mkdir(parents=True)
        lines = [dict(loss=self.loss, time=0.25, step=iters)]
        lines += [metrics | dict(step=iters)] if self.validates and not lost else []
        log.write_text(''.join(json.dumps(line) + '\n' for line in lines) + '{"loss": 1.0, "ti')
        (work_dir / 'last_checkpoint').write_text('x')
        (work_dir / f'iter_{iters}.pth').write_text('weights')
        if self.stops:
            raise KeyboardInterrupt
        if lost:
            raise FloatingPointError(DIVERGED)


@pytest.fixture
def machine(monkeypatch):
    return Machine(monkeypatch)


def train(regime='main', model='vmt_adapter', seed=1):
    steps.train(regime, model, str(seed))
    return json.loads(Path(f'trainings/{regime}/{model}/seed{seed}.json').read_text())


def test_a_training_has_the_chosen_rates_and_says_what_it_came_to(folder, machine):
    record = train()
    assert machine.ran[0][:2] == ['tools/train.py', 'configs/vmt/swin_nano_synthetic.py']
    assert '--amp' in machine.ran[0]
    options = machine.options()
    assert options['optim_wrapper.optimizer.lr'] == '0.004'
    assert options['optim_wrapper.paramwise_cfg.adapter_lr_mult'] == '0.5'
    assert options['optim_wrapper.paramwise_cfg.encoder_lr_mult'] == '0.5'
    assert (options['train_cfg.max_iters'], options['param_scheduler.0.end']) == ('8', '1')
    assert (options['randomness.seed'], options['train_dataloader.batch_size']) == ('1', '4')
    assert options['train_dataloader.dataset.pipeline.2.crop_size'] == '(32,32)'
    assert options['train_dataloader.dataset.indices'] == '6'
    assert options['model.backbone.init_cfg.checkpoint'] == str(folder / 'encoder.safetensors')
    assert not [option for option in options if option.startswith(('val_dataloader', 'test_dataloader'))]
    assert (record['learning_rate'], record['multiplier'], record['seed']) == (4e-3, 0.5, 1)
    assert record['figures'] == dict(semseg=19.4892, human_parts=15.0, saliency=40.0, normals=25.0)
    assert record['metrics']['semseg/mAcc'] == 50.0
    assert (record['error'], record['seconds']) == (None, 0.25)
    assert record['counts']['trainable'] > record['counts']['in_encoder'] > 0.01 * record['counts']['encoder'] > 0
    assert f'torch {torch.__version__}' in record['machine']
    # On record, it is not trained again, unless the rate is another.
    line = Path('records.jsonl').read_text().splitlines()[-1]
    assert json.loads(line) == dict(what='trainings/main/vmt_adapter/seed1') | record
    assert len(line) < 1500
    Path('trainings/main/vmt_adapter/seed1.json').unlink()
    assert train() == record
    assert len(machine.ran) == 1
    Path('rates/main/vmt_adapter.json').write_text(json.dumps(dict(learning_rate=4e-3, multiplier=0.1)))
    assert train()['multiplier'] == 0.1
    assert len(machine.ran) == 2


def test_rows_have_their_options_and_regimes_their_scenes(folder, machine, monkeypatch):
    option = 'model.backbone.plugins.0.stages=(False,True,True,True)'
    monkeypatch.setitem(steps.COMPARED, 'vmt_adapter', COMPARED['vmt_adapter']._replace(options=[option]))
    for regime in ('readings', 'few', 'many'):
        Path(f'rates/{regime}').mkdir()
        shutil.copy('rates/main/vmt_adapter.json', f'rates/{regime}')
        train(regime, seed=101)
    readings, few, many = (machine.options(place) for place in range(3))
    assert readings['model.backbone.plugins.0.stages'] == option.split('=')[1]
    assert readings['randomness.seed'] == '101'
    # Scored on the last two of eight scenes, of which it trains on the first six.
    assert readings['train_dataloader.dataset.indices'] == '6'
    for loader in ('val_dataloader', 'test_dataloader'):
        assert (readings[f'{loader}.dataset.split'], readings[f'{loader}.dataset.indices']) == ('train', '-2')
    assert (few['train_dataloader.dataset.indices'], many['train_dataloader.dataset.indices']) == ('4', '12')
    assert len(Path('scenes/ImageSets/Context/train.txt').read_text().split()) == 6 + 2
    assert len(Path('more_scenes/ImageSets/Context/train.txt').read_text().split()) == 12 + 2
    roots = [words[words.index('--data-root') + 1] for words in machine.ran]
    assert roots == [str(folder / name) for name in ('scenes', 'scenes', 'more_scenes')]


def test_published_data_is_split_for_trials_alone(tmp_path):
    rendered_list(tmp_path, 520, 0, 0)
    comparison = Comparison(dict(preset='pascal', data_root=str(tmp_path)))
    assert steps.scene_options(comparison, 'main', trial=False) == []
    options = steps.scene_options(comparison, 'main', trial=True)
    assert options[0] == 'train_dataloader.dataset.indices=20'
    assert 'val_dataloader.dataset.indices=-500' in options
    rendered_list(tmp_path, 500, 0, 0)
    with pytest.raises(SystemExit, match='has 500 training scenes, too few to train on 0 and score on 500 others'):
        steps.scene_options(comparison, 'main', trial=True)


def test_a_training_that_was_stopped_goes_on_unless_it_is_another(folder, machine):
    machine.stops = True
    for resumed in (False, True):
        with pytest.raises(KeyboardInterrupt):
            train()
        assert ('--resume' in machine.ran[-1]) == resumed
    Path('rates/main/vmt_adapter.json').write_text(json.dumps(dict(learning_rate=4e-3, multiplier=0.1)))
    (folder / 'trainings/main/vmt_adapter/seed1/left over').touch()
    with pytest.raises(KeyboardInterrupt):
        train()
    assert '--resume' not in machine.ran[-1]
    assert not (folder / 'trainings/main/vmt_adapter/seed1/left over').exists()


def test_a_training_killed_before_its_validation_is_tested(folder, machine):
    machine.validates = False
    record = train()
    assert [words[0] for words in machine.ran] == ['tools/train.py', 'tools/test.py']
    assert record['metrics'] == METRICS


def test_a_training_that_diverges_says_so(folder, machine):
    machine.loss = math.nan
    assert train()['error'] == DIVERGED
    assert len(machine.ran) == 1


def test_a_real_training_that_diverges_is_told_from_one_that_fails(folder):
    """At such a rate the second step has no finite loss; with a wrong option there is no training at all."""
    write_pascal_mt(folder / 'scenes', train=4, val=1, size=32)
    words = ['tools/train.py', 'configs/baselines/swin_nano_decoders_only_synthetic.py']
    words += ['--data-root', str(folder / 'scenes'), '--work-dir', str(folder / 'work'), '--cfg-options']
    options = ['train_cfg.max_iters=4', 'train_dataloader.batch_size=2', 'train_dataloader.num_workers=0']
    options += ['train_dataloader.persistent_workers=False', 'train_dataloader.dataset.pipeline.2.crop_size=(32,32)']
    with pytest.raises(FloatingPointError, match=r'^loss of task .* is not finite at iteration \d+$'):
        steps.run([*words, *options, 'optim_wrapper.optimizer.lr=1e30', 'param_scheduler=None'])
    with pytest.raises(SystemExit, match=r'^1$'):
        steps.run([*words, *options, 'model.backbone.embed_dims=7'])


def test_several_gpus_get_one_training_each(folder, monkeypatch):
    monkeypatch.setattr('torch.cuda.device_count', lambda: 2)
    monkeypatch.setattr(steps.time, 'sleep', lambda _: None)
    taken = []
    for _ in range(2):
        monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '3,5')
        steps.take_gpu()
        taken.append(steps.os.environ['CUDA_VISIBLE_DEVICES'])
    assert taken == ['3', '5']


# Rates


def search(model, regime='main'):
    steps.search(regime, model)
    return json.loads(Path(f'rates/{regime}/{model}.json').read_text())


def test_the_best_of_the_grid_is_chosen(folder, machine):
    heads = search('decoders_only')
    assert (heads['learning_rate'], heads['multiplier'], heads['edge_of_grid']) == (4e-3, None, None)
    # The first rate, by which all are judged, is tried once.
    assert heads['tried'] == {
        '0.002': pytest.approx(-0.866, abs=1e-3),
        '0.004': 0.0,
        '0.008': pytest.approx(-0.866, abs=1e-3),
    }
    assert len(machine.ran) == 3
    options = machine.options()
    assert (options['train_cfg.max_iters'], options['randomness.seed']) == ('4', str(SPEC['protocol']['sweep_seed']))
    assert options['val_dataloader.dataset.split'] == 'train'
    choice = search('vmt_adapter')
    assert (choice['learning_rate'], choice['multiplier'], choice['edge_of_grid']) == (4e-3, 0.3, None)
    assert list(choice['tried']) == ['0.1', '0.3', '0.9']
    assert not list(folder.rglob('iter_*.pth'))
    # All on record: a search that is made again costs nothing.
    assert search('vmt_adapter') == choice
    assert len(machine.ran) == 6


@pytest.mark.parametrize(
    'best, chosen, edge, tried', [(2.7, 2.7, None, 5), (0.01, 0.0111, None, 6), (1e3, 72.9, 'highest', 7)]
)
def test_the_grid_grows_while_its_best_is_at_an_edge(folder, machine, best, chosen, edge, tried):
    machine.best_multiple = best
    choice = search('vmt_adapter')
    assert (choice['multiplier'], choice['edge_of_grid'], len(choice['tried'])) == (chosen, edge, tried)


def test_what_diverges_is_not_chosen(folder, machine):
    machine.best_multiple, machine.lost = 2.7, (0.9,)
    choice = search('vmt_adapter')
    assert (choice['multiplier'], choice['tried']['0.9'], choice['edge_of_grid']) == (0.3, None, None)
    machine.loss, machine.lost = math.nan, ()
    with pytest.raises(SystemExit, match='every trial of lora in main diverged'):
        search('lora')


def test_heads_that_diverge_are_named(folder, machine):
    machine.loss = math.nan
    with pytest.raises(SystemExit, match=r'decoders_only diverged at a learning rate of 0\.004'):
        search('decoders_only')


def test_one_value_needs_no_trial(folder, machine):
    shutil.rmtree(folder / 'rates')
    for name in ('settings.json', 'records.jsonl'):
        (folder / name).unlink()
    begun(folder, learning_rates='0.001', multipliers='0.2')
    Path('rates/main').mkdir(parents=True)
    assert search('decoders_only')['learning_rate'] == 1e-3
    choice = search('lora')
    assert (choice['learning_rate'], choice['multiplier'], choice['tried']) == (1e-3, 0.2, {})
    assert len(machine.ran) == 1


# Tables


@pytest.fixture
def finished(folder):
    """Records in which heads, single-task models and VMT-Adapter were trained with two seeds."""
    pytest.importorskip('pandas', reason='the tables of the comparison: requirements/optional.txt')
    records = begun(folder)
    records.add('constant_predictor', dict(figures=dict(semseg=10.0, human_parts=10.0, saliency=20.0, normals=40.0)))
    counts = dict(trainable=610_000, in_encoder=110_000, encoder=10**6)
    for entry in records.comparison.entries('results'):
        model, task = entry['model'], entry['model'].partition('-')[2]
        rates = dict(learning_rate=4e-3, multiplier=None if model == 'decoders_only' else 0.5)
        records.add(entry['rates'][0].removesuffix('.json'), rates | dict(edge_of_grid=None, tried={}))
        figures = dict(semseg=20.0, human_parts=20.0, saliency=40.0, normals=20.0)
        factor = 1.0 if task else 1.1 if model == 'vmt_adapter' else 0.9
        figures = {key: value * factor for key, value in figures.items() if key == (task or key)}
        for seed, name in enumerate(entry['runs']):
            found = dict(figures=figures, seed=seed, seconds=0.25, counts=counts, error=None, machine=steps.machine())
            records.add(name.removesuffix('.json'), rates | found)
    return records


def test_models_of_one_seed_count_together(finished, tmp_path):
    steps.collect('results', directory=str(tmp_path))
    found, text = steps.contents(finished.comparison, 'results', finished.find), Path('results.md').read_text()
    assert [entry['model'] for entry in found['models']] == TRAINED
    means = results.frame(found)
    single = means.loc['main', 'single_task'].xs('mean', level=1)
    assert single.to_dict() == dict(
        semseg=20.0, human_parts=20.0, saliency=40.0, normals=20.0, seconds=1.0, Delta_m=0.0
    )
    # Three tasks 10 % above, the angle 10 % larger.
    assert means.loc[('main', 'vmt_adapter'), ('Delta_m', 'mean')] == pytest.approx(5.0)
    rows = [[cell.strip() for cell in line.split('|')] for line in text.splitlines() if line.startswith('|')]
    cells = {row[1]: row for row in rows}
    assert cells['VMT-Adapter'][2] == '22.00 ± 0.00'
    # Trainable parameters of four models, and those in the encoder.
    assert cells['single-task fine-tuning'][7:9] == ['2.440', '0.440']
    assert 'against single-task models trained here, mean over 2 seeds' in text
    assert 'Not finished' not in text
    assert Path('results.png').stat().st_size > 10_000


def test_what_is_finished_is_shown_and_what_is_missing_named(finished):
    finished.add('trainings/main/decoders_only/seed1', dict(error='the loss is no number at iteration 5'))
    path = finished.path
    lines = [line for line in path.read_text().splitlines() if 'trainings/main/vmt_adapter/seed' not in line]
    path.write_text('\n'.join(lines) + '\n')
    steps.collect('results', into='unfinished')
    text = Path('unfinished/results.md').read_text()
    assert '- trainings/main/decoders_only/seed1.json: the loss is no number at iteration 5' in text
    assert '| VMT-Adapter |' not in text
    assert '| 1 of 2 (some failed) |' in text
    assert 'Not finished: decoders only; VMT-Adapter.' in text
    with pytest.raises(SystemExit, match='no table few: none of its trainings is finished'):
        steps.main(['collect', 'name=few'])


def test_encoders_beside_each_other(finished, monkeypatch):
    encoders = {name: Path(f'{name}.safetensors').resolve() for name in ('pico_100k', 'pico_400k', 'nano_100k')}
    for name, path in encoders.items():
        path.write_text(name)
    monkeypatch.setitem(SPEC, 'scaling', encoders | dict(nano_400k=None))
    records = Records(Comparison(json.loads(Path('settings.json').read_text())['config']))
    records.begin('')
    known = finished.read()
    for entry in records.comparison.entries('scaling'):
        source = 'decoders_only' if entry['model'] == 'decoders_only' else 'vmt_adapter'
        for name in [*entry['rates'], *entry['runs']]:
            place = re.sub(r'/\w+/\w+(?=\.json|/)', f'/main/{source}', name, count=1).removesuffix('.json')
            if entry['encoder'] != 'nano_400k' or entry['model'] == 'polyhistor_lite':
                records.add(name.removesuffix('.json'), known[place])
    steps.collect('scaling')
    text = Path('scaling.md').read_text()
    assert '| pico | 1.00 | 100k | VMT-Adapter | 22.00 ± 0.00 |' in text
    # The shipped encoder has the results of the main table.
    assert '| nano | 1.00 | 400k | VMT-Adapter | 22.00 ± 0.00 |' in text
    # Three tasks from 0.9 to 1.1, the angle likewise, which is worse there.
    found = steps.contents(records.comparison, 'scaling', records.find)
    gain = results.frame(found).loc[('pico_100k', 'vmt_adapter'), ('Delta_m', 'mean')]
    assert gain == pytest.approx(100 * (1.1 / 0.9 - 1) * 2 / 4)
    assert text.count('| VMT-Adapter |') == 4
    assert 'Gain: mean relative change over the tasks against decoders only on the same encoder.' in text
    assert 'a multiple of that of all heads; an asterisk' in text
    assert 'passes' not in text


def test_records_alone_give_pages_their_tables(finished, tmp_path, monkeypatch):
    for name, content in (('readme', 'headline'), ('page', 'results'), ('other', 'few')):
        (tmp_path / f'{name}.md').write_text(f'before\n<!-- {content}:begin -->\nold\n<!-- {content}:end -->\nafter\n')
    monkeypatch.setattr(steps, 'PAGES', sorted(tmp_path.glob('*.md')))
    steps.show(str(finished.path))
    readme, page, other = ((tmp_path / f'{name}.md').read_text() for name in ('readme', 'page', 'other'))
    assert '| VMT-Adapter | 22.00 ± 0.00 |' in readme
    assert '| VMT-Adapter | 22.00 ± 0.00 |' in page
    assert ('rate x' in page, 'rate x' in readme, 'old' in page) == (True, False, False)
    assert 'old' in other
    # Of the other tables there is no more than what the main one has.
    assert [path.name for path in tmp_path.glob('*.png')] == ['results.png']
    assert '![results](results.png)\n<!-- results:end -->' in page


def test_a_real_trial(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    records = begun(tmp_path, iters=4, batch_size=2)
    model = MODELS.build(Config.fromfile(commands.ROOT / records.comparison.config('main', 'decoders_only')).model)
    save_file({name: value.half() for name, value in model.backbone.state_dict().items()}, 'encoder.safetensors')
    monkeypatch.setattr(steps, 'run', lambda arguments: commands.run(*arguments))
    record = steps.trained(records, 'trials/main/decoders_only/lr0.002', 2e-3, None, 100)
    assert set(record['figures']) == {'semseg', 'human_parts', 'saliency', 'normals'}
    assert (record['learning_rate'], record['multiplier'], record['error']) == (2e-3, None, None)
