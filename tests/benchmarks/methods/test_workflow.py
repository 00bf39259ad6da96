"""The workflow of the comparison: which jobs there are, their order, what runs again, what a cluster is asked for."""

import fcntl
import json
import re
import sys
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import commands
import pytest

pytest.importorskip('snakemake', reason='the comparison is a Snakemake workflow: requirements/optional.txt')

from benchmarks.methods import records, steps
from benchmarks.methods.methods import GROUPS, METHODS, MODELS, SPEC, Comparison
from benchmarks.methods.records import Records

HERE = Path(__file__).parent
WORKFLOW = commands.ROOT / 'benchmarks' / 'methods'
PINNED = re.search(r'^snakemake==(\S+)', (commands.ROOT / 'requirements/optional.txt').read_text(), re.MULTILINE)[1]
SINGLES = [model for model in MODELS if model.startswith('single_task-')]


class Workflow:
    """Runs the workflow in a folder, with a stub for every step."""

    def __init__(self, folder):
        self.folder, self.ran, self.encoder = folder / 'out', folder / 'ran', folder / 'encoder.safetensors'
        self.encoder.write_text('weights')

    def __call__(self, *arguments, config=(), fails='', check=True, **more):
        self.ran.write_text('')
        words = ['-s', WORKFLOW / 'Snakefile', '--directory', self.folder, *arguments, '--config', *config]
        words += [] if 'preset=pascal' in config else [f'encoder={self.encoder}']
        variables = dict(STUB=str(HERE / 'stub_python.py'), RAN=str(self.ran), FAILS=fails, REAL=sys.executable)
        program = [HERE / 'snakemake_with_stubs.py', *words]
        result = commands.run_command([sys.executable, *map(str, program)], check, **variables, **more)
        return result.stdout + result.stderr

    def steps(self):
        """The steps that ran, in their order: ``search main/lora``, ``train main/lora/0``."""
        pattern = r'steps (search|train) regime=(\S+) model=(\S+)(?: seed=(\S+))?$'
        found = re.findall(pattern, self.ran.read_text(), re.MULTILINE)
        return [f'{step} {"/".join(filter(None, place))}' for step, *place in found]


@pytest.fixture
def workflow(tmp_path):
    return Workflow(tmp_path)


def jobs(text):
    """``{rule: number of jobs}`` of a dry run; ``rate`` and ``training`` of all methods together."""
    table = text.split('Job stats:')[1].split('total')[0]
    found = {name: int(count) for name, count in re.findall(r'^(\w+) +(\d+)$', table, re.MULTILINE)}
    for kind in ('rate', 'training'):
        found[kind] = sum(count for name, count in found.items() if name.startswith(f'{kind}_'))
    return {name: count for name, count in found.items() if count and not name.startswith(('rate_', 'training_'))}


# What is compared


def test_every_config_exists_and_is_its_own():
    for options in ({}, dict(preset='pascal', data_root='docs')):
        comparison = Comparison(options)
        found = [(comparison.config('main', model), *spec.options) for model, spec in MODELS.items()]
        assert len(set(found)) == len(found) > 38
        assert all((commands.ROOT / config).is_file() for config, *_ in found)
    comparison = Comparison({})
    scaling = list(comparison.entries('scaling'))
    assert len(scaling) == len(SPEC['scaling']) * 3
    assert all((commands.ROOT / comparison.config(entry['encoder'], entry['model'])).is_file() for entry in scaling)


@pytest.mark.usefixtures('undrawn')
def test_passes_and_families_are_those_of_the_models():
    from mmengine.config import Config, DictAction

    from benchmarks.methods.methods import FAMILIES
    from mmvmt import registry

    comparison = Comparison({})
    for name, spec in MODELS.items():
        assert spec.family in FAMILIES
        cfg = Config.fromfile(commands.ROOT / comparison.config('main', name))
        for option in spec.options:
            key, value = option.split('=', 1)
            cfg.merge_from_dict({key: DictAction._parse_iterable(value)})
        # The preset's options name this transform by its place.
        assert 'crop_size' in cfg.train_dataloader.dataset.pipeline[2]
        built = registry.MODELS.build(cfg.model)
        expected = 'T models' if '-' in name else 'T' if built.backbone.per_task else '1'
        assert spec.passes == expected, name
        if name in GROUPS['stages']:
            blocks = {site.stage for site in built.backbone.adapters[0].sites}
            assert blocks == set(range(int(name[-1]) - 1, 4))


