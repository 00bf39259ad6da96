"""What is finished of a comparison, in one file: a line of JSON each, from which it goes on anywhere."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .methods import MODELS, ROOT, Comparison


class Records:
    """The records of a comparison: rates, trials and trainings by the names of their files, without suffix.

    The first line has the settings that all of them share. The last line of a name counts; one whose config, options,
    training scenes or encoder are no longer those of the model does not.

    Args:
        comparison: The comparison.
        folder: Where it runs, and keeps its records unless the option names a file in a folder of the repository.

    Raises:
        ValueError: The folder or the file has results of other settings, or cannot be read.
    """

    def __init__(self, comparison: Comparison, folder: str | Path = '.') -> None:
        name = Path(comparison.values['records'])
        self.comparison, self.folder = comparison, Path(folder)
        self.path = self.folder / name if len(name.parts) == 1 else ROOT / name
        known = self.folder / 'settings.json'
        if known.is_file():
            self._compare(known, json.loads(known.read_text(encoding='utf-8'))['settings'])
        self.read()

    def read(self) -> dict[str, dict[str, Any]]:
        """All records of the file, by name."""
        if not self.path.is_file():
            return {}
        settings, found = read_records(self.path)
        self._compare(self.path, settings)
        return found

    def find(self, name: str) -> dict[str, Any] | None:
        """The record of a name, if it counts."""
        record = self.read().get(name)
        return record if record and record['of'] == self.identity(name) else None

    def identity(self, name: str) -> str | None:
        """What the digest of a record should be; None: there is no such model or regime."""
        _, regime, model, *_ = [*name.split('/'), '', '']
        known = regime in self.comparison.regimes and model in MODELS
        return self.comparison.identity(regime, model) if known else None if regime else ''

    def restore(self) -> list[str]:
        """Make the files of the folder those of the records, all as old as each other, so that none of them calls for
        another; return the names of records that do not count any more, whose files go."""
        gone, now = [], time.time()
        for name, record in self.read().items():
            path = self.folder / f'{name}.json'
            if record['of'] != self.identity(name):
                path.unlink(missing_ok=True)
                gone.append(name)
            elif not name.startswith('trials/') and not path.exists():
                write(path, record)
                os.utime(path, (now, now))
        return gone

    def begin(self, command: str) -> None:
        """Note the settings, in the folder and where records go."""
        write(self.folder / 'settings.json', dict(settings=self.comparison.settings, config=self.comparison.given))
        if not self.path.exists():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._append(dict(settings=self.comparison.settings, command=command))

    def add(self, name: str, record: Mapping[str, Any]) -> dict[str, Any]:
        """Note what is finished."""
        record = dict(record) | dict(of=self.identity(name))
        self._append(dict(what=name) | record)
        return record

    def _append(self, line: Mapping[str, Any]) -> None:
        # In one piece: trainings side by side write into the same file.
        file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        os.write(file, (json.dumps(line) + '\n').encode())
        os.close(file)

    def _compare(self, path: Path, settings: Mapping[str, Any]) -> None:
        now = self.comparison.settings
        if differing := [key for key in now if settings.get(key) != now[key]]:
            listed = '; '.join(f'{key} is {settings.get(key)!r} there and {now[key]!r} now' for key in differing)
            raise ValueError(
                f'{path} was made with other settings, and its results would not compare: {listed}. Repeat its '
                'settings, or take another --directory and another file of records; nothing was changed'
            )


def read_records(path: Path) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The settings of a file of records, and its records by name.

    Raises:
        ValueError: A line is none of them.
    """
    settings, found = {}, {}
    for number, text in enumerate(path.read_text(encoding='utf-8').splitlines(), 1):
        try:
            line = json.loads(text)
            if number == 1:
                settings = line['settings']
            else:
                found[line.pop('what')] = line
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f'{path}, line {number}: no record ({error!r}); remove the line') from error
    return settings, found


def write(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f'.{path.name}.{os.getpid()}')
    partial.write_text(json.dumps(content, indent=1))
    partial.replace(path)
