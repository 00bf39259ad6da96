"""Compare methods on equal terms: the same data, encoder, heads, schedule and budget for a learning rate; only the
method differs. Writes results.json, results.md and a picture of Delta_m over trainable parameters. The protocol is in
docs/benchmark.md.

Every stage is one of the commands that a user would type. Interrupted, the comparison goes on where it stopped; a
method that fails does not stop the others."""

import argparse
import fcntl
import json
import math
import re
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.fileio import load
from rich.console import Console

from mmvmt.apis import (
    Stage,
    Stages,
    count_command,
    fingerprint,
    main_figures,
    read_training_log,
    schedule_options,
    score_constant_predictor,
    write_encoder,
)
from mmvmt.apis.comparison import (
    draw,
    draw_scaling,
    insert_table,
    mean_figures,
    report,
    scaling_table,
    summarise,
)
from mmvmt.engine.hooks.atomic_checkpoint_hook import write_atomically
from mmvmt.engine.provenance import run_record
from mmvmt.evaluation.evaluator import delta_m

ROOT = Path(__file__).resolve().parents[1]
TASKS = ('semseg', 'human_parts', 'saliency', 'normals')
SWEEP_SEED = 100
"""Seed of the learning-rate sweep, apart from the seeds that are reported."""


@dataclass(frozen=True)
class MethodSpec:
    """A row of the comparison.

    Args:
        title: Name in table and picture.
        family: Key of ``mmvmt.apis.comparison.FAMILIES``.
        passes: How often the encoder runs per image: ``'1'``, ``'T'`` for the number of tasks, ``'T models'``.
        configs: ``{preset: {part: config}}``; a part is a model of its own, the only one is named ``''``.
        variant_of: Method of which it is a variant, trained at its rates without trials, and only where it is asked
            for by name; empty: it is a method of its own.
    """

    title: str
    family: str
    passes: str
    configs: dict[str, dict[str, str]]
    variant_of: str = ''


def _spec(title: str, family: str, passes: str, pascal: str, synthetic: str, variant_of: str = '') -> MethodSpec:
    configs = dict(pascal={'': f'configs/{pascal}.py'}, synthetic={'': f'configs/{synthetic}.py'})
    return MethodSpec(title, family, passes, configs, variant_of)


def _baseline(title: str, family: str, name: str, passes: str = 'T') -> MethodSpec:
    return _spec(title, family, passes, f'baselines/swin_t_{name}_pascal', f'baselines/swin_nano_{name}_synthetic')


METHODS: dict[str, MethodSpec] = {
    'single_task': MethodSpec(
        'single-task fine-tuning',
        'full fine-tuning',
        'T models',
        dict(
            pascal={task: f'configs/baselines/swin_t_single_{task}_pascal.py' for task in TASKS},
            synthetic={task: f'configs/baselines/swin_nano_single_{task}_synthetic.py' for task in TASKS},
        ),
    ),
    'decoders_only': _baseline('decoders only', 'decoders only', 'decoders_only', passes='1'),
    'multi_task': _baseline('multi-task fine-tuning', 'full fine-tuning', 'full_multitask', passes='1'),
    'bitfit': _baseline('BitFit', 'parts of the encoder', 'bitfit'),
    'relative_position_bias': _baseline('relative position bias', 'parts of the encoder', 'relative_position_bias'),
    'norms': _baseline('norms', 'parts of the encoder', 'norms'),
    'vpt_shallow': _baseline('VPT-shallow', 'prompts', 'vpt_shallow'),
    'vpt_deep': _baseline('VPT-deep', 'prompts', 'vpt_deep'),
    'phm_adapter': _baseline('PHM layer', 'Kronecker sums', 'phm_adapter'),
    'compacter': _baseline('Compacter', 'Kronecker sums', 'compacter'),
    'compacter_plus_plus': _baseline('Compacter++', 'Kronecker sums', 'compacter_plus_plus'),
    'lora': _baseline('LoRA', 'low rank', 'lora'),
    'adapter': _baseline('Adapter', 'bottleneck adapters', 'adapter'),
    'low_rank_adapter': _baseline('Low-rank adapter', 'low rank', 'low_rank_adapter'),
    'shared_adapter': _baseline('Shared adapter', 'bottleneck adapters', 'shared_adapter', passes='1'),
    'hyperformer': _spec(
        'HyperFormer', 'hypernetworks', 'T', 'hyperformer/swin_t_pascal', 'hyperformer/swin_nano_synthetic'
    ),
    'polyhistor': _spec(
        'Polyhistor', 'hypernetworks', 'T', 'polyhistor/swin_t_pascal', 'polyhistor/swin_nano_synthetic'
    ),
    'polyhistor_lite': _spec(
        'Polyhistor-Lite', 'hypernetworks', 'T', 'polyhistor/swin_t_lite_pascal', 'polyhistor/swin_nano_lite_synthetic'
    ),
    'vmt_adapter': _spec('VMT-Adapter', 'VMT-Adapter', '1', 'vmt/swin_t_pascal', 'vmt/swin_nano_synthetic'),
    'vmt_adapter_lite': _spec(
        'VMT-Adapter-Lite', 'VMT-Adapter', '1', 'vmt/swin_t_lite_pascal', 'vmt/swin_nano_lite_synthetic'
    ),
    'vmt_adapter_bf16': _spec(
        'VMT-Adapter, encoder in bfloat16',
        'VMT-Adapter',
        '1',
        'vmt/swin_t_bf16_pascal',
        'vmt/swin_nano_bf16_synthetic',
        variant_of='vmt_adapter',
    ),
    'vmt_adapter_deformable': _spec(
        'VMT-Adapter, deformable heads',
        'VMT-Adapter',
        '1',
        'vmt/swin_t_deformable_pascal',
        'vmt/swin_nano_deformable_synthetic',
        variant_of='vmt_adapter',
    ),
}
STANDARD = [name for name, spec in METHODS.items() if not spec.variant_of]
"""What is compared unless methods are named."""
VARIANTS = [name for name in METHODS if name not in STANDARD]


