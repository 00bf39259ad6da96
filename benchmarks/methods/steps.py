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
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmvmt.engine.provenance import run_record
from mmvmt.engine.run_config import schedule_options
from mmvmt.evaluation import delta_m, main_figures
from mmvmt.registry import EVALUATOR

from . import results
from .methods import METHODS, ROOT, SWEEP_SEED, Comparison, models, rates_of


def run(arguments: Sequence[Any], keep_open: Sequence[int] = ()) -> None:
    """Run ``python ARGUMENTS`` in the repository; a file that is locked stays so as long as it runs."""
    command = [sys.executable, *map(str, arguments)]
    print('$', shlex.join(['python', *command[1:]]), flush=True)
    subprocess.run(command, cwd=ROOT, check=True, pass_fds=keep_open)


def resumable(arguments: Sequence[Any], work_dir: Path, inputs: Sequence[str]) -> None:
    """Run a training. One that was stopped goes on from its last checkpoint, if nothing that it reads has changed.

    Raises:
        SystemExit: Another process trains in this folder.
    """
    digest = hashlib.sha256(' '.join(map(str, arguments)).encode())
    for name in inputs:
        digest.update(Path(name).read_bytes())
    started, lock_file = (work_dir.parent / f'{work_dir.name}.{suffix}' for suffix in ('started', 'lock'))
    work_dir.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        lock = stack.enter_context(open(lock_file, 'w', encoding='utf-8'))
        if not _locked(lock):
            raise SystemExit(f'{work_dir} is in use by a training that was left behind. Wait for it, or end it')
        keep_open = [lock.fileno(), *_one_gpu(stack)]
        same = started.is_file() and started.read_text() == digest.hexdigest()
        resume = same and (work_dir / 'last_checkpoint').is_file()
        if not resume:
            shutil.rmtree(work_dir, ignore_errors=True)
            started.write_text(digest.hexdigest())
        tool, *rest = arguments
        run([tool, *(['--resume'] if resume else []), *rest], keep_open)


def _locked(file: Any) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _one_gpu(stack: ExitStack) -> list[int]:
    """Take one of several GPUs that no other training of the comparison has on this machine."""
    import torch

    if torch.cuda.device_count() < 2:
        return []
    names = os.environ.get('CUDA_VISIBLE_DEVICES') or ','.join(map(str, range(torch.cuda.device_count())))
    while True:
        for name in names.split(','):
            file = open(f'.gpu{name}_{os.uname().nodename}', 'w', encoding='utf-8')  # noqa: SIM115
            if _locked(file):
                os.environ['CUDA_VISIBLE_DEVICES'] = name
                return [stack.enter_context(file).fileno()]
            file.close()
        time.sleep(1.0)


def pretrain(target: str, config: str, iters: str, inputs: Sequence[str]) -> None:
    """Train an encoder on single objects."""
    path = Path(target).resolve()
    work_dir, length = path.with_suffix(''), int(iters)
    command = ['tools/train.py', shown(config), '--data-root', shown(Path(inputs[0]).resolve().parent)]
    command += ['--work-dir', shown(work_dir), '--cfg-options', 'randomness.seed=0', *schedule_options(length)]
    resumable([*command, f'default_hooks.checkpoint.interval={max(1, length // 10)}'], work_dir, inputs)
    shutil.copy(work_dir / f'iter_{length}.pth', path)


