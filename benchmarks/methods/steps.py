"""Steps that are more than a command: ``python -m benchmarks.methods.steps STEP KEY=VALUE ... [from FILE ...]``."""

from __future__ import annotations

import fcntl
import hashlib
import itertools
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

import torch
from mmengine import Config, dump

from benchmarks.markdown import insert
from mmvmt.engine.provenance import hardware, package_versions, run_record
from mmvmt.engine.run_config import schedule_options
from mmvmt.evaluation import delta_m, main_figures
from mmvmt.registry import EVALUATOR
from mmvmt.structures import read_json

from .methods import ROOT, SPEC, Comparison
from .results import draw, report, table


def run(arguments: Sequence[str]) -> None:
    """Run ``python ARGUMENTS`` in the repository. It keeps locks that are held, also when it outlives this process."""
    print('$', shlex.join(['python', *arguments]), flush=True)
    if code := subprocess.run([sys.executable, *arguments], cwd=ROOT, close_fds=False).returncode:
        sys.exit(code if code > 0 else 128 - code)


def resumable(work_dir: Path, config: str, data: Path, options: Sequence[str], inputs: Sequence[str]) -> list[str]:
    """Run a training, from its last checkpoint if it was stopped and reads what it read then; return its command."""
    folders = ['--data-root', shown(data), '--work-dir', shown(work_dir)]
    command = ['tools/train.py', shown(config), *folders, '--cfg-options', *options]
    contents = [' '.join(command).encode(), *(Path(name).read_bytes() for name in inputs)]
    started, digest = work_dir / 'started', ' '.join(hashlib.sha256(content).hexdigest() for content in contents)
    same = started.is_file() and started.read_text() == digest
    if not same:
        shutil.rmtree(work_dir, ignore_errors=True)
        work_dir.mkdir(parents=True)
        started.write_text(digest)
    take_gpu()
    run([command[0], *(['--resume'] if same and (work_dir / 'last_checkpoint').is_file() else []), *command[1:]])
    return command


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


def pretrain(target: str, config: str, iters: str, inputs: Sequence[str]) -> None:
    """Train an encoder on single objects."""
    length, work_dir = int(iters), Path(target).resolve().with_suffix('')
    options = ['randomness.seed=0', f'default_hooks.checkpoint.interval={max(1, length // 10)}']
    resumable(work_dir, config, Path(inputs[0]).parent, [*options, *schedule_options(length)], inputs)
    shutil.copy(work_dir / f'iter_{length}.pth', target)