@dataclass(frozen=True)
class Preset:
    """Sizes of a comparison.

    Args:
        learning_rates: Rates of the heads that are tried.
        iters: Length of a training.
        warm_up: Share of it in which the rate rises.
        batch_size: Images per iteration.
        crop: Side of the training crops in pixels; None: that of the configs.
        log_interval: Iterations between lines of the log.
    """

    learning_rates: tuple[float, ...]
    iters: int
    warm_up: float
    batch_size: int
    crop: int | None
    log_interval: int


PRESETS = {
    'synthetic': Preset((5e-3, 1e-2, 2e-2), iters=800, warm_up=0.1, batch_size=8, crop=64, log_interval=40),
    # Length, warm-up and batch of configs/_base_; the rates lie around its rate.
    'pascal': Preset((2.5e-4, 5e-4, 1e-3), iters=40000, warm_up=1500 / 40000, batch_size=8, crop=None, log_interval=50),
}
MULTIPLIERS = (0.02, 0.1, 0.5)
SCENES = dict(train=2000, val=200, size=128, objects=700)
"""Rendered scenes, their side in pixels, and pretraining pictures per class."""
PRETRAIN_ITERS = 4200
"""Full pretraining of an encoder on single objects."""
SHORT = 4
"""The short pretraining of the scaling experiment is this part of the full one."""
PRETRAINING = 'configs/pretrain/swin_{}_synthetic_classification.py'
SCALING_ENCODERS = {
    'pico': {
        'decoders_only': 'configs/baselines/swin_pico_decoders_only_synthetic.py',
        'polyhistor_lite': 'configs/polyhistor/swin_pico_lite_synthetic.py',
        'vmt_adapter': 'configs/vmt/swin_pico_synthetic.py',
    },
    'nano': {
        name: METHODS[name].configs['synthetic'][''] for name in ('decoders_only', 'polyhistor_lite', 'vmt_adapter')
    },
}


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    def positive(text: str) -> int:
        value = int(text)
        if value < 1:
            raise argparse.ArgumentTypeError(f'must be at least 1, got {text}')
        return value

    def rate(text: str) -> float:
        value = float(text)
        if not (value > 0 and math.isfinite(value)):
            raise argparse.ArgumentTypeError(f'must be a positive number, got {text}')
        return value

    def methods(text: str) -> list[str]:
        chosen = [name.strip() for name in text.split(',') if name.strip()]
        unknown = [name for name in chosen if name not in METHODS]
        if unknown or not chosen:
            raise argparse.ArgumentTypeError(f'unknown {unknown or text!r}; known methods: {", ".join(METHODS)}')
        return [name for name in METHODS if name in chosen]

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', required=True, type=Path, help='folder for everything')
    parser.add_argument('--preset', choices=list(PRESETS), default='synthetic', help='default: %(default)s')
    parser.add_argument(
        '--methods',
        type=methods,
        default=STANDARD,
        help=f'names separated by commas (default: all but the variants {", ".join(VARIANTS)})',
    )
    parser.add_argument('--seeds', type=positive, default=3, help='trainings per method (default: %(default)s)')
    parser.add_argument(
        '--jobs', type=positive, default=1, help='commands side by side, on several GPUs one on each (default: 1)'
    )
    parser.add_argument('--iters', type=positive, help='iterations of a training (default: by preset)')
    parser.add_argument('--learning-rates', type=rate, nargs='+', help='rates tried for the heads (default: by preset)')
    parser.add_argument(
        '--multipliers',
        type=rate,
        nargs='+',
        default=list(MULTIPLIERS),
        help='rates tried for what trains in the encoder, as multiples of that of the heads (default: %(default)s)',
    )
    parser.add_argument('--data-root', type=Path, help='PASCAL_MT folder, for --preset pascal')
    parser.add_argument(
        '--encoder', type=Path, help='encoder weights (default: pretrained here; the URL of the config)'
    )
    parser.add_argument(
        '--published-references',
        action='store_true',
        help='Delta_m against the references in the configs instead of single-task models trained here (pascal)',
    )
    parser.add_argument(
        '--scaling', action='store_true', help='also two encoder sizes times two lengths of pretraining (synthetic)'
    )
    parser.add_argument('--readme', type=Path, metavar='FILE', help="only put the table of OUT's results into FILE")
    scenes = parser.add_argument_group('sizes of the synthetic preset')
    for name, text in (
        ('train', 'training scenes'),
        ('val', 'validation scenes'),
        ('size', 'side of the scenes in pixels'),
        ('objects', 'pretraining pictures per class'),
    ):
        scenes.add_argument(f'--{name}', type=positive, default=SCENES[name], help=f'{text} (default: %(default)s)')
    scenes.add_argument(
        '--pretrain-iters', type=positive, default=PRETRAIN_ITERS, help='length of pretraining (default: %(default)s)'
    )
    args = parser.parse_args(argv)
    if args.readme:
        return args
    # A trial has half the iterations, and a schedule needs one for its warm-up and one for the rest.
    if args.iters is not None and args.iters < 4:
        parser.error(f'--iters must be at least 4, got {args.iters}')
    shortest = 2 * SHORT if args.scaling else 2
    if args.pretrain_iters < shortest:
        parser.error(f'--pretrain-iters must be at least {shortest}, got {args.pretrain_iters}')
    if args.preset == 'pascal':
        if args.data_root is None:
            parser.error('--preset pascal needs --data-root, a folder in the PASCAL_MT layout')
        if not args.data_root.is_dir():
            parser.error(f'--data-root {args.data_root} is no folder')
        if args.scaling:
            parser.error('--scaling pretrains encoders of its own and belongs to --preset synthetic')
    else:
        if args.data_root is not None:
            parser.error('--data-root belongs to --preset pascal; the synthetic preset renders its own scenes')
        if args.published_references:
            parser.error('--published-references belongs to --preset pascal; nothing is published on rendered scenes')
    if args.encoder is not None and not args.encoder.is_file():
        parser.error(f'--encoder {args.encoder} does not exist')
    return args


