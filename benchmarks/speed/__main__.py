"""Measure speed and memory beside what one would use otherwise: mmseg's encoder, uncomposed heads, fine-tuning of
everything, one pass of the encoder per task. docs/speed.md says what each figure is and how it is measured."""

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import torch
from mmengine.dataset import BaseDataset
from mmengine.runner import set_random_seed
from rich.console import Console
from rich.markdown import Markdown
from scipy.io import loadmat

from mmvmt.compat import RECORDS_GRAPHS
from mmvmt.engine.provenance import run_record
from mmvmt.registry import DATASETS, MODELS
from mmvmt.synthetic import write_pascal_mt

from . import cases
from .cases import ENCODER, QUICK, WHOLE, Settings, encoder_step
from .measurement import (
    Memory,
    Run,
    added_ratio,
    alternate,
    cpu_flags,
    in_fresh_process,
    largest_operations,
    operation_times,
    peak_memory,
    ratio_of,
)
from .report import Row, check_page, draw_curves, insert_tables, make_row, markdown, read_rows, split_rows, write_rows

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
VMT = CONFIGS / 'vmt/swin_t_pascal.py'
METHODS = {
    'VMT-Adapter': VMT,
    'VMT-Adapter-Lite': CONFIGS / 'vmt/swin_t_lite_pascal.py',
    'shared adapter': CONFIGS / 'baselines/swin_t_shared_adapter_pascal.py',
    'Adapter': CONFIGS / 'baselines/swin_t_adapter_pascal.py',
    'Polyhistor-Lite': CONFIGS / 'polyhistor/swin_t_lite_pascal.py',
    'LoRA': CONFIGS / 'baselines/swin_t_lora_pascal.py',
    'MTLoRA': CONFIGS / 'mtlora/swin_t_r64_pascal.py',
    'DiTASK': CONFIGS / 'ditask/swin_t_pascal.py',
}
COMPARED_TASKS = 16
"""The number of tasks that is compared with one."""

TARGETS = {
    'encoder forward': (0.95, 0.6),
    'tasks': (1.2, 1.15),
    'heads': (0.35, 0.5),
    'step time': (0.40, 0.40),
    'step memory': (0.5, 0.5),
    'bfloat16': (0.45, 0.6),
    'floor': (1.2, 1.3),
    'added to the encoder': (0.01, 0.01),
    'added to the model': (1.2, 1.2),
    'data': (2.0, None),
}
"""What has to be reached: the largest ratio that is good enough on a CPU and on a GPU."""


def log(text: str) -> None:
    """Say what is being measured."""
    Console(stderr=True, log_path=False).log(text, highlight=False)


def target(key: str | None, settings: Settings) -> float | None:
    """The target on the device of the settings; None: there is none."""
    return TARGETS[key][settings.device == 'cuda'] if key else None


def timed(runs: dict[Any, Run], settings: Settings, scale: float = 1.0, **more: Any) -> dict[Any, list[float]]:
    """Time runs in turn for a multiple of the seconds of the settings."""
    return alternate(runs, settings.seconds * scale, **dict(least=settings.least) | more)


def compare(
    settings: Settings,
    name: str,
    ours: Sequence[float],
    theirs: Sequence[float],
    note: str,
    key: str | None = None,
    explain: Callable[[], str] | None = None,
    **more: Any,
) -> Row:
    """A row of seconds measured in turn: medians in milliseconds; a target that is missed is explained in its note."""
    medians = [1000 * median(values) for values in (ours, theirs)]
    more = dict(ratio=ratio_of(ours, theirs), repeats=len(ours)) | more
    row = make_row(name, ours=medians[0], theirs=medians[1], unit='ms', target=target(key, settings), note=note, **more)
    if row['met'] is False and explain is not None:
        row['note'] += f'; profile: {explain()}'
    return row


