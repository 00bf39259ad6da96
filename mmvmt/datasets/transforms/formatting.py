"""Packing of a sample for the model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmengine.structures import PixelData

from mmvmt.registry import TRANSFORMS
from mmvmt.structures import MultiTaskDataSample

from .label_maps import counted_label, labelled_tasks

META_KEYS = (
    'img_id',
    'img_path',
    'sample_idx',
    'num_classes',
    'upright',
    'ori_shape',
    'img_shape',
    'pad_shape',
    'padding_size',
    'scale_factor',
    'truth',
    'flip',
    'flip_direction',
    'rotation',
    'normals_x',
    'normals_y',
)
"""Meta information kept by default."""


@TRANSFORMS.register_module()
class PackMultiTaskInputs(BaseTransform):
    """Turn the results of a pipeline into what the model takes.

    Gives ``dict(inputs=image, data_samples=sample)``: the image as ``(3, H, W)`` uint8 tensor in BGR order, and a
    :class:`mmvmt.structures.MultiTaskDataSample` whose ``gt`` has one field per label map present: ``(C, H, W)``, of
    the type that its kind of map has, see :class:`mmvmt.structures.Task`. Without label maps (inference) the sample has
    no ``gt``. A crop in which no part of a person is left is ignored in human parts, like a whole image without any.

    Args:
        meta_keys: Keys of the results to keep as meta information; those that no transform has set are left out.
    """

    def __init__(self, meta_keys: Sequence[str] = META_KEYS) -> None:
        if isinstance(meta_keys, str):
            raise TypeError(f'meta_keys must be a list of keys, got the string {meta_keys!r}')
        self.meta_keys = tuple(meta_keys)

    def transform(self, results: dict) -> dict:
        """Pack the sample.

        Raises:
            ValueError: The label maps differ in size, since only some of them went through the geometric transforms.
        """
        sample = MultiTaskDataSample(metainfo={key: results[key] for key in self.meta_keys if key in results})
        labels = {task.name: counted_label(task, results[task.gt_key]) for task in labelled_tasks(results)}
        shapes = {name: label.shape[:2] for name, label in labels.items()}
        if len(set(shapes.values())) > 1:
            raise ValueError(
                f'label maps of image {results.get("img_id")!r} differ in size (height, width): {shapes}; load all of '
                'them at one place of the pipeline'
            )
        if labels:
            sample.gt = PixelData(**{name: _channels_first(label) for name, label in labels.items()})
        return {'inputs': _channels_first(results['img']), 'data_samples': sample}

    def __repr__(self) -> str:
        return f'{type(self).__name__}(meta_keys={self.meta_keys})'


def _channels_first(array: np.ndarray) -> torch.Tensor:
    array = array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
    return torch.from_numpy(np.ascontiguousarray(array))
