"""Predicted maps as files, in the formats of PASCAL_MT, and of other tasks as NumPy's or 16-bit PNG."""

from __future__ import annotations

import os
import os.path as osp

import cv2
import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from .multi_task_data_sample import MultiTaskDataSample
from .tasks import TASKS


def encode_map(task: str, prediction: Tensor) -> np.ndarray:
    """A predicted map as what its file holds.

    Args:
        task: Name of the task.
        prediction: ``(C, H, W)``, as in ``sample.pred``.

    Returns:
        Classes ``(H, W)`` uint8, of more than 255 uint16; probabilities ``(H, W)`` uint8, ``255 p``; normals ``(H, W,
        3)`` uint8 RGB, ``255 (n + 1) / 2`` in their own axes; all other numbers float32, ``(H, W)`` of one channel and
        ``(H, W, C)`` of several.
    """
    array = prediction.cpu().numpy()
    kind = TASKS[task].kind
    if kind == 'classes':
        return array[0].astype(np.uint8 if TASKS[task].dtype == np.uint8 else np.uint16)
    if kind == 'binary':
        return np.rint(array[0] * 255).astype(np.uint8)
    if kind == 'vectors' and len(array) == 3:
        return np.rint((array.transpose(1, 2, 0) + 1) * 127.5).astype(np.uint8)
    return (array[0] if len(array) == 1 else array.transpose(1, 2, 0)).astype(np.float32)


def save_predictions(sample: MultiTaskDataSample, out_dir: str) -> list[str]:
    """Write every predicted map of a sample to ``out_dir/TASK/ID.png`` (numbers such as depth: ``.npy``).

    Files of normals say their axes as ``normals_x`` and ``normals_y`` in the text chunks of the PNG, where the sample's
    meta information does.

    Args:
        sample: A sample with ``pred`` and the meta information ``img_id``.
        out_dir: Folder; made if it does not exist.

    Returns:
        The paths written.

    Raises:
        OSError: A file cannot be written.
    """
    paths = []
    for task, prediction in sample.pred.items():
        array = encode_map(task, prediction)
        path = osp.join(out_dir, task, str(sample.img_id) + ('.npy' if array.dtype == np.float32 else '.png'))
        # Ids of some data sets name folders themselves.
        os.makedirs(osp.dirname(path), exist_ok=True)
        axes = TASKS[task].axes_in(sample) if TASKS[task].kind == 'vectors' else None
        if array.dtype == np.float32:
            np.save(path, array)
        elif axes is not None:
            text = PngInfo()
            for key, value in axes.meta.items():
                text.add_text(key, value)
            Image.fromarray(array).save(path, pnginfo=text)
        elif not cv2.imwrite(path, array[..., ::-1] if array.ndim == 3 else array):
            raise OSError(f'could not write {path}; check the folder and the free space')
        paths.append(path)
    return paths
