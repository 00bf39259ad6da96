"""Measure speed and memory beside what one would use otherwise: mmseg's encoder, uncomposed heads, fine-tuning of
everything, one pass of the encoder per task. docs/speed.md says what each figure is and how it is measured."""

import argparse
import copy
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import torch
from mmengine.dataset import BaseDataset
from mmengine.runner import set_random_seed
from rich.console import Console
from rich.table import Table
from scipy.io import loadmat
from torch import Tensor, nn

from mmvmt.compat import RECORDS_GRAPHS
from mmvmt.engine.provenance import run_record
from mmvmt.registry import DATASETS, MODELS
from mmvmt.synthetic import write_pascal_mt

from .cases import (
    ENCODER,
    FIFTH_TASK,
    FOUR_TASKS,
    QUICK,
    WHOLE,
    Run,
    Settings,
    autocast,
    build_model,
    build_with_tasks,
    check_equal,
    count_flops,
    encoder_config,
    encoder_name,
    encoder_step,
    inference_runs,
    model_config,
    prepare_fine_tuning,
    prepare_floor,
    prepare_head,
    prepare_ours,
    prepare_tasks,
    prepare_vmt,
    random_image,
    random_maps,
    random_samples,
    read_config,
    segformer_head,
    stacked,
    whole_step,
    widths,
)
from .measurement import (
    Memory,
    added_ratio,
    alternate,
    cpu_flags,
    in_fresh_process,
    largest_operations,
    operation_times,
    peak_memory,
    ratio_of,
)
from .report import (
    HEADER,
    cells,
    check_marks,
    draw_curves,
    insert_tables,
    make_row,
    read_rows,
    time_row,
    write_rows,
)

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


class Target(NamedTuple):
    """The largest ratio that is good enough; None: there is no target on such a device."""

    cpu: float | None
    gpu: float | None


TARGETS = {
    'encoder forward': Target(0.95, 0.6),
    'tasks': Target(1.2, 1.15),
    'heads': Target(0.35, 0.5),
    'step time': Target(0.40, 0.40),
    'step memory': Target(0.5, 0.5),
    'bfloat16': Target(0.45, 0.6),
    'floor': Target(1.2, 1.3),
    'added to the encoder': Target(0.01, 0.01),
    'added to the model': Target(1.2, 1.2),
    'data': Target(2.0, None),
}
"""What has to be reached; whether a row meets its target follows from its ratio."""

COMPARED_TASKS = 16
"""The number of tasks that is compared with one."""

Row = dict[str, Any]


def log(text: str) -> None:
    """Say what is being measured."""
    Console(stderr=True, log_path=False).log(text, highlight=False)


def target(key: str, settings: Settings) -> float | None:
    """The target on the device of the settings."""
    return TARGETS[key].gpu if settings.device == 'cuda' else TARGETS[key].cpu


def timed(
    cases: dict[Any, Run], settings: Settings, scale: float = 1.0, least: int | None = None, warmup: int = 1
) -> dict[Any, list[float]]:
    """Time cases in turn for a multiple of the seconds of the settings."""
    return alternate(
        cases,
        seconds=settings.seconds * scale,
        least=least or settings.least,
        warmup=warmup,
    )


def explained(row: Row, explain: Callable[[], str]) -> Row:
    """A row with a profile in its note if it misses its target."""
    if row['met'] is False:
        row['note'] = '; '.join(filter(None, [row['note'], f'profile: {explain()}']))
    return row


def memory_of_case(prepare: Callable[[Settings], Run], settings: Settings, tensors: bool = False) -> Memory:
    """Peak memory of a case, rehearsed at the sizes of ``--quick``."""
    rehearse = partial(prepare, replace(settings, **QUICK))
    return peak_memory(
        partial(prepare, settings), settings.device, rehearse=rehearse, threads=settings.threads, tensors=tensors
    )


def profile_of(run: Run, settings: Settings) -> str:
    """The largest operations of a run."""
    return largest_operations(operation_times(run, settings.device))


