"""Steps of the workflow: ``python -m benchmarks.methods.steps STEP KEY=VALUE ...``."""

from __future__ import annotations

import fcntl
import hashlib
import itertools
import json
import math
import os
import shlex
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config, DictAction
from mmengine.registry import init_default_scope

from benchmarks.markdown import has_place, insert
from mmvmt.engine.provenance import hardware, package_versions
from mmvmt.engine.run_config import read_config, schedule_options
from mmvmt.evaluation import delta_m, main_figures
from mmvmt.evaluation.constant_predictor import score_constant_predictor
from mmvmt.models import parameter_groups
from mmvmt.models.parameter_groups import count
from mmvmt.registry import EVALUATOR, MODELS
from mmvmt.structures import read_json, read_text
from mmvmt.synthetic import write_pascal_mt

from .methods import HEADS, ROOT, SPEC, Comparison
from .methods import MODELS as COMPARED
from .records import Records, read_records, write
from .results import draw, report, table

PAGES = [ROOT / 'README.md', *sorted((ROOT / 'docs').rglob('*.md'))]
"""Where tables may have their place."""


def run(arguments: Sequence[str]) -> None:
    """Run ``python ARGUMENTS`` in the repository. It keeps locks that are held, also when it outlives this process.

    Raises:
        FloatingPointError: A training has stopped since a loss was not finite; the message says which one, and when.
    """
    print('$', shlex.join(['python', *arguments]), flush=True)
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, close_fds=False, stderr=subprocess.PIPE, text=True)
    sys.stderr.write(done.stderr)
    if code := done.returncode:
        kind = f'{FloatingPointError.__name__}: '
        for line in done.stderr.splitlines():
            if line.startswith(kind):
                raise FloatingPointError(line.removeprefix(kind).partition(', samples')[0])
        sys.exit(code if code > 0 else 128 - code)


def resumable(work_dir: Path, command: Sequence[str], of: str) -> None:
    """Run a training, from its last checkpoint if it was stopped and was the same then."""
    started, digest = work_dir / 'started', hashlib.sha256(' '.join([*command, of]).encode()).hexdigest()
    same = started.is_file() and started.read_text() == digest
    if not same:
        shutil.rmtree(work_dir, ignore_errors=True)
        work_dir.mkdir(parents=True)
        started.write_text(digest)
    take_gpu()
    run([command[0], *(['--resume'] if same and (work_dir / 'last_checkpoint').is_file() else []), *command[1:]])


def take_gpu() -> None:
    """Take one of several GPUs that no other training of the comparison has on this machine."""
    count = torch.cuda.device_count()
    names = os.environ.get('CUDA_VISIBLE_DEVICES') or ','.join(map(str, range(count)))
    for name in itertools.cycle(names.split(',')) if count > 1 else ():
        lock = os.open(f'.gpu{name}_{os.uname().nodename}', os.O_CREAT | os.O_WRONLY)
        os.set_inheritable(lock, True)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            time.sleep(1.0)
        else:
            os.environ['CUDA_VISIBLE_DEVICES'] = name
            return


def here() -> Records:
    """The records of the folder of a comparison, which steps run in."""
    return Records(Comparison(read_json('settings.json')['config']))