def profile_of(settings: Settings, run: Run, than: Run | None = None) -> str:
    """The largest operations of a run, or what takes longer in it than in another one."""
    times = [operation_times(each, settings.device) for each in (run, than) if each is not None]
    return 'of the difference, ' * (than is not None) + largest_operations(*times)


def memory_of_case(prepare: Callable[[Settings], Run], settings: Settings, tensors: bool = False) -> Memory:
    """Peak memory of a case, rehearsed at the sizes of ``--quick``."""
    rehearse = partial(prepare, replace(settings, **QUICK))
    return peak_memory(partial(prepare, settings), settings.device, rehearse, tensors, settings.threads)


def measure_encoder(settings: Settings) -> list[Row]:
    """AdaptedSwin without plugins against mmseg's SwinTransformer, both with the same weights."""
    rows = []
    # The targets are for single precision on a CPU and for bfloat16 on a GPU.
    bfloat16 = settings.device == 'cuda'
    for size, side in settings.encoders:
        label = f'{cases.encoder_name(size, settings)}, {side} x {side}, {"bf16" if bfloat16 else "fp32"}'
        log(f'encoder: {label}')
        torch.manual_seed(settings.seed)
        cfg = cases.encoder_config(CONFIGS / f'_base_/models/swin_{size}_mlp.py', settings)
        types = dict(ours='mmvmt.AdaptedSwin', mmseg='mmseg.SwinTransformer')
        models = {kind: MODELS.build(cfg | dict(type=name)).to(settings.device) for kind, name in types.items()}
        models['mmseg'].load_state_dict(models['ours'].state_dict())
        inputs = cases.random_image(settings, side)

        @torch.no_grad()
        def forward(model: Callable, bfloat16: bool = bfloat16, inputs: torch.Tensor = inputs) -> Any:
            with cases.autocast(settings, bfloat16):
                return model(inputs)

        for model in models.values():
            model.eval()
        outputs = [list(forward(model, bfloat16=False)) for model in models.values()]
        difference = cases.check_equal(f'encoder {label}', *outputs)
        note = f'batch {settings.batch}; outputs in single precision differ by {difference:.1g}'
        variants = {'': models}
        if settings.device == 'cuda' and RECORDS_GRAPHS:
            variants[', both compiled'] = {kind: torch.compile(model) for kind, model in models.items()}
        for suffix, variant in variants.items():
            runs = {kind: partial(forward, model) for kind, model in variant.items()}
            times, explain = timed(runs, settings, 0.7), partial(profile_of, settings, runs['ours'])
            name = f'encoder forward, {label}{suffix}'
            rows.append(compare(settings, name, *times.values(), note, 'encoder forward', explain))
        for model in models.values():
            model.train()
        runs = {kind: encoder_step(model, settings, side, bfloat16) for kind, model in models.items()}
        name = f'encoder forward and backward, all weights training, {label}'
        rows.append(compare(settings, name, *timed(runs, settings).values(), f'batch {settings.batch}'))
    return rows


