"""Four dense tasks on this machine: render scenes, train VMT-Adapter on the small Swin that comes with mmvmt, and
decoders only beside it, test both, and show what came out.

Every step is a command that a user would type. One whose output is there is skipped, so an interrupted demo goes on."""

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
from mmengine.config import Config
from mmengine.fileio import dump, load
from rich.console import Console
from rich.table import Table

from mmvmt.engine.provenance import run_record
from mmvmt.engine.run_config import schedule_options, set_data_root
from mmvmt.evaluation import delta_m, main_figures
from mmvmt.evaluation.constant_predictor import ValidationSamples
from mmvmt.structures import TASKS, MultiTaskDataSample, NormalsAxes
from mmvmt.visualization import draw_multi_task

ROOT = Path(__file__).resolve().parents[1]
METHODS = {
    'decoders only': 'configs/baselines/swin_nano_decoders_only_synthetic.py',
    'VMT-Adapter': 'configs/vmt/swin_nano_synthetic.py',
}
USUAL = 'work_dirs/demo'
"""Folder in which demo/web.py looks for what the demo has trained."""
SWEEP_SEED = 100
"""Seed of the learning-rate sweep, apart from the seeds that are reported."""
SHOWN = 2
"""Scenes in the picture."""
ENLARGED = 2
"""Times that a pixel of a scene is drawn, across and down."""


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', default=USUAL, help='folder for everything (default: %(default)s)')
    parser.add_argument('--train', type=int, default=500, help='training scenes')
    parser.add_argument('--val', type=int, default=200, help='validation scenes')
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


def start(arguments: Sequence[str], log: Path, threads: int) -> subprocess.Popen:
    """Start ``python ARGUMENTS`` in the project's folder, its output in a file."""
    python_path = os.pathsep.join([str(ROOT), os.environ.get('PYTHONPATH', '')])
    environment = dict(os.environ, PYTHONPATH=python_path, OMP_NUM_THREADS=str(threads))
    with log.open('w', encoding='utf-8') as output:
        return subprocess.Popen(
            [sys.executable, *arguments], cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT
        )


