"""Steps that are more than a command: ``python -m benchmarks.methods.steps STEP KEY=VALUE ... [from FILE ...]``."""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import os
import resource
import shlex
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmvmt.engine.provenance import run_record
from mmvmt.engine.run_config import schedule_options
from mmvmt.evaluation import delta_m, main_figures
from mmvmt.registry import EVALUATOR

from . import results
from .methods import METHODS, OPTIONS, ROOT, SWEEP_SEED, Comparison, models, rates_of


def run(arguments: Sequence[Any]) -> None:
    """Run ``python ARGUMENTS`` in the repository. It keeps locks that are held, also when it outlives this process."""
    command = [sys.executable, *map(str, arguments)]
    print('$', shlex.join(['python', *command[1:]]), flush=True)
    subprocess.run(command, cwd=ROOT, check=True, close_fds=False)


def resumable(arguments: Sequence[Any], work_dir: Path, inputs: Sequence[str]) -> None:
    """Run a training. One that was stopped goes on from its last checkpoint, if nothing that it reads has changed."""
    digest = hashlib.sha256(' '.join(map(str, arguments)).encode())
    for name in inputs:
        digest.update(Path(name).read_bytes())
    started = work_dir / 'started'
    same = started.is_file() and started.read_text() == digest.hexdigest()
    resume = same and (work_dir / 'last_checkpoint').is_file()
    if not resume:
        shutil.rmtree(work_dir, ignore_errors=True)
        work_dir.mkdir(parents=True)
        started.write_text(digest.hexdigest())
    take_gpu()
    tool, *rest = arguments
    run([tool, *(['--resume'] if resume else []), *rest])