def measure_tasks(settings: Settings) -> list[Row]:
    """Time, operations and peak memory of a training step over the number of tasks."""
    rows = []
    size = f'{cases.encoder_name("t", settings)}, {settings.task_image} x {settings.task_image}, batch {settings.batch}'
    for method, config in METHODS.items():
        per_task = cases.build_with_tasks(config, 1, settings).backbone.per_task
        counts = settings.counts_per_task if per_task else settings.counts
        log(f'tasks: {method}, {", ".join(map(str, counts))} tasks')

        def curve(part: str, quantity: str, values: dict[int, float], method: str = method) -> dict[str, Any]:
            values = {str(count): value for count, value in values.items()}
            return dict(method=method, part=part, quantity=quantity, values=values)

        def curve_row(name: str, curve: dict[str, Any], unit: str, note: str) -> Row:
            ours, theirs = (curve['values'][str(count)] for count in (COMPARED_TASKS, 1))
            return make_row(name, ours / theirs, ours, theirs, unit, note=note, curve=curve)

        parts = (ENCODER, WHOLE)
        runs = {(part, c): cases.prepare_tasks(config, c, part, settings) for c in counts for part in parts}
        flops = {key: cases.count_flops(run) / 1e9 for key, run in runs.items()}
        # Counting has warmed up everything.
        times = timed(runs, settings, least=settings.least_tasks, warmup=0)
        for part in parts:
            more, one = (part, COMPARED_TASKS), (part, 1)
            name = f'{method}: {part}, {{}} of a training step, {COMPARED_TASKS} tasks over 1'
            rows.append(
                compare(
                    settings,
                    name.format('time'),
                    times[more],
                    times[one],
                    f'encoder runs {"once per task" if per_task else "once"}; {size}',
                    'tasks' if (method, part) == ('VMT-Adapter', ENCODER) else None,
                    partial(profile_of, settings, runs[more], runs[one]),
                    curve=curve(part, 'time', {c: 1000 * median(times[part, c]) for c in counts}),
                )
            )
            operations = curve(part, 'operations', {c: flops[part, c] for c in counts})
            note = 'matrix products, convolutions and attention; what works element by element is not counted'
            rows.append(curve_row(name.format('operations'), operations, 'GFLOP', note))
        del runs
        for part in parts:
            log(f'tasks: {method}, memory of the {part}')
            # A process of its own for each takes long: the ends of the curve, what is compared, and one between.
            kept = [count for count in counts if count in (1, 4, COMPARED_TASKS, counts[-1])]
            grown = {c: memory_of_case(partial(cases.prepare_tasks, config, c, part), settings).growth for c in kept}
            name = f'{method}: {part}, peak memory of a training step, {COMPARED_TASKS} tasks over 1'
            rows.append(curve_row(name, curve(part, 'memory', grown), 'MiB', 'beyond model and inputs'))
    return rows


def measure_heads(settings: Settings) -> list[Row]:
    """The composed head against the same head uncomposed, and beside other heads."""
    log('heads')
    side, small = settings.image, settings.task_image
    torch.manual_seed(settings.seed)
    encoder = MODELS.build(cases.encoder_config(VMT, settings) | dict(type='mmvmt.AdaptedSwin'))
    cfg = cases.model_config(VMT, settings)['heads']['semseg'] | dict(in_channels=cases.widths(encoder))
    classes = cfg['output']['num_classes']
    heads = {
        'composed': MODELS.build(cfg),
        'uncomposed': MODELS.build(cfg | dict(compose=False)),
        'segformer': cases.segformer_head(cfg['in_channels'], cfg['channels'], classes),
    }
    heads['uncomposed'].load_state_dict(heads['composed'].state_dict())
    features = cases.random_maps(cfg['in_channels'], settings, side)
    for head in heads.values():
        head.to(settings.device).train()
    difference = cases.check_equal('heads', *([heads[name](features)] for name in ('composed', 'uncomposed')))
    label = cases.stacked(cases.random_samples(dict(semseg=classes), settings, side), 'semseg')
    runs = {name: cases.head_step(head, features) for name, head in heads.items()}
    runs |= {f'{name}, loss': cases.head_step(heads[name], features, label) for name in ('composed', 'uncomposed')}
    times = timed(runs, settings)
    size = f'{side} x {side}, batch {settings.batch}, {classes} classes'
    explain = partial(profile_of, settings, runs['composed'])
    note = f'forward and backward to weights and features; {size}; outputs differ by {difference:.1g}'
    rows = [
        compare(settings, name, times[ours], times[theirs], *more)
        for name, ours, theirs, *more in (
            ('head, training step, composed over uncomposed', 'composed', 'uncomposed', note, 'heads', explain),
            ('head with its loss, training step, composed over uncomposed', 'composed, loss', 'uncomposed, loss', size),
            (
                "head, training step, ours over mmseg's SegformerHead",
                'composed',
                'segformer',
                f'another function; {size}',
            ),
        )
    ]
    # On a CPU the deformable head's operator is slow: on smaller maps.
    name = 'head, training step, all-MLP over deformable'
    features = cases.random_maps(cfg['in_channels'], settings, small)
    try:
        heads = [MODELS.build(cfg), MODELS.build(cfg | dict(type='mmvmt.DeformableHead'))]
    except ImportError as error:
        return [*rows, make_row(name, None, None, None, 'ms', note=f'not measured: {error}')]
    runs = {index: cases.head_step(head.to(settings.device).train(), features) for index, head in enumerate(heads)}
    note = f'another function; {small} x {small}, batch {settings.batch}'
    return [*rows, compare(settings, name, *timed(runs, settings).values(), note)]


