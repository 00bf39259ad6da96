"""Means of figures that a model gives for each image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.evaluator import BaseMetric

from mmvmt.registry import METRICS


@METRICS.register_module()
class MeanMetric(BaseMetric):
    """Mean of each figure over the images that have it, in percent.

    Predictions are mappings from names to shares from 0 to 1, as of
    :meth:`mmvmt.models.AttributeClassifier.forward`.
    """

    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, float]]) -> None:
        """Keep the figures of a batch."""
        self.results.extend(data_samples)

    def compute_metrics(self, results: list[Mapping[str, float]]) -> dict[str, float]:
        """Mean of each figure, in the order of the names."""
        names = sorted({name for result in results for name in result})
        values = {name: [result[name] for result in results if name in result] for name in names}
        return {name: 100 * sum(found) / len(found) for name, found in values.items()}