def measure_encoder(settings: Settings) -> list[Row]:
    """AdaptedSwin without plugins against mmseg's SwinTransformer, both with the same weights."""
    rows = []
    # The targets are for single precision on a CPU and for bfloat16 on a GPU.
    bfloat16 = settings.device == 'cuda'
    precision = 'bf16' if bfloat16 else 'fp32'
    for size, side in settings.encoders:
        label = f'{encoder_name(size, settings)}, {side} x {side}, {precision}'
        log(f'encoder: {label}')
        torch.manual_seed(settings.seed)
        cfg = encoder_config(CONFIGS / f'_base_/models/swin_{size}_mlp.py', settings)
        models = {
            kind: MODELS.build(cfg | dict(type=f'{scope}.{name}')).to(settings.device)
            for kind, scope, name in (('ours', 'mmvmt', 'AdaptedSwin'), ('mmseg', 'mmseg', 'SwinTransformer'))
        }
        models['mmseg'].load_state_dict(models['ours'].state_dict())
        inputs = random_image(settings, side)
        for model in models.values():
            model.eval()
        with torch.no_grad():
            difference = check_equal(f'encoder {label}', *(list(model(inputs)) for model in models.values()))

        def forward(model: Callable[[Tensor], Any], inputs: Tensor = inputs) -> Any:
            with torch.no_grad(), autocast(settings, bfloat16):
                return model(inputs)

        note = f'batch {settings.batch}; outputs in single precision differ by {difference:.1g}'
        variants = {'': models}
        if settings.device == 'cuda' and RECORDS_GRAPHS:
            variants[', both compiled'] = {kind: torch.compile(model) for kind, model in models.items()}
        for suffix, variant in variants.items():
            runs = {kind: partial(forward, model) for kind, model in variant.items()}
            times = timed(runs, settings, 0.7)
            ratio = ratio_of(times['ours'], times['mmseg'])
            row = time_row(
                f'encoder forward, {label}{suffix}',
                ratio,
                times['ours'],
                times['mmseg'],
                target=target('encoder forward', settings),
                note=note,
            )
            rows.append(explained(row, partial(profile_of, runs['ours'], settings)))

        gradients = random_maps(models['ours'].num_features, settings, side)

        def step(model: nn.Module, inputs: Tensor = inputs, gradients: Sequence[Tensor] = gradients) -> None:
            with autocast(settings, bfloat16):
                features = model(inputs)
            torch.autograd.backward(list(features), [g.to(f.dtype) for g, f in zip(gradients, features)])
            model.zero_grad(set_to_none=True)

        for model in models.values():
            model.train()
        times = timed({kind: partial(step, model) for kind, model in models.items()}, settings)
        rows.append(
            time_row(
                f'encoder forward and backward, all weights training, {label}',
                ratio_of(times['ours'], times['mmseg']),
                times['ours'],
                times['mmseg'],
                note=f'batch {settings.batch}',
            )
        )
    return rows


def measure_tasks(settings: Settings) -> list[Row]:
    """Time, operations and peak memory of a training step over the number of tasks."""
    rows = []
    for method, config in METHODS.items():
        per_task = build_with_tasks(config, 1, settings).backbone.per_task
        counts = settings.counts_per_task if per_task else settings.counts
        log(f'tasks: {method}, {", ".join(map(str, counts))} tasks')
        runs: dict[tuple[str, int], Run] = {}
        for count in counts:
            model = build_with_tasks(config, count, settings)
            runs[ENCODER, count] = encoder_step(model, settings, settings.task_image)
            runs[WHOLE, count] = whole_step(model, settings, settings.task_image)
        flops = {key: count_flops(run) / 1e9 for key, run in runs.items()}
        # Counting has warmed up everything.
        times = timed(runs, settings, least=settings.least_tasks, warmup=0)
        passes = f'encoder runs {"once per task" if per_task else "once"}'
        size = f'{encoder_name("t", settings)}, {settings.task_image} x {settings.task_image}, batch {settings.batch}'
        for part in (ENCODER, WHOLE):
            ours, theirs = times[part, COMPARED_TASKS], times[part, 1]
            row = time_row(
                f'{method}: {part}, time of a training step, {COMPARED_TASKS} tasks over 1',
                ratio_of(ours, theirs),
                ours,
                theirs,
                target=target('tasks', settings) if (method, part) == ('VMT-Adapter', ENCODER) else None,
                note=f'{passes}; {size}',
                curve=curve(method, part, 'time', {c: 1000 * statistics.median(times[part, c]) for c in counts}),
            )
            rows.append(explained(row, partial(added_operations, runs[part, COMPARED_TASKS], runs[part, 1], settings)))
            rows.append(
                curve_row(
                    f'{method}: {part}, operations of a training step, {COMPARED_TASKS} tasks over 1',
                    curve(method, part, 'operations', {c: flops[part, c] for c in counts}),
                    'GFLOP',
                    'matrix products, convolutions and attention; what works element by element is not counted',
                )
            )
        del runs, model
        for part in (ENCODER, WHOLE):
            log(f'tasks: {method}, memory of the {part}')
            # A process of its own for each takes long: the ends of the curve, what is compared, and one between.
            kept = [count for count in counts if count in (1, 4, COMPARED_TASKS, counts[-1])]
            memory = {count: memory_of_case(partial(prepare_tasks, config, count, part), settings) for count in kept}
            rows.append(
                curve_row(
                    f'{method}: {part}, peak memory of a training step, {COMPARED_TASKS} tasks over 1',
                    curve(method, part, 'memory', {c: memory[c].growth for c in kept}),
                    'MiB',
                    'beyond model and inputs',
                )
            )
    return rows