@dataclass(frozen=True)
class Part:
    """A model of a method: the only one, or that of one task.

    Args:
        method: Key of :data:`METHODS`.
        name: Key in ``MethodSpec.configs``.
        config: Config file, relative to the repository.
    """

    method: str
    name: str
    config: str

    @property
    def title(self) -> str:
        """Name for the progress display."""
        return METHODS[self.method].title + (f', {self.name}' if self.name else '')

    @property
    def stem(self) -> str:
        """Name of the config, without its folder unless that tells methods apart."""
        return '_'.join(Path(self.config).with_suffix('').parts[1:])


@dataclass(frozen=True)
class Encoder:
    """Pretrained weights that models are trained on.

    Args:
        weights: File; None: the weights of the config.
        prefix: Of the names of trainings, where the same model is trained on several encoders.
    """

    weights: Path | None = None
    prefix: str = ''

    def title(self, part: Part) -> str:
        """Name of a model on this encoder, for the progress display."""
        return self.prefix.replace('_', ' ') + part.title


@dataclass(frozen=True)
class Outcome:
    """What a training came to.

    Args:
        metrics: Of the validation set.
        figures: ``{task: main figure}``.
        seconds_per_iteration: Median; None if the training was too short to log one.
        peak_memory_mib: Memory on the GPU; on a CPU resident memory of the largest process.
        error: Why the figures are worth nothing; None if they are fine.
        facts: Versions and hardware.
    """

    metrics: dict[str, float]
    figures: dict[str, float]
    seconds_per_iteration: float | None
    peak_memory_mib: float
    error: str | None
    facts: dict[str, Any]


@dataclass
class Choice:
    """Learning rates of a part, and how they were found.

    Args:
        learning_rate: Of the heads.
        multiplier: Rate of what trains in the encoder as a multiple of it; None: nothing there trains.
        edge_of_grid: ``'lowest'`` or ``'highest'`` if the best lies at the end of what was tried, else None.
        tried: One dictionary per trial.
    """

    learning_rate: float
    multiplier: float | None
    edge_of_grid: str | None = None
    tried: list[dict[str, Any]] = field(default_factory=list)

    @property
    def rates(self) -> dict[str, Any]:
        """What was chosen, as results hold it."""
        return dict(learning_rate=self.learning_rate, multiplier=self.multiplier, edge_of_grid=self.edge_of_grid)


def settings(args: argparse.Namespace) -> dict[str, Any]:
    """What all results of a folder share."""
    preset = PRESETS[args.preset]
    shared = dict(preset=args.preset, encoder=str(args.encoder) if args.encoder else None)
    shared |= dict(iters=args.iters or preset.iters, batch_size=preset.batch_size, crop=preset.crop)
    shared |= dict(warm_up=preset.warm_up)
    rates = args.learning_rates or preset.learning_rates
    shared |= dict(learning_rates=sorted(rates), multipliers=sorted(args.multipliers))
    if args.preset == 'pascal':
        return shared | dict(data_root=str(args.data_root))
    return shared | {key: getattr(args, key) for key in (*SCENES, 'pretrain_iters')}


def check_settings(out: Path, wanted: dict[str, Any]) -> None:
    """Keep the settings of a folder at its first use, and refuse others later.

    Raises:
        SystemExit: The folder was made with other settings, or holds something else.
    """
    path = out / 'settings.json'
    if not path.is_file():
        others = [entry.name for entry in out.iterdir() if entry.name != '.lock'] if out.is_dir() else []
        if others:
            raise SystemExit(
                f'{out} holds {sorted(others)[0]!r} and no settings.json: it is no folder of this tool. Take another '
                f'--out'
            )
        out.mkdir(parents=True, exist_ok=True)
        write_atomically(str(path), json.dumps(wanted, indent=2).encode())
        return
    known = load(path)
    differing = [
        f'{key} is {known.get(key)!r} there and {wanted.get(key)!r} now'
        for key in dict.fromkeys([*known, *wanted])
        if known.get(key) != wanted.get(key)
    ]
    if differing:
        raise SystemExit(
            f'{out} was made with other settings, and its results would not compare: {"; ".join(differing)}. Take '
            f'another --out, or repeat the settings of {path}; nothing was changed'
        )


