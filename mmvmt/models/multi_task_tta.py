"""Test-time augmentation: predictions of an image in several sizes, and mirrored, merged into one per task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.model import BaseTTAModel
from mmengine.structures import PixelData
from torch import Tensor

from mmvmt.registry import MODELS
from mmvmt.structures import MultiTaskDataSample


@MODELS.register_module()
class MultiTaskTTAModel(BaseTTAModel):
    """Means over the augmentations of an image, per task: of class probabilities, of probabilities, of unit vectors
    (brought back to unit length), of all other numbers.

    Predictions have the size, and samples the labels, of the first augmentation, which is not mirrored. Mirrored
    predictions are turned back before they are merged, directions and displacements with the sign of their x (y if
    upside down).

    Args:
        module: A :class:`MultiTaskEncoderDecoder`, or its config.
        data_preprocessor: Config of a data preprocessor in place of the model's own.
    """

    @torch.no_grad()
    def test_step(self, data: dict[str, Any]) -> list[MultiTaskDataSample]:
        """Predictions of a batch.

        Args:
            data: ``inputs`` and ``data_samples``, lists by augmentation of lists by image, as mmcv's ``TestTimeAug``
                and ``pseudo_collate`` give them.

        Raises:
            TypeError: The pipeline has no ``TestTimeAug``.
            ValueError: The first augmentation is mirrored.
        """
        if not isinstance(data['data_samples'][0], (list, tuple)):
            raise TypeError('the test pipeline augments nothing: tta_pipeline has to end with mmcv.TestTimeAug')
        mirrored = [sample.get('img_id') for sample in data['data_samples'][0] if sample.get('flip')]
        if mirrored:
            raise ValueError(
                f'the first augmentation of samples {mirrored} is mirrored, but its labels are those that predictions '
                f'are compared with; let the first flip of TestTimeAug have prob=0.0'
            )
        number, firsts = len(data['inputs']), []
        means: list[dict[str, Tensor]] = [{} for _ in data['data_samples'][0]]
        for inputs, samples in zip(data['inputs'], data['data_samples']):
            batch = self.module.data_preprocessor(dict(inputs=inputs, data_samples=samples), False)
            samples = batch['data_samples']
            firsts = firsts or samples
            logits = self.module.full_logits(batch['inputs'], samples)
            for index, (sample, first, mean) in enumerate(zip(samples, firsts, means)):
                for task, of_task in logits.items():
                    output = self.module.heads[task].output
                    of_image, size = of_task[index : index + 1], self.module.size_of(first)
                    scores = self.module.at_size(task, of_image, sample, size, output.scores)
                    if sample.get('flip'):
                        scores = output.mirror(scores, sample.get('flip_direction'))
                    mean[task] = mean.get(task, 0) + scores / number
        for sample, mean in zip(firsts, means):
            merged = {task: self.module.heads[task].output.decide(scores)[0] for task, scores in mean.items()}
            sample.pred = PixelData(**merged)
        return firsts

    def merge_preds(self, data_samples_list: Sequence[Any]) -> list[MultiTaskDataSample]:
        """Not used: keeping all augmentations of all tasks would need many times the memory of their running means."""
        raise NotImplementedError('MultiTaskTTAModel merges while it predicts; call test_step')
