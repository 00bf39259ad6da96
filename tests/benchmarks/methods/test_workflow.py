"""The workflow of the comparison: which jobs there are, their order, what runs again, what a cluster is asked for."""

import fcntl
import re
import sys
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import commands
import pytest

pytest.importorskip('snakemake', reason='the comparison is a Snakemake workflow: requirements/optional.txt')

from benchmarks.methods import steps
from benchmarks.methods.methods import GROUPS, METHODS, MODELS, Comparison, config_files

HERE = Path(__file__).parent
WORKFLOW = commands.ROOT / 'benchmarks' / 'methods'
PINNED = re.search(r'^snakemake==(\S+)', (commands.ROOT / 'requirements/optional.txt').read_text(), re.MULTILINE)[1]
SINGLES = [model for model in MODELS if model.startswith('single_task-')]
SMALL = ('seeds=2', 'iters=8', 'learning_rates=2e-3,4e-3,8e-3', 'multipliers=0.05,0.2,1')


class Workflow:
    """Runs the workflow in a folder, with a stub for every command."""

    def __init__(self, folder):
        self.folder, self.ran = folder / 'out', folder / 'ran'

    def __call__(self, *arguments, config=(), fails='', check=True, **more):
        self.ran.write_text('')
        words = ['-s', WORKFLOW / 'Snakefile', '--directory', self.folder, *arguments]
        words += ['--config', *config] if config else []
        variables = dict(STUB=str(HERE / 'stub_python.py'), RAN=str(self.ran), FAILS=fails, REAL=sys.executable)
        program = [HERE / 'snakemake_with_stubs.py', *words]
        result = commands.run_command([sys.executable, *map(str, program)], check, **variables, **more)
        return result.stdout + result.stderr

    def trained(self):
        """``record`` of every training that ran, trials first named ``trials/...``."""
        return re.findall(r'record=(\S+)\.json', self.ran.read_text())


@pytest.fixture
def workflow(tmp_path):
    return Workflow(tmp_path)


def jobs(text):
    """``{rule: number of jobs}`` of a dry run."""
    table = text.split('Job stats:')[1].split('total')[0]
    return {name: int(count) for name, count in re.findall(r'^(\w+) +(\d+)$', table, re.MULTILINE)}


# What is compared


def test_every_config_exists_and_is_its_own():
    for options in ({}, dict(preset='pascal', data_root='docs')):
        comparison = Comparison(options)
        found = [(comparison.config(comparison.main, model), *spec.options) for model, spec in MODELS.items()]
        assert len(set(found)) == len(found) == 39
        assert all((commands.ROOT / config).is_file() for config, *_ in found)
    scaling = list(Comparison({}).entries('scaling'))
    assert len(scaling) == 4 * 3
    assert all((commands.ROOT / entry['config']).is_file() for entry in scaling)


def test_passes_and_families_are_those_of_the_models():
    from mmengine.config import Config, DictAction

    from benchmarks.methods.methods import FAMILIES
    from mmvmt import registry

    comparison = Comparison({})
    for name, spec in MODELS.items():
        assert spec.family in FAMILIES
        cfg = Config.fromfile(commands.ROOT / comparison.config(comparison.main, name))
        for option in spec.options:
            key, value = option.split('=')
            cfg.merge_from_dict({key: DictAction._parse_iterable(value)})
        # The preset's options name this transform by its place.
        assert 'crop_size' in cfg.train_dataloader.dataset.pipeline[2]
        built = registry.MODELS.build(cfg.model)
        expected = 'T models' if '-' in name else 'T' if built.backbone.per_task else '1'
        assert spec.passes == expected, name
        if name in GROUPS['stages']:
            blocks = {site.stage for site in built.backbone.adapters[0].sites}
            assert blocks == set(range(int(name[-1]) - 1, 4))


def test_a_config_comes_with_all_that_it_inherits():
    names = {
        path.relative_to(commands.ROOT / 'configs').as_posix()
        for path in config_files('configs/vmt/swin_nano_synthetic.py')
    }
    assert {'vmt/swin_nano_synthetic.py', '_base_/models/swin_nano_mlp.py', '_base_/models/swin_mlp.py'} <= names
    assert '_base_/default_runtime.py' in names


