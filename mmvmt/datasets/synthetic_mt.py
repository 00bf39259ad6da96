"""Rendered scenes: the PASCAL_MT layout, and depth besides."""

from __future__ import annotations

from mmvmt.registry import DATASETS

from .pascal_context_mt import PASCALContextMT


@DATASETS.register_module()
class SyntheticMT(PASCALContextMT):
    """Images and label maps that :func:`mmvmt.synthetic.write_pascal_mt` has written.

    It knows the tasks of :class:`PASCALContextMT`, and depth::

        depth/ID.npy                      depth: float32 metres along the view axis, 0 where unknown

    Args: as :class:`PASCALContextMT`.
    """

    METAINFO = PASCALContextMT.METAINFO | {'dataset_type': 'synthetic_mt'}
    FOLDERS = PASCALContextMT.FOLDERS | {'depth': ('depth',)}
    TASKS = tuple(FOLDERS)
