"""From nothing to four dense tasks on this machine: render data, pretrain a small Swin, train VMT-Adapter on the frozen
encoder, train decoders only beside it, test both, and show what came out.

Every stage is one of the commands that a user would type; finished stages are kept, so an interrupted demo goes on."""

import argparse
import json
import os
import re
import shlex
import statistics
import subprocess
import sys
import time
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
    parser.add_argument('--train', type=int, default=800, help='training scenes')
    parser.add_argument('--val', type=int, default=200, help='validation scenes')
    parser.add_argument('--objects', type=int, default=200, help='pretraining pictures per class')
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


class Stages:
    """Runs commands one after another with a progress bar; a command that finished before is not run again.

    Args:
        out: Folder for logs and records.
        console: Where the progress goes.
    """

    def __init__(self, out: Path, console: Console) -> None:
        self.out = out
        self.console = console
        self.environment = os.environ | {'PYTHONPATH': os.pathsep.join([str(ROOT), os.environ.get('PYTHONPATH', '')])}

    def run(self, name: str, title: str, arguments: list[str]) -> float:
        """Run ``python ARGUMENTS`` and return its seconds.

        Raises:
            SystemExit: The command failed; its last lines are shown.
        """
        record_path, log_path = self.out / 'stages' / f'{name}.json', self.out / 'stages' / f'{name}.log'
        record_path.parent.mkdir(parents=True, exist_ok=True)
        if record_path.is_file() and (record := load(record_path))['arguments'] == arguments:
            self.console.print(f'[green]done before[/] {title}: {record["seconds"]:.0f} s')
            return record['seconds']
        self.console.print(f'[dim]$ python {shlex.join(arguments)}[/]', highlight=False, soft_wrap=True)
        start = time.monotonic()
        columns = (
            TextColumn('{task.description}'),
            BarColumn(),
            TextColumn('{task.fields[state]}'),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=self.console) as progress, open(log_path, 'w', encoding='utf-8') as log:
            bar = progress.add_task(title, total=None, state='')
            process = subprocess.Popen(
                [sys.executable, *arguments],
                cwd=ROOT,
                env=self.environment,
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
        if code != 0:
            tail = log_path.read_text(encoding='utf-8').splitlines()[-15:]
            self.console.print(*tail, sep='\n', markup=False, highlight=False)
            raise SystemExit(f'{title} failed with exit code {code}; the whole log is in {log_path}')
        seconds = time.monotonic() - start
        dump(dict(arguments=arguments, seconds=seconds), record_path)
        return seconds


def write_encoder(work_dir: Path, target: Path) -> None:
    """Keep only the encoder of a pretraining checkpoint."""
    checkpoint = (work_dir / 'last_checkpoint').read_text().strip()
    weights = torch.load(checkpoint, map_location='cpu', weights_only=False)['state_dict']
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
        render = ['tools/dataset/make_synthetic.py']
        self.stages.run(
            'scenes',
            'Rendering scenes',
            [
                *render,
                str(self.scenes),
                '--train',
                str(args.train),
                '--val',
                str(args.val),
                '--size',
                '160',
                '--seed',
                '0',
            ],
        )
        self.stages.run(
            'objects',
            'Rendering single objects',
            [*render, str(self.objects), '--classification', str(args.objects), '--size', '96', '--seed', '1'],
        )
        options = ['randomness.seed=0']
        options += schedule_options(args.pretrain_iters)
        work_dir = self.out / 'pretrain'
        arguments = ['tools/train.py', PRETRAIN, '--data-root', str(self.objects), '--work-dir', str(work_dir)]
        self.stages.run('pretrain', 'Pretraining a small Swin', [*arguments, '--cfg-options', *options])
        write_encoder(work_dir, self.encoder)

    def train_and_test(self, method: str, seed: int, learning_rate: float | None) -> dict:
        """One training and its test.

        Returns:
            ``metrics``, ``seconds`` of training, ``seed`` and ``learning_rate``.
        """
        config = METHODS[method]
        name = f'{Path(config).stem}_seed{seed}' + (f'_lr{learning_rate:g}' if learning_rate else '')
        work_dir = self.out / name
        options = [f'randomness.seed={seed}', f'model.backbone.init_cfg.checkpoint={self.encoder}']
        if learning_rate:
            options.append(f'optim_wrapper.optimizer.lr={learning_rate}')
        options += schedule_options(self.args.iters)
        common = ['--data-root', str(self.scenes), '--work-dir', str(work_dir)]
        title = f'{method}, seed {seed}' + (f', learning rate {learning_rate:g}' if learning_rate else '')
        seconds = self.stages.run(
            f'{name}_train',
            f'Training {title}',
            [
                'tools/train.py',
                config,
                *common,
                '--cfg-options',
                *options,
                'val_cfg=None',
                'val_dataloader=None',
                'val_evaluator=None',
            ],
        )
        checkpoint = (work_dir / 'last_checkpoint').read_text().strip()
        results = work_dir / 'results'
        self.stages.run(
            f'{name}_test', f'Testing {title}', ['tools/test.py', config, checkpoint, *common, '--out', str(results)]
        )
        metrics = load(results / 'metrics.json')['metrics']
        return dict(
            method=method,
            seed=seed,
            learning_rate=learning_rate,
            seconds=seconds,
            metrics=metrics,
            predictions=str(results),
        )

    def choose_learning_rate(self, method: str, constant: dict[str, float]) -> tuple[float | None, list[dict]]:
        """The learning rate with the best Delta_m against the constant predictor, and the trainings that chose it."""
        rates = self.args.learning_rates
        if not rates:
            return None, []
        runs = [self.train_and_test(method, SWEEP_SEED, rate) for rate in rates]
        scores = [delta_m(main_figures(run['metrics']), constant) for run in runs]
        return rates[int(np.argmax(scores))], runs


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
        return f'{mean:.2f}' + (f' ± {spread:.2f}' if several and spread else '')

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
            folder = Path(runs[method][0]['predictions'])
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
    runs, sweeps = {}, {}
    for method in METHODS:
        rate, sweeps[method] = demo.choose_learning_rate(method, constant)
        runs[method] = [demo.train_and_test(method, seed, rate) for seed in range(args.seeds)]
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
    record = run_record() | dict(rows=rows, runs=runs, sweeps=sweeps, parameters=parameters)
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