@pytest.mark.parametrize(
    'config, message',
    [
        (dict(seed=3), "unknown option 'seed'; known options: preset, methods"),
        (dict(preset='cityscapes'), "preset must be one of synthetic, pascal, got 'cityscapes'"),
        (dict(methods='lora,vmt'), "unknown method 'vmt'; known: variants, stages, later, standard, single_task"),
        (dict(seeds=0), 'seeds must be a whole number of at least 1, got 0'),
        (dict(iters=3), 'iters must be a whole number of at least 4, got 3'),
        (dict(pretrain_iters=7), 'pretrain_iters must be a whole number of at least 8, got 7'),
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


# Which jobs there are


def test_a_dry_run_lists_the_whole_comparison(workflow):
    found = jobs(workflow('-n', '-q', 'rules', '--cores', '2'))
    parts = len(GROUPS['standard']) + 3
    expected = dict(scenes=1, objects=1, encoder=1, constant_predictor=1, parameters=parts, rate=parts)
    expected |= dict(trial=3 * parts, training=3 * parts, table=1, results=1)
    assert found == expected
    assert not workflow.ran.read_text()
    assert not (workflow.folder / 'settings.json').exists()


def test_dry_runs_of_the_other_tables(workflow):
    text = workflow('-n', '-q', 'rules', '--cores', '2', 'variants', 'stages', 'scaling')
    # Four single-task models, heads, fine-tuning of everything, VMT-Adapter, two variants, three with later stages.
    main, scaled = 4 + 3 + 2 + 3, 4 * 3
    shared = 2 + 1  # on the encoder of the comparison: heads and VMT-Adapter, and Polyhistor-Lite for scaling alone
    found = jobs(text)
    assert found['encoder'] == 4
    assert found['training'] == 3 * (main + scaled - 2)
    # Heads on other encoders have no choice, and the two variants take the rates of VMT-Adapter.
    assert found['trial'] == 3 * (main - 2 + scaled - shared + 1 - 3)
    assert [found[name] for name in ('variants', 'stages', 'scaling', 'table')] == [1, 1, 1, 3]


def test_published_references_spare_the_single_task_models(workflow, tmp_path):
    for split in ('train', 'val'):
        path = tmp_path / 'data' / 'ImageSets' / 'Context' / f'{split}.txt'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('2008_000002\n')
    config = ('preset=pascal', f'data_root={tmp_path / "data"}', 'published_references=True', 'methods=vmt_adapter')
    found = jobs(workflow('-n', '-q', 'rules', '--cores', '2', config=config))
    assert (found['trial'], found['training']) == (6, 3)
    assert 'encoder' not in found


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
    config = ('methods=decoders_only,vmt_adapter_bf16', *SMALL)
    workflow('--cores', '2', '-q', 'all', config=config)
    trained = workflow.trained()
    heads, singles = 'nano_4200/decoders_only', [f'nano_4200/{model}' for model in SINGLES]
    # The rate of the heads comes first, then the trials of the others, then the trainings; variants have no trials.
    assert set(trained[:3]) == {f'trials/{heads}/lr{rate}' for rate in ('0.002', '0.004', '0.008')}
    tried = {f'trials/{part}/x{m}' for part in [*singles, 'nano_4200/vmt_adapter'] for m in ('0.05', '0.2', '1')}
    parts = [heads, *singles, 'nano_4200/vmt_adapter', 'nano_4200/vmt_adapter_bf16']
    final = {f'trainings/{part}/seed{seed}' for part in parts for seed in range(2)}
    assert set(trained[3:]) == tried | final
    if version('snakemake') == PINNED:
        # Others start more than two at once, as they forget the core of a job that was the only one to be started.
        spans = [tuple(map(float, span)) for span in re.findall(r'^ran: (\S+) (\S+)$', workflow.ran.read_text(), re.M)]
        assert max(sum(a <= begin < b for a, b in spans) for begin, _ in spans) == 2
    assert len(trained) == 3 + len(tried) + len(final)
    for name in final - {f'trainings/{heads}/seed{seed}' for seed in range(2)}:
        own = name.replace('trainings', 'trials').replace('_bf16', '').rpartition('/')[0]
        assert trained.index(name) > max(trained.index(trial) for trial in tried if trial.startswith(f'{own}/'))
    line = next(line for line in workflow.ran.read_text().splitlines() if 'vmt_adapter_bf16/seed1' in line)
    assert line.split(' from ')[1].split()[:2] == ['scenes/synthetic.json', 'encoders/nano_4200.pth']
    assert 'rates/nano_4200/vmt_adapter.json' in line
    assert (workflow.folder / 'results.md').is_file()

    assert 'Nothing to be done' in workflow('--cores', '2', config=config)
    assert workflow.trained() == []
    # Parentheses of an option reach the command, and not the shell.
    names = 'methods=decoders_only,lora,vmt_adapter_from_stage_4'
    workflow('--cores', '2', '-q', 'all', config=(names, 'seeds=3', *SMALL[1:]))
    later = Counter(name.split('/')[2] for name in workflow.trained())
    tried = dict.fromkeys(('lora', 'vmt_adapter_from_stage_4'), 3 + 3)
    assert later == {**tried, 'decoders_only': 1, **dict.fromkeys(SINGLES, 1)}
    (option,) = METHODS['vmt_adapter_from_stage_4'].options
    assert '(' in option
    lines = workflow.ran.read_text().splitlines()
    assert sum('count_params' in line and option in line for line in lines) == 1
    assert sum('record=trainings' in line and option in line.replace("'", '') for line in lines) == 3
    # What a training reads decides whether it runs again.
    (workflow.folder / 'trainings/nano_4200/lora/seed0.json').unlink()
    (workflow.folder / 'trials/nano_4200/lora/x1.json').write_text('{}')
    workflow('--cores', '2', '-q', 'all', config=('methods=decoders_only,lora', 'seeds=3', *SMALL[1:]))
    assert {name.partition('/')[0] for name in workflow.trained()} == {'trainings'}
    assert {name.split('/')[2] for name in workflow.trained()} == {'lora'}

    text = workflow('--cores', '2', config=(*SMALL[:1], 'iters=16', *SMALL[2:]), check=False)
    assert 'was made with other settings' in text
    assert 'iters is 8 there and 16 now' in text
    assert workflow.trained() == []


def test_a_method_that_fails_does_not_stop_the_others_and_is_tried_again(workflow):
    config = ('methods=decoders_only,lora,bitfit', 'seeds=1', *SMALL[1:])
    arguments = ('--cores', '2', '--keep-going', '-q', 'all')
    lock = workflow.folder / 'trainings/nano_4200/bitfit/seed0.json.lock'
    lock.parent.mkdir(parents=True)
    with open(lock, 'w') as file:
        # A training that was left behind holds it.
        fcntl.flock(file, fcntl.LOCK_EX)
        workflow(*arguments, config=config, fails=r'trials/nano_4200/lora/x0\.2', check=False)
    finished = {path.parent.name for path in workflow.folder.glob('trainings/*/*/seed0.json')}
    assert finished == {'decoders_only', *SINGLES}
    assert 'failed to get lock' in (workflow.folder / 'logs/trainings/nano_4200/bitfit/seed0.log').read_text()
    assert 'the reason' in (workflow.folder / 'logs/trials/nano_4200/lora/x0.2.log').read_text()
    # The table of what there is.
    assert (workflow.folder / 'unfinished' / 'results.md').is_file()
    assert not (workflow.folder / 'results.md').exists()
    workflow(*arguments, config=config)
    expected = {'trials/nano_4200/lora/x0.2', 'trainings/nano_4200/lora/seed0', 'trainings/nano_4200/bitfit/seed0'}
    assert set(workflow.trained()) == expected


# A cluster

SBATCH = """#!/bin/bash
printf '%s\\0' "$@" >>"$SLURM_STUB/calls"; printf '\\n' >>"$SLURM_STUB/calls"
number=$(wc -l <"$SLURM_STUB/calls")
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
    for split in ('train', 'val'):
        path = tmp_path / 'data' / 'ImageSets' / 'Context' / f'{split}.txt'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('2008_000002\n')
    config = ('preset=pascal', f'data_root={tmp_path / "data"}', 'published_references=True', 'learning_rates=1e-3')
    config += ('seeds=1', 'methods=decoders_only')
    path = f'{stubs}:{Path(sys.executable).parent}:/usr/bin:/bin'
    profile = ('--workflow-profile', WORKFLOW / 'profiles' / 'slurm', '--slurm-init-seconds-before-status-checks', '1')
    more = dict(PATH=path, SLURM_STUB=str(stubs))
    text = workflow(
        *profile, '--default-resources', 'slurm_partition=gpu', 'slurm_account=project', config=config, **more
    )
    calls = [line.split('\0') for line in (stubs / 'calls').read_text().splitlines()]
    comments = {call[call.index('--comment') + 1]: call for call in calls}
    (training,) = (call for comment, call in comments.items() if comment.startswith('rule_training'))
    assert '--gpus=1' in training
    assert '--cpus-per-task=5' in training
    assert training[training.index('-t') + 1] == '1440'
    assert training[training.index('--mem') + 1] == '24000'
    assert training[training.index('-p') + 1] == 'gpu'
    assert training[training.index('-A') + 1] == 'project'
    (counting,) = (call for comment, call in comments.items() if comment.startswith('rule_parameters'))
    assert not any(word.startswith(('--gpus', '--gres')) for word in counting)
    # What takes no time runs where Snakemake does.
    assert not any(comment.startswith(('rule_rate', 'rule_table')) for comment in comments)
    assert workflow.trained() == ['trainings/published/decoders_only/seed0']
    assert (workflow.folder / 'results.md').is_file(), text