def train(
    record: str,
    config: str,
    inputs: Sequence[str],
    seed: str,
    iters: str,
    warm_up: str,
    batch_size: str,
    crop: str,
    log: str,
    data_root: str,
    options: str = '',
    candidate: str = '',
) -> None:
    """Train and validate a model, as a trial if a candidate is named.

    Args:
        record: File for what it came to; the work dir has its name without suffix.
        config: Config file.
        inputs: Files that it reads; the one under ``rates/`` holds the learning rate, the ``.pth`` one the encoder.
        seed: Seed of the run.
        iters: Length of a training; a trial has half of it.
        warm_up: Share of it in which the rate rises.
        batch_size: Images per iteration.
        crop: Side of the training crops in pixels; ``'None'``: that of the config.
        log: Iterations between lines of the log.
        data_root: Folder of the data set.
        options: Further ``--cfg-options``.
        candidate: ``'lr0.01'`` or ``'x0.1'``: a rate of the heads, or a multiple of it for what trains in the encoder.
    """
    path = Path(record).resolve()
    work_dir, length = path.with_suffix(''), int(iters) // (2 if candidate else 1)
    rates = [name for name in inputs if Path(name).parts[0] == 'rates']
    encoders = [name for name in inputs if name.endswith('.pth')]
    chosen = json.loads(Path(rates[0]).read_text()) if rates else {}
    rate, multiplier = rates_from(candidate, chosen) if candidate else (chosen['learning_rate'], chosen['multiplier'])
    factor = 1 if multiplier is None else multiplier
    words = [
        f'randomness.seed={seed}',
        f'train_dataloader.batch_size={batch_size}',
        f'optim_wrapper.optimizer.lr={rate:g}',
        f'optim_wrapper.paramwise_cfg.adapter_lr_mult={factor:g}',
        f'optim_wrapper.paramwise_cfg.encoder_lr_mult={factor:g}',
        *schedule_options(length, float(warm_up)),
        f'default_hooks.checkpoint.interval={max(1, length // 10)}',
        'default_hooks.checkpoint.max_keep_ckpts=1',
        f'default_hooks.logger.interval={min(int(log), max(1, length // 5))}',
        *([] if crop == 'None' else [crop_option(config, int(crop))]),
        *(f'model.backbone.init_cfg.checkpoint={shown(Path(encoder).resolve())}' for encoder in encoders),
        *options.split(),
    ]
    folders = ['--data-root', shown(data_root), '--work-dir', shown(work_dir)]
    command = ['tools/train.py', shown(config), *folders, '--cfg-options', *words]
    resumable(command, work_dir, inputs)
    metrics, seconds, memory, diverged_at = read_log(work_dir, length)
    if metrics is None and diverged_at is None:
        # It was stopped between its last iteration and its validation.
        test = ['tools/test.py', shown(config), shown(work_dir / f'iter_{length}.pth'), *folders]
        run([*test, '--out', shown(work_dir / 'test'), *(['--cfg-options', options] if options else [])])
        metrics = json.loads((work_dir / 'test' / 'metrics.json').read_text())['metrics']
    figures = main_figures(metrics or {})
    error = f'the loss is no number at iteration {diverged_at}' if diverged_at is not None else None
    if error is None and not all(math.isfinite(value) for value in figures.values()):
        error = f'a figure is no number: {figures}'
    facts = run_record()
    outcome = dict(learning_rate=rate, multiplier=multiplier, seed=int(seed), metrics=metrics or {}, figures=figures)
    outcome |= dict(seconds_per_iteration=seconds, error=error, command=shlex.join(['python', *map(str, command)]))
    # Without a GPU, resident memory of the largest process; Linux counts in KiB.
    outcome['peak_memory_mib'] = memory or resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    outcome |= {key: facts[key] for key in ('versions', 'hardware')}
    path.write_text(json.dumps(outcome, indent=1))
    if candidate:
        for file in [*work_dir.glob('*.pth'), work_dir / 'last_checkpoint']:
            file.unlink(missing_ok=True)


def rates_from(candidate: str, heads: dict[str, Any]) -> tuple[float, float | None]:
    """Learning rate and multiplier of a candidate, given the choice for the heads."""
    if candidate.startswith('lr'):
        return float(candidate.removeprefix('lr')), None
    return heads['learning_rate'], float(candidate.removeprefix('x'))


def shown(path: str | Path) -> str:
    """A path as commands and records name it: relative to the repository inside of it."""
    path = Path(path)
    return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)


def crop_option(config: str, crop: int) -> str:
    """Config option for another side of the training crops."""
    pipeline = Config.fromfile(config).train_dataloader.dataset.pipeline
    (place,) = (index for index, transform in enumerate(pipeline) if 'crop_size' in transform)
    return f'train_dataloader.dataset.pipeline.{place}.crop_size=({crop},{crop})'


