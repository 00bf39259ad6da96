"""From nothing to four dense tasks on this machine: render data, pretrain a small Swin, train VMT-Adapter on the frozen
encoder, train decoders only beside it, test both, and show what came out.

Every stage is one of the commands that a user would type; finished stages are kept, so an interrupted demo goes on."""

import argparse
import hashlib
import json
import os
import re
import shlex
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmengine.fileio import dump, load
from mmengine.registry import init_default_scope
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from mmvmt.engine.provenance import run_record
from mmvmt.evaluation.constant_predictor import constant_predictions
from mmvmt.evaluation.evaluator import delta_m
from mmvmt.models.checkpoint import read_checkpoint
from mmvmt.registry import DATASETS, EVALUATOR
from mmvmt.structures import TASKS
from mmvmt.visualization import draw_multi_task

ROOT = Path(__file__).resolve().parents[1]
METHODS = {
    'decoders only': 'configs/baselines/swin_nano_decoders_only_synthetic.py',
    'VMT-Adapter': 'configs/vmt/swin_nano_synthetic.py',
}
PRETRAIN = 'configs/pretrain/swin_nano_synthetic_classification.py'
SWEEP_SEED = 100
"""Seed of the learning-rate sweep, apart from the seeds that are reported."""
SHOWN = 4
"""Scenes in the picture."""


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', default='work_dirs/demo', help='folder for everything (default: %(default)s)')
    parser.add_argument('--train', type=int, default=2000, help='training scenes')
    parser.add_argument('--val', type=int, default=200, help='validation scenes')
    parser.add_argument('--objects', type=int, default=300, help='pretraining pictures per class')
    parser.add_argument('--pretrain-iters', type=int, default=None, help='iterations of the pretraining')
    parser.add_argument('--iters', type=int, default=None, help='iterations of each training')
    parser.add_argument('--seeds', type=int, default=1, help='trainings per method')
    parser.add_argument(
        '--learning-rates',
        type=float,
        nargs='+',
        default=None,
        help='try these for each method first, on a seed of their own, and train with the best (default: the config)',
    )
    return parser.parse_args(argv)


@dataclass(frozen=True)
class Stage:
    """One command of the demo.

    Args:
        name: Name of its log and record.
        title: What it does, for the progress display.
        arguments: What follows ``python`` on the command line.
        inputs: Hash of what the command reads besides, see :func:`fingerprint`.
    """

    name: str
    title: str
    arguments: list[str]
    inputs: str = ''


def fingerprint(config: str, *files: Path) -> str:
    """Hash of a config with all that it inherits, and of some files."""
    digest = hashlib.sha256(Config.fromfile(ROOT / config).pretty_text.encode())
    for path in files:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