def take_gpu() -> None:
    """Take one of several GPUs that no other training of the comparison has on this machine."""
    import torch

    if torch.cuda.device_count() < 2:
        return
    names = os.environ.get('CUDA_VISIBLE_DEVICES') or ','.join(map(str, range(torch.cuda.device_count())))
    while True:
        for name in names.split(','):
            lock = os.open(f'.gpu{name}_{os.uname().nodename}', os.O_CREAT | os.O_WRONLY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(lock)
                continue
            os.set_inheritable(lock, True)
            os.environ['CUDA_VISIBLE_DEVICES'] = name
            return
        time.sleep(1.0)


def pretrain(target: str, config: str, iters: str, inputs: Sequence[str]) -> None:
    """Train an encoder on single objects."""
    path, length = Path(target).resolve(), int(iters)
    work_dir = path.with_suffix('')
    command = ['tools/train.py', shown(config), '--data-root', shown(Path(inputs[0]).resolve().parent)]
    command += ['--work-dir', shown(work_dir), '--cfg-options', 'randomness.seed=0', *schedule_options(length)]
    resumable([*command, f'default_hooks.checkpoint.interval={max(1, length // 10)}'], work_dir, inputs)
    shutil.copy(work_dir / f'iter_{length}.pth', path)


def train(record: str, config: str, seed: str, inputs: Sequence[str], options: str = '', candidate: str = '') -> None:
    """Train and validate a model, as a trial of half the length if a candidate is named.

    Args:
        record: File for what it came to; the work dir has its name without suffix.
        config: Config file.
        seed: Seed of the run.
        inputs: Files that it reads; the one under ``rates/`` holds the learning rate, the ``.pth`` one the encoder.
        options: Further ``--cfg-options``.
        candidate: ``'lr0.01'`` or ``'x0.1'``: a rate of the heads, or a multiple of it for what trains in the encoder.
    """
    comparison, path = comparison_here(), Path(record).resolve()
    preset, iters = comparison.preset, comparison.values['iters']
    work_dir, length = path.with_suffix(''), iters // 2 if candidate else iters
    chosen = next((loaded(name) for name in inputs if name.startswith('rates/')), {})
    rate, multiplier = rates_from(candidate, chosen)
    factor = 1 if multiplier is None else multiplier
    words = [
        f'randomness.seed={seed}',
        f'train_dataloader.batch_size={preset["batch_size"]}',
        f'optim_wrapper.optimizer.lr={rate:g}',
        f'optim_wrapper.paramwise_cfg.adapter_lr_mult={factor:g}',
        f'optim_wrapper.paramwise_cfg.encoder_lr_mult={factor:g}',
        *schedule_options(length, preset['warm_up']),
        f'default_hooks.checkpoint.interval={max(1, length // 10)}',
        'default_hooks.checkpoint.max_keep_ckpts=1',
        f'default_hooks.logger.interval={min(preset["log"], max(1, length // 5))}',
        *([crop_option(config, preset['crop'])] if preset['crop'] else []),
        *(f'model.backbone.init_cfg.checkpoint={shown(Path(n).resolve())}' for n in inputs if n.endswith('.pth')),
        *shlex.split(options),
    ]
    folders = ['--data-root', shown(comparison.data_root(Path.cwd())), '--work-dir', shown(work_dir)]
    command = ['tools/train.py', shown(config), *folders, '--cfg-options', *words]
    resumable(command, work_dir, inputs)
    log = read_log(work_dir)
    trained = [entry for entry in log if 'loss' in entry]
    metrics = {key: value for entry in log if entry['step'] == length for key, value in entry.items() if '/' in key}
    error = next(
        (f'the loss is no number at iteration {e["step"]}' for e in trained if math.isnan(e['loss'] * 0)), None
    )
    if not metrics and not error:
        # It was stopped between its last iteration and its validation.
        test = ['tools/test.py', shown(config), shown(work_dir / f'iter_{length}.pth'), *folders]
        run([*test, '--out', shown(work_dir / 'test'), *(['--cfg-options', *shlex.split(options)] if options else [])])
        metrics = loaded(work_dir / 'test' / 'metrics.json')['metrics']
    figures = main_figures(metrics)
    if not error and not all(map(math.isfinite, figures.values())):
        error = f'a figure is no number: {figures}'
    outcome = dict(learning_rate=rate, multiplier=multiplier, seed=int(seed), metrics=metrics, figures=figures)
    times = [entry['time'] for entry in trained if 'time' in entry]
    outcome |= dict(seconds_per_iteration=statistics.median(times) if times else None, error=error)
    # Without a GPU, resident memory of the largest process; Linux counts in KiB.
    resident = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    outcome['peak_memory_mib'] = max((entry['memory'] for entry in log if 'memory' in entry), default=resident)
    facts = run_record()
    outcome |= dict(command=shlex.join(['python', *map(str, command)]))
    save(path, outcome | {key: facts[key] for key in ('versions', 'hardware')})
    if candidate:
        for file in [*work_dir.glob('*.pth'), work_dir / 'last_checkpoint']:
            file.unlink(missing_ok=True)


def rates_from(candidate: str, chosen: dict[str, Any]) -> tuple[float, float | None]:
    """Learning rate and multiplier of a candidate, given the choice for the heads; without one, those chosen."""
    if candidate.startswith('lr'):
        return float(candidate.removeprefix('lr')), None
    return chosen['learning_rate'], float(candidate.removeprefix('x')) if candidate else chosen['multiplier']


def crop_option(config: str, crop: int) -> str:
    """Config option for another side of the training crops."""
    pipeline = Config.fromfile(config).train_dataloader.dataset.pipeline
    (place,) = (index for index, transform in enumerate(pipeline) if 'crop_size' in transform)
    return f'train_dataloader.dataset.pipeline.{place}.crop_size=({crop},{crop})'


def read_log(work_dir: Path) -> list[dict[str, Any]]:
    """What a training logged, in all its starts; one that was killed may leave half a line."""
    files = sorted(work_dir.glob('*/vis_data/scalars.json'))
    lines = [line for path in files for line in path.read_text(encoding='utf-8').splitlines(keepends=True)]
    return [json.loads(line) for line in lines if line.endswith('\n')]


def choose(encoder: str, model: str) -> None:
    """Choose the candidate whose trial has the best Delta_m against the constant predictor.

    Raises:
        SystemExit: Every trial diverged.
    """
    comparison, floor = comparison_here(), main_figures(loaded('constant_predictor.json')['metrics'])
    names, heads = comparison.candidates(encoder, model), (comparison.main, 'decoders_only')
    given = {} if (encoder, model) == heads else loaded('rates/{}/{}.json'.format(*heads))
    scores, tried = [], []
    for name in names if len(names) > 1 else []:
        trial = loaded(f'trials/{encoder}/{model}/{name}.json')
        scores.append(-math.inf if trial['error'] else delta_m(trial['figures'], floor))
        found = {} if trial['error'] else dict(delta_m_to_constant=scores[-1])
        keys = ('learning_rate', 'multiplier', 'error' if trial['error'] else 'figures')
        tried.append({key: trial[key] for key in keys} | found)
    if scores and max(scores) == -math.inf:
        raise SystemExit(f'every trial of {model} on {encoder} diverged')
    best = scores.index(max(scores)) if scores else 0
    # Heads on another encoder have no candidates: their rate is that of all heads.
    rate, multiplier = rates_from(names[best] if names else '', given)
    edge = {0: 'lowest', len(names) - 1: 'highest'}.get(best) if tried else None
    choice = dict(learning_rate=rate, multiplier=multiplier, edge_of_grid=edge, tried=tried)
    save(Path(f'rates/{encoder}/{model}.json'), choice)


def collect(table: str, config: str, into: str = '.') -> None:
    """Write what a table's files hold as JSON, Markdown and a picture; what is missing is named as failed."""
    comparison = Comparison(json.loads(config))
    encoders, methods, reference = comparison.table(table)
    constant = main_figures(loaded('constant_predictor.json')['metrics'])
    heads, iters = Path(f'rates/{comparison.main}/decoders_only.json'), comparison.values['iters']
    protocol = dict(iterations=iters, sweep_iterations=iters // 2, sweep_seed=SWEEP_SEED)
    protocol['criterion'] = 'Delta_m against the constant predictor over the tasks of the model'
    found = run_record() | dict(settings=comparison.settings, tasks=list(constant), seeds=len(comparison.seeds))
    found |= dict(protocol=protocol, constant_predictor=constant)
    found['heads_learning_rate'] = loaded(heads)['learning_rate'] if heads.is_file() else None
    entries = {encoder: {name: _entry(comparison, encoder, name) for name in methods} for encoder in encoders}
    if len(encoders) > 1:
        found |= dict(reference=reference, encoders={})
        for encoder, of in entries.items():
            size, _, iterations = encoder.partition('_')
            parameters = (of['decoders_only']['parameters'] or {}).get('encoder')
            about = dict(title=size, pretrain_iters=int(iterations), parameters=parameters, methods=of)
            found['encoders'][encoder] = about
    else:
        found['methods'] = entries[encoders[0]]
        found['references'] = _references(comparison, found['methods'], reference)
    folder, text = Path(into), results.report(found)
    folder.mkdir(exist_ok=True)
    save(folder / f'{table}.json', found)
    (folder / f'{table}.md').write_text(text)
    results.draw(found, folder / f'{table}.png')
    print(text)


def _entry(comparison: Comparison, encoder: str, method: str) -> dict[str, Any]:
    spec, parts, failures, runs = METHODS[method], models(method), [], []

    def read(name: str) -> Any:
        path, log = Path(f'{name}.json'), Path(f'logs/{name}.log')
        if path.is_file():
            return loaded(path)
        lines = log.read_text(errors='replace').splitlines()[-15:] if log.is_file() else []
        failures.append(dict(what=name, reason='\n'.join(['failed', *lines] if lines else ['not finished'])))
        return None

    counts = [read(f'parameters/{encoder}/{model}') for model in parts]
    chosen = {model.partition('-')[2]: read(f'rates/{encoder}/{rates_of(model)}') for model in parts}
    chosen = {task: choice for task, choice in chosen.items() if choice}
    for seed in comparison.seeds:
        outcomes = [read(f'trainings/{encoder}/{model}/seed{seed}') for model in parts]
        broken = [outcome['error'] for outcome in outcomes if outcome and outcome['error']]
        failures += [dict(what=f'{spec.title}, seed {seed}', reason=error) for error in broken]
        if not broken and None not in outcomes:
            runs.append(_joined(outcomes))
    rates = ('learning_rate', 'multiplier', 'edge_of_grid')
    return dict(
        title=spec.title,
        family=spec.family,
        passes=spec.passes,
        configs=[comparison.config(encoder, model) for model in parts],
        options=list(spec.options),
        chosen={task: {key: choice[key] for key in rates} for task, choice in chosen.items()},
        sweep={} if spec.rates_of else {task: choice['tried'] for task, choice in chosen.items()},
        parameters=None if None in counts else _summed(counts),
        runs=runs,
        failures=failures,
    )


def _joined(outcomes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The models of one seed, which count together."""
    times = [outcome['seconds_per_iteration'] for outcome in outcomes]
    return dict(
        seed=outcomes[0]['seed'],
        metrics={key: value for outcome in outcomes for key, value in outcome['metrics'].items()},
        figures={key: value for outcome in outcomes for key, value in outcome['figures'].items()},
        seconds_per_iteration=None if None in times else sum(times),
        peak_memory_mib=max(outcome['peak_memory_mib'] for outcome in outcomes),
        commands=[outcome['command'] for outcome in outcomes],
        versions=outcomes[0]['versions'],
        hardware=outcomes[0]['hardware'],
    )


def _summed(counts: Sequence[dict[str, float]]) -> dict[str, float]:
    """Parameters by group; of several models, what all of them hold and train."""
    groups = {key: sum(count[key] for count in counts) for key in counts[0] if not key.startswith('percent')}
    return groups | dict(trained_in_encoder=sum(groups[key] for key in ('adapters', 'norms_biases', 'encoder_weights')))


def _references(comparison: Comparison, entries: dict[str, Any], reference: str) -> dict[str, Any]:
    if not reference:
        config = comparison.config(comparison.main, 'decoders_only')
        evaluator = EVALUATOR.build(Config.fromfile(ROOT / config).val_evaluator)
        if evaluator.foreign_references():
            # Relative changes against figures of another protocol would mean nothing.
            source = f'nothing: the references in {config} are of another protocol than its own'
            return dict(figures=None, source=source)
        return dict(figures=evaluator.references, source=f'the references in {config}')
    runs = entries[reference]['runs']
    title = 'single-task models' if reference == 'single_task' else METHODS[reference].title
    source = f'{title} trained here, mean over {len(runs)} seed{"" if len(runs) == 1 else "s"}'
    return dict(figures=results.mean_figures(runs) if runs else None, source=source)


def comparison_here() -> Comparison:
    """The comparison whose folder this is, but for what the results of a folder do not share."""
    return Comparison({key: value for key, value in loaded('settings.json').items() if key in OPTIONS})


def shown(path: str | Path) -> str:
    """A path as commands and records name it: relative to the repository inside of it."""
    path = Path(path)
    return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)


def loaded(path: str | Path) -> Any:
    return json.loads(Path(path).read_text(encoding='utf-8'))


def save(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1) + '\n', encoding='utf-8')


def main(argv: Sequence[str]) -> int:
    step, *words = argv
    count = words.index('from') if 'from' in words else len(words)
    arguments: dict[str, Any] = dict(word.split('=', 1) for word in words[:count])
    inputs = dict(inputs=words[count + 1 :]) if words[count:] else {}
    try:
        dict(pretrain=pretrain, train=train, choose=choose, collect=collect)[step](**arguments, **inputs)
    except subprocess.CalledProcessError as error:
        return error.returncode if error.returncode > 0 else 128 - error.returncode
    return 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
