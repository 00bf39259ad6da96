"""What is compared, and at which sizes. The Snakefile reads it in every process: standard library only."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
TASKS = ('semseg', 'human_parts', 'saliency', 'normals')
SWEEP_SEED = 100
"""Seed of the trials, apart from the seeds that are reported."""
SHORT = 4
"""The short pretraining of the scaling experiment is this part of the full one."""


class Method(NamedTuple):
    """A row of the comparison.

    Args:
        title: Name in table and picture.
        family: Key of ``results.FAMILIES``.
        passes: How often the encoder runs per image: ``'1'``, ``'T'`` for the number of tasks, ``'T models'``.
        config: Its config under ``configs/``, without the data set's name; ``{size}`` is that of the encoder,
            ``{task}`` the task of a model that has one, ``{base}`` what the names of the baselines begin with.
        group: What it is compared with.
        rates_of: Method at whose learning rates it is trained, without trials; empty: it has trials of its own.
        options: What differs from the config, as ``--cfg-options`` has it.
    """

    title: str
    family: str
    passes: str
    config: str = '{base}{name}'
    group: str = 'standard'
    rates_of: str = ''
    options: tuple[str, ...] = ()


METHODS = {
    'single_task': Method('single-task fine-tuning', 'full fine-tuning', 'T models', '{base}single_{task}'),
    'decoders_only': Method('decoders only', 'decoders only', '1'),
    'multi_task': Method('multi-task fine-tuning', 'full fine-tuning', '1', '{base}full_multitask'),
    'bitfit': Method('BitFit', 'parts of the encoder', 'T'),
    'relative_position_bias': Method('relative position bias', 'parts of the encoder', 'T'),
    'norms': Method('norms', 'parts of the encoder', 'T'),
    'vpt_shallow': Method('VPT-shallow', 'prompts', 'T'),
    'vpt_deep': Method('VPT-deep', 'prompts', 'T'),
    'phm_adapter': Method('PHM layer', 'Kronecker sums', 'T'),
    'compacter': Method('Compacter', 'Kronecker sums', 'T'),
    'compacter_plus_plus': Method('Compacter++', 'Kronecker sums', 'T'),
    'lora': Method('LoRA', 'low rank', 'T'),
    'adapter': Method('Adapter', 'bottleneck adapters', 'T'),
    'low_rank_adapter': Method('Low-rank adapter', 'low rank', 'T'),
    'shared_adapter': Method('Shared adapter', 'bottleneck adapters', '1'),
    'hyperformer': Method('HyperFormer', 'hypernetworks', 'T', 'hyperformer/swin_{size}'),
    'polyhistor': Method('Polyhistor', 'hypernetworks', 'T', 'polyhistor/swin_{size}'),
    'polyhistor_lite': Method('Polyhistor-Lite', 'hypernetworks', 'T', 'polyhistor/swin_{size}_lite'),
    'vmt_adapter': Method('VMT-Adapter', 'VMT-Adapter', '1', 'vmt/swin_{size}'),
    'vmt_adapter_lite': Method('VMT-Adapter-Lite', 'VMT-Adapter', '1', 'vmt/swin_{size}_lite'),
    'small_parts': Method('patch embedding, norms, tables', 'parts of the encoder', '1', group='later'),
    'parts': Method('patch embedding, norms, tables, merging', 'parts of the encoder', '1', group='later'),
    'ssf': Method('SSF', 'parts of the encoder', '1', group='later'),
    'dora': Method('DoRA', 'low rank', '1', group='later'),
    'mona': Method('Mona', 'bottleneck adapters', '1', group='later'),
    'adaptformer': Method('AdaptFormer', 'bottleneck adapters', '1', group='later'),
    'mtlora': Method('MTLoRA', 'tails per task', '1', 'mtlora/swin_{size}_r16', 'later'),
    'mtlora_plus': Method('MTLoRA+', 'tails per task', '1', 'mtlora/swin_{size}_plus_r4', 'later'),
    'ditask': Method('DiTASK', 'tails per task', '1', 'ditask/swin_{size}', 'later'),
    'ditask_small': Method(
        'DiTASK, layers between stages frozen', 'tails per task', '1', 'ditask/swin_{size}_small', 'later'
    ),
    'vmt_adapter_bf16': Method(
        'VMT-Adapter, encoder in bfloat16', 'VMT-Adapter', '1', 'vmt/swin_{size}_bf16', 'variants', 'vmt_adapter'
    ),
    'vmt_adapter_deformable': Method(
        'VMT-Adapter, deformable heads', 'VMT-Adapter', '1', 'vmt/swin_{size}_deformable', 'variants', 'vmt_adapter'
    ),
}
_FILLED = {
    2: ('stages 2 to 4', 'False,True,True,True'),
    3: ('stages 3 to 4', 'False,False,True,True'),
    4: ('stage 4', 'False,False,False,True'),
}
METHODS |= {
    f'vmt_adapter_from_stage_{first}': METHODS['vmt_adapter']._replace(
        title=f'VMT-Adapter, {which}', group='stages', options=(f'model.backbone.plugins.0.stages=({filled})',)
    )
    for first, (which, filled) in _FILLED.items()
}
GROUPS = {
    group: [name for name, method in METHODS.items() if method.group == group]
    for group in ('variants', 'stages', 'later', 'standard')
}
"""What can be asked for together; ``standard`` is compared unless methods are named."""
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
LEAST = dict(seeds=1, iters=4, train=1, val=1, size=1, objects=1, pretrain_iters=2 * SHORT)
"""Least values of the options that are whole numbers."""


class Comparison:
    """A comparison with its options checked.

    Args:
        config: Some of :data:`OPTIONS`, lists and numbers also as text.

    Raises:
        ValueError: An option is unknown or its value cannot be used; the message names both.

    Attributes:
        main: Name of the encoder of the comparison.
        scaling_encoders: Two sizes, each with a short and the full pretraining.
        tables: What can be made.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        if unknown := sorted(set(config) - set(OPTIONS)):
            raise ValueError(f'unknown option {unknown[0]!r}; known options: {", ".join(OPTIONS)}')
        values = self.values = OPTIONS | dict(config)
        if values['preset'] not in PRESETS:
            raise ValueError(f'preset must be one of {", ".join(PRESETS)}, got {values["preset"]!r}')
        self.preset, self.synthetic = PRESETS[values['preset']], values['preset'] == 'synthetic'
        for key in ('iters', 'learning_rates'):
            values[key] = values[key] or self.preset[key]
        for key, least in LEAST.items():
            if not (isinstance(values[key], int) and values[key] >= least):
                raise ValueError(f'{key} must be a whole number of at least {least}, got {values[key]!r}')
        for key in ('learning_rates', 'multipliers'):
            values[key] = sorted(_positive(key, value) for value in _listed(values[key]))
        if self.synthetic and (values['data_root'] or values['published_references']):
            raise ValueError('data_root and published_references belong to preset=pascal; scenes are rendered here')
        if not self.synthetic and not values['data_root']:
            raise ValueError('preset=pascal needs data_root, a folder in the PASCAL_MT layout')
        for key in ('data_root', 'encoder'):
            if values[key] and not (ROOT / str(values[key])).exists():
                raise ValueError(f'{key}: {ROOT / str(values[key])} does not exist')
        self.seeds, self.methods = range(values['seeds']), []
        for name in _listed(values['methods']):
            if name not in METHODS and name not in GROUPS:
                raise ValueError(f'unknown method {name!r}; known: {", ".join([*GROUPS, *METHODS])}')
            self.methods += GROUPS.get(name, [name])
        full = values['pretrain_iters']
        self.main = 'given' if values['encoder'] else f'nano_{full}' if self.synthetic else 'published'
        self.scaling_encoders = [f'{size}_{iters}' for size in ('pico', 'nano') for iters in (full // SHORT, full)]
        self.tables = ['results', 'variants', 'stages', *(['scaling'] if self.synthetic else [])]

    @property
    def settings(self) -> dict[str, Any]:
        """What all results of a folder share, as its ``settings.json`` holds it."""
        mine = {key: value for key, value in self.values.items() if key not in ('methods', 'seeds')}
        return mine | {key: self.preset[key] for key in ('batch_size', 'crop', 'warm_up')}

    def check_folder(self, folder: Path) -> None:
        """Refuse a folder that was made with other settings.

        Raises:
            ValueError: It was; the message names what differs.
        """
        path, now = folder / 'settings.json', self.settings
        known = json.loads(path.read_text(encoding='utf-8')) if path.is_file() else now
        differing = [
            f'{key} is {known.get(key)!r} there and {now[key]!r} now' for key in now if known.get(key) != now[key]
        ]
        if differing:
            raise ValueError(
                f'{folder} was made with other settings, and its results would not compare: {"; ".join(differing)}. '
                f'Take another --directory, or repeat the settings of {path}; nothing was changed'
            )

    def data_root(self, folder: Path) -> Path:
        """Where the images of a comparison in a folder are."""
        return folder / 'scenes' if self.synthetic else ROOT / self.values['data_root']

    def config(self, encoder: str, model: str) -> str:
        """Config of a model on an encoder, relative to the repository."""
        size = ('pico' if encoder.startswith('pico') else 'nano') if self.synthetic else 't'
        return config_of(model, size, self.values['preset'])

    def candidates(self, encoder: str, model: str) -> list[str]:
        """Names of the trials of a model, from low rates to high; one alone needs no trial."""
        if model != 'decoders_only':
            return [f'x{value:g}' for value in self.values['multipliers']]
        # Their rate is that of all heads; on other encoders there is nothing to choose.
        return [f'lr{value:g}' for value in self.values['learning_rates']] if encoder == self.main else []

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


def method_of(model: str) -> Method:
    """The method that a model belongs to."""
    return METHODS[model.partition('-')[0]]


def rates_of(model: str) -> str:
    """Name of the model whose learning rates a model is trained at."""
    return method_of(model).rates_of or model


def config_of(model: str, size: str, data: str) -> str:
    """Config of a model on an encoder's size and a data set, relative to the repository."""
    name, _, task = model.partition('-')
    stem = METHODS[name].config.format(base=f'baselines/swin_{size}_', name=name, size=size, task=task)
    return f'configs/{stem}_{data}.py'


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
        number = 0.0
    if not 0 < number < float('inf'):
        raise ValueError(f'{key} must be positive numbers, got {value!r}')
    return number