def train(record: str, config: str, seed: str, inputs: Sequence[str], options: str = '', candidate: str = '') -> None:
    """Train and validate a model, as a trial of half the length for a candidate: ``'lr0.01'``, a rate of the heads, or
    ``'x0.1'``, a multiple of it for what trains in the encoder. The work dir has the record's name without suffix."""
    comparison, work_dir = Comparison(read_json('settings.json')), Path(record).resolve().with_suffix('')
    preset, length = comparison.preset, comparison.values['iters'] // (2 if candidate else 1)
    rate, multiplier = rates_from(candidate, *(read_json(name) for name in inputs if name.startswith('rates/')))
    values = preset | dict(seed=seed, rate=rate, factor=1 if multiplier is None else multiplier)
    values |= dict(checkpoint=max(1, length // 10), log=min(preset['log'], max(1, length // 5)))
    words = [option.format_map(values) for option in (*SPEC['cfg_options'], *preset['cfg_options'])]
    words += [f'model.backbone.init_cfg.checkpoint={shown(name)}' for name in inputs if name.endswith('.pth')]
    words += [*schedule_options(length, preset['warm_up']), *shlex.split(options)]
    command = resumable(work_dir, config, comparison.data_root, words, inputs)

    # What was logged in all its starts; one that was killed may leave half a line.
    files = sorted(work_dir.glob('*/vis_data/scalars.json'))
    log = [json.loads(line) for path in files for line in path.open(encoding='utf-8') if line.endswith('\n')]
    trained = [entry for entry in log if 'loss' in entry]
    metrics = {key: value for entry in log if entry['step'] == length for key, value in entry.items() if '/' in key}
    lost = [entry['step'] for entry in trained if not math.isfinite(entry['loss'])]
    if not metrics and not lost:
        # It was stopped between its last iteration and its validation.
        test = ['tools/test.py', command[1], shown(work_dir / f'iter_{length}.pth'), *command[2:6]]
        run([*test, '--out', shown(work_dir / 'test'), *(['--cfg-options', *shlex.split(options)] if options else [])])
        metrics = read_json(work_dir / 'test' / 'metrics.json')['metrics']
    figures = main_figures(metrics)
    error = f'the loss is no number at iteration {lost[0]}' if lost else None
    if not error and not all(map(math.isfinite, figures.values())):
        error = f'a figure is no number: {figures}'
    # Without a GPU, resident memory of the largest process; Linux counts in KiB.
    resident = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    times = [entry['time'] for entry in trained if 'time' in entry]
    outcome = dict(learning_rate=rate, multiplier=multiplier, seed=int(seed), metrics=metrics, figures=figures)
    outcome |= dict(error=error, seconds_per_iteration=statistics.median(times) if times else None)
    outcome |= dict(peak_memory_mib=max((entry['memory'] for entry in log if 'memory' in entry), default=resident))
    outcome |= dict(command=shlex.join(['python', *command]), versions=package_versions(), hardware=hardware())
    dump(outcome, record, indent=1)
    for file in [*work_dir.glob('*.pth'), work_dir / 'last_checkpoint'] if candidate else ():
        file.unlink(missing_ok=True)


def rates_from(candidate: str, chosen: dict[str, Any] | None = None) -> tuple[float, float | None]:
    """Learning rate and multiplier of a candidate, given the choice for the heads; without one, those chosen."""
    if candidate.startswith('lr'):
        return float(candidate.removeprefix('lr')), None
    return chosen['learning_rate'], float(candidate.removeprefix('x')) if candidate else chosen['multiplier']


def choose(encoder: str, model: str) -> None:
    """Choose the candidate whose trial has the best Delta_m against the constant predictor."""
    comparison, edge = Comparison(read_json('settings.json')), None
    floor = main_figures(read_json('constant_predictor.json')['metrics'])
    trials = [read_json(name) for name in comparison.trials(encoder, model)]
    gains = [None if trial['error'] else delta_m(trial['figures'], floor) for trial in trials]
    if trials:
        best = max(range(len(trials)), key=lambda place: -math.inf if gains[place] is None else gains[place])
        if gains[best] is None:
            sys.exit(f'every trial of {model} on {encoder} diverged')
        rate, multiplier = trials[best]['learning_rate'], trials[best]['multiplier']
        edge = {0: 'lowest', len(trials) - 1: 'highest'}.get(best)
    else:
        # One candidate needs no trial; heads on another encoder have none: their rate is that of all heads.
        given = [read_json(name) for name in comparison.heads_rate(encoder, model)]
        rate, multiplier = rates_from(*(comparison.candidates(encoder, model) or ['']), *given)
    kept = ('learning_rate', 'multiplier', 'figures', 'error')
    tried = [{key: trial[key] for key in kept} | dict(delta_m_to_constant=gain) for trial, gain in zip(trials, gains)]
    choice = dict(learning_rate=rate, multiplier=multiplier, edge_of_grid=edge, tried=tried)
    dump(choice, f'rates/{encoder}/{model}.json', indent=1)


def collect(name: str, config: str, into: str = '.') -> None:
    """Write what a table's files hold as JSON, Markdown and a picture; what is missing is named as failed."""
    options, floor = json.loads(config), Path('constant_predictor.json')
    if not floor.is_file():
        sys.exit(f'no table of what is finished: {floor} is missing; see logs/constant_predictor.log')
    comparison, constant = Comparison(options), main_figures(read_json(floor)['metrics'])
    iters, reference = comparison.values['iters'], comparison.reference(name)
    given = ' '.join(f'{key}={value}' for key, value in (dict(seeds=len(comparison.seeds)) | options).items())
    found = run_record() | dict(command=f'snakemake -s benchmarks/methods/Snakefile {name} --config {given}')
    found |= dict(settings=comparison.settings, preset=comparison.preset, seeds=len(comparison.seeds))
    found |= dict(tasks=list(constant), constant_predictor=constant, reference=reference)
    found |= dict(published=None if reference else published(comparison))
    found |= dict(protocol=SPEC['protocol'] | dict(iterations=iters, sweep_iterations=iters // 2))
    found |= dict(models=[_contents(entry) for entry in comparison.entries(name)])
    folder, text = Path(into), report(found)
    folder.mkdir(exist_ok=True)
    dump(found, folder / f'{name}.json', indent=1)
    (folder / f'{name}.md').write_text(text)
    draw(found, folder / f'{name}.png')
    print(text)


def _contents(entry: dict[str, Any]) -> dict[str, Any]:
    """What the files of a model hold; what is missing or diverged is among its failures."""
    found: dict[str, Any] = entry | dict(failures=[])
    for kind in ('parameters', 'rates', 'runs'):
        found[kind] = []
        for name in entry[kind]:
            log = Path('logs', name).with_suffix('.log')
            lines = log.read_text(errors='replace').splitlines()[-15:] if log.is_file() else []
            missing = dict(error='\n'.join(['failed', *lines] if lines else ['not finished']))
            content = read_json(name) if Path(name).is_file() else missing
            if content.get('error'):
                found['failures'].append(dict(what=name, reason=content['error']))
            else:
                found[kind].append(content)
    return found


def show(results: str, page: str = '', picture: str = '') -> None:
    """Put the table of earlier results into its place in a page, or draw them again."""
    found, name = read_json(results), Path(results).stem
    if page:
        insert(page, f'<!-- {name}:begin -->', f'<!-- {name}:end -->', table(found))
    if picture:
        draw(found, Path(picture))


def published(comparison: Comparison) -> dict[str, Any]:
    """The references in the configs, and what they are; none where relative changes against them mean nothing."""
    config = comparison.config(comparison.main, 'decoders_only')
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
    pairs = list(itertools.takewhile(lambda word: word != 'from', words))
    arguments: dict[str, Any] = dict(pair.split('=', 1) for pair in pairs)
    if inputs := words[len(pairs) + 1 :]:
        arguments['inputs'] = inputs
    dict(pretrain=pretrain, train=train, choose=choose, collect=collect, show=show)[step](**arguments)


if __name__ == '__main__':
    main(sys.argv[1:])
