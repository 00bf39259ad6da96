"""What is compared: methods.yaml, and a choice of its options. Snakemake imports it: no torch here."""

from __future__ import annotations

import itertools
import json
from collections import namedtuple
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from mmengine.config import Config

ROOT = Path(__file__).resolve().parents[2]
SPEC = yaml.safe_load(Path(__file__).with_name('methods.yaml').read_text(encoding='utf-8'))
OPTIONS, PRESETS, FAMILIES = SPEC['options'], SPEC['presets'], SPEC['families']

Method = namedtuple('Method', SPEC['defaults'])
METHODS = {name: Method(**SPEC['defaults'] | row) for name, row in SPEC['methods'].items()}
# A model per method, or per task of one.
MODELS = {f'{name}-{task}'.rstrip('-'): row for name, row in METHODS.items() for task in row.tasks or ['']}
GROUPS = {group: [name for name, row in METHODS.items() if row.group == group] for group in SPEC['groups']}


class Comparison:
    """A comparison with its options, of which lists and numbers may be text; a ValueError names what cannot be used."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        if unknown := sorted(set(config) - set(OPTIONS)):
            raise ValueError(f'unknown option {unknown[0]!r}; known options: {", ".join(OPTIONS)}')
        values = self.values = OPTIONS | dict(config)
        if values['preset'] not in PRESETS:
            raise ValueError(f'preset must be one of {", ".join(PRESETS)}, got {values["preset"]!r}')
        self.preset, self.synthetic = PRESETS[values['preset']], values['preset'] == 'synthetic'
        values |= {key: values[key] or self.preset[key] for key in ('iters', 'learning_rates')}
        for key, least in SPEC['least'].items():
            if not (isinstance(values[key], int) and values[key] >= least):
                raise ValueError(f'{key} must be a whole number of at least {least}, got {values[key]!r}')
        for key in ('learning_rates', 'multipliers'):
            values[key] = _positive(key, _listed(values[key]))
        if self.synthetic and (values['data_root'] or values['published_references']):
            raise ValueError('data_root and published_references belong to preset=pascal; scenes are rendered here')
        if not self.synthetic and not values['data_root']:
            raise ValueError('preset=pascal needs data_root, a folder in the PASCAL_MT layout')
        for key in ('data_root', 'encoder'):
            if values[key] and not (ROOT / str(values[key])).exists():
                raise ValueError(f'{key}: {ROOT / str(values[key])} does not exist')
        self.seeds, self.methods = range(values['seeds']), _expanded(_listed(values['methods']))
        self.data_root = ROOT / values['data_root'] if values['data_root'] else Path('scenes')
        full = values['pretrain_iters']
        # The encoder of the comparison, and those of the scaling experiment.
        self.main = 'given' if values['encoder'] else f'nano_{full}' if self.synthetic else 'published'
        self.scaling_encoders = [f'{size}_{n}' for size in ('pico', 'nano') for n in (full // SPEC['short'], full)]
        self.tables = [name for name in SPEC['tables'] if self.synthetic or name != 'scaling']
        # What all results of a folder share, as its settings.json holds it.
        self.settings = {key: value for key, value in values.items() if key not in ('methods', 'seeds')}

    def check_folder(self, folder: Path) -> None:
        """Raise a ValueError that names what differs if a folder was made with other settings."""
        path, now = folder / 'settings.json', self.settings
        known = json.loads(path.read_text(encoding='utf-8')) if path.is_file() else now
        if differing := [key for key in now if known.get(key) != now[key]]:
            listed = '; '.join(f'{key} is {known.get(key)!r} there and {now[key]!r} now' for key in differing)
            raise ValueError(
                f'{folder} was made with other settings, and its results would not compare: {listed}. '
                f'Take another --directory, or repeat the settings of {path}; nothing was changed'
            )

    def config(self, encoder: str, model: str) -> str:
        """Config of a model on an encoder, relative to the repository."""
        size = ('pico' if encoder.startswith('pico') else 'nano') if self.synthetic else 't'
        name, _, task = model.partition('-')
        stem = MODELS[model].config.format(name=name, size=size, task=task)
        return f'configs/{stem}_{self.values["preset"]}.py'

    def candidates(self, encoder: str, model: str) -> list[str]:
        """What is tried for a model, from low rates to high."""
        if model != 'decoders_only':
            return [f'x{value:g}' for value in self.values['multipliers']]
        # Their rate is that of all heads; on other encoders there is nothing to choose.
        return [f'lr{value:g}' for value in self.values['learning_rates']] if encoder == self.main else []

    def trials(self, encoder: str, model: str) -> list[str]:
        """Their files; one alone needs no trial."""
        names = self.candidates(encoder, model)
        return [f'trials/{encoder}/{model}/{name}.json' for name in names if len(names) > 1]

    def heads_rate(self, encoder: str, model: str) -> list[str]:
        """The file with the rate of all heads; none for the model that it is found with."""
        return [] if (encoder, model) == (self.main, 'decoders_only') else [f'rates/{self.main}/decoders_only.json']

    def reference(self, table: str) -> str:
        """The method that Delta_m is taken against; '': published figures."""
        method = SPEC['tables'][table]['reference']
        return '' if method == 'single_task' and self.values['published_references'] else method

    def entries(self, table: str) -> Iterator[dict[str, Any]]:
        """Every model of a table, with the names of its files."""
        wanted = set(_expanded(SPEC['tables'][table]['methods']) or self.methods)
        wanted |= {METHODS[method].rates_of for method in wanted} | {self.reference(table)}
        encoders = self.scaling_encoders if table == 'scaling' else [self.main]
        for encoder, (model, method) in itertools.product(encoders, MODELS.items()):
            if model.partition('-')[0] in wanted:
                entry = dict(encoder=encoder, model=model, config=self.config(encoder, model), options=method.options)
                entry |= dict(parameters=[f'parameters/{encoder}/{model}.json'])
                entry |= dict(rates=[f'rates/{encoder}/{method.rates_of or model}.json'])
                yield entry | dict(runs=[f'trainings/{encoder}/{model}/seed{seed}.json' for seed in self.seeds])


def config_files(config: str | Path) -> Iterator[Path]:
    """A config and all that it inherits."""
    path = (ROOT / config).resolve()
    yield path
    for base in Config._get_base_files(str(path)):
        yield from config_files(path.parent / base)


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