def read_log(work_dir: Path, iters: int) -> tuple[dict[str, float] | None, float | None, float | None, int | None]:
    """What a training wrote, in all its starts if it was interrupted.

    Returns:
        Metrics of the validation after the last iteration, median seconds per iteration, largest memory on a GPU in
        MiB, and the first logged iteration whose loss is no number; None for what there is not.
    """
    entries = list(_scalars(work_dir))
    trained = [entry for entry in entries if 'loss' in entry]
    validated = [entry for entry in entries if entry.get('step') == iters and any('/' in key for key in entry)]
    metrics = {key: value for key, value in validated[-1].items() if '/' in key} if validated else None
    times = [entry['time'] for entry in trained if 'time' in entry]
    memory = [entry['memory'] for entry in entries if 'memory' in entry]
    diverged = [entry['step'] for entry in trained if not math.isfinite(entry['loss'])]
    return metrics, statistics.median(times) if times else None, max(memory, default=None), next(iter(diverged), None)


def _scalars(work_dir: Path) -> Iterator[dict[str, Any]]:
    for path in sorted(work_dir.glob('*/vis_data/scalars.json')):
        for line in path.read_text(encoding='utf-8').splitlines(keepends=True):
            # A run that was killed may leave half a line.
            if line.endswith('\n'):
                yield json.loads(line)


def choose(target: str, candidates: str, trials: str, heads: str, constant: str) -> None:
    """Choose the candidate whose trial has the best Delta_m against the constant predictor.

    Raises:
        SystemExit: Every trial diverged.
    """
    floor = main_figures(json.loads(Path(constant).read_text())['metrics'])
    given = json.loads(Path(heads).read_text()) if heads else {}
    names, tried, scores = candidates.split(), [], []
    for file in trials.split():
        known = json.loads(Path(file).read_text())
        trial = {key: known[key] for key in ('learning_rate', 'multiplier')}
        score = -math.inf if known['error'] else delta_m(known['figures'], floor)
        more = dict(figures=known['figures'], delta_m_to_constant=score)
        tried.append(trial | (dict(error=known['error']) if known['error'] else more))
        scores.append(score)
    if scores and max(scores) == -math.inf:
        raise SystemExit(f'every trial diverged: {trials}')
    best = scores.index(max(scores)) if scores else 0
    # Heads on another encoder have no candidates: their rate is that of all heads.
    rate, multiplier = rates_from(names[best], given) if names else (given['learning_rate'], None)
    edge = {0: 'lowest', len(names) - 1: 'highest'}.get(best) if tried else None
    choice = dict(learning_rate=rate, multiplier=multiplier, edge_of_grid=edge, tried=tried)
    Path(target).write_text(json.dumps(choice, indent=1))


def collect(table: str, config: str, into: str = '.') -> None:
    """Write what a table's files hold as JSON, Markdown and a picture; what is missing is named as failed."""
    comparison = Comparison(json.loads(config))
    encoders, methods, reference = comparison.table(table)
    constant = main_figures(json.loads(Path('constant_predictor.json').read_text())['metrics'])
    entries = {encoder: _entries(comparison, encoder, methods) for encoder in encoders}
    found = run_record() | dict(settings=comparison.settings, tasks=list(constant), seeds=len(comparison.seeds))
    found['protocol'] = dict(
        iterations=comparison.values['iters'],
        sweep_iterations=comparison.values['iters'] // 2,
        sweep_seed=SWEEP_SEED,
        criterion='Delta_m against the constant predictor over the tasks of the model',
    )
    found |= dict(constant_predictor=constant, heads_learning_rate=None)
    heads = Path(f'rates/{comparison.main}/decoders_only.json')
    if heads.is_file():
        found['heads_learning_rate'] = json.loads(heads.read_text())['learning_rate']
    if len(encoders) > 1:
        found['reference'] = reference
        found['encoders'] = {
            encoder: dict(
                title=encoder.partition('_')[0],
                pretrain_iters=int(encoder.partition('_')[2]),
                parameters=(of['decoders_only']['parameters'] or {}).get('encoder'),
                methods=of,
            )
            for encoder, of in entries.items()
        }
    else:
        found['methods'] = entries[encoders[0]]
        found['references'] = _references(comparison, found['methods'], reference)
    folder, text = Path(into), results.report(found)
    folder.mkdir(exist_ok=True)
    (folder / f'{table}.json').write_text(json.dumps(found, indent=2) + '\n')
    (folder / f'{table}.md').write_text(text)
    results.draw(found, folder / f'{table}.png')
    print(text)