STEPS: dict[str, Callable[[Settings], Run]] = {
    'vmt': partial(cases.prepare_ours, VMT),
    'fine-tuning': partial(cases.prepare_fine_tuning, VMT),
    'fine-tuning, frozen': partial(cases.prepare_fine_tuning, VMT, frozen=True),
    'our fine-tuning': partial(cases.prepare_ours, CONFIGS / 'baselines/swin_t_full_multitask_pascal.py'),
    'floor': partial(cases.prepare_floor, VMT),
    'vmt, bf16': partial(cases.prepare_ours, VMT, bfloat16=True),
    **{f'vmt, from stage {stage}': partial(cases.prepare_ours, VMT, first_stage=stage) for stage in (2, 3, 4)},
}
"""What the training step of VMT-Adapter is compared with."""

_MMSEG = "against mmseg's SwinTransformer and SegformerHead with the same losses"
_OURS = 'the same fast encoder and heads on both sides'
_FIRST = 'no method that trains from the first block on can be below it'
_LATER = 'no gradient is computed below the first adapter'
_FLOOR = (
    'the floor: the encoder without adapters forward and backward to its tokens, heads and losses on detached '
    'features, no optimizer'
)
COMPARISONS = (
    ('the floor over full fine-tuning', 'floor', 'fine-tuning', None, None, _FIRST),
    ('VMT-Adapter over full fine-tuning', 'vmt', 'fine-tuning', 'step time', 'step memory', _MMSEG),
    ('VMT-Adapter over heads on a frozen encoder', 'vmt', 'fine-tuning, frozen', None, None, _MMSEG),
    ('VMT-Adapter over our own full fine-tuning', 'vmt', 'our fine-tuning', None, None, _OURS),
    ('VMT-Adapter in stages 2 to 4 over all stages', 'vmt, from stage 2', 'vmt', None, None, _LATER),
    ('VMT-Adapter in stages 3 and 4 over all stages', 'vmt, from stage 3', 'vmt', None, None, _LATER),
    ('VMT-Adapter in stage 4 over all stages', 'vmt, from stage 4', 'vmt', None, None, _LATER),
    ('VMT-Adapter in bf16 over fp32', 'vmt, bf16', 'vmt', 'bfloat16', None, 'frozen weights in bf16'),
    ('VMT-Adapter over the floor', 'vmt', 'floor', 'floor', None, _FLOOR),
)
"""Rows of steps: name, ours, theirs, targets of time and memory, note; the floor has no memory of interest."""


