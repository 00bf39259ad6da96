"""What each subcommand measures: groups of cases, most of them as rows.yaml has them."""

import itertools
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
from mmengine.runner import set_random_seed
from scipy.io import loadmat

from mmvmt.compat import RECORDS_GRAPHS
from mmvmt.registry import DATASETS
from mmvmt.synthetic import write_pascal_mt

from . import cases
from .cases import ENCODER, VMT, WHOLE, Settings
from .comparison import TABLES, Group, Pair


def declared(settings: Settings, name: str, small: bool = False, **options: Any) -> Group:
    """A group of rows.yaml."""
    table, side = TABLES[name], settings.small_image if small else settings.image
    runs = {case: partial(getattr(cases, run), **row) for case, (run, row) in table['cases'].items()}
    size = table['size'].format(side=side, batch=settings.batch)
    return Group(settings, name, runs, [Pair(**row) for row in table['rows']], size, **options)


def measure_encoder(settings: Settings) -> Iterator[Group]:
    """AdaptedSwin without plugins against mmseg's SwinTransformer, both with the same weights."""
    kinds = dict(ours='mmvmt.AdaptedSwin', mmseg='mmseg.SwinTransformer')
    for size, side in settings.swins:
        cfgs = {kind: cases.swin_config(f'vmt/swin_{size}_pascal', settings, name) for kind, name in kinds.items()}
        label = f'Swin-{size.upper()}, {side} x {side}, {"bf16" if settings.device == "cuda" else "fp32"}'
        rows = dict(evaluation=f'encoder forward, {label}')
        if settings.device == 'cuda' and RECORDS_GRAPHS:
            rows['compiled'] = f'encoder forward, {label}, both compiled'
        rows['training'] = f'encoder forward and backward, all weights training, {label}'
        for doing, name in rows.items():
            pair = Pair(name, 'ours', 'mmseg', equal=None if doing == 'training' else 1e-4)
            runs = {kind: partial(cases.encoder, cfg=cfg, doing=doing, side=side) for kind, cfg in cfgs.items()}
            yield Group(settings, name, runs, [pair], f'batch {settings.batch}')


def measure_tasks(settings: Settings) -> Iterator[Group]:
    """Time, operations and peak memory of a training step over the number of tasks."""
    side, few = settings.small_image, settings.few_counts
    for method, config in TABLES['tasks'].items():
        per_task = cases.build(cases.model_config(config, settings), settings).backbone.per_task
        counts = few if per_task else settings.counts
        # For memory each needs a process of its own, which takes long.
        points = {('time', 'operations'): counts, ('peak memory',): sorted({*few, counts[-1]})}
        pairs = [
            Pair(
                f'{method}: {part}, {{}} of a training step, {few[-1]} tasks over 1',
                (part, few[-1]),
                (part, 1),
                f'encoder runs {"once per task" if per_task else "once"}',
                quantities=quantities,
                curve=dict(method=method, part=part),
                points={count: (part, count) for count in chosen},
            )
            for part in (ENCODER, WHOLE)
            for quantities, chosen in points.items()
        ]
        every = itertools.product((ENCODER, WHOLE), counts)
        runs = {(part, n): partial(cases.step, config=config, part=part, tasks=n) for part, n in every}
        size = f'Swin-T, {side} x {side}, batch {settings.batch}'
        yield Group(settings, f'tasks: {method}', runs, pairs, size, least=settings.least - 1)


def measure_heads(settings: Settings) -> Iterator[Group]:
    """The composed head against the same head uncomposed, and beside other heads."""
    yield declared(settings, 'heads')
    yield declared(settings, 'deformable head', small=True)


def measure_step(settings: Settings) -> Iterator[Group]:
    """A training step of VMT-Adapter with four tasks, against fine-tuning, its floor, and itself in bfloat16."""
    yield declared(settings, 'step', seconds=7)
    yield declared(settings, 'a task added', seconds=3)


def measure_data(settings: Settings) -> Iterator[Group]:
    """The training pipeline against decoding the same files alone, in one process as in a worker of the loader."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / 'scenes'
        write_pascal_mt(root, settings.scenes, 1, settings.scene_size, settings.seed, settings.threads, progress=False)
        cfg = cases.read_config(VMT).train_dataloader.dataset.to_dict()
        dataset = DATASETS.build(cfg | dict(data_root=str(root)))
        set_random_seed(settings.seed)
        count = len(dataset)
        files = [path for index in range(count) for path in files_of(dataset.get_data_info(index))]

        def read(path: str) -> Any:
            return loadmat(path) if path.endswith('.mat') else cv2.imread(path, cv2.IMREAD_UNCHANGED)

        runs = {
            'pipeline': lambda settings: lambda: [dataset[index] for index in range(count)],
            'decoding': lambda settings: lambda: [read(path) for path in files],
        }
        pair = Pair('data, an image of the training pipeline over decoding its files', *runs)
        size = f'images of {settings.scene_size} px, {len(dataset.tasks)} tasks, {len(files) // count} files per image'
        # One thread, as in the workers of the loader.
        cv2.setNumThreads(0)
        settings = replace(settings, threads=1)
        yield Group(settings, 'data', runs, [pair], size, per=count, images=1, profiled=False)


def files_of(info: dict[str, Any]) -> list[str]:
    """The image of a sample and the files that hold its labels."""
    paths = info['label_paths'].values()
    return [info['img_path'], *(file for path in paths for file in ((path,) if isinstance(path, str) else path))]


def measure_inference(settings: Settings) -> Iterator[Group]:
    """Latency and throughput of the whole model in both precisions."""
    for batch in settings.batches:
        case = partial(cases.inference, config=VMT, batch=batch)
        runs = {name: partial(case, bfloat16=name == 'bf16') for name in ('bf16', 'fp32')}
        pair = Pair(f'inference, batch {batch}, bf16 over fp32', *runs)
        yield Group(settings, pair.name, runs, [pair], size_of_inference(settings), images=batch)


def measure_compiled(settings: Settings) -> Iterator[Group]:
    """The same model compiled against as it is; compilation takes minutes."""
    for batch, precision in itertools.product(settings.batches, ('fp32', 'bf16')):
        eager = partial(cases.inference, config=VMT, batch=batch, bfloat16=precision == 'bf16')
        runs = dict(compiled=partial(eager, compiled=True), eager=eager)
        pair = Pair(f'inference, batch {batch}, compiled over eager, {precision}', *runs, equal=1e-3)
        yield Group(settings, pair.name, runs, [pair], size_of_inference(settings), seconds=0.5, images=batch)


def size_of_inference(settings: Settings) -> str:
    """What runs, in notes."""
    return f'Swin-T, {settings.image} x {settings.image}, 4 tasks, logits at a quarter of the size'


SUBCOMMANDS: dict[str, Callable[[Settings], Iterator[Group]]] = {
    'encoder': measure_encoder,
    'tasks': measure_tasks,
    'heads': measure_heads,
    'step': measure_step,
    'data': measure_data,
    'inference': measure_inference,
    'compiled': measure_compiled,
}
IN_ALL = tuple(name for name in SUBCOMMANDS if name != 'compiled')
"""What takes minutes, not half an hour."""