@pytest.mark.parametrize(
    'config, message',
    [
        (dict(seed=3), "unknown option 'seed'; known options: preset, methods"),
        (dict(preset='cityscapes'), "preset must be one of synthetic, pascal, got 'cityscapes'"),
        (dict(methods='lora,vmt'), "unknown method 'vmt'; known: variants, stages, readings, later, standard, single"),
        (dict(seeds=0), 'seeds must be a whole number of at least 1, got 0'),
        (dict(iters=3), 'iters must be a whole number of at least 4, got 3'),
        (dict(amp='fp16'), "amp must be True or False, got 'fp16'"),
        (dict(few='all'), "few must be a whole number of at least 1, got 'all'"),
        (dict(learning_rates='1e-3,fast'), "learning_rates must be positive numbers, got '1e-3, fast'"),
        (dict(multipliers=[0.1, -1]), "multipliers must be positive numbers, got '0.1, -1'"),
        (dict(preset='pascal'), 'preset=pascal needs data_root, a folder in the PASCAL_MT layout'),
        (dict(preset='pascal', data_root='nowhere'), 'nowhere does not exist'),
        (dict(data_root='docs'), 'data_root and published_references belong to preset=pascal'),
        (dict(encoder='nowhere.pth'), r'encoder: .*nowhere\.pth does not exist'),
    ],
)
def test_bad_options_are_named(config, message):
    with pytest.raises(ValueError, match=message):
        Comparison(config)


def test_regimes_differ_in_scenes_seeds_and_rates():
    comparison = Comparison(dict(seeds=2))
    assert [comparison.scenes(name)[1] for name in ('few', 'main', 'readings', 'many')] == [100, 500, 500, 2000]
    assert comparison.scenes('few')[0] == comparison.scenes('main')[0] != comparison.scenes('many')[0]
    entries = {entry['model']: entry for table in ('readings', 'few') for entry in comparison.entries(table)}
    assert entries['vmt_adapter']['runs'][1] == 'trainings/few/vmt_adapter/seed1.json'
    assert entries['vmt_adapter']['rates'] == ['rates/main/vmt_adapter.json']
    reading = next(entry for entry in comparison.entries('readings') if entry['model'] == 'decoders_only')
    assert reading['rates'] == ['rates/main/decoders_only.json']
    assert reading['runs'] == [f'trainings/readings/decoders_only/seed{seed}.json' for seed in (101, 102)]


# What is finished


@pytest.fixture
def recorded(tmp_path):
    """Options, and a file of records, of a comparison in which decoders only and LoRA are finished with one seed."""
    (tmp_path / 'encoder.safetensors').write_text('weights')
    options = dict(encoder=str(tmp_path / 'encoder.safetensors'), records=str(tmp_path / 'folder' / 'records.jsonl'))
    options |= dict(methods='decoders_only,lora,bitfit', seeds=1)
    comparison = Comparison(options)
    found = Records(comparison, tmp_path)
    found.begin(comparison.command)
    found.add('constant_predictor', {})
    for entry in comparison.entries('results'):
        if entry['model'] != 'bitfit':
            found.add(entry['rates'][0].removesuffix('.json'), dict(learning_rate=1e-3, multiplier=None))
            found.add(entry['runs'][0].removesuffix('.json'), {})
    return options


def test_on_another_machine_only_what_is_missing_runs(workflow, recorded):
    config = [f'{key}={value}' for key, value in (recorded | dict(seeds=2)).items() if key != 'encoder']
    found = jobs(workflow('-n', '-q', 'rules', '--cores', '2', config=config))
    # BitFit with its rate and two seeds, the second seed of four single-task models, decoders only and LoRA.
    assert found == dict(rate=1, training=2 + 6, table=1, results=1)


def test_records_of_another_config_or_encoder_do_not_count(recorded, tmp_path, monkeypatch):
    folder, lora = tmp_path / 'out', METHODS['lora']
    restored = folder / 'trainings/main/lora/seed0.json'
    assert Records(Comparison(recorded), folder).restore() == []
    assert restored.is_file()
    monkeypatch.setitem(records.MODELS, 'lora', lora._replace(options=['model.backbone.plugins.0.cfg.rank=8']))
    now = Records(Comparison(recorded), folder)
    assert now.restore() == ['rates/main/lora', 'trainings/main/lora/seed0']
    assert not restored.exists()
    assert now.find('trainings/main/lora/seed0') is None
    assert now.find('trainings/main/decoders_only/seed0')
    # Trained again, the last line counts.
    now.add('trainings/main/lora/seed0', dict(seed=0))
    assert now.find('trainings/main/lora/seed0')['seed'] == 0
    with pytest.raises(
        ValueError, match=r'records.jsonl was made with other settings.*: iters is 1000 there and 8 now'
    ):
        Records(Comparison(recorded | dict(iters=8)), folder)
    (tmp_path / 'encoder.safetensors').write_text('other weights')
    with pytest.raises(ValueError, match=r'encoder is \'\w{12}\' there and \'\w{12}\' now'):
        Records(Comparison(recorded), folder)