@cache
def crop_option(config: str, crop: int) -> str:
    """Config option for another side of the training crops."""
    pipeline = Config.fromfile(ROOT / config).train_dataloader.dataset.pipeline
    (place,) = (index for index, transform in enumerate(pipeline) if 'crop_size' in transform)
    return f'train_dataloader.dataset.pipeline.{place}.crop_size=({crop},{crop})'


class Comparison:
    """The stages of a comparison and its results.

    Args:
        args: Command-line arguments.
        console: Where to print.
        stages: Runs the commands.
    """

    def __init__(self, args: argparse.Namespace, console: Console, stages: Stages) -> None:
        self.args, self.console, self.stages = args, console, stages
        self.out = args.out.resolve()
        self.preset = PRESETS[args.preset]
        shared = settings(args)
        self.iters, self.learning_rates, self.multipliers = (
            shared[key] for key in ('iters', 'learning_rates', 'multipliers')
        )
        self.data_root = args.data_root.resolve() if args.data_root else self.out / 'scenes'
        self.failures: dict[str, dict[str, str]] = {}
        """``{method: {what failed: reason}}``"""
        self.failed_stages: set[str] = set()
        self.broken: set[Part] = set()
        """Models that cannot be built."""
        self.encoder = Encoder()
        self.constant: dict[str, float] = {}
        self._fingerprints: dict[tuple, str] = {}
        self._choices: dict[tuple[Part, Encoder], Choice] = {}

    # What is compared

    @property
    def methods(self) -> list[str]:
        """What is trained: methods asked for, what they are variants of, references of Delta_m, what scaling needs."""
        wanted = set(self.args.methods)
        wanted.update(METHODS[name].variant_of for name in self.args.methods if METHODS[name].variant_of)
        if not self.args.published_references:
            wanted.add('single_task')
        if self.args.scaling:
            wanted.update(SCALING_ENCODERS['nano'])
        return [method for method in METHODS if method in wanted]

    def parts(self, method: str) -> list[Part]:
        """The models of a method."""
        configs = METHODS[method].configs[self.args.preset]
        return [Part(method, name, config) for name, config in configs.items()]

    # Stages

    def prepare(self) -> Path | None:
        """Render data and pretrain the encoder where the preset says so.

        Returns:
            The encoder's weights; None: those of the config.
        """
        args = self.args
        if args.preset == 'synthetic':
            scenes = ['--train', args.train, '--val', args.val, '--size', args.size, '--seed', 0]
            self._render('scenes', 'Rendering scenes', scenes)
            if args.encoder is None or args.scaling:
                objects = ['--classification', args.objects, '--size', 80, '--seed', 1]
                self._render('objects', 'Rendering single objects', objects)
        if args.encoder is not None:
            return args.encoder.resolve()
        return self.pretrain('nano', args.pretrain_iters) if args.preset == 'synthetic' else None

    def _render(self, name: str, title: str, options: Sequence[Any]) -> None:
        # A stage that is done is not run again: whatever else lies there is of other arguments or incomplete.
        folder = self.shown(self.out / name)
        arguments = ['tools/dataset/make_synthetic.py', '--overwrite', folder, *map(str, options)]
        self.stages.run(Stage(name, title, arguments))

    def pretrain(self, size: str, iters: int) -> Path:
        """Pretrain an encoder on single objects; returns its weights."""
        config = PRETRAINING.format(size)
        name = f'pretrain_{size}_{iters}'
        work_dir, encoder = self.out / 'runs' / name, self.out / f'encoder_{size}_{iters}.pth'
        arguments = ['tools/train.py', config, '--data-root', self.shown(self.out / 'objects')]
        arguments += [
            '--work-dir',
            self.shown(work_dir),
            '--cfg-options',
            'randomness.seed=0',
            *schedule_options(iters),
        ]
        arguments += [f'default_hooks.checkpoint.interval={max(1, iters // 10)}']
        inputs = self.fingerprint(config, self.out / 'objects' / 'synthetic.json')
        stage = Stage(name, f'Pretraining Swin-{size}, {iters} iterations', arguments, inputs, work_dir)
        fresh = self.stages.record(stage) is None
        self.stages.run(stage)
        if fresh or not encoder.is_file():
            write_encoder(work_dir, encoder)
        return encoder

    def training(self, part: Part, choice: Choice, seed: int, iters: int, encoder: Encoder) -> Stage:
        """The command that trains and validates a model."""
        weights, prefix = encoder.weights, encoder.prefix
        multiplier = 1.0 if choice.multiplier is None else choice.multiplier
        name = f'{prefix}{part.stem}_lr{choice.learning_rate:g}_x{multiplier:g}_{iters}_seed{seed}'
        work_dir = self.out / 'runs' / name
        options = [
            f'randomness.seed={seed}',
            f'train_dataloader.batch_size={self.preset.batch_size}',
            f'optim_wrapper.optimizer.lr={choice.learning_rate:g}',
            f'optim_wrapper.paramwise_cfg.adapter_lr_mult={multiplier:g}',
            f'optim_wrapper.paramwise_cfg.encoder_lr_mult={multiplier:g}',
            *schedule_options(iters, self.preset.warm_up),
            f'default_hooks.checkpoint.interval={max(1, iters // 10)}',
            'default_hooks.checkpoint.max_keep_ckpts=1',
            f'default_hooks.logger.interval={min(self.preset.log_interval, max(1, iters // 5))}',
        ]
        if self.preset.crop is not None:
            options.append(crop_option(part.config, self.preset.crop))
        if weights is not None:
            options.append(f'model.backbone.init_cfg.checkpoint={self.shown(weights)}')
        arguments = ['tools/train.py', part.config, '--data-root', self.shown(self.data_root)]
        arguments += ['--work-dir', self.shown(work_dir), '--cfg-options', *options]
        rate = f'rate {choice.learning_rate:g}' + ('' if choice.multiplier is None else f' x {multiplier:g}')
        title = f'{encoder.title(part)}, {rate}, seed {seed}, {iters} iterations'
        inputs = self.fingerprint(part.config, *([weights] if weights else []), *self._data_files())
        return Stage(name, title, arguments, inputs, work_dir, group=f'{prefix}{part.stem}', work=iters)

    def _data_files(self) -> list[Path]:
        if self.args.preset == 'synthetic':
            return [self.data_root / 'synthetic.json']
        return [self.data_root / 'ImageSets' / 'Context' / f'{split}.txt' for split in ('train', 'val')]

    def fingerprint(self, config: str, *files: Path) -> str:
        """:func:`mmvmt.apis.fingerprint`, computed once."""
        key = (config, *files)
        if key not in self._fingerprints:
            self._fingerprints[key] = fingerprint(ROOT / config, *files)
        return self._fingerprints[key]

    def shown(self, path: Path) -> str:
        """A path as commands and records name it: relative to the repository inside of it."""
        return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)

    # Running

    def run(self) -> int:
        """Run what is not finished; returns the exit code."""
        self.encoder = Encoder(self.prepare())
        self.constant = self.score_constant()
        self.count([part for method in self.considered() for part in self.parts(method)])
        self.sweep()
        for seed in range(self.args.seeds):
            trainings = [
                (part, self.training(part, choice, seed, self.iters, self.encoder))
                for part in self.planned()
                if (choice := self.choice(part)) is not None
            ]
            later = [(stage.group, stage.work) for _, stage in trainings] * (self.args.seeds - seed - 1)
            self.run_trainings(trainings, later, on_end=self.write)
        self.write()
        self.console.print(report(self.results()), markup=False, highlight=False, soft_wrap=True)
        if self.args.scaling:
            self.run_scaling()
        self.console.print(f'results  {self.out / "results.md"}, .json and .png', soft_wrap=True)
        return 1 if self.failures else 0

    def considered(self) -> list[str]:
        """Methods that are trained now or were trained here before, and the one that finds the rate of the heads."""
        names = [path.name for path in self.stages.folder.glob('*.json')]

        def known(method: str) -> bool:
            return any(name.startswith(f'{part.stem}_lr') for part in self.parts(method) for name in names)

        return [m for m in METHODS if m in self.methods or m == 'decoders_only' or known(m)]

    def planned(self) -> list[Part]:
        """Models to train, without those that cannot be built."""
        return [part for method in self.methods for part in self.parts(method) if part not in self.broken]

    def fail(self, method: str, what: str, reason: str) -> None:
        """Note a failure and go on."""
        self.failures.setdefault(method, {})[what] = reason
        self.console.print(f'FAILED   {what}: {reason}', style='red', markup=False, highlight=False, soft_wrap=True)

    def score_constant(self) -> dict[str, float]:
        """Main figures of the constant predictor; computed once per folder, since it reads the validation set."""
        (heads,) = self.parts('decoders_only')
        key, path = self.fingerprint(heads.config, *self._data_files()), self.out / 'constant_predictor.json'
        known = load(path) if path.is_file() else None
        if known is None or known['inputs'] != key:
            self.console.print('Scoring the constant predictor')
            figures = main_figures(score_constant_predictor(ROOT / heads.config, self.data_root))
            known = dict(inputs=key, figures=figures)
            write_atomically(str(path), json.dumps(known).encode())
        return known['figures']

    def count(self, parts: Sequence[Part]) -> None:
        """Count parameters; a model that cannot be built is out here."""
        stages = {}
        for part in parts:
            try:
                stages[part] = self._count_stage(part)
            except Exception as error:
                # A config is a program and may fail in any way; the other methods go on.
                self.broken.add(part)
                self.fail(part.method, f'Reading {part.config}', f'{type(error).__name__}: {error}')
        failures = self.stages.run_queue(list(stages.values()), self.args.jobs)
        for part, stage in stages.items():
            if stage.name in failures:
                self.broken.add(part)
                self.fail(part.method, stage.title, failures[stage.name])

    def _count_stage(self, part: Part) -> Stage:
        inputs = self.fingerprint(part.config)
        return Stage(f'count_{part.stem}', f'Counting parameters of {part.title}', count_command(part.config), inputs)

    def counted(self, part: Part) -> dict[str, int] | None:
        """Parameters by group; None if they are not known."""
        if part in self.broken or self.stages.record(self._count_stage(part)) is None:
            return None
        lines = self.stages.log(self._count_stage(part)).read_text(encoding='utf-8').splitlines()
        counts = {key: value for key, value in json.loads(lines[-1]).items() if not key.startswith('percent')}
        trained = counts['adapters'] + counts['norms_biases'] + counts['encoder_weights']
        return counts | dict(trained_in_encoder=trained)

    def run_trainings(
        self,
        trainings: Sequence[tuple[Part, Stage]],
        later: Sequence[tuple[str, float]] = (),
        on_end: Callable[[], None] | None = None,
        trials: bool = False,
    ) -> None:
        """Run trainings, and validate those that were killed between their last iteration and their validation.

        Args:
            trainings: What to run.
            later: What follows in other calls, for the estimate of the time that is left.
            on_end: Called after each.
            trials: Whether they are of the sweep: of these no checkpoint is kept, and one that diverges is a result.
        """
        owners = {stage.name: (part, stage) for part, stage in trainings}

        def ended(stage: Stage, reason: str | None) -> None:
            part, training = owners[stage.name]
            outcome = self.outcome(training) if reason is None else None
            if reason is not None:
                self.failed_stages.add(training.name)
                self.fail(part.method, stage.title, reason)
            elif outcome is not None and trials:
                for path in [*training.work_dir.glob('*.pth'), training.work_dir / 'last_checkpoint']:
                    path.unlink(missing_ok=True)
            elif outcome is not None and outcome.error:
                self.fail(part.method, stage.title, outcome.error)
            if on_end is not None:
                on_end()

        self.stages.run_queue([stage for _, stage in trainings], self.args.jobs, later, ended)
        tests = []
        for part, stage in trainings:
            if self.stages.record(stage) is not None and self.outcome(stage) is None:
                test = self._test_stage(part, stage)
                owners[test.name] = (part, stage)
                tests.append(test)
        self.stages.run_queue(tests, self.args.jobs, later, ended)

    def _test_stage(self, part: Part, training: Stage) -> Stage:
        checkpoint, out = training.work_dir / f'iter_{training.work}.pth', training.work_dir / 'test'
        arguments = ['tools/test.py', part.config, self.shown(checkpoint), '--data-root', self.shown(self.data_root)]
        arguments += ['--work-dir', self.shown(out), '--out', self.shown(out)]
        return Stage(f'{training.name}_test', f'Testing {training.title}', arguments, training.inputs)

    def outcome(self, stage: Stage) -> Outcome | None:
        """What a training came to; None if it has not finished, or was not validated."""
        record = self.stages.record(stage)
        if record is None:
            return None
        log = read_training_log(stage.work_dir, int(stage.work))
        metrics = log.metrics
        tested = stage.work_dir / 'test' / 'metrics.json'
        if metrics is None and tested.is_file():
            metrics = load(tested)['metrics']
        if metrics is None and log.diverged_at is None:
            return None
        figures = main_figures(metrics or {})
        error = None
        if log.diverged_at is not None:
            error = f'the loss is no number at iteration {log.diverged_at}'
        elif not all(math.isfinite(value) for value in figures.values()):
            error = f'a figure is no number: {figures}'
        memory = log.memory_mib or record['peak_memory_mib']
        return Outcome(metrics or {}, figures, log.seconds_per_iteration, memory, error, record['facts'])

    # Learning rates

    def sweep(self) -> None:
        """Find the learning rates: first that of all heads, then, with it, those of every method."""
        trainings = [(part.stem, self.iters) for part in self.planned()] * self.args.seeds
        (heads,) = self.parts('decoders_only')
        others = [part for part in self.planned() if part != heads]
        tried = [part for part in others if not METHODS[part.method].variant_of]
        later = [(part.stem, self.sweep_iters) for part in tried for _ in self.multipliers]
        self.run_trainings(self.trials(heads), later + trainings, trials=True)
        if self.choice(heads) is None:
            reasons = '; '.join(self.failures.get('decoders_only', {}).values()) or 'every trial diverged'
            raise SystemExit(f'no learning rate for the heads, so nothing can be compared: {reasons}')
        self.find_rates([(part, self.encoder) for part in others], trainings)

    def find_rates(self, models: Sequence[tuple[Part, Encoder]], later: Sequence[tuple[str, float]]) -> None:
        """Run the trials of models, and note those of which none gave a result; ``later`` as for
        :meth:`run_trainings`."""
        self.run_trainings([trial for model in models for trial in self.trials(*model)], later, trials=True)
        for part, encoder in models:
            if self.choice(part, encoder) is None:
                self.fail(part.method, f'Learning rate of {encoder.title(part)}', 'every trial failed or diverged')

    @property
    def sweep_iters(self) -> int:
        """Length of a trial."""
        return self.iters // 2

    def candidates(self, part: Part, encoder: Encoder) -> list[Choice]:
        """The learning rates that are open to a model, from low to high; none while that of the heads is unknown."""
        if part.method == 'decoders_only' and encoder == self.encoder:
            return [Choice(rate, None) for rate in self.learning_rates]
        heads = self.choice(*self.parts('decoders_only'))
        multipliers = (None,) if part.method == 'decoders_only' else self.multipliers
        return [Choice(heads.learning_rate, m) for m in multipliers] if heads else []

    def trials(self, part: Part, encoder: Encoder | None = None) -> list[tuple[Part, Stage]]:
        """Trainings that choose among the candidates, by default on the encoder of the comparison; none where there is
        no choice."""
        encoder = encoder or self.encoder
        fixed = part in self.broken or METHODS[part.method].variant_of
        candidates = [] if fixed else self.candidates(part, encoder)
        if len(candidates) < 2:
            return []
        return [(part, self.training(part, c, SWEEP_SEED, self.sweep_iters, encoder)) for c in candidates]

    def choice(self, part: Part, encoder: Encoder | None = None) -> Choice | None:
        """The candidate with the best Delta_m against the constant predictor over the tasks of the model, for a variant
        what was chosen for its method; None while trials are missing, or if all of them failed."""
        encoder = encoder or self.encoder
        if (part, encoder) in self._choices or part in self.broken:
            return self._choices.get((part, encoder))
        if origin := METHODS[part.method].variant_of:
            chosen = next(self.choice(other) for other in self.parts(origin) if other.name == part.name)
            return chosen and replace(chosen, tried=[])
        candidates, tried, scored = self.candidates(part, encoder), [], []
        for candidate, (_, stage) in zip(candidates, self.trials(part, encoder)):
            outcome = self.outcome(stage)
            if outcome is None and stage.name not in self.failed_stages:
                return None
            trial = dict(learning_rate=candidate.learning_rate, multiplier=candidate.multiplier)
            if outcome is None:
                trial['error'] = 'the training failed'
            elif outcome.error:
                trial['error'] = outcome.error
            else:
                score = delta_m(outcome.figures, self.constant)
                trial |= dict(figures=outcome.figures, delta_m_to_constant=score)
                scored.append((score, candidate))
            tried.append(trial)
        if len(candidates) == 1:
            scored = [(0.0, candidates[0])]
        if not scored:
            return None
        best = max(scored, key=lambda entry: entry[0])[1]
        edge = {id(candidates[0]): 'lowest', id(candidates[-1]): 'highest'}.get(id(best)) if tried else None
        self._choices[part, encoder] = Choice(best.learning_rate, best.multiplier, edge, tried)
        return self._choices[part, encoder]

    # Results

    def runs(self, method: str, seeds: Sequence[int]) -> list[dict[str, Any]]:
        """The finished trainings of a method, one dictionary per seed; the models of one seed count together."""
        chosen = {part: self.choice(part) for part in self.parts(method)}
        if None in chosen.values():
            return []
        found = []
        for seed in seeds:
            stages = {p: self.training(p, choice, seed, self.iters, self.encoder) for p, choice in chosen.items()}
            if (run := self._run(seed, stages)) is not None:
                found.append(run)
        return found

    def _run(self, seed: int, stages: Mapping[Part, Stage]) -> dict[str, Any] | None:
        outcomes = {part: self.outcome(stage) for part, stage in stages.items()}
        if any(outcome is None or outcome.error for outcome in outcomes.values()):
            return None
        times = [outcome.seconds_per_iteration for outcome in outcomes.values()]
        first = next(iter(outcomes.values()))
        return dict(
            seed=seed,
            metrics={key: value for outcome in outcomes.values() for key, value in outcome.metrics.items()},
            figures={task: value for outcome in outcomes.values() for task, value in outcome.figures.items()},
            seconds_per_iteration=None if None in times else sum(times),
            peak_memory_mib=max(outcome.peak_memory_mib for outcome in outcomes.values()),
            commands=[shlex.join(['python', *stage.arguments]) for stage in stages.values()],
            **first.facts,
        )

    def references(self, single_task: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """``figures`` that Delta_m is taken against, None while there are none, and their ``source``."""
        if self.args.published_references:
            (heads,) = self.parts('decoders_only')
            figures = dict(Config.fromfile(ROOT / heads.config).val_evaluator.references)
            return dict(figures=figures, source=f'the references in {heads.config}')
        count = len(single_task)
        source = f'single-task models trained here, mean over {count} seed{"" if count == 1 else "s"}'
        return dict(figures=mean_figures(single_task) if single_task else None, source=source)

    def results(self) -> dict[str, Any]:
        """Everything that is finished."""
        names = [path.name for path in self.stages.folder.glob('*.json')]
        before = {int(match[1]) for name in names if (match := re.search(r'_seed(\d+)\.json$', name))}
        seeds = sorted({*range(self.args.seeds), *before} - {SWEEP_SEED})
        runs = {method: self.runs(method, seeds) for method in self.considered()}
        references = self.references(runs.get('single_task', ()))
        methods = {}
        for method, group in runs.items():
            if method not in self.methods and not group:
                continue
            for run in group:
                run['delta_m'] = delta_m(run['figures'], references['figures']) if references['figures'] else None
            methods[method] = self._entry(method, group, references['figures'])
        heads = self.choice(*self.parts('decoders_only'))
        return run_record() | dict(
            settings=settings(self.args),
            protocol=dict(
                iterations=self.iters,
                sweep_iterations=self.sweep_iters,
                sweep_seed=SWEEP_SEED,
                criterion='Delta_m against the constant predictor over the tasks of the model',
            ),
            tasks=list(self.constant),
            seeds=len(seeds),
            constant_predictor=self.constant,
            references=references,
            heads_learning_rate=heads.learning_rate if heads else None,
            sweep={
                part.stem: choice.tried
                for method in self.considered()
                for part in self.parts(method)
                if (choice := self.choice(part)) is not None
            },
            methods=methods,
        )

    def _entry(
        self, method: str, runs: Sequence[Mapping[str, Any]], references: Mapping[str, float] | None
    ) -> dict[str, Any]:
        spec = METHODS[method]
        counts = [self.counted(part) for part in self.parts(method)]
        chosen = {part.name: choice for part in self.parts(method) if (choice := self.choice(part)) is not None}
        return dict(
            title=spec.title,
            family=spec.family,
            passes=spec.passes,
            configs=[part.config for part in self.parts(method)],
            chosen={name: choice.rates for name, choice in chosen.items()},
            # Several models: what all of them hold and train.
            parameters=None if None in counts else {key: sum(c[key] for c in counts) for key in counts[0]},
            runs=list(runs),
            summary=summarise(runs, references),
            failures=[dict(what=what, reason=reason) for what, reason in self.failures.get(method, {}).items()],
        )

    def write(self) -> None:
        """Rewrite results.json, results.md and the picture."""
        results = self.results()
        write_atomically(str(self.out / 'results.json'), (json.dumps(results, indent=2) + '\n').encode())
        write_atomically(str(self.out / 'results.md'), report(results).encode())
        if results['references']['figures']:
            draw(results, self.out / 'results.png')

    # Larger encoders, more pretraining

    def run_scaling(self) -> None:
        """Two encoder sizes times two lengths of pretraining: what adapters gain over decoders only on each.

        The rate of the heads is that of the comparison; the rates in the encoder are found on each encoder anew.
        """
        encoders: dict[tuple[str, int], Encoder] = {}
        models: list[tuple[Part, Encoder]] = []
        for size, configs in SCALING_ENCODERS.items():
            parts = [Part(method, '', config) for method, config in configs.items()]
            self.count([part for part in parts if part not in self.broken])
            for length in (self.args.pretrain_iters // SHORT, self.args.pretrain_iters):
                weights = self.pretrain(size, length)
                prefix = '' if weights == self.encoder.weights else f'{size}_{length}_'
                encoders[size, length] = encoder = Encoder(weights, prefix)
                models += [(part, encoder) for part in parts if part not in self.broken]
        seeds = range(self.args.seeds)
        self.find_rates(
            models, [(f'{encoder.prefix}{part.stem}', self.iters) for part, encoder in models for _ in seeds]
        )
        trainings = {
            (part, encoder): [self.training(part, choice, seed, self.iters, encoder) for seed in seeds]
            for part, encoder in models
            if (choice := self.choice(part, encoder)) is not None
        }
        for seed in seeds:
            now = [(part, stages[seed]) for (part, _), stages in trainings.items()]
            later = [(stage.group, stage.work) for _, stage in now] * (self.args.seeds - seed - 1)
            self.run_trainings(now, later)
        entries = {
            f'{size}_{length}': self._scaling_entry(
                size, length, encoder, {part: stages for (part, on), stages in trainings.items() if on == encoder}
            )
            for (size, length), encoder in encoders.items()
        }
        results = run_record() | dict(
            settings=settings(self.args),
            tasks=list(self.constant),
            seeds=self.args.seeds,
            encoders=entries,
            failures=self.failures,
        )
        write_atomically(str(self.out / 'scaling.json'), (json.dumps(results, indent=2) + '\n').encode())
        write_atomically(str(self.out / 'scaling.md'), scaling_table(results).encode())
        draw_scaling(results, self.out / 'scaling.png')
        self.console.print(scaling_table(results), markup=False, highlight=False, soft_wrap=True)

    def _scaling_entry(
        self, size: str, length: int, encoder: Encoder, trainings: Mapping[Part, Sequence[Stage]]
    ) -> dict[str, Any]:
        runs = {
            part: [run for seed, stage in enumerate(stages) if (run := self._run(seed, {part: stage})) is not None]
            for part, stages in trainings.items()
        }
        heads = next((part for part in runs if part.method == 'decoders_only'), None)
        counts = self.counted(heads) if heads else None
        references = mean_figures(runs[heads]) if heads and runs[heads] else None
        methods = {}
        for part, group in runs.items():
            choice = self.choice(part, encoder)
            methods[part.method] = dict(
                title=METHODS[part.method].title,
                family=METHODS[part.method].family,
                chosen={part.name: choice.rates},
                sweep=choice.tried,
                runs=group,
                summary=summarise(group, references),
            )
        return dict(
            title=size, pretrain_iters=length, parameters=counts['encoder'] if counts else None, methods=methods
        )


@contextmanager
def alone_in(out: Path) -> Iterator[int]:
    """Hold the lock of a folder. Commands inherit it, so one that outlives the tool keeps the folder locked.

    Yields:
        The lock's file descriptor.

    Raises:
        SystemExit: Another process holds it.
    """
    out.mkdir(parents=True, exist_ok=True)
    with open(out / '.lock', 'w', encoding='utf-8') as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SystemExit(
                f'{out} is in use by another comparison, or by a command that one left behind. Wait for it, or end it'
            ) from None
        yield lock.fileno()


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    # A table that is piped into a file needs more than the 80 columns that rich assumes.
    console = Console() if sys.stdout.isatty() else Console(width=150)
    if args.readme:
        path = args.out / 'results.json'
        if not path.is_file():
            raise SystemExit(f'{path} does not exist; --out must be the folder of a comparison')
        insert_table(args.readme, load(path))
        return 0
    # A killed comparison ends its commands too, as after Ctrl-C.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    check_settings(args.out, settings(args))
    with alone_in(args.out) as lock:
        record = run_record()
        facts = {key: record[key] for key in ('versions', 'hardware')}
        stages = Stages(args.out.resolve(), console, ROOT, facts, keep_open=[lock])
        return Comparison(args, console, stages).run()


if __name__ == '__main__':
    sys.exit(main())