def measure_step(settings: Settings) -> list[Row]:
    """A training step of VMT-Adapter with four tasks, against fine-tuning, its floor, and itself in bfloat16."""
    name = cases.encoder_name('t', settings)
    size = f'{name}, {settings.image} x {settings.image}, batch {settings.batch}, {len(cases.FOUR_TASKS)} tasks'
    log('step: time')
    runs = {name: prepare(settings) for name, prepare in STEPS.items()}
    times = timed(runs, settings, 7)
    log('step: memory')
    memory = {name: memory_of_case(prepare, settings, tensors=True) for name, prepare in STEPS.items()}
    rows = []
    for label, ours, theirs, key, memory_key, note in COMPARISONS:
        name, floor = f'training step, {label}', 'floor' in (ours, theirs)
        explain = partial(profile_of, settings, runs[ours], runs[theirs] if floor else None)
        rows.append(compare(settings, f'{name}, time', times[ours], times[theirs], f'{size}; {note}', key, explain))
        if floor:
            continue
        a, b = memory[ours], memory[theirs]
        peaks = (
            f'{size}; peaks of the processes {a.peak:.0f} and {b.peak:.0f} MiB; tensors hold '
            f'{a.tensors:.0f} and {b.tensors:.0f} MiB of them, the rest is what the allocator keeps'
        )
        for what, quantity, limit, note in (
            ('peak memory beyond model and inputs', 'growth', memory_key, peaks),
            ('peak memory with model', 'with_model', memory_key, peaks),
            ('peak of all tensors', 'tensors', None, size),
        ):
            values = [getattr(each, quantity) for each in (a, b)]
            limit = target(limit, settings)
            rows.append(make_row(f'{name}, {what}', values[0] / values[1], *values, 'MiB', target=limit, note=note))
    return rows + added_task(settings, runs['vmt'], size)


def added_task(settings: Settings, four: Run, size: str) -> list[Row]:
    """What a fifth task costs."""
    log('step: a task added')
    backbones = [cases.build_model(VMT, settings, fifth=fifth).backbone for fifth in (False, True)]
    runs = {
        'encoder, 4': encoder_step(backbones[0], settings, settings.image),
        'encoder, 5': encoder_step(backbones[1], settings, settings.image),
        'model, 4': four,
        'model, 5': cases.prepare_ours(VMT, settings, fifth=True),
        'head': cases.prepare_head(VMT, cases.FIFTH_TASK, settings),
    }
    times = timed(runs, settings, 3)
    rows = []
    for name, part, unit, note in (
        ('encoder part over the step with 4 tasks', 'encoder', 'model, 4', size),
        ('whole model over its head and loss alone', 'model', 'head', f'{size}; task {cases.FIFTH_TASK}'),
    ):
        more, less = f'{part}, 5', f'{part}, 4'
        row = compare(
            settings,
            f'a task added to VMT-Adapter, {name}',
            [a - b for a, b in zip(times[more], times[less])],
            times[unit],
            f'5 tasks minus 4 within each round; {note}',
            f'added to the {part}',
            partial(profile_of, settings, runs[more], runs[less]),
            ratio=added_ratio(times[more], times[less], times[unit]),
        )
        rows.append(row)
    return rows


def measure_data(settings: Settings) -> list[Row]:
    """The training pipeline against decoding the same files alone, in one process as in a worker of the loader."""
    log(f'data: rendering {settings.scenes} scenes of {settings.scene_size} px')
    with tempfile.TemporaryDirectory() as folder, one_thread(settings):
        root = Path(folder) / 'scenes'
        write_pascal_mt(root, settings.scenes, 1, settings.scene_size, settings.seed, settings.threads, progress=False)
        dataset = DATASETS.build(cases.read_config(VMT).train_dataloader.dataset.to_dict() | dict(data_root=str(root)))
        set_random_seed(settings.seed)
        infos = [dataset.get_data_info(index) for index in range(len(dataset))]
        files = [path for info in infos for path in (info['img_path'], *label_files(info))]
        runs = {
            'pipeline': lambda: [dataset[index] for index in range(len(dataset))],
            'decoding': lambda: [decode(path) for path in files],
        }
        log('data: timing')
        ours, theirs = ([t / len(infos) for t in seconds] for seconds in timed(runs, settings).values())
        note = (
            f'{1 / median(ours):.1f} against {1 / median(theirs):.1f} images/s of one process; images of '
            f'{settings.scene_size} px, {len(dataset.tasks)} tasks, {len(files) // len(infos)} files per image'
        )
        name = 'data, an image of the training pipeline over decoding its files'
        return [compare(settings, name, ours, theirs, note, 'data', partial(transform_shares, dataset))]


