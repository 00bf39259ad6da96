"""Rendered scenes: the PASCAL_MT layout, and depth besides."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmvmt.registry import DATASETS
from mmvmt.structures import read_json

from .pascal_context_mt import PASCALContextMT

MANIFEST = 'synthetic.json'
"""What the writer of a rendered folder says about it."""


@DATASETS.register_module()
class SyntheticMT(PASCALContextMT):
    """Images and label maps that :func:`mmvmt.synthetic.write_pascal_mt` has written.

    It knows the tasks of :class:`PASCALContextMT`, and depth::

        depth/ID.npy                      depth: float32 metres along the view axis, 0 where unknown

    The axes of normals are those that ``synthetic.json`` in the folder names; where it names none, x points to the
    right.

    Args: as :class:`PASCALContextMT`.
    """

    METAINFO = PASCALContextMT.METAINFO | {'dataset_type': 'synthetic_mt'}
    LABELS = PASCALContextMT.LABELS | {'depth': 'depth/{id}.npy'}
    TASKS = tuple(LABELS)
    SIZES = {'train': None, 'val': None}

    def __init__(self, data_root: str, *args: Any, metainfo: Mapping | None = None, **kwargs: Any) -> None:
        super().__init__(data_root, *args, metainfo={**_declared(Path(data_root)), **(metainfo or {})}, **kwargs)


def _declared(data_root: Path) -> dict[str, str]:
    """The x axis of the normals in a rendered folder."""
    manifest = data_root / MANIFEST
    if not manifest.is_file():
        return {}
    try:
        return {'normals_x': read_json(manifest).get('normals_x', 'right')}
    except (AttributeError, ValueError) as error:
        raise ValueError(f'{manifest} is no manifest of a rendered folder ({error}); render it again') from error