def test_a_folder_keeps_its_settings_and_a_damaged_line_is_named(recorded, tmp_path):
    with pytest.raises(ValueError, match=r'settings.json was made with other settings.*: size is 160 there and 96 now'):
        Records(Comparison(recorded | dict(size=96, records='others.jsonl')), tmp_path)
    path = Path(recorded['records'])
    path.write_text(path.read_text() + '<<<<<<< HEAD\n')
    with pytest.raises(ValueError, match=r'records.jsonl, line \d+: no record'):
        Records(Comparison(recorded))


# Which jobs there are


def test_dry_runs_of_all_tables(workflow):
    found = jobs(workflow('-n', '-q', 'rules', '--cores', '2'))
    parts = len(GROUPS['standard']) + len(GROUPS['later']) + 3
    assert found == dict(constant_predictor=1, rate=parts, training=3 * parts, table=1, results=1)
    assert not workflow.ran.read_text()
    assert not (workflow.folder / 'settings.json').exists()
    found = jobs(workflow('-n', '-q', 'rules', '--cores', '2', 'variants', 'stages', 'readings', 'few', 'many'))
    # Four single-task models, heads, fine-tuning of everything, VMT-Adapter, two variants, three with later stages.
    main, labels, readings = 4 + 3 + 2 + 3, 7 + 4, len(GROUPS['readings'])
    assert found['training'] == 3 * (main + 2 * labels + readings + 1)
    # Variants have the rates of VMT-Adapter, all others those of the main regime: four methods more than above.
    assert found['rate'] == main - 2 + 4 + readings
    assert found['table'] == 5


def test_an_encoder_that_is_missing_is_named(workflow, monkeypatch):
    monkeypatch.setitem(SPEC['scaling'], 'pico_100k', 'nowhere/swin.safetensors')
    with pytest.raises(ValueError, match=r'nowhere/swin\.safetensors does not exist: the encoder of pico_100k'):
        Comparison({}).existing_encoder('pico_100k')
    workflow.encoder.unlink()
    assert 'encoder.safetensors does not exist' in workflow('-n', '--cores', '2', check=False)


def test_published_references_spare_the_single_task_models(workflow, tmp_path):
    config = ('preset=pascal', f'data_root={tmp_path}', 'published_references=True', 'methods=vmt_adapter')
    found = jobs(workflow('-n', '-q', 'rules', '--cores', '2', config=config))
    assert (found['rate'], found['training']) == (2, 3)


@pytest.mark.parametrize('protocol, compared', [('mti', True), ('mtlora', False)])
def test_references_of_another_protocol_give_no_delta(tmp_path, protocol, compared):
    config = tmp_path / 'config.py'
    config.write_text(
        "val_evaluator = dict(type='mmvmt.MultiTaskEvaluator', protocol='mti', references=dict(normals=17.97),\n"
        f"    references_protocol=dict(protocol='{protocol}'),\n"
        "    metrics=dict(normals=dict(type='mmvmt.NormalsMetric')))\n"
    )
    comparison = SimpleNamespace(main='', config=lambda *_: config)
    references = steps.published(comparison)
    assert references['figures'] == ({'normals': 17.97} if compared else None)
    assert ('another protocol' in references['source']) != compared


# What runs


def test_the_comparison_runs_once_and_grows(workflow):
    config = ('methods=decoders_only,vmt_adapter_bf16,adapter', 'seeds=2')
    workflow('--cores', '2', '-q', 'all', config=config)
    ran = workflow.steps()
    # The rate of the heads comes first; the variant has the rate of VMT-Adapter.
    own = ['main/decoders_only', *(f'main/{model}' for model in SINGLES), 'main/vmt_adapter', 'main/adapter']
    assert ran[0] == 'search main/decoders_only'
    final = {f'train {part}/{seed}' for part in [*own, 'main/vmt_adapter_bf16'] for seed in range(2)}
    assert Counter(ran) == Counter({f'search {part}' for part in own} | final)
    for part in own:
        assert ran.index(f'search {part}') < min(ran.index(f'train {part}/{seed}') for seed in range(2))
    if version('snakemake') == PINNED:
        # Others start more than two at once, as they forget the core of a job that was the only one to be started.
        spans = [tuple(map(float, span)) for span in re.findall(r'^ran: (\S+) (\S+)$', workflow.ran.read_text(), re.M)]
        assert max(sum(a <= begin < b for a, b in spans) for begin, _ in spans) == 2
    assert (workflow.folder / 'results.md').is_file()
    settings = json.loads((workflow.folder / 'settings.json').read_text())
    assert settings['config'] == dict(methods=config[0].split('=')[1], seeds=2, encoder=str(workflow.encoder))
    assert json.loads((workflow.folder / 'records.jsonl').read_text())['settings'] == settings['settings']

    # What matters most is finished first; two that start at once may do so in either order, one after another not.
    workflow('--cores', '1', '-q', 'all', config=('methods=adapter,vmt_adapter,decoders_only', 'seeds=3'))
    ran = workflow.steps()
    assert [ran[0], *sorted(ran[1:5]), *ran[5:]] == [
        f'train {part}/2' for part in [own[0], *sorted(own[1:5]), *own[5:]]
    ]
    # A rate that is newer calls for new trainings.
    (workflow.folder / 'rates/main/adapter.json').write_text('{}')
    workflow('--cores', '2', '-q', 'all', config=('methods=adapter', 'seeds=1'))
    assert workflow.steps() == ['train main/adapter/0']