def curve(method: str, part: str, quantity: str, values: dict[int, float]) -> dict[str, Any]:
    """A quantity over the number of tasks, as rows hold it."""
    return dict(method=method, part=part, quantity=quantity, values={str(c): v for c, v in values.items()})


def curve_row(name: str, curve: dict[str, Any], unit: str, note: str) -> Row:
    """A row that compares a curve at :data:`COMPARED_TASKS` with its value at 1."""
    ours, theirs = curve['values'][str(COMPARED_TASKS)], curve['values']['1']
    return make_row(name, ours / theirs, ours, theirs, unit, note=note, curve=curve)


def added_operations(more: Run, less: Run, settings: Settings) -> str:
    """The operations that take longer in one run than in another."""
    times = [operation_times(run, settings.device) for run in (more, less)]
    return 'of the difference, ' + largest_operations(*times)


def measure_heads(settings: Settings) -> list[Row]:
    """The composed head against the same head uncomposed, and beside other heads."""
    log('heads')
    side = settings.image
    torch.manual_seed(settings.seed)
    channels = widths(MODELS.build(encoder_config(VMT, settings) | dict(type='mmvmt.AdaptedSwin')))
    cfg = model_config(VMT, settings)['heads']['semseg'] | dict(in_channels=channels)
    classes = cfg['output']['num_classes']
    built = {
        'composed': MODELS.build(cfg),
        'uncomposed': MODELS.build(cfg | dict(compose=False)),
        'segformer': segformer_head(channels, cfg['channels'], classes),
    }
    built['uncomposed'].load_state_dict(built['composed'].state_dict())
    for head in built.values():
        head.to(settings.device).train()
    features = random_maps(channels, settings, side)
    both = [[built[name](features)] for name in ('composed', 'uncomposed')]
    difference = check_equal('heads', *both)
    label = stacked(random_samples(dict(semseg=classes), settings, side), 'semseg')
    runs = {name: head_step(head, features) for name, head in built.items()}
    with_loss = {f'{name}, loss': head_step(built[name], features, label) for name in ('composed', 'uncomposed')}
    times = timed(runs | with_loss, settings)
    size = f'{side} x {side}, batch {settings.batch}, {classes} classes'
    row = time_row(
        'head, training step, composed over uncomposed',
        ratio_of(times['composed'], times['uncomposed']),
        times['composed'],
        times['uncomposed'],
        target=target('heads', settings),
        note=f'forward and backward to weights and features; {size}; outputs differ by {difference:.1g}',
    )
    rows = [explained(row, partial(profile_of, runs['composed'], settings))]
    for name, ours, theirs, note in (
        ('head with its loss, training step, composed over uncomposed', 'composed, loss', 'uncomposed, loss', size),
        ("head, training step, ours over mmseg's SegformerHead", 'composed', 'segformer', f'another function; {size}'),
    ):
        rows.append(time_row(name, ratio_of(times[ours], times[theirs]), times[ours], times[theirs], note=note))
    return [*rows, deformable_row(cfg, settings)]


