"""From nothing to four dense tasks on this machine: render data, pretrain a small Swin, train VMT-Adapter on the frozen
encoder, train decoders only beside it, test both, and show what came out.

Every stage is one of the commands that a user would type; finished stages are kept, so an interrupted demo goes on."""

import argparse
import json
import shlex
import statistics
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
from mmengine.config import Config
from mmengine.fileio import dump, load
from rich.console import Console
from rich.table import Table

from mmvmt.apis import (
    Stage,
    Stages,
    ValidationSamples,
    count_command,
    fingerprint,
    main_figures,
    schedule_options,
    score_constant_predictor,
    write_encoder,
)
from mmvmt.engine.provenance import run_record
from mmvmt.evaluation.evaluator import delta_m
from mmvmt.structures import TASKS, NormalsAxes
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


def count_parameters(config: str) -> dict[str, float]:
    """Parameter counts of a config, from the tool that prints them."""
    command = [sys.executable, *count_command(config)]
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
        self.stages = Stages(self.out, console, ROOT)
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
        inputs = fingerprint(ROOT / PRETRAIN, self.objects / 'synthetic.json')
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
            inputs = fingerprint(ROOT / config, self.encoder, self.scenes / 'synthetic.json')
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
    samples = [
        s for s in ValidationSamples(ROOT / METHODS['VMT-Adapter'], demo.scenes) if (s.gt.human_parts != 255).any()
    ]
    sections = []
    for sample in samples[:: max(1, len(samples) // SHOWN)][:SHOWN]:
        image = cv2.cvtColor(cv2.imread(sample.img_path), cv2.COLOR_BGR2RGB)
        rows = {'truth': {t: sample.gt.get(t) for t in demo_tasks(sample)}}
        for method in reversed(METHODS):
            folder = demo.out / runs[method][0]['predictions']
            rows[method] = {t: read_prediction(folder, t, sample.img_id) for t in demo_tasks(sample)}
        sections.append(draw_multi_task(image, rows, axes=NormalsAxes.of(sample)))
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
    # Where the demo has its usual folder, the config names its encoder, and the web page finds its checkpoint.
    encoder, usual = near(demo.encoder), Config.fromfile(ROOT / config).model.backbone.init_cfg.checkpoint
    is_usual = encoder == usual
    own_encoder = [] if is_usual else ['--cfg-options', f'model.backbone.init_cfg.checkpoint={encoder}']
    schedule = schedule_options(demo.args.iters)

    adapter, depth = near(work_dir / 'adapter.safetensors'), near(demo.out / 'depth')
    maps = ['demo/image_demo.py', image, config, checkpoint, '--out', near(demo.out / 'image_demo')]
    export = ['tools/model_converters/export_adapter.py', config, checkpoint, adapter]
    export += ['--metrics', near(results / 'metrics.json')]
    test = ['tools/test.py', config, adapter, *data, '--work-dir', near(work_dir)]
    test += ['--out', near(work_dir / 'adapter_results'), *own_encoder]
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
    start = time.monotonic()
    demo = Demo(args, console)
    demo.prepare()
    constant = main_figures(score_constant_predictor(ROOT / METHODS['VMT-Adapter'], demo.scenes))
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
    console.print('\nWhat to do with the trained model:')
    for purpose, command in next_commands(demo, runs).items():
        console.print(f'  {purpose}:\n    {command}', soft_wrap=True, markup=False, highlight=False)
    return 0


if __name__ == '__main__':
    sys.exit(main())
