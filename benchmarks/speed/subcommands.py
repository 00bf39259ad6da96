"""What each subcommand measures: groups of cases, most of them as rows.yaml has them."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
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

FULL = 'baselines/swin_t_full_multitask_pascal'


def declared(settings: Settings, names: Sequence[str]) -> Iterator[Group]:
    """Groups of rows.yaml."""
    for name in names:
        table = TABLES[name]
        runs = {case: partial(getattr(cases, run), **row) for case, (run, row) in table['cases'].items()}
        side = settings.small_image if table.get('small') else settings.image
        size = table['size'].format(side=side, batch=settings.batch)
        yield Group(settings, name, runs, [Pair(**row) for row in table['rows']], size, table.get('seconds', 1))


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


def measure_encoders(settings: Settings) -> Iterator[Group]:
    """Encoders of other libraries that nothing is filled in against the plain ones, and VMT-Adapter on each."""
    for name, row in TABLES['encoders'].items():
        cfg, side = row['cfg'], row.get('side', settings.small_image)
        if settings.shrunk:
            cfg, side = cfg | row['quick'], settings.small_image
        runs: dict[Any, Any] = {
            (kind, doing): partial(cases.encoder, cfg=each, doing=doing, side=side)
            for kind, each in dict(hooked=dict(type='mmvmt.AdaptedBackbone', encoder=cfg), plain=cfg).items()
            for doing in ('evaluation', 'frozen')
        }
        for config in (VMT, FULL):
            runs[config] = partial(cases.step, config=config, encoder=cfg, side=side)
        pairs = (
            Pair(f'hooked over plain, forward, {name}', *[(k, 'evaluation') for k in ('hooked', 'plain')], equal=1e-4),
            Pair(f'hooked over plain, frozen training step, {name}', *[(k, 'frozen') for k in ('hooked', 'plain')]),
            Pair(f'training step, VMT-Adapter over our own full fine-tuning, 4 tasks, {name}', VMT, FULL),
        )
        yield Group(settings, name, runs, pairs, f'{side} x {side}, batch {settings.batch}', seconds=0.75)


STEP = (('time', 'operations'), ('peak memory',))
PARTS = {
    # case, name of rows, quantities by what points they are measured at
    'encoder': (partial(cases.step, part=ENCODER), 'encoder, {} of a training step', STEP),
    'whole model': (cases.step, 'whole model, {} of a training step', STEP),
    'inference': (cases.inference, 'encoder, {} of inference', (('time',),)),
}


def measure_tasks(settings: Settings, table: str) -> Iterator[Group]:
    """Time, operations and peak memory of a training step over the number of tasks."""
    few = settings.few_counts
    for method, (config, parts) in TABLES[table].items():
        per_task = cases.build(cases.model_config(config, settings), settings).backbone.per_task
        counts = settings.counts if WHOLE in parts and not per_task else few
        # For memory each needs a process of its own, which takes long.
        points = {STEP[1]: sorted({*few, counts[-1]})}
        pairs = [
            Pair(
                f'{method}: {PARTS[part][1]}, {few[-1]} tasks over 1',
                (part, few[-1]),
                (part, 1),
                f'encoder runs {"once per task" if per_task else "once"}',
                quantities=quantities,
                curve=dict(method=method, part=part),
                points={count: (part, count) for count in points.get(quantities, counts)},
            )
            for part in parts
            for quantities in PARTS[part][2]
        ]
        runs = {(part, n): partial(PARTS[part][0], config=config, tasks=n) for part in parts for n in counts}
        size = f'Swin-T, {settings.small_image} x {settings.small_image}, batch {settings.batch}'
        yield Group(settings, f'{table}: {method}', runs, pairs, size, least=settings.least - 1)
    yield from declared(settings, [f'{table}, in turn'] if f'{table}, in turn' in TABLES else ())


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
        pair = Pair('data, an image of the training pipeline over decoding its files', *runs, images=1)
        size = f'images of {settings.scene_size} px, {len(dataset.tasks)} tasks, {len(files) // count} files per image'
        # One thread, as in the workers of the loader.
        cv2.setNumThreads(0)
        settings = replace(settings, threads=1)
        yield Group(settings, 'data', runs, [pair], size, per=count, profiled=False)


def files_of(info: dict[str, Any]) -> list[str]:
    """The image of a sample and the files that hold its labels."""
    paths = info['label_paths'].values()
    return [info['img_path'], *(file for path in paths for file in ((path,) if isinstance(path, str) else path))]


SUBCOMMANDS: dict[str, tuple[Callable[[Settings], Iterator[Group]], str]] = {
    'encoder': (measure_encoder, "AdaptedSwin without adapters against mmseg's SwinTransformer"),
    'encoders': (measure_encoders, "other libraries' encoders with slots against the plain ones"),
    'tasks': (partial(measure_tasks, table='tasks'), 'training steps over the number of tasks'),
    'later': (partial(measure_tasks, table='later'), 'the same of later methods, encoder and inference'),
    'heads': (partial(declared, names=('heads', 'deformable head')), 'the composed head against other heads'),
    'step': (partial(declared, names=('step', 'a task added')), 'a step against fine-tuning and its floor'),
    'data': (measure_data, 'the training pipeline against decoding the same files'),
    'inference': (partial(declared, names=('inference',)), 'latency and throughput in both precisions'),
    'compiled': (partial(declared, names=('compiled',)), 'the same, compiled, which takes minutes more'),
}
