"""The site of the documentation: `make docs` builds it from the pages under docs/, the pages at the top, and the docstrings."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from mmvmt.version import __version__  # noqa: E402

project = 'mmvmt'
copyright = 'the mmvmt authors'
release = version = __version__

# The source folder is the project's root, so that links between docs/ and the rest of the tree mean the same here as there.
root_doc = 'docs/index'
include_patterns = ['README.md', 'CONTRIBUTING.md', 'CHANGELOG.md', 'docs/**']
exclude_patterns = ['docs/README.md', 'docs/conf.py', 'docs/_templates']
templates_path = ['_templates']

extensions = ['myst_parser', 'sphinx.ext.autodoc', 'sphinx.ext.autosummary', 'sphinx.ext.napoleon', 'sphinx.ext.mathjax']
myst_heading_anchors = 4
autodoc_default_options = {'members': True, 'show-inheritance': True}
autodoc_typehints = 'description'
autodoc_typehints_description_target = 'documented'
autodoc_member_order = 'bysource'
autosummary_ignore_module_all = False
napoleon_numpy_docstring = False
napoleon_use_rtype = False

html_theme = 'pydata_sphinx_theme'
html_title = f'mmvmt {release}'
html_show_sourcelink = False
html_theme_options = {'show_toc_level': 2, 'navigation_with_keys': False, 'secondary_sidebar_items': ['page-toc']}
