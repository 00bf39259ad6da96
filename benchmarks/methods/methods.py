"""What is compared: methods.yaml, and a choice of its options. Snakemake imports it: no torch here."""

from __future__ import annotations

import itertools
import json
from collections import namedtuple
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import yaml
from mmengine.config import Config

ROOT = Path(__file__).resolve().parents[2]
SPEC = yaml.safe_load(Path(__file__).with_name('methods.yaml').read_text(encoding='utf-8'))
OPTIONS, PRESETS, FAMILIES = SPEC['options'], SPEC['presets'], SPEC['families']

Method = namedtuple('Method', SPEC['defaults'])
METHODS = {name: Method(**SPEC['defaults'] | row) for name, row in SPEC['methods'].items()}
for name, row in METHODS.items():
    own = [f'model.backbone.plugins.0.cfg.{key}={value}' for key, value in row.plugin.items()]
    METHODS[name] = row._replace(options=[*row.options, *own])
# A model per method, or per task of one.
MODELS = {f'{name}-{task}'.rstrip('-'): row for name, row in METHODS.items() for task in row.tasks or ['']}
GROUPS = {group: [name for name, row in METHODS.items() if row.group == group] for group in SPEC['groups']}
Regime = namedtuple('Regime', SPEC['regimes']['main'])
HEADS = 'decoders_only'
"""The model with which the rate of all heads is found."""