@contextmanager
def one_thread(settings: Settings) -> Iterator[None]:
    """One thread for OpenCV and PyTorch, as in the workers of the loader."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(threads)
        torch.set_num_threads(settings.threads)


def transform_shares(dataset: BaseDataset) -> str:
    """The share of each transform in the time of the pipeline, in words."""
    seconds: Counter[str] = Counter()
    for index in range(len(dataset)):
        sample: Any = dataset.get_data_info(index)
        for transform in dataset.pipeline.transforms:
            start = time.perf_counter()
            sample = transform(sample)
            seconds[type(transform).__name__] += time.perf_counter() - start
    return largest_operations(seconds, top=len(seconds))


def label_files(info: dict[str, Any]) -> list[str]:
    """The files that hold the labels of a sample."""
    paths = info['label_paths'].values()
    return [file for path in paths for file in ((path,) if isinstance(path, str) else path)]


def decode(path: str) -> Any:
    """Read a file of the data set, and no more."""
    return loadmat(path) if path.endswith('.mat') else cv2.imread(path, cv2.IMREAD_UNCHANGED)


def measure_inference(settings: Settings) -> list[Row]:
    """Latency and throughput of the whole model in both precisions, as it is and compiled."""
    log('inference')
    side, encoder = settings.image, cases.encoder_name('t', settings)
    size = f'{encoder}, {side} x {side}, {len(cases.FOUR_TASKS)} tasks, logits at a quarter of the size'
    precisions = {'fp32': False, 'bf16': True}

    def row(batch: int, name: str, ours: Sequence[float], theirs: Sequence[float], note: str) -> Row:
        rates = f'{batch / median(ours):.2f} against {batch / median(theirs):.2f} images/s'
        return compare(settings, f'inference, batch {batch}, {name}', ours, theirs, f'{rates}; {note}')

    rows = []
    for batch in settings.batches:
        runs = {p: cases.prepare_inference(VMT, settings, batch, bf16) for p, bf16 in precisions.items()}
        times = timed(runs, settings)
        rows.append(row(batch, 'bf16 over fp32', times['bf16'], times['fp32'], size))
    compiler, end = os.environ.get('CXX', 'g++'), time.perf_counter() + settings.compile_seconds
    for batch, (precision, bfloat16) in ((b, p) for b in settings.batches for p in precisions.items()):
        label, left = f'compiled over eager, {precision}', end - time.perf_counter()
        if shutil.which(compiler) is None:
            missing = f'torch.compile needs a C++ compiler, and {compiler!r} is none; set CXX'
        elif left <= 0:
            missing = f'the {settings.compile_seconds:.0f} s for all compiled models were over'
        elif not RECORDS_GRAPHS:
            missing = f'torch.compile of the models needs torch 2.7, this is {torch.__version__}'
        else:
            log(f'inference: batch {batch}, {label}')
            arguments = cases.compiled_times, VMT, settings, batch, bfloat16
            try:
                times, seconds = in_fresh_process(*arguments, threads=settings.threads, limit=left)
            except TimeoutError:
                missing = f'compilation was not over after the {left:.0f} s left for compiled models'
            else:
                note = f'{size}; compiled in {seconds:.0f} s'
                rows.append(row(batch, label, times['compiled'], times['eager'], note))
                continue
        name = f'inference, batch {batch}, {label}'
        rows.append(make_row(name, None, None, None, 'ms', note=f'not measured: {missing}'))
    return rows


SUBCOMMANDS: dict[str, Callable[[Settings], list[Row]]] = {
    'encoder': measure_encoder,
    'tasks': measure_tasks,
    'heads': measure_heads,
    'step': measure_step,
    'data': measure_data,
    'inference': measure_inference,
}


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest='command', required=True)
    output = argparse.ArgumentParser(add_help=False)
    output.add_argument('--json', metavar='FILE', help='write the rows as a JSON list')
    output.add_argument('--markdown', metavar='FILE', nargs='+', help='put the tables between the marks of these pages')
    measuring = argparse.ArgumentParser(add_help=False)
    measuring.add_argument('--device', choices=('cpu', 'cuda'), default='cpu', help='default: cpu')
    measuring.add_argument('--seed', type=int, default=0, help='of weights, inputs and scenes; default: 0')
    measuring.add_argument('--threads', type=int, help="threads of PyTorch; default: PyTorch's own choice")
    measuring.add_argument('--quick', action='store_true', help='shrink everything: shows that it runs, and no figures')
    for name, function in SUBCOMMANDS.items():
        commands.add_parser(name, parents=[output, measuring], help=function.__doc__)
    commands.add_parser('all', parents=[output, measuring], help='everything above')
    table = commands.add_parser('table', parents=[output], help='tables and picture of earlier results')
    table.add_argument('rows', nargs='+', metavar='JSON', help='files that --json wrote, such as one per device')
    for name in ('tasks', 'all', 'table'):
        commands.choices[name].add_argument('--picture', metavar='FILE', help='draw the curves over numbers of tasks')
    args = parser.parse_args(argv)
    if args.command != 'table' and args.device == 'cuda' and not torch.cuda.is_available():
        parser.error('--device cuda: PyTorch sees no GPU; leave the option out to measure on the CPU')
    if args.command != 'table' and args.threads is not None and args.threads < 1:
        parser.error(f'--threads must be at least 1, got {args.threads}')
    for file in filter(None, [args.json, getattr(args, 'picture', None)]):
        if not Path(file).resolve().parent.is_dir():
            parser.error(f'the folder of {file} does not exist; create it first')
    return args


def measure(args: argparse.Namespace) -> list[Row]:
    """Run the subcommands and say in every row where it comes from."""
    torch.set_num_threads(args.threads or torch.get_num_threads())
    settings = Settings(args.device, args.seed, torch.get_num_threads(), **(QUICK if args.quick else {}))
    if args.command == 'all':
        # A compilation takes minutes, and everything has to be over in fifteen.
        settings = replace(settings, compile_seconds=100.0)
    run = run_record(args.seed)
    device = run['hardware']['gpus'][0] if args.device == 'cuda' else run['hardware']['cpu']
    run |= dict(device=args.device, threads=settings.threads, quick=args.quick, cpu_flags=cpu_flags())
    rows: list[Row] = []
    start = time.perf_counter()
    for name in SUBCOMMANDS if args.command == 'all' else (args.command,):
        rows += [row | dict(device=device, run=run) for row in SUBCOMMANDS[name](settings)]
        # What was measured is kept should a later part fail.
        if args.json:
            write_rows(args.json, rows)
        log(f'{name} done, {time.perf_counter() - start:.0f} s since the start')
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    pages, picture = args.markdown or (), getattr(args, 'picture', None)
    try:
        for page in pages:
            check_page(page)
        earlier = read_rows(args.rows) if args.command == 'table' else None
    except (FileNotFoundError, ValueError) as error:
        raise SystemExit(str(error)) from error
    rows = measure(args) if earlier is None else earlier
    # A table that is piped into a file needs more than the 80 columns that rich assumes.
    console = Console() if sys.stdout.isatty() else Console(width=220)
    for title, chosen in zip(('What has to be reached', 'More figures'), split_rows(rows).values()):
        if chosen:
            console.print(Markdown(f'## {title}\n\n{markdown(chosen)}'))
    if args.json:
        write_rows(args.json, rows)
    for page in pages:
        insert_tables(page, rows)
    if picture:
        try:
            draw_curves(rows, picture)
        except ValueError as error:
            raise SystemExit(str(error)) from error
    return 0


if __name__ == '__main__':
    sys.exit(main())