def head_step(head: nn.Module, features: Sequence[Tensor], label: Tensor | None = None) -> Run:
    """Forward and backward of a head to its weights and its features: from its loss, or from a given gradient."""
    features = [x.detach().requires_grad_() for x in features]
    gradient = None if label is not None else torch.randn_like(head(features))

    def run() -> None:
        logits = head(features)
        if label is None:
            logits.backward(gradient)
        else:
            head.loss(logits, label).backward()
        head.zero_grad(set_to_none=True)
        for feature in features:
            feature.grad = None

    return run


def deformable_row(cfg: dict[str, Any], settings: Settings) -> Row:
    """The all-MLP head beside the deformable one, whose operator on a CPU is slow: on smaller maps."""
    name = 'head, training step, all-MLP over deformable'
    try:
        deformable = MODELS.build(cfg | dict(type='mmvmt.DeformableHead'))
    except ImportError as error:
        return make_row(name, None, None, None, 'ms', note=f'not measured: {error}')
    side = settings.task_image
    features = random_maps(cfg['in_channels'], settings, side)
    runs = {
        kind: head_step(head.to(settings.device).train(), features)
        for kind, head in (('all-MLP', MODELS.build(cfg)), ('deformable', deformable))
    }
    times = timed(runs, settings)
    note = f'another function; {side} x {side}, batch {settings.batch}'
    ratio = ratio_of(times['all-MLP'], times['deformable'])
    return time_row(name, ratio, times['all-MLP'], times['deformable'], note=note)


STEPS: dict[str, Callable[[Settings], Run]] = {
    'vmt': partial(prepare_vmt, VMT),
    'fine-tuning': partial(prepare_fine_tuning, VMT),
    'fine-tuning, frozen': partial(prepare_fine_tuning, VMT, frozen=True),
    'our fine-tuning': partial(prepare_ours, CONFIGS / 'baselines/swin_t_full_multitask_pascal.py'),
    'floor': partial(prepare_floor, VMT),
    'vmt, bf16': partial(prepare_vmt, VMT, bfloat16=True),
    **{f'vmt, from stage {stage}': partial(prepare_vmt, VMT, first_stage=stage) for stage in (2, 3, 4)},
}
"""What the training step of VMT-Adapter is compared with."""


def measure_step(settings: Settings) -> list[Row]:
    """A training step of VMT-Adapter with four tasks, against fine-tuning, its floor, and itself in bfloat16."""
    side, name = settings.image, encoder_name('t', settings)
    size = f'{name}, {side} x {side}, batch {settings.batch}, {len(FOUR_TASKS)} tasks'
    log('step: time')
    runs = {name: prepare(settings) for name, prepare in STEPS.items()}
    times = timed(runs, settings, 7)
    log('step: memory')
    memory = {name: memory_of_case(prepare, settings, tensors=True) for name, prepare in STEPS.items()}
    tuned = f"{size}; against mmseg's SwinTransformer and SegformerHead with the same losses"
    comparisons = (
        ('VMT-Adapter over full fine-tuning', 'vmt', 'fine-tuning', 'step time', 'step memory', tuned),
        ('VMT-Adapter over heads on a frozen encoder', 'vmt', 'fine-tuning, frozen', None, None, tuned),
        (
            'VMT-Adapter over our own full fine-tuning',
            'vmt',
            'our fine-tuning',
            None,
            None,
            f'{size}; the same fast encoder and heads on both sides',
        ),
        *(
            (
                f'VMT-Adapter {which} over all stages',
                f'vmt, from stage {stage}',
                'vmt',
                None,
                None,
                f'{size}; no gradient is computed below the first adapter',
            )
            for stage, which in ((2, 'in stages 2 to 4'), (3, 'in stages 3 and 4'), (4, 'in stage 4'))
        ),
        ('VMT-Adapter in bf16 over fp32', 'vmt, bf16', 'vmt', 'bfloat16', None, f'{size}; frozen weights in bf16'),
        (
            'VMT-Adapter over the floor',
            'vmt',
            'floor',
            'floor',
            None,
            f'{size}; the floor: the encoder without adapters forward and backward to its tokens, heads and losses on '
            'detached features, no optimizer',
        ),
    )
    rows = [
        time_row(
            'training step, the floor over full fine-tuning, time',
            ratio_of(times['floor'], times['fine-tuning']),
            times['floor'],
            times['fine-tuning'],
            note=f'{size}; no method that trains from the first block on can be below it',
        )
    ]
    for label, ours, theirs, time_target, memory_target, note in comparisons:
        row = time_row(
            f'training step, {label}, time',
            ratio_of(times[ours], times[theirs]),
            times[ours],
            times[theirs],
            target=target(time_target, settings) if time_target else None,
            note=note,
        )
        if theirs == 'floor':
            rows.append(explained(row, partial(added_operations, runs[ours], runs[theirs], settings)))
        else:
            rows.append(explained(row, partial(profile_of, runs[ours], settings)))
            pair = memory[ours], memory[theirs]
            limit = target(memory_target, settings) if memory_target else None
            peaks = (
                f'{size}; peaks of the processes {pair[0].peak:.0f} and {pair[1].peak:.0f} MiB; tensors hold '
                f'{pair[0].tensors:.0f} and {pair[1].tensors:.0f} MiB of them, the rest is what the allocator keeps'
            )
            rows.append(
                memory_row(
                    f'training step, {label}, peak memory beyond model and inputs', 'growth', *pair, limit, peaks
                )
            )
            rows.append(
                memory_row(f'training step, {label}, peak memory with model', 'with_model', *pair, limit, peaks)
            )
            rows.append(memory_row(f'training step, {label}, peak of all tensors', 'tensors', *pair, None, size))
    return rows + added_task(settings, runs['vmt'], size)