class Comparison:
    """A comparison with its options, of which lists and numbers may be text; a ValueError names what cannot be used."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        if unknown := sorted(set(config) - set(OPTIONS)):
            raise ValueError(f'unknown option {unknown[0]!r}; known options: {", ".join(OPTIONS)}')
        self.given, values = dict(config), OPTIONS | dict(config)
        if values['preset'] not in PRESETS:
            raise ValueError(f'preset must be one of {", ".join(PRESETS)}, got {values["preset"]!r}')
        self.preset, self.synthetic = PRESETS[values['preset']], values['preset'] == 'synthetic'
        self.values = values = {k: self.preset.get(k) if value is None else value for k, value in values.items()}
        for key, least in SPEC['least'].items():
            if values[key] is not None and not (isinstance(values[key], int) and values[key] >= least):
                raise ValueError(f'{key} must be a whole number of at least {least}, got {values[key]!r}')
        for key in ('learning_rates', 'multipliers'):
            values[key] = _positive(key, _listed(values[key]))
        if not isinstance(values['amp'], bool):
            raise ValueError(f'amp must be True or False, got {values["amp"]!r}')
        if self.synthetic and (values['data_root'] or values['published_references']):
            raise ValueError('data_root and published_references belong to preset=pascal; scenes are rendered here')
        if not self.synthetic and not values['data_root']:
            raise ValueError('preset=pascal needs data_root, a folder in the PASCAL_MT layout')
        for key in ('data_root', 'encoder'):
            if config.get(key) and not (ROOT / str(values[key])).exists():
                raise ValueError(f'{key}: {ROOT / str(values[key])} does not exist')
        self.seeds, self.methods = values['seeds'], _expanded(_listed(values['methods']))
        self.regimes = {name: Regime(**row) for name, row in SPEC['regimes'].items()}
        self.scaling = SPEC['scaling'] if self.synthetic else {}
        main = self.regimes['main']
        self.regimes |= {name: main._replace(encoder=name) if path else main for name, path in self.scaling.items()}
        self.tables = [name for name, row in SPEC['tables'].items() if row['regime'] or self.scaling]
        # What all results that are compared share.
        self.settings = {key: value for key, value in values.items() if key not in SPEC['free']}
        self.settings['encoder'] = self.encoder_digest('main')

        given = ' '.join(f'{key}={value}' for key, value in config.items() if key not in SPEC['free'])
        self.command = f'snakemake -s benchmarks/methods/Snakefile --config {given}'.removesuffix(' --config ')

    # What a job reads

    def config(self, regime: str, model: str) -> str:
        """Config of a model in a regime, relative to the repository."""
        size = ('pico' if regime.startswith('pico') else 'nano') if self.synthetic else 't'
        name, _, task = model.partition('-')
        stem = MODELS[model].config.format(name=name, size=size, task=task)
        return f'configs/{stem}_{self.values["preset"]}.py'

    def encoder(self, regime: str) -> Path | None:
        """Encoder weights of a regime; None: the URL in the configs."""
        name = self.regimes[regime].encoder
        if name != 'main':
            return ROOT / self.scaling[name]
        return ROOT / self.values['encoder'] if self.values['encoder'] else None

    def existing_encoder(self, regime: str) -> str | None:
        """The same, checked."""
        path = self.encoder(regime)
        if path and not path.is_file():
            raise ValueError(f'{path} does not exist: the encoder of {regime}; docs/benchmark.md says what it is')
        return str(path) if path else None

    def encoder_digest(self, regime: str) -> str:
        path = self.encoder(regime)
        return _digest_of_file(path, path.stat().st_mtime_ns) if path and path.is_file() else ''

    def scenes(self, regime: str) -> tuple[Path, int | None]:
        """Folder of the scenes of a regime, and how many train; None: all."""
        count = self.values[self.regimes[regime].train]
        if not self.synthetic:
            return ROOT / self.values['data_root'], count
        # The first scenes of a larger folder are those of a smaller one, and validation scenes are the same.
        return Path('scenes' if count <= self.values['train'] else 'more_scenes'), count

    def identity(self, regime: str, model: str) -> str:
        """Digest of what the results of a model depend on besides the settings: what its config trains, its options,
        training scenes and encoder."""
        content = [_trained_part(self.config(regime, model)), MODELS[model].options, self.scenes(regime)[1]]
        return _digest(json.dumps([*content, self.encoder_digest(regime)], sort_keys=True).encode())

    def rates(self, regime: str, model: str) -> str:
        """The file with the rates that a model trains with."""
        return f'rates/{self.regimes[regime].rates or regime}/{MODELS[model].rates_of or model}.json'

    # What a table consists of

    def reference(self, table: str) -> str:
        """The method that Delta_m is taken against; '': published figures."""
        method = SPEC['tables'][table]['reference']
        return '' if method == 'single_task' and self.values['published_references'] else method

    def entries(self, table: str) -> Iterator[dict[str, Any]]:
        """Every model of a table, with the names of its files, and room for what failed."""
        row = SPEC['tables'][table]
        wanted = set(_expanded(row['methods']) or self.methods)
        wanted |= {METHODS[method].rates_of for method in wanted} | {self.reference(table)}
        regimes = [row['regime']] if row['regime'] else list(self.scaling)
        for name, model in itertools.product(regimes, MODELS):
            if model.partition('-')[0] in wanted:
                regime = 'main' if self.regimes[name] == self.regimes['main'] else name
                first = self.regimes[regime].first_seed
                runs = [f'trainings/{regime}/{model}/seed{first + i}.json' for i in range(self.seeds)]
                rates = [self.rates(regime, model)]
                yield dict(encoder=name, model=model, rates=rates, runs=runs, failures=[])


@cache
def _trained_part(config: str) -> dict[str, Any]:
    """The part of a config, with all that it inherits, that results depend on; encoder weights are given."""
    cfg = Config.fromfile(ROOT / config, import_custom_modules=False).to_dict()
    cfg['model']['backbone'].pop('init_cfg', None)
    return json.loads(json.dumps({key: cfg[key] for key in SPEC['trains']}, default=str))


@cache
def _digest_of_file(path: Path, changed: int) -> str:
    return _digest(path.read_bytes())


def _digest(content: bytes) -> str:
    return sha256(content).hexdigest()[:12]


def _expanded(names: Iterable[str]) -> list[str]:
    if unknown := [name for name in names if name not in METHODS and name not in GROUPS]:
        raise ValueError(f'unknown method {unknown[0]!r}; known: {", ".join([*GROUPS, *METHODS])}')
    return [method for name in names for method in GROUPS.get(name, [name])]


def _listed(value: Any) -> list[Any]:
    if isinstance(value, str):
        return [word.strip() for word in value.split(',') if word.strip()]
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _positive(key: str, values: list[Any]) -> list[float]:
    try:
        numbers = sorted(map(float, values))
    except ValueError:
        numbers = []
    if not numbers or not 0 < numbers[0] <= numbers[-1] < float('inf'):
        raise ValueError(f'{key} must be positive numbers, got {", ".join(map(str, values))!r}')
    return numbers
