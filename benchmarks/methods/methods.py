"""What is compared, and at which sizes. The Snakefile reads it in every process: standard library only."""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
TASKS = ('semseg', 'human_parts', 'saliency', 'normals')
SWEEP_SEED = 100
"""Seed of the trials, apart from the seeds that are reported."""
SHORT = 4
"""The short pretraining of the scaling experiment is this part of the full one."""


@dataclass(frozen=True)
class Method:
    """A row of the comparison.

    Args:
        title: Name in table and picture.
        family: Key of ``results.FAMILIES``.
        passes: How often the encoder runs per image: ``'1'``, ``'T'`` for the number of tasks, ``'T models'``.
        config: Its config under ``configs/``, without the data set's name; ``{size}`` is that of the encoder,
            ``{task}`` the task of a model that has one.
        rates_of: Method at whose learning rates it is trained, without trials; empty: it has trials of its own.
        options: What differs from the config, as ``--cfg-options`` has it.
    """

    title: str
    family: str
    passes: str
    config: str
    rates_of: str = ''
    options: tuple[str, ...] = ()


def _first_stage(first: int) -> Method:
    filled = ','.join(str(stage >= first) for stage in range(1, 5))
    which = 'stage 4' if first == 4 else f'stages {first} to 4'
    options = (f'model.backbone.plugins.0.stages=({filled})',)
    return Method(f'VMT-Adapter, {which}', 'VMT-Adapter', '1', 'vmt/swin_{size}', options=options)


_BASE = 'baselines/swin_{size}_'
METHODS = {
    'single_task': Method('single-task fine-tuning', 'full fine-tuning', 'T models', _BASE + 'single_{task}'),
    'decoders_only': Method('decoders only', 'decoders only', '1', _BASE + 'decoders_only'),
    'multi_task': Method('multi-task fine-tuning', 'full fine-tuning', '1', _BASE + 'full_multitask'),
    'bitfit': Method('BitFit', 'parts of the encoder', 'T', _BASE + 'bitfit'),
    'relative_position_bias': Method(
        'relative position bias', 'parts of the encoder', 'T', _BASE + 'relative_position_bias'
    ),
    'norms': Method('norms', 'parts of the encoder', 'T', _BASE + 'norms'),
    'vpt_shallow': Method('VPT-shallow', 'prompts', 'T', _BASE + 'vpt_shallow'),
    'vpt_deep': Method('VPT-deep', 'prompts', 'T', _BASE + 'vpt_deep'),
    'phm_adapter': Method('PHM layer', 'Kronecker sums', 'T', _BASE + 'phm_adapter'),
    'compacter': Method('Compacter', 'Kronecker sums', 'T', _BASE + 'compacter'),
    'compacter_plus_plus': Method('Compacter++', 'Kronecker sums', 'T', _BASE + 'compacter_plus_plus'),
    'lora': Method('LoRA', 'low rank', 'T', _BASE + 'lora'),
    'adapter': Method('Adapter', 'bottleneck adapters', 'T', _BASE + 'adapter'),
    'low_rank_adapter': Method('Low-rank adapter', 'low rank', 'T', _BASE + 'low_rank_adapter'),
    'shared_adapter': Method('Shared adapter', 'bottleneck adapters', '1', _BASE + 'shared_adapter'),
    'hyperformer': Method('HyperFormer', 'hypernetworks', 'T', 'hyperformer/swin_{size}'),
    'polyhistor': Method('Polyhistor', 'hypernetworks', 'T', 'polyhistor/swin_{size}'),
    'polyhistor_lite': Method('Polyhistor-Lite', 'hypernetworks', 'T', 'polyhistor/swin_{size}_lite'),
    'vmt_adapter': Method('VMT-Adapter', 'VMT-Adapter', '1', 'vmt/swin_{size}'),
    'vmt_adapter_lite': Method('VMT-Adapter-Lite', 'VMT-Adapter', '1', 'vmt/swin_{size}_lite'),
    'small_parts': Method('patch embedding, norms, tables', 'parts of the encoder', '1', _BASE + 'small_parts'),
    'parts': Method('patch embedding, norms, tables, merging', 'parts of the encoder', '1', _BASE + 'parts'),
    'ssf': Method('SSF', 'parts of the encoder', '1', _BASE + 'ssf'),
    'dora': Method('DoRA', 'low rank', '1', _BASE + 'dora'),
    'mona': Method('Mona', 'bottleneck adapters', '1', _BASE + 'mona'),
    'adaptformer': Method('AdaptFormer', 'bottleneck adapters', '1', _BASE + 'adaptformer'),
    'mtlora': Method('MTLoRA', 'tails per task', '1', 'mtlora/swin_{size}_r16'),
    'mtlora_plus': Method('MTLoRA+', 'tails per task', '1', 'mtlora/swin_{size}_plus_r4'),
    'ditask': Method('DiTASK', 'tails per task', '1', 'ditask/swin_{size}'),
    'ditask_small': Method('DiTASK, layers between stages frozen', 'tails per task', '1', 'ditask/swin_{size}_small'),
    'vmt_adapter_bf16': Method(
        'VMT-Adapter, encoder in bfloat16', 'VMT-Adapter', '1', 'vmt/swin_{size}_bf16', 'vmt_adapter'
    ),
    'vmt_adapter_deformable': Method(
        'VMT-Adapter, deformable heads', 'VMT-Adapter', '1', 'vmt/swin_{size}_deformable', 'vmt_adapter'
    ),
    'vmt_adapter_from_stage_2': _first_stage(2),
    'vmt_adapter_from_stage_3': _first_stage(3),
    'vmt_adapter_from_stage_4': _first_stage(4),
}
GROUPS = {
    'variants': ['vmt_adapter_bf16', 'vmt_adapter_deformable'],
    'stages': [f'vmt_adapter_from_stage_{stage}' for stage in (2, 3, 4)],
    'later': [
        'small_parts',
        'parts',
        'ssf',
        'dora',
        'mona',
        'adaptformer',
        'mtlora',
        'mtlora_plus',
        'ditask',
        'ditask_small',
    ],
}
GROUPS['standard'] = [name for name in METHODS if all(name not in group for group in GROUPS.values())]
"""What is compared unless methods are named."""
SCALING = ['decoders_only', 'polyhistor_lite', 'vmt_adapter']