def memory_row(name: str, quantity: str, ours: Memory, theirs: Memory, limit: float | None, note: str) -> Row:
    """A row of one quantity of two memories."""
    values = [getattr(memory, quantity) for memory in (ours, theirs)]
    return make_row(name, values[0] / values[1], *values, 'MiB', target=limit, note=note)


def added_task(settings: Settings, four: Run, size: str) -> list[Row]:
    """What a fifth task costs."""
    log('step: a task added')
    runs = {
        'encoder, 4': encoder_step(build_model(VMT, settings), settings, settings.image),
        'encoder, 5': encoder_step(build_model(VMT, settings, fifth=True), settings, settings.image),
        'model, 4': four,
        'model, 5': prepare_vmt(VMT, settings, fifth=True),
        'head': prepare_head(VMT, FIFTH_TASK, settings),
    }
    times = timed(runs, settings, 3)
    rows = []
    for name, part, unit, key, note in (
        ('encoder part over the step with 4 tasks', 'encoder', 'model, 4', 'added to the encoder', size),
        (
            'whole model over its head and loss alone',
            'model',
            'head',
            'added to the model',
            f'{size}; task {FIFTH_TASK}',
        ),
    ):
        more, less = f'{part}, 5', f'{part}, 4'
        added = [a - b for a, b in zip(times[more], times[less])]
        row = time_row(
            f'a task added to VMT-Adapter, {name}',
            added_ratio(times[more], times[less], times[unit]),
            added,
            times[unit],
            target=target(key, settings),
            note=f'5 tasks minus 4 within each round; {note}',
        )
        rows.append(explained(row, partial(added_operations, runs[more], runs[less], settings)))
    return rows


def measure_data(settings: Settings) -> list[Row]:
    """The training pipeline against decoding the same files alone, in one process as in a worker of the loader."""
    log(f'data: rendering {settings.scenes} scenes of {settings.scene_size} px')
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / 'scenes'
        write_pascal_mt(root, settings.scenes, 1, settings.scene_size, settings.seed, settings.threads, progress=False)
        cfg = copy.deepcopy(read_config(VMT).train_dataloader.dataset.to_dict())
        dataset = DATASETS.build(cfg | dict(data_root=str(root)))
        set_random_seed(settings.seed)
        infos = [dataset.get_data_info(index) for index in range(len(dataset))]
        files = [path for info in infos for path in (info['img_path'], *label_files(info))]
        runs = {
            'pipeline': lambda: [dataset[index] for index in range(len(dataset))],
            'decoding': lambda: [decode(path) for path in files],
        }
        log('data: timing')
        with one_thread(settings):
            times = timed(runs, settings)
            ours, theirs = ([seconds / len(infos) for seconds in times[name]] for name in runs)
            rates = [1 / statistics.median(values) for values in (ours, theirs)]
            note = (
                f'{rates[0]:.1f} against {rates[1]:.1f} images/s of one process; images of {settings.scene_size} px, '
                f'{len(dataset.tasks)} tasks, {len(files) // len(infos)} files per image'
            )
            limit = target('data', settings)
            row = time_row(
                'data, an image of the training pipeline over decoding its files',
                ratio_of(ours, theirs),
                ours,
                theirs,
                target=limit,
                note=note,
            )
            return [explained(row, partial(transform_shares, dataset))]


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
    seconds: dict[str, float] = {}
    for index in range(len(dataset)):
        sample: Any = dataset.get_data_info(index)
        for transform in dataset.pipeline.transforms:
            start = time.perf_counter()
            sample = transform(sample)
            name = type(transform).__name__
            seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - start
    return largest_operations(seconds, top=len(seconds))


