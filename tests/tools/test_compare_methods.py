"""The comparison of methods: what it runs, in which order, what it concludes; and one small real run."""

import functools
import importlib.util
import json
import math
import re
from pathlib import Path

import commands
import cv2
import pytest
import torch
from mmengine.config import Config
from rich.console import Console

from mmvmt.apis import Stages, fingerprint
from mmvmt.registry import MODELS

ROOT = Path(__file__).parents[2]
FIGURES = {'semseg': 'mIoU', 'human_parts': 'mIoU', 'saliency': 'mIoU', 'normals': 'mean'}


@pytest.fixture(scope='module')
def tool():
    spec = importlib.util.spec_from_file_location('compare_methods', ROOT / 'tools' / 'compare_methods.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Machine:
    """Stands in for the machine: runs no command, but leaves behind what it would.

    A training scores best at rate 4e-3 of the heads and multiplier 0.2, single-task models at the largest multiplier.
    """

    def __init__(self):
        self.ran = []
        """``(tool, what, rate, multiplier, seed, iterations, resumed)`` of every command."""
        self.crashes = lambda what, rate, multiplier, seed: False
        self.diverges = lambda what, rate, multiplier, seed: False
        self.stops_before = lambda what, rate, multiplier, seed: False
        self.forgets_validation = lambda what, rate, multiplier, seed: False
        self.best_multipliers = {}
        """``{what: multiplier}`` of models that score best at another."""

    def launch(self, arguments, log, folder, environment, keep_open):
        words = list(arguments)
        resumed = '--resume' in words
        positional = [word for word in words[:3] if not word.startswith('--')]
        options = dict(word.split('=', 1) for word in words if '=' in word)
        rate = float(options.get('optim_wrapper.optimizer.lr', 0))
        multiplier = float(options.get('optim_wrapper.paramwise_cfg.adapter_lr_mult', 0))
        assert options.get('optim_wrapper.paramwise_cfg.encoder_lr_mult', '0') == f'{multiplier:g}'
        seed, iters = int(options.get('randomness.seed', -1)), int(options.get('train_cfg.max_iters', 0))
        command = Path(positional[0]).stem
        what = Path(positional[1]).stem if command in ('train', 'test', 'count_params') else Path(words[2]).name
        run = (what, rate, multiplier, seed)
        if command == 'train' and self.stops_before(*run):
            raise KeyboardInterrupt
        self.ran.append((command, *run, iters, resumed))
        log.write_text('')
        if command == 'make_synthetic':
            Path(words[2]).mkdir(parents=True, exist_ok=True)
            (Path(words[2]) / 'synthetic.json').write_text(' '.join(words))
        elif command == 'count_params':
            single = what.startswith('swin_nano_single')
            groups = dict(adapters=len(what) * 1000, norms_biases=0, encoder_weights=0, decoders=50 if single else 200)
            counts = groups | dict(frozen=10**6, total=1, trainable=sum(groups.values()), encoder=10**6)
            log.write_text(f'a table\n{json.dumps(counts | dict(percent_of_one_encoder=1.0))}\n')
        else:
            work_dir = Path(words[words.index('--work-dir') + 1])
            if command == 'test':
                what, rate, multiplier, seed = self.last
            metrics = self.metrics(what, rate, multiplier, seed, iters)
            self.last = (what, rate, multiplier, seed)
            if command == 'test':
                work_dir.mkdir(parents=True, exist_ok=True)
                (work_dir / 'metrics.json').write_text(json.dumps(dict(metrics=metrics)))
            else:
                self.train(work_dir, iters, metrics, *run)
        crash = (command == 'train' and self.crashes(*run)) or what == 'unbuildable'
        return Ended(1 if crash else 0)

    def train(self, work_dir, iters, metrics, *run):
        folder = work_dir / f'start{len(list(work_dir.glob("start*")))}' / 'vis_data'
        folder.mkdir(parents=True)
        loss = math.nan if self.diverges(*run) else 1.0
        lines = [dict(loss=loss, time=0.25, step=iters)]
        if not self.forgets_validation(*run):
            lines.append(dict(metrics, step=iters))
        (folder / 'scalars.json').write_text(''.join(json.dumps(line) + '\n' for line in lines))
        torch.save(dict(state_dict={'backbone.weight': torch.zeros(1)}), work_dir / f'iter_{iters}.pth')
        (work_dir / 'last_checkpoint').write_text(str(work_dir / f'iter_{iters}.pth'))

    def metrics(self, what, rate, multiplier, seed, iters):
        quality = 1 - abs(math.log(rate / 4e-3)) / 10 if rate else 1.0
        wanted = 1.0 if 'single' in what else self.best_multipliers.get(what, 0.2)
        if multiplier:
            quality -= abs(math.log(multiplier / wanted)) / 20
        quality += 0.01 * seed + 0.1 * (what == 'swin_nano_synthetic')
        chosen = [task for task in FIGURES if f'single_{task}' in what] or FIGURES
        values = {task: 20 / quality if task == 'normals' else 20 * quality for task in chosen}
        return {f'{task}/{FIGURES[task]}': value for task, value in values.items()}


@functools.cache
def cached_fingerprint(config, *files):
    return fingerprint(config, *files)


class Ended:
    """A command that is over at once."""

    peak_memory_mib = 123.4

    def __init__(self, code):
        self.code = code

    def lines(self):
        return []

    def poll(self):
        return self.code

    def stop(self):
        pass


@pytest.fixture
def compare(tool, tmp_path, monkeypatch):
    """Run a comparison on a :class:`Machine`; returns its exit code and results."""
    constant = {f'{task}/{key}': 40.0 if task == 'normals' else 10.0 for task, key in FIGURES.items()}
    monkeypatch.setattr(tool, 'score_constant_predictor', lambda config, data_root: constant)
    # Reading a config takes longer than the rest of a test; these do not change.
    monkeypatch.setattr(tool, 'fingerprint', cached_fingerprint)
    # The pictures have tests of their own.
    monkeypatch.setattr(tool, 'draw', lambda results, path: path.write_text(', '.join(results['methods'])))
    monkeypatch.setattr(tool, 'draw_scaling', lambda results, path: path.write_text(', '.join(results['encoders'])))

    def run(machine, *options, out='out'):
        args = tool.parse_args(['--out', str(tmp_path / out), *GRID, *map(str, options)])
        tool.check_settings(args.out, tool.settings(args))
        console = Console(width=150, quiet=True)
        stages = Stages(args.out.resolve(), console, ROOT, dict(versions={}, hardware={}), launch=machine.launch)
        stages.folder.mkdir(parents=True, exist_ok=True)
        code = tool.Comparison(args, console, stages).run()
        return code, json.loads((args.out / 'results.json').read_text())

    return run


GRID = ('--learning-rates', '2e-3', '4e-3', '8e-3', '--multipliers', '0.05', '0.2', '1', '--pretrain-iters', '1400')
SMALL = ('--methods', 'decoders_only,vmt_adapter', '--seeds', 2, '--iters', 8)


def test_every_config_of_the_table_exists_and_is_its_own(tool):
    for preset in tool.PRESETS:
        configs = [c for spec in tool.METHODS.values() for c in spec.configs[preset].values()]
        assert len(set(configs)) == len(configs) == 25
        assert [c for c in configs if not (ROOT / c).is_file()] == []
    assert all((ROOT / c).is_file() for configs in tool.SCALING_ENCODERS.values() for c in configs.values())


def test_passes_and_families_are_those_of_the_models(tool):
    from mmvmt.apis.comparison import FAMILIES

    for name, spec in tool.METHODS.items():
        assert spec.family in FAMILIES
        for config in spec.configs['synthetic'].values():
            model = MODELS.build(Config.fromfile(ROOT / config).model)
            expected = 'T models' if name == 'single_task' else 'T' if model.backbone.per_task else '1'
            assert spec.passes == expected, name


def test_stages_come_in_their_order_and_the_best_rates_train(compare, tmp_path):
    machine = Machine()
    code, results = compare(machine, *SMALL)
    assert code == 0
    tools = [entry[0] for entry in machine.ran]
    assert tools[:3] == ['make_synthetic', 'make_synthetic', 'train']
    assert tools[3:9] == ['count_params'] * 6
    trained = [entry[1:6] for entry in machine.ran[9:]]
    singles = [f'swin_nano_single_{task}_synthetic' for task in FIGURES]
    heads, vmt = 'swin_nano_decoders_only_synthetic', 'swin_nano_synthetic'
    sweep = [(heads, rate, 1.0, 100, 4) for rate in (2e-3, 4e-3, 8e-3)]
    sweep += [(what, 4e-3, m, 100, 4) for what in (*singles, vmt) for m in (0.05, 0.2, 1.0)]
    per_seed = [
        [*((s, 4e-3, 1.0, i, 8) for s in singles), (heads, 4e-3, 1.0, i, 8), (vmt, 4e-3, 0.2, i, 8)] for i in (0, 1)
    ]
    assert trained == sweep + per_seed[0] + per_seed[1]

    assert results['heads_learning_rate'] == 4e-3
    chosen = results['methods']['vmt_adapter']['chosen']['']
    assert chosen == dict(learning_rate=4e-3, multiplier=0.2, edge_of_grid=None)
    single = results['methods']['single_task']
    assert {c['edge_of_grid'] for c in single['chosen'].values()} == {'highest'}
    assert [len(tried) for tried in results['sweep'].values()] == [3] * 6
    assert single['parameters']['decoders'] == 4 * 50
    assert single['summary']['seconds_per_iteration']['mean'] == pytest.approx(4 * 0.25)
    assert single['summary']['delta_m']['mean'] == pytest.approx(0.0, abs=1e-9)
    run = results['methods']['vmt_adapter']['runs'][1]
    assert (run['seed'], run['peak_memory_mib']) == (1, 123.4)
    assert run['commands'][0].startswith('python tools/train.py configs/vmt/swin_nano_synthetic.py --data-root ')
    assert results['methods']['vmt_adapter']['summary']['delta_m']['mean'] == pytest.approx(10, abs=1)
    assert (tmp_path / 'out' / 'results.png').read_text() == 'single_task, decoders_only, vmt_adapter'
    assert (tmp_path / 'out' / 'results.md').read_text().count('\n| ') == 4
    # Trials leave no checkpoint behind, trainings do.
    kept = {path.parent.name for path in (tmp_path / 'out' / 'runs').glob('*/*.pth')}
    assert len(kept) == 1 + 12
    assert not any('seed100' in name for name in kept)


def test_a_second_start_runs_nothing_and_says_the_same(compare):
    first, second = Machine(), Machine()
    results = [compare(machine, *SMALL)[1] for machine in (first, second)]
    assert second.ran == []
    assert results[0] == results[1]


def test_further_methods_and_seeds_join_the_table(compare):
    compare(Machine(), '--methods', 'decoders_only', '--seeds', 1, '--iters', 8)
    later = Machine()
    code, results = compare(later, '--methods', 'lora', '--seeds', 2, '--iters', 8)
    assert code == 0
    assert list(results['methods']) == ['single_task', 'decoders_only', 'lora']
    assert [entry['summary']['seeds'] for entry in results['methods'].values()] == [2, 1, 2]
    trained = [entry[1] for entry in later.ran if entry[0] == 'train']
    assert trained.count('swin_nano_lora_synthetic') == 5
    assert trained.count('swin_nano_decoders_only_synthetic') == 0


def test_a_variant_trains_at_the_rates_of_its_method(compare):
    machine = Machine()
    code, results = compare(machine, '--methods', 'vmt_adapter_bf16', '--seeds', 1, '--iters', 8)
    assert code == 0
    trained = [entry[1:6] for entry in machine.ran if entry[0] == 'train' and entry[1] == 'swin_nano_bf16_synthetic']
    assert trained == [('swin_nano_bf16_synthetic', 4e-3, 0.2, 0, 8)]
    assert {'vmt_adapter', 'vmt_adapter_bf16'} <= set(results['methods'])
    chosen = results['methods']['vmt_adapter_bf16']['chosen']
    assert chosen == results['methods']['vmt_adapter']['chosen']


def test_variants_are_trained_only_where_they_are_named(tool):
    standard = tool.parse_args(['--out', 'somewhere']).methods
    assert set(tool.METHODS) - set(standard) == {'vmt_adapter_bf16', 'vmt_adapter_deformable'}


def test_an_interrupted_comparison_goes_on(compare, tmp_path):
    machine = Machine()
    machine.stops_before = lambda what, rate, multiplier, seed: (what, seed) == ('swin_nano_synthetic', 1)
    with pytest.raises(KeyboardInterrupt):
        compare(machine, *SMALL)
    written = json.loads((tmp_path / 'out' / 'results.json').read_text())
    assert [entry['summary']['seeds'] for entry in written['methods'].values()] == [2, 2, 1]
    assert '| 1 of 2 |' in (tmp_path / 'out' / 'results.md').read_text()
    # As a training that was killed after its first checkpoint.
    (work_dir,) = (
        path for path in (tmp_path / 'out' / 'runs').glob('*nano_synthetic*') if path.name.endswith('_8_seed0')
    )
    unfinished = work_dir.with_name(work_dir.name.replace('seed0', 'seed1'))
    unfinished.mkdir()
    (unfinished / 'last_checkpoint').write_text('x')

    later = Machine()
    code, results = compare(later, *SMALL)
    assert code == 0
    assert later.ran == [('train', 'swin_nano_synthetic', 4e-3, 0.2, 1, 8, True)]
    assert [entry['summary']['seeds'] for entry in results['methods'].values()] == [2, 2, 2]


def test_a_training_killed_before_its_validation_is_tested(compare):
    machine = Machine()
    machine.forgets_validation = lambda what, rate, multiplier, seed: (what, seed) == ('swin_nano_synthetic', 1)
    code, results = compare(machine, *SMALL)
    assert code == 0
    assert [entry[:2] for entry in machine.ran if entry[0] == 'test'] == [('test', 'swin_nano_synthetic')]
    assert results['methods']['vmt_adapter']['summary']['seeds'] == 2
    again = Machine()
    assert compare(again, *SMALL)[1] == results
    assert again.ran == []


def test_a_method_that_fails_does_not_stop_the_others(compare, tmp_path):
    machine = Machine()
    machine.crashes = lambda what, rate, multiplier, seed: 'lora' in what or (what, seed) == ('swin_nano_synthetic', 1)
    options = ('--methods', 'decoders_only,lora,vmt_adapter,bitfit', '--seeds', 2, '--iters', 8)
    code, results = compare(machine, *options)
    assert code == 1
    seeds = {name: entry['summary']['seeds'] for name, entry in results['methods'].items()}
    assert seeds == dict(single_task=2, decoders_only=2, bitfit=2, lora=0, vmt_adapter=1)
    assert [failure['reason'] for failure in results['methods']['vmt_adapter']['failures']] == ['exit code 1']
    assert len(results['methods']['lora']['failures']) == 4
    text = (tmp_path / 'out' / 'results.md').read_text()
    assert re.search(r'^\| LoRA \| failed \|', text, re.MULTILINE)
    assert 'Learning rate of LoRA: every trial failed or diverged' in text

    later = Machine()
    code, results = compare(later, *options)
    assert code == 0
    assert {entry['summary']['seeds'] for entry in results['methods'].values()} == {2}
    assert {entry[1] for entry in later.ran} == {'swin_nano_lora_synthetic', 'swin_nano_synthetic'}


@pytest.mark.parametrize('text', [None, 'model = dict(', "model = dict(type='x')"], ids=['missing', 'syntax', 'model'])
def test_a_method_whose_config_is_unusable_is_reported(tool, compare, tmp_path, monkeypatch, text):
    config = tmp_path / 'unbuildable.py'
    if text is not None:
        config.write_text(text)
    spec = tool.MethodSpec('LoRA', 'low rank', 'T', dict(synthetic={'': str(config)}))
    monkeypatch.setitem(tool.METHODS, 'lora', spec)
    code, results = compare(Machine(), '--methods', 'decoders_only,lora', '--seeds', 1, '--iters', 8)
    assert code == 1
    assert len(results['methods']['lora']['failures']) == 1
    assert results['methods']['lora']['parameters'] is None
    assert results['methods']['decoders_only']['summary']['seeds'] == 1


def test_a_trial_that_diverges_is_lost_and_no_failure(compare):
    machine = Machine()
    machine.diverges = lambda what, rate, multiplier, seed: what == 'swin_nano_synthetic' and multiplier == 0.2
    code, results = compare(machine, *SMALL)
    assert code == 0
    tried = results['sweep']['vmt_swin_nano_synthetic']
    assert [('error' in trial) for trial in tried] == [False, True, False]
    assert tried[1]['error'] == 'the loss is no number at iteration 4'
    assert results['methods']['vmt_adapter']['chosen']['']['multiplier'] in (0.05, 1.0)


def test_a_training_that_diverges_is_a_failure(compare):
    machine = Machine()
    machine.diverges = lambda what, rate, multiplier, seed: (what, seed) == ('swin_nano_synthetic', 0)
    code, results = compare(machine, *SMALL)
    assert code == 1
    entry = results['methods']['vmt_adapter']
    assert [run['seed'] for run in entry['runs']] == [1]
    assert entry['failures'][0]['reason'] == 'the loss is no number at iteration 8'


def test_without_a_rate_for_the_heads_nothing_compares(compare):
    machine = Machine()
    machine.crashes = lambda what, rate, multiplier, seed: 'decoders_only' in what
    with pytest.raises(SystemExit, match='no learning rate for the heads'):
        compare(machine, *SMALL)


def test_one_candidate_needs_no_trials(compare):
    machine = Machine()
    _, results = compare(machine, *SMALL, '--learning-rates', '2e-3', '--multipliers', '1')
    assert {entry[4] for entry in machine.ran if entry[0] == 'train'} == {0, 1}
    assert results['methods']['vmt_adapter']['chosen'][''] == dict(
        learning_rate=2e-3, multiplier=1.0, edge_of_grid=None
    )


def test_an_encoder_of_ones_own_is_not_pretrained(compare, tmp_path):
    encoder = tmp_path / 'encoder.pth'
    torch.save({}, encoder)
    machine = Machine()
    _, results = compare(machine, *SMALL, '--encoder', encoder)
    assert [entry[1] for entry in machine.ran if entry[0] == 'make_synthetic'] == ['scenes']
    assert not any('classification' in entry[1] for entry in machine.ran)
    command = results['methods']['vmt_adapter']['runs'][0]['commands'][0]
    assert f'model.backbone.init_cfg.checkpoint={encoder}' in command


def test_published_references_spare_the_single_task_models(compare, tmp_path):
    for split in ('train', 'val'):
        path = tmp_path / 'data' / 'ImageSets' / 'Context' / f'{split}.txt'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('2008_000002\n')
    machine = Machine()
    options = ('--preset', 'pascal', '--data-root', tmp_path / 'data', '--published-references')
    _, results = compare(machine, *SMALL, *options)
    assert list(results['methods']) == ['decoders_only', 'vmt_adapter']
    assert results['references']['figures']['semseg'] == 67.21
    assert {entry[0] for entry in machine.ran} == {'count_params', 'train'}
    assert {entry[1] for entry in machine.ran} == {'swin_t_decoders_only_pascal', 'swin_t_pascal'}
    # The encoder's weights are those of the config.
    assert 'init_cfg' not in results['methods']['vmt_adapter']['runs'][0]['commands'][0]


def test_scaling_trains_three_methods_on_four_encoders(compare, tmp_path):
    machine = Machine()
    machine.best_multipliers['swin_pico_synthetic'] = 0.05
    code, _ = compare(machine, '--methods', 'decoders_only', '--seeds', 2, '--iters', 8, '--scaling')
    assert code == 0
    pretrained = [entry[1:] for entry in machine.ran if 'classification' in entry[1]]
    nano, pico = (f'swin_{size}_synthetic_classification' for size in ('nano', 'pico'))
    lengths = [(name, iters) for name, *_, iters, _ in pretrained]
    assert lengths == [(nano, 1400), (pico, 350), (pico, 1400), (nano, 350)]
    results = json.loads((tmp_path / 'out' / 'scaling.json').read_text())
    assert list(results['encoders']) == ['pico_350', 'pico_1400', 'nano_350', 'nano_1400']
    for encoder in results['encoders'].values():
        assert list(encoder['methods']) == ['decoders_only', 'polyhistor_lite', 'vmt_adapter']
        assert all(entry['summary']['seeds'] == 2 for entry in encoder['methods'].values())
        assert encoder['methods']['decoders_only']['summary']['delta_m']['mean'] == pytest.approx(0, abs=1e-9)
        # Adapters are tried on each encoder; the heads have the rate of the comparison.
        chosen = {name: entry['chosen'][''] for name, entry in encoder['methods'].items()}
        assert {entry['learning_rate'] for entry in chosen.values()} == {4e-3}
        assert chosen['decoders_only']['multiplier'] is None
        assert chosen['polyhistor_lite']['multiplier'] == 0.2
        assert chosen['vmt_adapter']['multiplier'] == (0.05 if encoder['title'] == 'pico' else 0.2)
        assert not encoder['methods']['decoders_only']['sweep'] or encoder is results['encoders']['nano_1400']
        for name in ('polyhistor_lite', 'vmt_adapter'):
            assert [trial['multiplier'] for trial in encoder['methods'][name]['sweep']] == [0.05, 0.2, 1.0]
    tried = [entry[1] for entry in machine.ran if entry[0] == 'train' and entry[4] == 100]
    assert tried.count('swin_pico_lite_synthetic') == 2 * 3
    assert tried.count('swin_pico_decoders_only_synthetic') == 0
    trained = [entry[1] for entry in machine.ran if entry[0] == 'train' and entry[4] in (0, 1)]
    # On the encoder of the comparison, its trainings serve; on that of the short pretraining they are new.
    assert trained.count('swin_nano_decoders_only_synthetic') == 2 + 2
    assert trained.count('swin_pico_decoders_only_synthetic') == 4
    assert (tmp_path / 'out' / 'scaling.md').read_text().count('\n| ') == 12
    assert (tmp_path / 'out' / 'scaling.png').read_text() == 'pico_350, pico_1400, nano_350, nano_1400'


def test_scaling_goes_on_without_a_method_whose_trials_fail_on_one_size(compare, tmp_path):
    machine = Machine()
    machine.diverges = lambda what, rate, multiplier, seed: what == 'swin_pico_lite_synthetic' and seed == 100
    code, _ = compare(machine, '--methods', 'decoders_only', '--seeds', 1, '--iters', 8, '--scaling')
    assert code == 1
    results = json.loads((tmp_path / 'out' / 'scaling.json').read_text())
    encoders = results['encoders']
    assert list(encoders['pico_350']['methods']) == ['decoders_only', 'vmt_adapter']
    assert list(encoders['nano_350']['methods']) == ['decoders_only', 'polyhistor_lite', 'vmt_adapter']
    reasons = {f'Learning rate of pico {n} Polyhistor-Lite': 'every trial failed or diverged' for n in (350, 1400)}
    assert results['failures'] == dict(polyhistor_lite=reasons)
    assert not [e for e in machine.ran if e[1] == 'swin_pico_lite_synthetic' and e[4] == 0]


def test_other_settings_are_refused_and_nothing_is_lost(tool, tmp_path):
    out = tmp_path / 'out'
    args = tool.parse_args(['--out', str(out)])
    tool.check_settings(out, tool.settings(args))
    tool.check_settings(out, tool.settings(args))
    before = (out / 'settings.json').read_text()
    other = tool.parse_args(['--out', str(out), '--iters', '9', '--train', '7'])
    iters, train = tool.PRESETS['synthetic'].iters, tool.SCENES['train']
    message = rf'iters is {iters} there and 9 now; train is {train} there and 7 now.*another --out.*nothing was changed'
    with pytest.raises(SystemExit, match=message):
        tool.check_settings(out, tool.settings(other))
    assert (out / 'settings.json').read_text() == before
    # How much of it is run is no setting.
    more = tool.parse_args(['--out', str(out), '--methods', 'lora', '--seeds', '9', '--jobs', '2', '--scaling'])
    tool.check_settings(out, tool.settings(more))


def test_a_folder_of_something_else_is_refused_and_kept(tool, tmp_path):
    (tmp_path / 'thesis.tex').touch()
    with pytest.raises(SystemExit, match=r"holds 'thesis.tex' and no settings.json"):
        tool.main(['--out', str(tmp_path)])
    assert [path.name for path in tmp_path.iterdir()] == ['thesis.tex']


def test_two_comparisons_do_not_share_a_folder(tool, tmp_path):
    message = 'is in use by another comparison'
    with tool.alone_in(tmp_path), pytest.raises(SystemExit, match=message), tool.alone_in(tmp_path):
        pass
    with tool.alone_in(tmp_path) as lock:
        assert lock > 2


@pytest.mark.parametrize(
    'options, message',
    [
        (['--methods', 'lora,vmt'], r"unknown \['vmt'\]; known methods: single_task, decoders_only"),
        (['--methods', ','], "unknown ','"),
        (['--seeds', '0'], 'must be at least 1, got 0'),
        (['--iters', '3'], '--iters must be at least 4, got 3'),
        (['--learning-rates', '-1'], 'expected at least one argument|must be a positive number'),
        (['--multipliers', 'nan'], 'must be a positive number, got nan'),
        (['--pretrain-iters', '6', '--scaling'], '--pretrain-iters must be at least 8, got 6'),
        (['--preset', 'pascal'], '--preset pascal needs --data-root'),
        (['--preset', 'pascal', '--data-root', 'nowhere'], '--data-root nowhere is no folder'),
        (['--preset', 'pascal', '--data-root', '.', '--scaling'], '--scaling pretrains encoders of its own'),
        (['--data-root', '.'], '--data-root belongs to --preset pascal'),
        (['--published-references'], '--published-references belongs to --preset pascal'),
        (['--encoder', 'nowhere.pth'], '--encoder nowhere.pth does not exist'),
    ],
)
def test_bad_options_are_named(tool, capsys, options, message):
    with pytest.raises(SystemExit):
        tool.parse_args(['--out', 'out', *options])
    assert re.search(message, capsys.readouterr().err)


def test_the_table_goes_into_a_readme(tool, compare, tmp_path):
    compare(Machine(), *SMALL)
    readme = tmp_path / 'README.md'
    readme.write_text('<!-- benchmark:begin -->\n<!-- benchmark:end -->\n')
    assert tool.main(['--readme', str(readme), '--out', str(tmp_path / 'out')]) == 0
    assert '| VMT-Adapter |' in readme.read_text()
    with pytest.raises(SystemExit, match=r'results\.json does not exist'):
        tool.main(['--readme', str(readme), '--out', str(tmp_path / 'nowhere')])


def test_a_real_comparison(tool, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tool, 'Stages', functools.partial(Stages, launch=commands.Forked))
    # The tool's way to end is not for the process of the tests.
    monkeypatch.setattr(tool.signal, 'signal', lambda number, handler: None)
    config = ROOT / 'configs' / 'baselines' / 'swin_nano_decoders_only_synthetic.py'
    model = MODELS.build(Config.fromfile(config).model)
    encoder = {f'backbone.{name}': value for name, value in model.backbone.state_dict().items()}
    torch.save(encoder, tmp_path / 'encoder.pth')
    arguments = ['--out', tmp_path / 'out', '--encoder', tmp_path / 'encoder.pth']
    arguments += ['--methods', 'decoders_only,vmt_adapter', '--seeds', 1, '--jobs', 2, '--iters', 4]
    arguments += ['--train', 8, '--val', 6, '--size', 64, '--learning-rates', '2e-3', '--multipliers', '0.2']
    assert tool.main([str(argument) for argument in arguments]) == 0
    results = json.loads((tmp_path / 'out' / 'results.json').read_text())
    assert list(results['methods']) == ['single_task', 'decoders_only', 'vmt_adapter']
    for entry in results['methods'].values():
        (run,) = entry['runs']
        assert set(run['figures']) == set(FIGURES)
        assert run['seconds_per_iteration'] > 0
        assert run['versions']['torch'] == torch.__version__
    assert results['methods']['vmt_adapter']['parameters']['trained_in_encoder'] > 100_000
    assert results['methods']['decoders_only']['parameters']['trained_in_encoder'] == 0
    assert '| VMT-Adapter |' in capsys.readouterr().out
    assert cv2.imread(str(tmp_path / 'out' / 'results.png')) is not None