PRESETS: dict[str, dict[str, Any]] = {
    'synthetic': dict(learning_rates=[5e-3, 1e-2, 2e-2], iters=800, warm_up=0.1, batch_size=8, crop=64, log=40),
    # Length, warm-up and batch of configs/_base_; the rates lie around its rate.
    'pascal': dict(
        learning_rates=[2.5e-4, 5e-4, 1e-3], iters=40000, warm_up=1500 / 40000, batch_size=8, crop=None, log=50
    ),
}
OPTIONS: dict[str, Any] = dict(
    preset='synthetic',  # or pascal
    methods='standard',  # names of METHODS and GROUPS, separated by commas
    seeds=3,  # trainings per method
    iters=None,  # length of a training; None: by preset
    learning_rates=None,  # tried for the heads; None: by preset
    multipliers=[0.02, 0.1, 0.5],  # tried for what trains in the encoder, as multiples of the heads' rate
    data_root=None,  # PASCAL_MT folder, for the preset pascal
    encoder=None,  # encoder weights; None: pretrained here, or the URL of the configs
    published_references=False,  # Delta_m against the references in the configs (pascal)
    train=2000,  # rendered training scenes
    val=200,  # rendered validation scenes
    size=128,  # their side in pixels
    objects=700,  # pretraining pictures per class
    pretrain_iters=4200,  # length of the pretraining
)
"""What ``snakemake --config`` takes, with its defaults."""


