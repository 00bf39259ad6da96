"""Pretraining of encoders on what pictures show, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.model import BaseModel, BaseModule
from mmengine.optim import OptimWrapperDict
from torch import Tensor, nn

from mmvmt.registry import MODELS


class _Classifier(BaseModule):
    """An encoder, and one linear layer on the mean of its last feature map."""

    def __init__(self, backbone: Mapping[str, Any], values: int) -> None:
        super().__init__()
        self.backbone = MODELS.build(dict(backbone))
        self.linear = nn.Linear(self.backbone.num_features[-1], values)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.linear(self.backbone(inputs)[-1].mean((2, 3)))


@MODELS.register_module()
class AttributeClassifier(BaseModel):
    """Encoders that learn from one stream of pictures what they show: :class:`mmvmt.datasets.RenderedPictures`.

    Rendering costs more than a training step of a small encoder on a GPU. So several encoders learn side by side, each
    as if it were alone, with an optimizer and schedules of its own, the keys of ``encoders``
    (:class:`mmvmt.engine.SideBySideOptimWrapperConstructor`). One whose learning rate is 0 is done and costs nothing
    more. Losses are cross-entropies, their mean over the attributes and a quarter of the sum over the classes
    that may be present.

    Args:
        encoders: Configs of backbones by name. Their last feature map, ``(B, C, H, W)``, is what is classified.
        attributes: Number of values by attribute, in the order of the samples; ``presence`` stands for the classes of
            which any number is there.
        data_preprocessor: As of mmengine's ``BaseModel``.
    """

    def __init__(
        self,
        encoders: Mapping[str, Mapping[str, Any]],
        attributes: Mapping[str, int],
        data_preprocessor: dict | nn.Module | None = None,
    ) -> None:
        super().__init__(data_preprocessor)
        self.values = [values for name, values in attributes.items() if name != 'presence']
        self.names = [name for name in attributes if name != 'presence']
        self.classes = attributes['presence']
        total = sum(self.values) + self.classes
        self.encoders = nn.ModuleDict({name: _Classifier(encoder, total) for name, encoder in encoders.items()})

    def forward(
        self, inputs: Tensor, attributes: Tensor, presence: Tensor, mode: str = 'tensor', data_samples: None = None
    ) -> Any:
        """Losses by encoder, or what each says.

        Args:
            inputs: ``(B, 3, H, W)`` normalised images.
            attributes: ``(B, K)`` int64, -1 unknown.
            presence: ``(B, classes)`` float32, 0 or 1.
            mode: ``loss``: a loss by encoder; ``predict``: for each image whether each encoder names each attribute
                rightly, by ``ENCODER/ATTRIBUTE``, where it is known, and each class of ``presence`` on average;
                ``tensor``: logits ``(B, values)`` by encoder.
            data_samples: None, which mmengine's data preprocessor adds.
        """
        logits = {name: encoder(inputs) for name, encoder in self.encoders.items()}
        if mode == 'tensor':
            return logits
        if mode == 'loss':
            return {f'{name}/loss': self._loss(out, attributes, presence) for name, out in logits.items()}
        results: list[dict[str, float]] = [{} for _ in range(len(inputs))]
        for encoder, out in logits.items():
            *single, several = out.split([*self.values, self.classes], 1)
            right = torch.stack([scores.argmax(1) for scores in single], 1) == attributes
            present = ((several > 0) == (presence > 0)).float().mean(1)
            for result, hits, known, share in zip(
                results, right.tolist(), (attributes >= 0).tolist(), present.tolist()
            ):
                result |= {f'{encoder}/{n}': float(hit) for n, hit, k in zip(self.names, hits, known) if k}
                result[f'{encoder}/presence'] = share
        return results

    def train_step(self, data: dict, optim_wrapper: OptimWrapperDict) -> dict[str, Tensor]:
        """A step of each encoder that is not done."""
        data = self.data_preprocessor(data, True)
        log = {}
        for name, encoder in self.encoders.items():
            wrapper = optim_wrapper[name]
            if not any(wrapper.get_lr()['lr']):
                continue
            with wrapper.optim_context(encoder):
                logits = encoder(data['inputs'])
            loss = self._loss(logits.float(), data['attributes'], data['presence'])
            wrapper.update_params(loss)
            log[f'{name}/loss'] = loss.detach()
        return log

    def _loss(self, logits: Tensor, attributes: Tensor, presence: Tensor) -> Tensor:
        *single, several = logits.split([*self.values, self.classes], 1)
        total = 0.25 * F.binary_cross_entropy_with_logits(several, presence, reduction='sum') / len(logits)
        for scores, target in zip(single, attributes.unbind(1)):
            # A batch may show no person, whose pose there is to know.
            known = (target >= 0).sum().clamp(min=1)
            total = total + F.cross_entropy(scores, target, ignore_index=-1, reduction='sum') / known / len(single)
        return total