class Demo:
    """The commands and their results.

    Args:
        args: Command-line arguments.
        console: Where to print.
    """

    def __init__(self, args: argparse.Namespace, console: Console) -> None:
        self.args = args
        self.out = Path(args.out).resolve()
        self.console = console
        self.scenes = self.out / 'scenes'
        self.ran: set[str] = set()
        (self.out / 'commands').mkdir(parents=True, exist_ok=True)

    def run(self, commands: dict[str, tuple[str, list]], after: Sequence[str] = ()) -> list[float]:
        """Run commands side by side, the cores shared evenly among them.

        Args:
            commands: ``{name: (title, arguments)}``. One that ended well before, with these arguments, is skipped.
            after: Names of commands whose output they read: where one of these ran anew, so do they.

        Returns:
            Seconds of each.

        Raises:
            SystemExit: A command failed; its last lines are shown.
        """
        folder = self.out / 'commands'
        lines = {name: shlex.join(['python', *map(str, arguments)]) for name, (_, arguments) in commands.items()}
        records = {name: folder / f'{name}.json' for name in commands}
        waiting = []
        for name, (title, _) in commands.items():
            known = load(records[name]) if records[name].is_file() else {}
            if known.get('command') == lines[name] and not self.ran.intersection(after):
                self.console.print(f'[green]done before[/] {title}: {known["seconds"]:.0f} s')
            else:
                waiting.append(name)
        threads = max(1, int(os.environ.get('OMP_NUM_THREADS', os.cpu_count() or 1)) // max(1, len(waiting)))
        running, begin = {}, time.monotonic()
        for name in waiting:
            self.console.print(f'[dim]$ {lines[name]}[/]', highlight=False, soft_wrap=True)
            records[name].unlink(missing_ok=True)
            running[name] = start([str(word) for word in commands[name][1]], folder / f'{name}.log', threads)
        try:
            while running:
                for name in [name for name, process in running.items() if process.poll() is not None]:
                    if code := running.pop(name).returncode:
                        log = folder / f'{name}.log'
                        tail = log.read_text(encoding='utf-8', errors='replace').splitlines()[-15:]
                        self.console.print('\n'.join(tail), markup=False, highlight=False)
                        raise SystemExit(f'{commands[name][0]} failed with exit code {code}; the whole log is in {log}')
                    dump(dict(command=lines[name], seconds=time.monotonic() - begin), records[name])
                    self.ran.add(name)
                time.sleep(0.1)
        finally:
            for process in running.values():
                process.terminate()
        return [load(record)['seconds'] for record in records.values()]

    def prepare(self) -> dict[str, float]:
        """Render the scenes; returns the figures of the constant predictor on them."""
        args = self.args
        # A command that is done is not run again: whatever else lies there is of other arguments or incomplete.
        render = ['tools/dataset/make_synthetic.py', '--overwrite', self.scenes]
        render += ['--train', args.train, '--val', args.val, '--seed', 0]
        self.run({'scenes': ('Rendering scenes', render)})
        floor = self.out / 'constant_predictor.json'
        score = ['tools/analysis/constant_predictor.py', METHODS['VMT-Adapter'], '--data-root', self.scenes]
        self.run({'constant': ('Scoring the constant predictor', [*score, '--out', floor])}, after=['scenes'])
        return main_figures(load(floor)['metrics'])

    def schedule(self, iters: int | None) -> list[str]:
        """Config options for another length of training; none for the config's own length."""
        return schedule_options(iters) if iters else []

    def count_parameters(self, config: str) -> dict[str, float]:
        """Parameter counts of a config, from the tool that prints them."""
        name = f'count_{Path(config).stem}'
        self.run({name: (f'Counting {config}', ['tools/analysis/count_params.py', config, '--json'])})
        return json.loads((self.out / 'commands' / f'{name}.log').read_text(encoding='utf-8').splitlines()[-1])

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
        trainings, tests, work_dirs = {}, {}, {}
        for method, rate in rates.items():
            config = METHODS[method]
            name = f'{Path(config).stem}_seed{seed}' + (f'_lr{rate:g}' if rate else '') + (f'_{iters}' if iters else '')
            title = f'{method}, seed {seed}' + (f', learning rate {rate:g}' if rate else '')
            work_dirs[method] = work_dir = self.out / name
            folders = ['--data-root', self.scenes, '--work-dir', work_dir]
            options = [f'randomness.seed={seed}']
            options += [f'optim_wrapper.optimizer.lr={rate}'] if rate else []
            options += [*self.schedule(iters), 'val_cfg=None', 'val_dataloader=None', 'val_evaluator=None']
            train = ['tools/train.py', config, *folders, '--cfg-options', *options]
            trainings[f'{name}_train'] = f'Training {title}', train
            length = iters or Config.fromfile(ROOT / config).train_cfg.max_iters
            test = ['tools/test.py', config, work_dir / f'iter_{length}.pth', *folders, '--out', work_dir / 'results']
            tests[f'{name}_test'] = f'Testing {title}', test
        seconds = self.run(trainings, after=['scenes'])
        self.run(tests, after=[*trainings, 'scenes'])
        return {
            method: dict(
                seed=seed,
                learning_rate=rate,
                seconds=taken,
                metrics=load(work_dirs[method] / 'results' / 'metrics.json')['metrics'],
                predictions=str((work_dirs[method] / 'results').relative_to(self.out)),
            )
            for (method, rate), taken in zip(rates.items(), seconds)
        }

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
    named = [f'{t} {TASKS[t].main_metric} [{TASKS[t].figure_unit}] {arrows[t]}' for t in tasks]
    return ['method', *named, 'Delta_m [%] ↑', 'trainable', 'of the encoder', 'training [s]']


def worth_showing(sample: MultiTaskDataSample) -> tuple[int, bool, int]:
    """How much there is to see in the truth of a scene: parts of persons, another object, the size of the parts."""
    parts, objects = (maps[(maps > 0) & (maps != 255)] for maps in (sample.gt.human_parts, sample.gt.semseg))
    return len(parts.unique()), len(objects.unique()) > 1, len(parts)


def draw(demo: Demo, runs: dict[str, list[dict]]) -> Path:
    """One picture: the validation scenes with the most to see, truth, and the predictions of both methods."""
    cfg = Config.fromfile(ROOT / METHODS['VMT-Adapter'])
    set_data_root(cfg, str(demo.scenes))
    sections = []
    for sample in sorted(ValidationSamples(cfg), key=worth_showing, reverse=True)[:SHOWN]:
        image = cv2.cvtColor(cv2.imread(sample.img_path), cv2.COLOR_BGR2RGB)
        # Maps are drawn in the size of the image.
        image = image.repeat(ENLARGED, 0).repeat(ENLARGED, 1)
        rows = {'truth': {t: sample.gt.get(t) for t in demo_tasks(sample)}}
        for method in reversed(METHODS):
            folder = demo.out / runs[method][0]['predictions']
            rows[method] = {t: read_prediction(folder, t, sample.img_id) for t in demo_tasks(sample)}
        sections.append(draw_multi_task(image, rows, axes=NormalsAxes.of(sample)))
    path = demo.out / 'predictions.png'
    # All scenes have one size, and so have the sections.
    cv2.imwrite(str(path), cv2.cvtColor(np.concatenate(sections), cv2.COLOR_RGB2BGR))
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


def next_commands(demo: Demo, runs: dict[str, list[dict]]) -> dict[str, str]:
    """What one can do with the trained VMT-Adapter, by what it gives: commands that work as they are printed."""

    def near(path: Path) -> str:
        return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)

    results = demo.out / runs['VMT-Adapter'][0]['predictions']
    work_dir = results.parent
    checkpoint = near(Path((work_dir / 'last_checkpoint').read_text().strip()))
    first = (demo.scenes / 'ImageSets' / 'Context' / 'val.txt').read_text().split()[0]
    image = near(demo.scenes / 'JPEGImages' / f'{first}.jpg')
    python, config = near(Path(sys.executable)), METHODS['VMT-Adapter']
    data = ['--data-root', near(demo.scenes)]
    # The web page finds the checkpoint in the demo's usual folder by itself.
    is_usual = demo.out == ROOT / USUAL
    schedule = demo.schedule(demo.args.iters)

    adapter, depth = near(work_dir / 'adapter.safetensors'), near(demo.out / 'depth')
    maps = ['demo/image_demo.py', image, config, checkpoint, '--out', near(demo.out / 'image_demo')]
    export = ['tools/model_converters/export_adapter.py', config, checkpoint, adapter]
    export += ['--metrics', near(results / 'metrics.json')]
    test = ['tools/test.py', config, adapter, *data, '--work-dir', near(work_dir)]
    test += ['--out', near(work_dir / 'adapter_results')]
    add = ['tools/add_task.py', config, checkpoint, '--task', 'depth', *data, '--work-dir', depth]
    add += ['--images', str(demo.args.val), *(['--cfg-options', *schedule] if schedule else [])]
    page = ['demo/web.py', *([] if is_usual else [config, checkpoint])]
    install = '' if find_spec('gradio') else f'; first {python} -m pip install -r requirements/optional.txt'
    commands = {
        'the four maps of a picture': maps,
        'what was trained as a file of its own, without the frozen encoder': export,
        'the same test with that file and the encoder': test,
        'depth as a fifth task; says whether the outputs of the other four stay identical, bit for bit': add,
        f'a page for the browser on which a picture becomes maps{install}': page,
    }
    return {purpose: shlex.join([python, *command]) for purpose, command in commands.items()}


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    # A table that is piped into a file needs more than the 80 columns that rich assumes.
    console = Console() if sys.stdout.isatty() else Console(width=150)
    begin = time.monotonic()
    demo = Demo(args, console)
    constant = demo.prepare()
    rates, sweep = demo.sweep(constant)
    by_seed = [demo.train_and_test(rates, seed, args.iters) for seed in range(args.seeds)]
    runs = {method: [run[method] for run in by_seed] for method in METHODS}
    parameters = {method: demo.count_parameters(config) for method, config in METHODS.items()}
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
        f'Everything took {time.monotonic() - begin:.0f} s.'
    )
    console.print(
        f'table    {demo.out / "results.md"}\nrecord   {demo.out / "results.json"}\npicture  {picture}', soft_wrap=True
    )
    console.print('\nWhat to do with the trained model:')
    for purpose, command in next_commands(demo, runs).items():
        console.print(f'  {purpose}:\n    {command}', soft_wrap=True, markup=False, highlight=False)
    return 0


if __name__ == '__main__':
    sys.exit(main())