def _entries(comparison: Comparison, encoder: str, methods: Sequence[str]) -> dict[str, dict[str, Any]]:
    found = {}
    for method in methods:
        failures: list[dict[str, str]] = []

        def read(name: str, failures: list[dict[str, str]] = failures) -> Any:
            path = Path(f'{name}.json')
            if path.is_file():
                return json.loads(path.read_text())
            log = Path('logs', f'{name}.log')
            lines = log.read_text(errors='replace').splitlines()[-15:] if log.is_file() else []
            failures.append(dict(what=name, reason='\n'.join(['failed', *lines] if lines else ['not finished'])))
            return None

        parts = models(method)
        counts = [read(f'parameters/{encoder}/{model}') for model in parts]
        chosen = {model.partition('-')[2]: read(f'rates/{encoder}/{rates_of(model)}') for model in parts}
        runs = []
        for seed in comparison.seeds:
            outcomes = [read(f'trainings/{encoder}/{model}/seed{seed}') for model in parts]
            broken = [outcome for outcome in outcomes if outcome and outcome['error']]
            failures += [dict(what=f'{METHODS[method].title}, seed {seed}', reason=o['error']) for o in broken]
            if not broken and None not in outcomes:
                runs.append(_joined(outcomes))
        spec = METHODS[method]
        found[method] = dict(title=spec.title, family=spec.family, passes=spec.passes)
        found[method]['configs'] = [comparison.config(encoder, model) for model in parts]
        found[method]['options'] = list(spec.options)
        found[method]['chosen'] = {
            name: {key: choice[key] for key in ('learning_rate', 'multiplier', 'edge_of_grid')}
            for name, choice in chosen.items()
            if choice
        }
        found[method]['sweep'] = {} if spec.rates_of else {n: choice['tried'] for n, choice in chosen.items() if choice}
        found[method]['parameters'] = None if None in counts else _summed(counts)
        found[method] |= dict(runs=runs, failures=failures)
    return found


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
    trained = groups['adapters'] + groups['norms_biases'] + groups['encoder_weights']
    return groups | dict(trained_in_encoder=trained)


def _references(comparison: Comparison, entries: dict[str, Any], reference: str) -> dict[str, Any]:
    if not reference:
        config = comparison.config(comparison.main, 'decoders_only')
        evaluator = EVALUATOR.build(Config.fromfile(ROOT / config).val_evaluator)
        if evaluator.foreign_references():
            # Relative changes against figures of another protocol would mean nothing.
            return dict(
                figures=None, source=f'nothing: the references in {config} are of another protocol than its own'
            )
        return dict(figures=evaluator.references, source=f'the references in {config}')
    runs = entries[reference]['runs']
    title = 'single-task models' if reference == 'single_task' else METHODS[reference].title
    source = f'{title} trained here, mean over {len(runs)} seed{"" if len(runs) == 1 else "s"}'
    return dict(figures=results.mean_figures(runs) if runs else None, source=source)


STEPS = dict(pretrain=pretrain, train=train, choose=choose, collect=collect)


def main(argv: Sequence[str]) -> int:
    step, *words = argv
    count = words.index('from') if 'from' in words else len(words)
    arguments: dict[str, Any] = dict(word.split('=', 1) for word in words[:count])
    if inputs := words[count + 1 :]:
        arguments['inputs'] = inputs
    try:
        STEPS[step](**arguments)
    except subprocess.CalledProcessError as error:
        return error.returncode if error.returncode > 0 else 128 - error.returncode
    return 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