class Comparison:
    """A comparison with its options checked.

    Args:
        config: Some of :data:`OPTIONS`, lists and numbers also as text.

    Raises:
        ValueError: An option is unknown or its value cannot be used; the message names both.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        if unknown := sorted(set(config) - set(OPTIONS)):
            raise ValueError(f'unknown option {unknown[0]!r}; known options: {", ".join(OPTIONS)}')
        values = OPTIONS | dict(config)
        if values['preset'] not in PRESETS:
            raise ValueError(f'preset must be one of {", ".join(PRESETS)}, got {values["preset"]!r}')
        self.preset = PRESETS[values['preset']]
        for key in ('iters', 'learning_rates'):
            values[key] = values[key] or self.preset[key]
        for key, least in dict(seeds=1, iters=4, train=1, val=1, size=1, objects=1, pretrain_iters=2 * SHORT).items():
            if not (isinstance(values[key], int) and values[key] >= least):
                raise ValueError(f'{key} must be a whole number of at least {least}, got {values[key]!r}')
        for key in ('learning_rates', 'multipliers'):
            values[key] = sorted(_positive(key, value) for value in _listed(values[key]))
        self.synthetic = values['preset'] == 'synthetic'
        if self.synthetic and (values['data_root'] or values['published_references']):
            raise ValueError('data_root and published_references belong to preset=pascal; scenes are rendered here')
        if not self.synthetic and not values['data_root']:
            raise ValueError('preset=pascal needs data_root, a folder in the PASCAL_MT layout')
        for key in ('data_root', 'encoder'):
            if values[key] and not (ROOT / str(values[key])).exists():
                raise ValueError(f'{key}: {ROOT / str(values[key])} does not exist')
        self.values = values
        self.seeds = range(values['seeds'])
        self.methods = []
        for name in _listed(values['methods']):
            if name not in METHODS and name not in GROUPS:
                raise ValueError(f'unknown method {name!r}; known: {", ".join([*GROUPS, *METHODS])}')
            self.methods += GROUPS.get(name, [name])

    @property
    def settings(self) -> dict[str, Any]:
        """What all results of a folder share."""
        mine = {key: value for key, value in self.values.items() if key not in ('methods', 'seeds')}
        return mine | {key: self.preset[key] for key in ('batch_size', 'crop', 'warm_up')}

    def check_folder(self, folder: Path) -> None:
        """Refuse a folder that was made with other settings.

        Raises:
            ValueError: It was; the message names what differs.
        """
        path = folder / 'settings.json'
        known = json.loads(path.read_text(encoding='utf-8')) if path.is_file() else self.settings
        differing = [
            f'{key} is {known.get(key)!r} there and {value!r} now'
            for key, value in self.settings.items()
            if known.get(key) != value
        ]
        if differing:
            raise ValueError(
                f'{folder} was made with other settings, and its results would not compare: {"; ".join(differing)}. '
                f'Take another --directory, or repeat the settings of {path}; nothing was changed'
            )

    # Encoders and models

    @property
    def main(self) -> str:
        """Name of the encoder of the comparison."""
        if self.values['encoder']:
            return 'given'
        return f'nano_{self.values["pretrain_iters"]}' if self.synthetic else 'published'

    @property
    def scaling_encoders(self) -> list[str]:
        """Two sizes, each with a short and the full pretraining."""
        full = self.values['pretrain_iters']
        return [f'{size}_{iters}' for size in ('pico', 'nano') for iters in (full // SHORT, full)]

    def config(self, encoder: str, model: str) -> str:
        """Config of a model on an encoder, relative to the repository."""
        name, _, task = model.partition('-')
        size = ('pico' if encoder.startswith('pico') else 'nano') if self.synthetic else 't'
        stem = METHODS[name].config.format(size=size, task=task)
        return f'configs/{stem}_{self.values["preset"]}.py'

    def pretraining(self, size: str) -> str:
        """Config by which an encoder of a size learns to name single objects."""
        return str(ROOT / f'configs/pretrain/swin_{size}_synthetic_classification.py')

    def options(self, model: str) -> tuple[str, ...]:
        """What differs from the config of a model."""
        return METHODS[model.partition('-')[0]].options

    def candidates(self, encoder: str, model: str) -> list[str]:
        """Names of the trials of a model, from low rates to high; one alone needs no trial."""
        if model != 'decoders_only':
            return [f'x{value:g}' for value in self.values['multipliers']]
        # Their rate is that of all heads; on other encoders there is nothing to choose.
        return [f'lr{value:g}' for value in self.values['learning_rates']] if encoder == self.main else []

    # Tables

    @property
    def tables(self) -> list[str]:
        """What can be made."""
        return ['results', 'variants', 'stages', *(['scaling'] if self.synthetic else [])]

    def table(self, name: str) -> tuple[list[str], list[str], str]:
        """Encoders, methods and the method that a table's Delta_m is taken against; '': published figures."""
        reference = '' if self.values['published_references'] else 'single_task'
        if name == 'scaling':
            return self.scaling_encoders, SCALING, 'decoders_only'
        if name == 'stages':
            return [self.main], ['decoders_only', 'multi_task', 'vmt_adapter', *GROUPS['stages']], 'decoders_only'
        wanted = {*self.methods} if name == 'results' else {'decoders_only', 'vmt_adapter', *GROUPS['variants']}
        wanted |= {METHODS[method].rates_of for method in wanted} | {reference}
        return [self.main], [method for method in METHODS if method in wanted], reference


def models(method: str) -> list[str]:
    """Names of the models of a method: the only one, or one per task."""
    return [f'{method}-{task}' for task in TASKS] if method == 'single_task' else [method]


def pascal_configs(method: str) -> set[str]:
    """Configs of a method on PASCAL-Context, under ``configs/``; of a method with options none is its own."""
    spec = METHODS[method]
    tasks = [model.partition('-')[2] for model in models(method)]
    return set() if spec.options else {f'{spec.config.format(size="t", task=task)}_pascal.py' for task in tasks}


def rates_of(model: str) -> str:
    """Name of the model whose learning rates a model is trained at."""
    return METHODS[model.partition('-')[0]].rates_of or model


def config_files(config: str | Path) -> Iterator[Path]:
    """A config and all that it inherits."""
    path = (ROOT / config).resolve()
    yield path
    for statement in ast.parse(path.read_text(encoding='utf-8')).body:
        if isinstance(statement, ast.Assign) and getattr(statement.targets[0], 'id', '') == '_base_':
            bases = ast.literal_eval(statement.value)
            for base in [bases] if isinstance(bases, str) else bases:
                yield from config_files(path.parent / base)


def _listed(value: Any) -> list[Any]:
    if isinstance(value, str):
        return [word.strip() for word in value.split(',') if word.strip()]
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _positive(key: str, value: Any) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise ValueError(f'{key} must be positive numbers, got {value!r}')
    return number
