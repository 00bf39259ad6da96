"""Normalises and pads a batch: images and every task's label maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.model import BaseDataPreprocessor
from mmengine.structures import PixelData
from torch import Tensor

from mmvmt.registry import MODELS
from mmvmt.structures import TASKS, MultiTaskDataSample


@MODELS.register_module()
class MultiTaskDataPreProcessor(BaseDataPreprocessor):
    """Moves a batch to the device, normalises, and pads at the right and the bottom.

    Images are padded with zeros after normalisation, label maps with their task's ignore value. In evaluation only
    images are padded: ground truth may be of another size than the input.

    Args:
        mean: Mean per channel, in 0..255, in the order after ``bgr_to_rgb``.
        std: Standard deviation per channel.
        bgr_to_rgb: Whether inputs come as BGR, as OpenCV reads them.
        size: Pad to this (height, width); None: to the largest of the batch.
        size_divisor: Pad further to a multiple of this.
        non_blocking: Copy to the device asynchronously.

    Raises:
        ValueError: Mean or std has not three entries.
    """

    def __init__(
        self,
        mean: Sequence[float] = (123.675, 116.28, 103.53),
        std: Sequence[float] = (58.395, 57.12, 57.375),
        bgr_to_rgb: bool = True,
        size: tuple[int, int] | None = None,
        size_divisor: int = 1,
        non_blocking: bool = False,
    ) -> None:
        super().__init__(non_blocking=non_blocking)
        if len(mean) != 3 or len(std) != 3:
            raise ValueError(f'mean and std need three entries, got {mean} and {std}')
        self.register_buffer('mean', torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer('std', torch.tensor(std).view(3, 1, 1), persistent=False)
        self.bgr_to_rgb = bgr_to_rgb
        self.size = size
        self.size_divisor = size_divisor

    def forward(self, data: dict[str, Any], training: bool = False) -> dict[str, Any]:
        """Batch ``inputs``, a list of ``(3, H, W)`` uint8, and pad the labels in ``data_samples`` when training.

        Raises:
            ValueError: An image does not fit ``size``, or when training a label map has another size than its image.
        """
        data = self.cast_data(data)
        inputs, samples = data['inputs'], data.get('data_samples')
        if isinstance(inputs, Tensor):
            inputs = list(inputs)
        height, width = self._padded_size(inputs)
        images = []
        for index, image in enumerate(inputs):
            image = image.flip(0) if self.bgr_to_rgb else image
            image = (image.float() - self.mean) / self.std
            padding = (0, width - image.shape[2], 0, height - image.shape[1])
            images.append(F.pad(image, padding) if any(padding) else image)
            if samples is not None:
                # MultiTaskPad may have padded before; predictions have both cut off.
                before = samples[index].get('padding_size', (0, 0, 0, 0))
                total = tuple(a + b for a, b in zip(before, padding))
                samples[index].set_metainfo(dict(padding_size=total, pad_shape=(height, width)))
                if training and 'gt' in samples[index]:
                    self._check_sizes(samples[index], tuple(image.shape[1:]))
                    if any(padding):
                        samples[index].gt = self._pad_labels(samples[index].gt, height, width)
        return dict(inputs=torch.stack(images), data_samples=samples)

    def _padded_size(self, images: Sequence[Tensor]) -> tuple[int, int]:
        height = max(image.shape[1] for image in images)
        width = max(image.shape[2] for image in images)
        if self.size is not None:
            if height > self.size[0] or width > self.size[1]:
                raise ValueError(f'an image of {height} x {width} does not fit the padded size {tuple(self.size)}')
            height, width = self.size
        divisor = self.size_divisor
        return -(-height // divisor) * divisor, -(-width // divisor) * divisor

    @staticmethod
    def _check_sizes(sample: MultiTaskDataSample, size: tuple[int, int]) -> None:
        for task, label in sample.gt.items():
            if tuple(label.shape[-2:]) != size:
                raise ValueError(
                    f'image {sample.get("img_id")!r} has {size[0]} x {size[1]} pixels (height x width), its label map '
                    f'of task {task!r} {label.shape[-2]} x {label.shape[-1]}: a transform of the training pipeline '
                    f'moves one alone; use the MultiTask transforms of mmvmt behind LoadMultiTaskAnnotations'
                )

    @staticmethod
    def _pad_labels(labels: PixelData, height: int, width: int) -> PixelData:
        padded = PixelData()
        for task, label in labels.items():
            padding = (0, width - label.shape[2], 0, height - label.shape[1])
            padded.set_field(F.pad(label, padding, value=TASKS[task].ignore), task)
        return padded
