"""Inference on crops of an image, as mmseg's ``EncoderDecoder`` does it, for T tasks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def checked_test_cfg(test_cfg: dict[str, Any] | None) -> dict[str, Any]:
    """``test_cfg`` with its defaults.

    Raises:
        ValueError: It is wrong.
    """
    cfg = dict(mode='whole', resolution='original') | dict(test_cfg or {})
    if cfg['mode'] not in ('whole', 'slide'):
        raise ValueError(f"test_cfg.mode must be 'whole' or 'slide', got {cfg['mode']!r}")
    if cfg['resolution'] not in ('original', 'input'):
        raise ValueError(f"test_cfg.resolution must be 'original' or 'input', got {cfg['resolution']!r}")
    if cfg['mode'] == 'slide':
        for key in ('crop_size', 'stride'):
            value = cfg.get(key)
            if value is None or len(value) != 2 or min(value) <= 0:
                raise ValueError(f'test_cfg.{key} must be a positive (height, width) with mode=slide, got {value!r}')
        if any(stride > crop for stride, crop in zip(cfg['stride'], cfg['crop_size'])):
            raise ValueError(f'test_cfg.stride {cfg["stride"]} leaves gaps between crops of {cfg["crop_size"]}')
    return cfg


def slide(
    whole: Callable[[Tensor], dict[str, Tensor]], inputs: Tensor, crop_size: Sequence[int], stride: Sequence[int]
) -> dict[str, Tensor]:
    """Mean of the logits of overlapping crops; the last crop of a row or column is moved back inside.

    Args:
        whole: Gives logits of a crop at its own size, by task.
        inputs: ``(B, 3, H, W)``.
        crop_size: Height and width of a crop.
        stride: Distance of crops, down and to the right.
    """
    (crop_h, crop_w), (stride_h, stride_w) = crop_size, stride
    batch, _, height, width = inputs.shape

    def starts(length: int, crop: int, stride: int) -> list[int]:
        count = max(length - crop + stride - 1, 0) // stride + 1
        return [max(min(i * stride, length - crop), 0) for i in range(count)]

    sums: dict[str, Tensor] = {}
    visits = inputs.new_zeros(1, 1, height, width, dtype=torch.float32)
    for top in starts(height, crop_h, stride_h):
        for left in starts(width, crop_w, stride_w):
            window = (..., slice(top, top + crop_h), slice(left, left + crop_w))
            visits[window] += 1
            for task, logits in whole(inputs[window]).items():
                if task not in sums:
                    sums[task] = logits.new_zeros(batch, logits.shape[1], height, width)
                sums[task][window] += logits
    return {task: total / visits for task, total in sums.items()}
