"""Readers of the label maps that PASCAL-Context's multi-task edition has in formats of its own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mmvmt.registry import LABEL_READERS
from mmvmt.structures import TASKS

from . import formats
from .edges import label_edges
from .label_files import LabelFiles
from .label_reader import LabelReader


@LABEL_READERS.register_module()
@dataclass
class PASCALPartsReader(LabelReader):
    """Parts of persons, see :func:`mmvmt.datasets.formats.read_human_parts`."""

    def __call__(self, files: LabelFiles, path: str) -> np.ndarray:
        parts = files.cached('human_parts', path, lambda: formats.read_human_parts(path, files.shape))
        return files.fitted(self.task, path, parts)


@LABEL_READERS.register_module()
@dataclass
class PASCALNormalsReader(LabelReader):
    """Normals, and beside them the file of PASCAL-Context's labels, which say where they are valid."""

    def __call__(self, files: LabelFiles, path: tuple[str, str]) -> np.ndarray:
        path, context_path = path
        vectors = formats.decode_normals(formats.read_normal_codes(path))
        valid = formats.normals_validity(_context_labels(files, self.task, context_path))
        fits = vectors.shape[:2] == files.shape
        if self.task in files.noted:
            files.noted[self.task].measure_lengths(vectors, valid if fits else None)
        if fits:
            return formats.unit_normals(vectors, valid)
        vectors = files.fitted(self.task, path, formats.unit_normals(vectors))
        vectors[~valid] = 0
        return vectors


@LABEL_READERS.register_module()
@dataclass
class PASCALEdgeReader(LabelReader):
    """Edges between the regions of PASCAL-Context's labels."""

    def __call__(self, files: LabelFiles, path: str) -> np.ndarray:
        if files.strict or self.task in files.noted:
            # A map of edges fits its image whatever size the labels had that it was made of.
            _context_labels(files, self.task, path)
        return files.cached('edge', path, lambda: label_edges(_context_labels(files, self.task, path)))


def _context_labels(files: LabelFiles, task: str, path: str) -> np.ndarray:
    """PASCAL-Context's labels for a task, at the size of the image."""
    place = ('context', path)
    if place not in files.shared:
        read = formats.read_context_labels
        files.shared[place] = files.cached('context_labels', path, lambda: read(path))
    labels = files.shared[place]
    if task in files.noted:
        files.noted[task].measure_context(labels)
    return files.fitted(task, path, labels, TASKS['semseg'])