def trained(records: Records, name: str, rate: float, multiplier: float | None, seed: int) -> dict[str, Any]:
    """What a trial or a training came to: as recorded, or trained and validated now.

    Args:
        records: Where it is looked up and noted.
        name: ``trials/REGIME/MODEL/...`` or ``trainings/REGIME/MODEL/...``, also its work dir.
        rate: Learning rate of the heads.
        multiplier: That of what trains in the encoder, as a multiple; None where nothing does.
        seed: Seed.
    """
    record = dict(learning_rate=rate, multiplier=multiplier)
    known = records.find(name)
    if known and all(known[key] == value for key, value in record.items()):
        return known
    kind, regime, model = name.split('/')[:3]
    comparison, trial = records.comparison, kind == 'trials'
    values, preset, work_dir = comparison.values, comparison.preset, records.folder / name
    length = values['iters'] // (values['trial_part'] if trial else 1)
    values = values | dict(seed=seed, rate=rate, factor=1 if multiplier is None else multiplier)
    values |= dict(checkpoint=max(1, length // 10), log=min(preset['log'], max(1, length // 5)))
    config, options = comparison.config(regime, model), COMPARED[model].options
    words = [option.format_map(values) for option in (*SPEC['cfg_options'], *preset['cfg_options'])]
    words += [f'model.backbone.init_cfg.checkpoint={shown(path)}' for path in [comparison.encoder(regime)] if path]
    words += [*schedule_options(length, preset['warm_up']), *scene_options(comparison, regime, trial), *options]
    folders = ['--data-root', shown(comparison.scenes(regime)[0]), '--work-dir', shown(work_dir)]
    command = ['tools/train.py', config, *(['--amp'] if values['amp'] else []), *folders, '--cfg-options', *words]
    error = None
    try:
        resumable(work_dir, command, records.identity(name))
    except FloatingPointError as diverged:
        error = str(diverged)

    # What was logged in all its starts; one that was killed may leave half a line.
    files = sorted(work_dir.glob('*/vis_data/scalars.json'))
    log = [json.loads(line) for path in files for line in path.open(encoding='utf-8') if line.endswith('\n')]
    steps = [entry for entry in log if 'loss' in entry]
    metrics = {key: value for entry in log if entry['step'] == length for key, value in entry.items() if '/' in key}
    if not metrics and not error:
        # It was stopped between its last iteration and its validation.
        test = ['tools/test.py', config, shown(work_dir / f'iter_{length}.pth'), *folders]
        run([*test, '--out', shown(work_dir / 'test'), '--cfg-options', *words])
        metrics = read_json(work_dir / 'test' / 'metrics.json')['metrics']
    record |= dict(figures=_rounded(main_figures(metrics)), error=error)
    if not all(map(math.isfinite, record['figures'].values())):
        record['error'] = f'a figure is no number: {record["figures"]}'
    if trial:
        for file in [*work_dir.glob('*.pth'), work_dir / 'last_checkpoint']:
            file.unlink(missing_ok=True)
        return records.add(name, record)
    times = [entry['time'] for entry in steps if 'time' in entry]
    record |= dict(seed=seed, metrics=_rounded(metrics), counts=counts(config, options), machine=machine())
    record |= dict(seconds=round(statistics.median(times), 4) if times else None)
    return records.add(name, record)


def rendered(comparison: Comparison, regime: str) -> Path:
    """The folder of the scenes of a regime, complete; those that trials are scored on are the last training scenes."""
    (folder, count), values = comparison.scenes(regime), comparison.values
    if comparison.synthetic:
        train = max(count, values['train']) + values['select']
        with open(f'{folder}.lock', 'w') as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            # In this process: most often all is there.
            write_pascal_mt(folder, train, values['val'], values['size'], jobs=1, overwrite=True, progress=False)
    return folder


def scene_options(comparison: Comparison, regime: str, trial: bool) -> list[str]:
    """The options that say on which scenes a model trains and is scored. Those that trials are scored on, the last of
    the training split, are trained on by no trial."""
    folder, (_, train) = rendered(comparison, regime), comparison.scenes(regime)
    select = trial or comparison.regimes[regime].scored == 'select'
    if select:
        listed = len(read_text(folder / 'ImageSets/Context/train.txt').split())
        last, train = comparison.values['select'], train or listed - comparison.values['select']
        if train < 1 or train + last > listed:
            sys.exit(f'{folder} has {listed} training scenes, too few to train on {train} and score on {last} others')
    options = [f'train_dataloader.dataset.indices={train}'] if train else []
    for loader in ('val_dataloader', 'test_dataloader') if select else ():
        options += [f'{loader}.dataset.split=train', f'{loader}.dataset.indices=-{last}']
    return options


def _rounded(metrics: Mapping[str, float]) -> dict[str, float]:
    return {key: round(value, 4) for key, value in metrics.items()}


def counts(config: str, options: Sequence[str]) -> dict[str, int]:
    """Parameters of a model: all that train, those of them in the encoder, and the encoder's own."""
    pairs = (option.split('=', 1) for option in options)
    cfg = read_config(str(ROOT / config), {key: DictAction._parse_iterable(value) for key, value in pairs})
    init_default_scope('mmvmt')
    model = MODELS.build(cfg.model)
    groups = {name: count(parameters) for name, parameters in parameter_groups(model).items()}
    in_encoder = sum(groups[name] for name in ('adapters', 'norms_biases', 'encoder_weights'))
    own = count(model.backbone.parameters()) - count(model.backbone.adapter_parameters())
    return dict(trainable=sum(groups.values()) - groups['frozen'], in_encoder=in_encoder, encoder=own)


def machine() -> str:
    """Versions and hardware in one line."""
    versions, parts = package_versions(), hardware()
    names = [f'{name} {versions[name]}' for name in ('mmvmt', 'torch', 'mmcv', 'mmseg')]
    return ', '.join([*names, f'{parts["cores"]} cores of {parts["cpu"]}', *parts['gpus']])


def train(regime: str, model: str, seed: str) -> None:
    """Train a model at its rates."""
    records, name = here(), f'trainings/{regime}/{model}/seed{seed}'
    chosen = read_json(records.comparison.rates(regime, model))
    write(Path(f'{name}.json'), trained(records, name, chosen['learning_rate'], chosen['multiplier'], int(seed)))


def search(regime: str, model: str) -> None:
    """Choose the rate of the heads, or a model's multiple of it: trials of a few values, and of further ones while the
    best is at the edge. Best is the highest Delta_m against decoders only at the first rate of the heads."""
    records, heads = here(), model == HEADS
    comparison, seed = records.comparison, SPEC['protocol']['sweep_seed']
    rates, values = comparison.values['learning_rates'], comparison.values['multipliers']
    first = rates[len(rates) // 2]
    rate = None if heads else read_json(f'rates/{regime}/{HEADS}.json')['learning_rate']
    reference = trained(records, f'trials/{regime}/{HEADS}/lr{first:g}', first, None, seed)
    if reference['error']:
        sys.exit(f'{HEADS} diverged at a learning rate of {first:g}, by which others are judged; give lower ones')
    gains: dict[float, float] = {}
    new = list(rates if heads else values)
    while new and (heads or len(values) > 1):
        for value in new:
            name = f'trials/{regime}/{model}/' + (f'lr{value:g}' if heads else f'x{value:g}')
            trial = trained(records, name, *((value, None) if heads else (rate, value)), seed)
            gains[value] = -math.inf if trial['error'] else delta_m(trial['figures'], reference['figures'])
        new = wider(gains)
    best = max(gains, key=gains.get, default=values[0])
    if gains and gains[best] == -math.inf:
        sys.exit(f'every trial of {model} in {regime} diverged')
    edge = {min(gains): 'lowest', max(gains): 'highest'}.get(best) if len(gains) > 1 else None
    tried = {f'{value:g}': None if gain == -math.inf else round(gain, 3) for value, gain in sorted(gains.items())}
    chosen = dict(learning_rate=best, multiplier=None) if heads else dict(learning_rate=rate, multiplier=best)
    name = f'rates/{regime}/{model}'
    write(Path(f'{name}.json'), records.add(name, chosen | dict(edge_of_grid=edge, tried=tried)))


def wider(gains: Mapping[float, float]) -> list[float]:
    """The value beyond the best one if that is at an edge, by the factor to its neighbour, until enough were tried."""
    values = sorted(gains)
    best = max(values, key=gains.get)
    if len(values) < 2 or len(values) >= SPEC['protocol']['most'] or best not in (values[0], values[-1]):
        return []
    neighbour = values[1] if best == values[0] else values[-2]
    return [float(f'{best * best / neighbour:.3g}')]


def constant() -> None:
    """Score the constant predictor on the validation scenes."""
    records, name = here(), 'constant_predictor'
    if not (record := records.find(name)):
        comparison = records.comparison
        config = read_config(str(ROOT / comparison.config('main', HEADS)), None, str(rendered(comparison, 'main')))
        record = records.add(name, dict(figures=_rounded(main_figures(score_constant_predictor(config)))))
    write(Path(f'{name}.json'), record)


def collect(name: str, into: str = '.', directory: str = '.') -> None:
    """Write a table and its picture from what is finished, of a comparison that may be running."""
    os.chdir(directory)
    records, folder = here(), Path(into)
    found = contents(records.comparison, name, records.find)
    if not any(entry['runs'] for entry in found['models']):
        sys.exit(f'no table {name}: none of its trainings is finished')
    text = report(found)
    folder.mkdir(exist_ok=True)
    (folder / f'{name}.md').write_text(text)
    draw(found, folder / f'{name}.png')
    print(text)


def show(records: str = 'benchmarks/methods/synthetic/records.jsonl') -> None:
    """Write what a file of records has of each table into the pages that have a place for it, and draw it."""
    path = ROOT / records
    for name in SPEC['tables']:
        if not (found := recorded(path, name)):
            continue
        picture = path.with_name(f'{name}.png')
        draw(found, picture)
        for page in PAGES:
            text = f'{report(found)}\n![{name}]({os.path.relpath(picture, page.parent)})'
            texts = {name: text} | ({'headline': table(found, brief=True)} if name == 'results' else {})
            for place, text in texts.items():
                marks = f'<!-- {place}:begin -->', f'<!-- {place}:end -->'
                if has_place(page, *marks):
                    insert(page, *marks, text)


def recorded(path: Path, name: str) -> dict[str, Any] | None:
    """What a file of records has of a table, whatever the configs are now; None: no training that is its own."""
    settings, found = read_records(path)
    options = {key: value for key, value in settings.items() if key in SPEC['options'] and key != 'encoder'}
    comparison = Comparison(options)
    runs = {
        table: {run.removesuffix('.json') for entry in comparison.entries(table) for run in entry['runs']}
        for table in {name, 'results'}
    }
    own = runs[name] if name == 'results' else runs[name] - runs['results']
    return contents(comparison, name, found.get) if own & found.keys() else None


def contents(comparison: Comparison, name: str, find: Callable[[str], Mapping | None]) -> dict[str, Any]:
    """All that makes a table.

    Args:
        comparison: The comparison.
        name: Of the table.
        find: Gives the record of a name, or None.
    """
    reference, models = comparison.reference(name), list(comparison.entries(name))
    for entry in models:
        for kind in ('rates', 'runs'):
            found = {file: find(file.removesuffix('.json')) for file in entry[kind]}
            entry[kind] = [record for record in found.values() if record and not record.get('error')]
            lost = {file: record['error'] for file, record in found.items() if record and record.get('error')}
            entry['failures'] += [dict(what=file, reason=reason) for file, reason in lost.items()]
    # That of the validation scenes; others are scored on other scenes.
    scored = {comparison.regimes[entry['encoder']].scored for entry in models}
    constant = find('constant_predictor') if scored == {'val'} else None
    return dict(
        table=name,
        models=models,
        seeds=comparison.seeds,
        tasks=SPEC['methods']['single_task']['tasks'],
        constant_predictor=constant and constant['figures'],
        reference=reference,
        published=None if reference else published(comparison),
        protocol=SPEC['protocol'] | dict(iterations=comparison.values['iters']),
    )


def published(comparison: Comparison) -> dict[str, Any]:
    """The references in the configs, and what they are; none where relative changes against them mean nothing."""
    config = comparison.config('main', HEADS)
    evaluator = EVALUATOR.build(Config.fromfile(ROOT / config).val_evaluator)
    if evaluator.foreign_references():
        return dict(figures=None, source=f'nothing: the references in {config} are of another protocol than its own')
    return dict(figures=evaluator.references, source=f'the references in {config}')


def shown(path: str | Path) -> str:
    """A path as commands and records name it: relative to the repository inside of it."""
    path = Path(path).resolve()
    return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)


def main(argv: Sequence[str]) -> None:
    step, *words = argv
    steps = dict(train=train, search=search, constant=constant, collect=collect, show=show)
    steps[step](**dict(word.split('=', 1) for word in words))


if __name__ == '__main__':
    main(sys.argv[1:])