def label_files(info: dict[str, Any]) -> list[str]:
    """The files that hold the labels of a sample."""
    paths = info['label_paths'].values()
    return [file for path in paths for file in ((path,) if isinstance(path, str) else path)]


def decode(path: str) -> Any:
    """Read a file of the data set, and no more."""
    return loadmat(path) if path.endswith('.mat') else cv2.imread(path, cv2.IMREAD_UNCHANGED)


class Compiled(NamedTuple):
    """Times of a compiled model beside the same model as it is, and the seconds of its compilation."""

    times: dict[str, list[float]]
    seconds: float


def compiled_times(settings: Settings, batch: int, bfloat16: bool) -> Compiled:
    """Compile a model and time it beside itself."""
    runs = inference_runs(VMT, settings, batch, bfloat16, compiled=True)
    start = time.perf_counter()
    outputs = {name: run() for name, run in runs.items()}
    seconds = time.perf_counter() - start
    if not bfloat16:
        check_equal('compiled model', *(list(out.values()) for out in outputs.values()), tolerance=1e-3)
    return Compiled(timed(runs, settings, 0.5), seconds)


def measure_inference(settings: Settings) -> list[Row]:
    """Latency and throughput of the whole model in both precisions, as it is and compiled."""
    log('inference')
    rows = []
    side, encoder = settings.image, encoder_name('t', settings)
    size = f'{encoder}, {side} x {side}, {len(FOUR_TASKS)} tasks, logits at a quarter of the size'
    for batch in settings.batches:
        runs = {
            name: inference_runs(VMT, settings, batch, bfloat16, compiled=False)['eager']
            for name, bfloat16 in (('fp32', False), ('bf16', True))
        }
        times = timed(runs, settings)
        rows.append(latency_row('bf16 over fp32', batch, times['bf16'], times['fp32'], size))
    compiler = os.environ.get('CXX', 'g++')
    left = settings.compile_seconds
    for batch in settings.batches:
        for name, bfloat16 in (('fp32', False), ('bf16', True)):
            label, missing = f'compiled over eager, {name}', ''
            start = time.perf_counter()
            if shutil.which(compiler) is None:
                missing = f'not measured: torch.compile needs a C++ compiler, and {compiler!r} is none; set CXX'
            elif left <= 0:
                missing = f'not measured: the {settings.compile_seconds:.0f} s of --compile-seconds were over'
            elif not RECORDS_GRAPHS:
                missing = f'not measured: torch.compile of the models needs torch 2.7, this is {torch.__version__}'
            else:
                log(f'inference: batch {batch}, {label}')
                try:
                    compiled = in_fresh_process(
                        compiled_times, settings, batch, bfloat16, threads=settings.threads, limit=left
                    )
                except TimeoutError:
                    missing = f'not measured: compilation was not over after the {left:.0f} s left of --compile-seconds'
            left -= time.perf_counter() - start
            if missing:
                rows.append(make_row(f'inference, batch {batch}, {label}', None, None, None, 'ms', note=missing))
                continue
            note = f'{size}; compiled in {compiled.seconds:.0f} s'
            rows.append(latency_row(label, batch, compiled.times['compiled'], compiled.times['eager'], note))
    return rows


def latency_row(name: str, batch: int, ours: Sequence[float], theirs: Sequence[float], note: str) -> Row:
    """Latency of two ways to run a batch, with the throughput in the note."""
    rates = [batch / statistics.median(values) for values in (ours, theirs)]
    note = f'{rates[0]:.2f} against {rates[1]:.2f} images/s; {note}'
    return time_row(f'inference, batch {batch}, {name}', ratio_of(ours, theirs), ours, theirs, note=note)