class Stages:
    """Runs commands with progress bars; a command that finished before is not run again.

    Args:
        out: Folder for logs and records.
        console: Where the progress goes.
    """

    def __init__(self, out: Path, console: Console) -> None:
        self.folder = out / 'stages'
        self.console = console

    def run(self, *stages: Stage) -> list[float]:
        """Run stages side by side, the cores shared evenly among them.

        Returns:
            Seconds of each.

        Raises:
            SystemExit: A command failed; its last lines are shown.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        waiting = [stage for stage in stages if self._record(stage) is None]
        for stage in stages:
            if stage not in waiting:
                self.console.print(f'[green]done before[/] {stage.title}: {self._record(stage)["seconds"]:.0f} s')
        for stage in waiting:
            command = shlex.join(['python', *stage.arguments])
            self.console.print(f'[dim]$ {command}[/]', highlight=False, soft_wrap=True)
        if waiting:
            threads = max(1, (os.cpu_count() or 1) // len(waiting))
            columns = TextColumn('{task.description}'), BarColumn(), TextColumn('{task.fields[state]}')
            bars = Progress(*columns, TimeElapsedColumn(), console=self.console)
            with bars, ThreadPoolExecutor(len(waiting)) as pool:
                codes = list(pool.map(lambda stage: self._run_one(stage, bars, threads), waiting))
            for stage, code in zip(waiting, codes):
                if code:
                    self._fail(stage, code)
        return [self._record(stage)['seconds'] for stage in stages]

    def _record(self, stage: Stage) -> dict | None:
        """What is known of a finished stage with these very arguments and inputs."""
        path = self.folder / f'{stage.name}.json'
        record = load(path) if path.is_file() else None
        done = record and (record['arguments'], record['inputs']) == (stage.arguments, stage.inputs)
        return record if done else None

    def _run_one(self, stage: Stage, progress: Progress, threads: int) -> int:
        bar = progress.add_task(stage.title, total=None, state='')
        python_path = os.pathsep.join([str(ROOT), os.environ.get('PYTHONPATH', '')])
        start = time.monotonic()
        with open(self.folder / f'{stage.name}.log', 'w', encoding='utf-8') as log:
            process = subprocess.Popen(
                [sys.executable, *stage.arguments],
                cwd=ROOT,
                env=os.environ | {'PYTHONPATH': python_path, 'OMP_NUM_THREADS': str(threads)},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for line in process.stdout:
                log.write(line)
                log.flush()
                if match := re.search(r'(\w+)\)\s+\[\s*(\d+)/(\d+)\]', line):
                    loss = re.search(r' loss: (\S+)', line)
                    state = f'{match[1]} {match[2]}/{match[3]}' + (f', loss {loss[1]}' if loss else '')
                    progress.update(bar, completed=int(match[2]), total=int(match[3]), state=state)
            code = process.wait()
        if code == 0:
            progress.update(bar, completed=1, total=1, state='done')
            seconds = time.monotonic() - start
            dump(
                dict(arguments=stage.arguments, inputs=stage.inputs, seconds=seconds),
                self.folder / f'{stage.name}.json',
            )
        return code

    def _fail(self, stage: Stage, code: int) -> None:
        log = self.folder / f'{stage.name}.log'
        tail = log.read_text(encoding='utf-8').splitlines()[-15:]
        self.console.print(*tail, sep='\n', markup=False, highlight=False)
        raise SystemExit(f'{stage.title} failed with exit code {code}; the whole log is in {log}')


def write_encoder(work_dir: Path, target: Path) -> None:
    """Keep only the encoder of a pretraining checkpoint."""
    checkpoint = (work_dir / 'last_checkpoint').read_text().strip()
    weights = read_checkpoint(checkpoint)['state_dict']
    torch.save({k: v for k, v in weights.items() if k.startswith('backbone.')}, target)


def schedule_options(iters: int | None) -> list[str]:
    """Config options for another length of training, a tenth of it warm-up; none for the config's own length."""
    if not iters:
        return []
    warm_up = max(1, iters // 10)
    length = [f'train_cfg.max_iters={iters}', f'train_cfg.val_interval={iters}', f'param_scheduler.1.end={iters}']
    return [*length, f'param_scheduler.0.end={warm_up}', f'param_scheduler.1.begin={warm_up}']


def validation_samples(config: str, data_root: Path) -> list:
    """The validation set as packed samples."""
    init_default_scope('mmvmt')
    cfg = Config.fromfile(ROOT / config)
    dataset = DATASETS.build(cfg.val_dataloader.dataset | dict(data_root=str(data_root)))
    return [dataset[index]['data_samples'] for index in range(len(dataset))]


def score_constant_predictor(config: str, data_root: Path) -> dict[str, float]:
    """Metrics of the best constant prediction per task."""
    evaluator = EVALUATOR.build(Config.fromfile(ROOT / config).val_evaluator)
    evaluator.dataset_meta = {}
    predicted = constant_predictions(validation_samples(config, data_root))
    for sample in predicted:
        evaluator.process([sample])
    return evaluator.evaluate(len(predicted))


def main_figures(metrics: dict[str, float]) -> dict[str, float]:
    """``{task: main figure}``."""
    return {
        name: metrics[f'{name}/{task.main_metric}']
        for name, task in TASKS.items()
        if f'{name}/{task.main_metric}' in metrics
    }


def count_parameters(config: str) -> dict[str, float]:
    """Parameter counts of a config, from the tool that prints them."""
    command = [sys.executable, 'tools/analysis/count_params.py', config, '--json']
    output = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return json.loads(output.splitlines()[-1])


class Demo:
    """The stages and their results.

    Args:
        args: Command-line arguments.
        console: Where to print.
    """

    def __init__(self, args: argparse.Namespace, console: Console) -> None:
        self.args = args
        self.out = Path(args.out).resolve()
        self.console = console
        self.stages = Stages(self.out, console)
        self.scenes, self.objects = self.out / 'scenes', self.out / 'objects'
        self.encoder = self.out / 'encoder.pth'

    def prepare(self) -> None:
        """Render the data and pretrain the encoder."""
        args = self.args
        # A stage that is done is not run again: whatever else lies there is of other arguments or incomplete.
        render = ['tools/dataset/make_synthetic.py', '--overwrite']
        scenes = [str(self.scenes), '--train', str(args.train), '--val', str(args.val), '--size', '128', '--seed', '0']
        self.stages.run(Stage('scenes', 'Rendering scenes', [*render, *scenes]))
        objects = [str(self.objects), '--classification', str(args.objects), '--size', '80', '--seed', '1']
        self.stages.run(Stage('objects', 'Rendering single objects', [*render, *objects]))
        work_dir = self.out / 'pretrain'
        arguments = ['tools/train.py', PRETRAIN, '--data-root', str(self.objects), '--work-dir', str(work_dir)]
        options = ['--cfg-options', 'randomness.seed=0', *schedule_options(args.pretrain_iters)]
        inputs = fingerprint(PRETRAIN, self.objects / 'synthetic.json')
        self.stages.run(Stage('pretrain', 'Pretraining a small Swin', [*arguments, *options], inputs))
        write_encoder(work_dir, self.encoder)

    def train_and_test(self, rates: dict[str, float | None], seed: int, iters: int | None) -> dict[str, dict]:
        """Train all methods side by side, then test them.

        Args:
            rates: ``{method: learning rate}``; None: that of the config.
            seed: Seed of all trainings.
            iters: Length of the trainings; None: that of the configs.

        Returns:
            For each method ``metrics``, ``seconds`` of training, ``seed``, ``learning_rate`` and the folder of
            ``predictions`` inside the demo's.
        """
        trainings, work_dirs = [], {}
        for method, rate in rates.items():
            config = METHODS[method]
            name = f'{Path(config).stem}_seed{seed}' + (f'_lr{rate:g}' if rate else '') + (f'_{iters}' if iters else '')
            work_dirs[method] = self.out / name
            options = [f'randomness.seed={seed}', f'model.backbone.init_cfg.checkpoint={self.encoder}']
            options += [f'optim_wrapper.optimizer.lr={rate}'] if rate else []
            options += [*schedule_options(iters), 'val_cfg=None', 'val_dataloader=None', 'val_evaluator=None']
            arguments = ['tools/train.py', config, *self._folders(work_dirs[method]), '--cfg-options', *options]
            title = f'{method}, seed {seed}' + (f', learning rate {rate:g}' if rate else '')
            inputs = fingerprint(config, self.encoder, self.scenes / 'synthetic.json')
            trainings.append(Stage(f'{name}_train', f'Training {title}', arguments, inputs))
        seconds = dict(zip(rates, self.stages.run(*trainings)))

        tests = []
        for method, training in zip(rates, trainings):
            work_dir = work_dirs[method]
            checkpoint = (work_dir / 'last_checkpoint').read_text().strip()
            arguments = ['tools/test.py', METHODS[method], checkpoint, *self._folders(work_dir)]
            arguments += ['--out', str(work_dir / 'results')]
            name, title = training.name.replace('_train', '_test'), training.title.replace('Training', 'Testing')
            tests.append(Stage(name, title, arguments, training.inputs))
        self.stages.run(*tests)
        return {
            method: dict(
                seed=seed,
                learning_rate=rate,
                seconds=seconds[method],
                metrics=load(work_dirs[method] / 'results' / 'metrics.json')['metrics'],
                predictions=str((work_dirs[method] / 'results').relative_to(self.out)),
            )
            for method, rate in rates.items()
        }

    def _folders(self, work_dir: Path) -> list[str]:
        return ['--data-root', str(self.scenes), '--work-dir', str(work_dir)]

    def sweep(self, constant: dict[str, float]) -> tuple[dict[str, float | None], list[dict[str, dict]]]:
        """The learning rate of each method with the best Delta_m against the constant predictor.

        Every rate is tried for half of the training's length on a seed of its own.

        Returns:
            ``{method: learning rate}``, None where none was to be tried, and the trainings that chose them.
        """
        rates = self.args.learning_rates
        if not rates:
            return dict.fromkeys(METHODS), []
        half = (self.args.iters or Config.fromfile(ROOT / METHODS['VMT-Adapter']).train_cfg.max_iters) // 2
        runs = [self.train_and_test(dict.fromkeys(METHODS, rate), SWEEP_SEED, half) for rate in rates]
        best = {}
        for method in METHODS:
            scores = [delta_m(main_figures(run[method]['metrics']), constant) for run in runs]
            best[method] = rates[int(np.argmax(scores))]
        return best, runs


def summarise(runs: dict[str, list[dict]], constant: dict[str, float], parameters: dict[str, dict]) -> list[dict]:
    """One row per method: mean and standard deviation over seeds; Delta_m against the mean of decoders only."""
    figures = {method: [main_figures(run['metrics']) for run in group] for method, group in runs.items()}
    reference = {task: statistics.mean(f[task] for f in figures['decoders only']) for task in constant}
    rows = [dict(method='constant predictor', figures=constant, spread=dict.fromkeys(constant, 0.0))]
    rows[0]['delta_m'] = [delta_m(constant, reference)]
    for method, group in figures.items():
        spread = {t: statistics.stdev(f[t] for f in group) if len(group) > 1 else 0.0 for t in constant}
        row = dict(method=method, figures={t: statistics.mean(f[t] for f in group) for t in constant}, spread=spread)
        row['delta_m'] = [delta_m(f, reference) for f in group]
        row['trainable'] = parameters[method]['trainable']
        row['percent_of_encoder'] = parameters[method]['percent_of_one_encoder']
        row['seconds'] = statistics.mean(run['seconds'] for run in runs[method])
        rows.append(row)
    return rows


def cells(row: dict, several: bool) -> list[str]:
    """A row of the table as text."""

    def value(mean: float, spread: float) -> str:
        # Adding zero turns a rounded minus zero into zero.
        return f'{round(mean, 2) + 0.0:.2f}' + (f' ± {spread:.2f}' if several and spread else '')

    deltas = row['delta_m']
    spread = statistics.stdev(deltas) if len(deltas) > 1 else 0.0
    text = [row['method'], *(value(row['figures'][t], row['spread'][t]) for t in row['figures'])]
    text.append(value(statistics.mean(deltas), spread))
    if 'trainable' in row:
        return [*text, f'{row["trainable"] / 1e6:.3f} M', f'{row["percent_of_encoder"]:.2f} %', f'{row["seconds"]:.0f}']
    return [*text, '0', '', '']


def header(tasks: list[str]) -> list[str]:
    """Column names."""
    arrows = {t: '↑' if TASKS[t].higher_is_better else '↓' for t in tasks}
    units = {t: '°' if TASKS[t].kind == 'vectors' else '%' for t in tasks}
    named = [f'{t} {TASKS[t].main_metric} [{units[t]}] {arrows[t]}' for t in tasks]
    return ['method', *named, 'Delta_m [%] ↑', 'trainable', 'of the encoder', 'training [s]']


def draw(demo: Demo, runs: dict[str, list[dict]]) -> Path:
    """One picture: some validation images, truth, and the predictions of both methods."""
    samples = [s for s in validation_samples(METHODS['VMT-Adapter'], demo.scenes) if (s.gt.human_parts != 255).any()]
    sections = []
    for sample in samples[:: max(1, len(samples) // SHOWN)][:SHOWN]:
        image = cv2.cvtColor(cv2.imread(sample.img_path), cv2.COLOR_BGR2RGB)
        rows = {'truth': {t: sample.gt.get(t) for t in demo_tasks(sample)}}
        for method in reversed(METHODS):
            folder = demo.out / runs[method][0]['predictions']
            rows[method] = {t: read_prediction(folder, t, sample.img_id) for t in demo_tasks(sample)}
        sections.append(draw_multi_task(image, rows))
    width = max(section.shape[1] for section in sections)
    padded = [np.pad(s, ((0, 0), (0, width - s.shape[1]), (0, 0)), constant_values=255) for s in sections]
    # All scenes have one size, and so have the sections: two side by side.
    lines = [np.concatenate(padded[i : i + 2], axis=1) for i in range(0, len(padded) - len(padded) % 2, 2)] or padded
    path = demo.out / 'predictions.png'
    cv2.imwrite(str(path), cv2.cvtColor(np.concatenate(lines), cv2.COLOR_RGB2BGR))
    return path


def demo_tasks(sample) -> list[str]:
    """Tasks of a sample in the usual order."""
    return [task for task in TASKS if task in sample.gt]


def read_prediction(folder: Path, task: str, img_id: str) -> np.ndarray:
    """A map that tools/test.py --out wrote."""
    path = str(folder / task / f'{img_id}.png')
    array = cv2.imread(path, cv2.IMREAD_UNCHANGED)
    if TASKS[task].kind == 'vectors':
        return array[..., ::-1].astype(np.float32) / 127.5 - 1
    return array if TASKS[task].kind == 'classes' else array.astype(np.float32) / 255


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    # A table that is piped into a file needs more than the 80 columns that rich assumes.
    console = Console() if sys.stdout.isatty() else Console(width=150)
    start = time.monotonic()
    demo = Demo(args, console)
    demo.prepare()
    constant = main_figures(score_constant_predictor(METHODS['VMT-Adapter'], demo.scenes))
    rates, sweep = demo.sweep(constant)
    by_seed = [demo.train_and_test(rates, seed, args.iters) for seed in range(args.seeds)]
    runs = {method: [run[method] for run in by_seed] for method in METHODS}
    parameters = {method: count_parameters(config) for method, config in METHODS.items()}
    rows = summarise(runs, constant, parameters)
    picture = draw(demo, runs)

    tasks = list(constant)
    table = Table(title='One frozen Swin, four dense tasks, rendered scenes')
    for index, name in enumerate(header(tasks)):
        table.add_column(name, justify='left' if index == 0 else 'right')
    several = args.seeds > 1
    for row in rows:
        table.add_row(*cells(row, several))
    console.print(table)
    lines = ['| ' + ' | '.join(line) + ' |' for line in [header(tasks), *(cells(row, several) for row in rows)]]
    lines.insert(1, '|' + '---|' * len(header(tasks)))
    (demo.out / 'results.md').write_text('\n'.join(lines) + '\n', encoding='utf-8')
    record = run_record() | dict(rows=rows, runs=runs, sweep=sweep, parameters=parameters)
    dump(record, demo.out / 'results.json', indent=2)
    console.print(
        f'Delta_m is the mean relative change against decoders only, over the four tasks. '
        f'Everything took {time.monotonic() - start:.0f} s.'
    )
    console.print(
        f'table    {demo.out / "results.md"}\nrecord   {demo.out / "results.json"}\npicture  {picture}', soft_wrap=True
    )
    return 0


if __name__ == '__main__':
    sys.exit(main())
