"""The site that `make docs` builds: the pages here and at the top, and a reference from the docstrings."""

import importlib
import inspect
import pkgutil
import shutil
import sys
from pathlib import Path

from sphinx.pycode import ModuleAnalyzer

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import mmvmt  # noqa: E402

project = 'mmvmt'
copyright = 'the mmvmt authors'
release = version = mmvmt.__version__

# The source folder is the project's root, so that a link from docs/ to any other file means the same here as there.
root_doc = 'docs/index'
include_patterns = ['README.md', 'CONTRIBUTING.md', 'CHANGELOG.md', 'docs/**', 'benchmarks/**.md', 'demo/**.md']
exclude_patterns = ['.*', '*.egg-info', 'build', 'data', 'mmvmt', 'site', 'work_dirs']  # folders not to look into

extensions = ['myst_parser', 'sphinx.ext.autodoc', 'sphinx.ext.napoleon', 'sphinx.ext.mathjax']
myst_heading_anchors = 4
suppress_warnings = [
    'toc.no_title',  # the tables of results are nothing but tables
    'ref.python',  # upstream docstrings write `int, optional`, taken for a reference to attributes of that name
]
autodoc_default_options = {'show-inheritance': True}
autodoc_typehints = 'description'
autodoc_typehints_description_target = 'documented'
autodoc_member_order = 'bysource'
napoleon_numpy_docstring = False
napoleon_use_rtype = False

html_theme = 'pydata_sphinx_theme'
html_title = f'mmvmt {release}'
html_show_sourcelink = False
html_sidebars = {'**': ['globaltoc.html']}  # all pages by their captions
html_theme_options = {
    'navbar_center': [],
    'navigation_with_keys': False,
    'secondary_sidebar_items': ['page-toc'],
}


def module_of_constant(package, name):
    """Name of the module that assigns a constant which a package exports, with a docstring behind the assignment."""
    for info in pkgutil.walk_packages(package.__path__, f'{package.__name__}.'):
        if ('', name) in ModuleAnalyzer.for_module(info.name).find_attr_docs():
            return info.name
    raise ValueError(f'{package.__name__}.__all__ names {name!r}, behind whose assignment there is no docstring')


def write_api_pages():
    """A page for every package that exports what no package around it does, with those names."""
    folder = ROOT / 'docs' / 'api'
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    names = ['mmvmt', *(info.name for info in pkgutil.walk_packages(mmvmt.__path__, 'mmvmt.') if info.ispkg)]
    seen = set()
    for package in map(importlib.import_module, names):
        exported = {name: getattr(package, name) for name in getattr(package, '__all__', ())}
        new = {name: value for name, value in exported.items() if id(value) not in seen and not inspect.ismodule(value)}
        seen.update(map(id, exported.values()))
        vars(package).update(new)  # mmvmt itself imports its names when they are asked for
        members = [name for name, value in new.items() if inspect.isclass(value) or inspect.isroutine(value)]
        title = package.__name__
        lines = [title, '=' * len(title), '', f'.. automodule:: {title}', f'   :members: {", ".join(members)}', '']
        for name in new.keys() - set(members) - {'__version__'}:
            lines += [f'.. autodata:: {module_of_constant(package, name)}.{name}', '']
        if new:
            (folder / f'{title}.rst').write_text('\n'.join(lines), encoding='utf-8')


write_api_pages()
