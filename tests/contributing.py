"""The examples on the page CONTRIBUTING, as its readers would have them."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

PAGE = Path(__file__).parents[1] / 'CONTRIBUTING.md'
TEXT = PAGE.read_text(encoding='utf-8')


def example(name: str) -> ModuleType:
    """The module that the page shows as file ``NAME.py``. What it registers is the caller's to take out again."""
    start = TEXT.index('```python\n', TEXT.index(f'/{name}.py` would')) + len('```python\n')
    code = TEXT[start : TEXT.index('```', start)]
    module = sys.modules[f'contributing_{name}'] = ModuleType(f'contributing_{name}')
    # Tracebacks show the lines of the page.
    exec(compile('\n' * TEXT.count('\n', 0, start) + code, str(PAGE), 'exec'), vars(module))
    return module