SUBCOMMANDS: dict[str, Callable[[Settings], list[Row]]] = {
    'encoder': measure_encoder,
    'tasks': measure_tasks,
    'heads': measure_heads,
    'step': measure_step,
    'data': measure_data,
    'inference': measure_inference,
}
WITH_CURVES = ('tasks', 'all', 'table')
COMPILE_SECONDS = {'inference': 1800.0, 'all': 100.0}
"""For all compiled models together: a compilation takes minutes, and ``all`` has to be over in fifteen."""


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
    for name in WITH_CURVES:
        commands.choices[name].add_argument(
            '--picture', metavar='FILE', help='draw the curves over the number of tasks'
        )
    for name, seconds in COMPILE_SECONDS.items():
        commands.choices[name].add_argument(
            '--compile-seconds',
            type=float,
            default=seconds,
            metavar='S',
            help=f'for all compiled models together; those that do not fit are left out; default: {seconds:.0f}',
        )
    args = parser.parse_args(argv)
    if args.command != 'table':
        if args.device == 'cuda' and not torch.cuda.is_available():
            parser.error('--device cuda: PyTorch sees no GPU; leave the option out to measure on the CPU')
        if args.threads is not None and args.threads < 1:
            parser.error(f'--threads must be at least 1, got {args.threads}')
    for file in filter(None, [args.json, getattr(args, 'picture', None)]):
        if not Path(file).resolve().parent.is_dir():
            parser.error(f'the folder of {file} does not exist; create it first')
    return args


def measure(args: argparse.Namespace) -> list[Row]:
    """Run the subcommands and say in every row where it comes from."""
    torch.set_num_threads(args.threads or torch.get_num_threads())
    options = dict(device=args.device, seed=args.seed, threads=torch.get_num_threads())
    if args.command in COMPILE_SECONDS:
        options['compile_seconds'] = args.compile_seconds
    settings = Settings(**options, **(QUICK if args.quick else {}))
    run = run_record(args.seed) | dict(
        device=args.device, threads=settings.threads, quick=args.quick, cpu_flags=cpu_flags()
    )
    device = run['hardware']['gpus'][0] if args.device == 'cuda' else run['hardware']['cpu']
    rows: list[Row] = []
    start = time.perf_counter()
    for name in SUBCOMMANDS if args.command == 'all' else (args.command,):
        rows += [row | dict(device=device, run=run) for row in SUBCOMMANDS[name](settings)]
        # What was measured is kept should a later part fail.
        if args.json:
            write_rows(args.json, rows)
        log(f'{name} done, {time.perf_counter() - start:.0f} s since the start')
    return rows


def earlier_rows(files: Sequence[str]) -> list[Row]:
    """Rows of earlier runs."""
    try:
        return read_rows(files)
    except (FileNotFoundError, ValueError) as error:
        raise SystemExit(str(error)) from error


def show(rows: Sequence[Row], console: Console) -> None:
    """Print the rows with targets, then the others."""
    for title, with_target in (('What has to be reached', True), ('More figures', False)):
        chosen = [row for row in rows if (row['target'] is not None) == with_target]
        if not chosen:
            continue
        table = Table(title=title)
        for index, name in enumerate(HEADER):
            table.add_column(name, justify='right' if 1 <= index <= 4 else 'left')
        for row in chosen:
            table.add_row(*(text.replace('**', '') for text in cells(row)))
        console.print(table)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    pages = args.markdown or []
    for page in pages:
        try:
            check_marks(page)
        except ValueError as error:
            raise SystemExit(str(error)) from error
    rows = earlier_rows(args.rows) if args.command == 'table' else measure(args)
    # A table that is piped into a file needs more than the 80 columns that rich assumes.
    show(rows, Console() if sys.stdout.isatty() else Console(width=220))
    if args.json and args.command == 'table':
        write_rows(args.json, rows)
    for page in pages:
        insert_tables(page, rows)
    if getattr(args, 'picture', None):
        try:
            draw_curves(rows, args.picture)
        except ValueError as error:
            raise SystemExit(str(error)) from error
    return 0


if __name__ == '__main__':
    sys.exit(main())