def test_a_method_that_fails_does_not_stop_the_others_and_is_tried_again(workflow):
    config, arguments = ('methods=decoders_only,lora,bitfit', 'seeds=1'), ('--cores', '2', '-q', 'all')
    lock = workflow.folder / 'trainings/main/bitfit/seed0.json.lock'
    lock.parent.mkdir(parents=True)
    with open(lock, 'w') as file:
        # A training that was left behind holds it.
        fcntl.flock(file, fcntl.LOCK_EX)
        workflow(*arguments, config=config, fails='search .*lora', check=False)
    finished = {path.parent.name for path in workflow.folder.glob('trainings/*/*/seed0.json')}
    assert finished == {'decoders_only', *SINGLES}
    assert 'failed to get lock' in (workflow.folder / 'logs/trainings/main/bitfit/seed0.log').read_text()
    assert 'the reason' in (workflow.folder / 'logs/rates/main/lora.log').read_text()
    # The table of what there is.
    assert (workflow.folder / 'unfinished' / 'results.md').is_file()
    assert not (workflow.folder / 'results.md').exists()
    workflow(*arguments, config=config)
    assert set(workflow.steps()) == {'search main/lora', 'train main/lora/0', 'train main/bitfit/0'}


# A cluster

SBATCH = """#!/bin/bash
number=$$
printf '%s\\0' "$@" >"$SLURM_STUB/call.$number"  # a file of its own: Snakemake may submit two at once
for word; do case $word in --wrap=*) wrapped=${word#--wrap=};; esac; done
if (cd "$SLURM_STUB/../out" && eval "$wrapped" >>"$SLURM_STUB/log" 2>&1); then state=COMPLETED; else state=FAILED; fi
echo "$number|$state" >>"$SLURM_STUB/states"
echo "$number"
"""
SRUN = """#!/bin/bash
while [[ $1 == -* ]]; do shift; done
exec "$@"
"""
STATES = '#!/bin/bash\ncat "$SLURM_STUB/states" 2>/dev/null || true\n'
SILENT = '#!/bin/bash\n'
ACCOUNTS = '#!/bin/bash\necho project\n'


def test_the_slurm_profile_asks_for_one_gpu_per_training(workflow, tmp_path):
    stubs = tmp_path / 'stubs'
    stubs.mkdir()
    programs = dict(
        sbatch=SBATCH, srun=SRUN, sacct=STATES, squeue=STATES, sinfo=SILENT, scontrol=SILENT, scancel=SILENT
    )
    programs['sacctmgr'] = ACCOUNTS
    for name, text in programs.items():
        (stubs / name).write_text(text)
        (stubs / name).chmod(0o755)
    config = ('preset=pascal', f'data_root={tmp_path}', 'published_references=True', 'seeds=1')
    config += ('methods=decoders_only',)
    path = f'{stubs}:{Path(sys.executable).parent}:/usr/bin:/bin'
    profile = ('--workflow-profile', WORKFLOW / 'profiles' / 'slurm', '--slurm-init-seconds-before-status-checks', '1')
    more = dict(PATH=path, SLURM_STUB=str(stubs))
    targets = ('rates/main/decoders_only.json', 'constant_predictor.json')
    workflow(
        *targets, *profile, '--default-resources', 'slurm_partition=gpu', 'slurm_account=project', config=config, **more
    )
    calls = [path.read_text().split('\0') for path in stubs.glob('call.*')]
    comments = {call[call.index('--comment') + 1]: call for call in calls}
    (training,) = (call for comment, call in comments.items() if comment.startswith('rule_rate'))
    assert '--gpus=1' in training
    assert '--cpus-per-task=5' in training
    assert training[training.index('-t') + 1] == '1440'
    assert training[training.index('--mem') + 1] == '24000'
    assert training[training.index('-p') + 1] == 'gpu'
    assert training[training.index('-A') + 1] == 'project'
    (scoring,) = (call for comment, call in comments.items() if comment.startswith('rule_constant'))
    assert not any(word.startswith(('--gpus', '--gres')) for word in scoring)
    assert workflow.steps() == ['search main/decoders_only']
    assert all((workflow.folder / target).is_file() for target in targets)
