"""What a head's logits mean: the loss they learn by, and how they become a prediction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmvmt.models.losses import PixelLoss, decode_loss, loss_name, sum_of_losses, unit_length
from mmvmt.registry import MODELS, TASK_UTILS
from mmvmt.structures import IGNORE_INDEX

LossConfig = dict[str, Any] | Sequence[dict[str, Any]]

_MIRRORED = dict(horizontal=(3,), vertical=(2,), diagonal=(2, 3))
"""Dimensions of ``(B, C, H, W)`` that a direction of mmcv's flips turns around."""


class TaskOutput(nn.Module):
    """Base class of outputs.

    Args:
        channels: Number of logits per pixel.
        loss: Config of the loss, or a list of them, which are added: ours, see :class:`~mmvmt.models.PixelLoss`, and
            mmseg's, which give what they give in mmseg's decode heads.
        sampler: Config of a pixel sampler of mmseg.

    Raises:
        ValueError: A loss of mmseg cannot be computed from this output's logits and labels, or does not depend on the
            logits; or no loss trains.
    """

    kind: str
    """The kind of label map that this output learns from, see :class:`mmvmt.structures.Task`."""

    ignore_index = IGNORE_INDEX
    """Label that a pixel sampler leaves out."""

    def __init__(self, channels: int, loss: LossConfig, sampler: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.channels = channels
        # By this name pixel samplers ask for it.
        self.loss_decode = nn.ModuleList([MODELS.build(cfg) for cfg in ([loss] if isinstance(loss, dict) else loss)])
        self.sampler = None if sampler is None else TASK_UTILS.build(dict(sampler, context=self))
        if not any('loss' in loss_name(module) for module in self.loss_decode):
            names = [loss_name(module) for module in self.loss_decode]
            raise ValueError(f"{type(self).__name__} would not train: no loss has 'loss' in its loss_name, got {names}")
        self._try_losses()

    def losses(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Every loss by its name; losses of one name are added.

        Args:
            logits: ``(B, channels, H, W)``.
            target: Of the same size, as in data samples.

        Returns:
            Scalars. Those train whose name has ``loss`` in it.
        """
        weight = None if self.sampler is None else self.sampler.sample(logits.float(), target)
        values: dict[str, Tensor] = {}
        labels = None
        for loss in self.loss_decode:
            if isinstance(loss, PixelLoss):
                value = loss(logits, target)
            else:
                labels = self._labels(target) if labels is None else labels
                value = decode_loss(loss, logits.float(), *labels, weight)
            name = loss_name(loss)
            values[name] = values[name] + value if name in values else value
        return values

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """The loss that trains, the sum of :meth:`losses`: a scalar."""
        return sum_of_losses(self.losses(logits, target))

    def _labels(self, target: Tensor) -> tuple[Tensor, Tensor]:
        """The target as mmseg's losses take it, and ``(B, H, W)``, where it is known."""
        if self.kind in ('classes', 'binary'):
            target = target.squeeze(1)
            return target.long(), target != IGNORE_INDEX
        return target, (target != 0).any(dim=1)

    def _try_losses(self) -> None:
        """Compute every loss of mmseg once, on a few pixels, so that one that does not fit is told at the start.

        Others are not: they may need a GPU, or more pixels.
        """
        # As wide as no dimension of the logits, so that weights of classes cannot be taken for weights of columns.
        shape = (2, 4, 5 + (self.channels == 5))
        numbers = torch.arange(2 * self.channels * shape[1] * shape[2], dtype=torch.float32, device='cpu')
        logits = numbers.sin().view(2, -1, *shape[1:])
        target = logits.detach() + 2
        if self.kind in ('classes', 'binary'):
            target = torch.arange(target[:, 0].numel(), device='cpu').view(shape)[:, None] % max(self.channels, 2)
            target[0, 0, 0, 0] = IGNORE_INDEX
        for loss in self.loss_decode:
            if type(loss).__module__.partition('.')[0] != 'mmseg':
                continue
            problem = None
            with torch.enable_grad():
                inputs = logits.clone().requires_grad_()
                try:
                    weight = None if self.sampler is None else self.sampler.sample(inputs, target)
                    value = decode_loss(loss, inputs, *self._labels(target), weight, over_ranks=False)
                    (gradient,) = torch.autograd.grad(value, inputs)
                    if not gradient.any() and getattr(loss, 'loss_weight', 1):
                        problem = 'it does not depend on them'
                # A loss meets what it is not made for by whatever its next operation raises.
                except Exception as error:
                    problem = f'{type(error).__name__}: {error}'
            if problem is not None:
                raise ValueError(
                    f'{type(self).__name__} cannot learn its {self.channels} logits per pixel by '
                    f'{type(loss).__name__}: {problem}; choose another loss, or other options of it'
                )

    def predict(self, logits: Tensor) -> Tensor:
        """``(B, channels, H, W)`` logits to the prediction that a data sample holds."""
        raise NotImplementedError

    def scores(self, logits: Tensor) -> Tensor:
        """``(B, channels, H, W)`` logits to what may be averaged over augmentations of an image."""
        return self.predict(logits)

    def mirror(self, scores: Tensor, direction: str) -> Tensor:
        """Scores of the image mirrored in a direction: ``'horizontal'``, ``'vertical'`` or ``'diagonal'``, both."""
        return scores.flip(_MIRRORED[direction])

    def decide(self, scores: Tensor) -> Tensor:
        """Averaged scores to the prediction that a data sample holds."""
        return scores


@MODELS.register_module()
class ClassesOutput(TaskOutput):
    """Class logits to class indices ``(B, 1, H, W)``, uint8.

    Args:
        num_classes: Number of classes, background included.
        loss: Config of the loss, or a list of them; cross-entropy over the labelled pixels by default.
        sampler: Config of a pixel sampler of mmseg, such as ``dict(type='mmseg.OHEMPixelSampler', thresh=0.7)``.

    Raises:
        ValueError: ``num_classes`` does not fit 8-bit labels.
    """

    kind = 'classes'

    def __init__(self, num_classes: int, loss: LossConfig | None = None, sampler: dict[str, Any] | None = None) -> None:
        if not 2 <= num_classes <= IGNORE_INDEX:
            raise ValueError(f'num_classes must be between 2 and {IGNORE_INDEX}, got {num_classes}')
        default = dict(type='mmseg.CrossEntropyLoss', avg_non_ignore=True, loss_weight=1.0)
        super().__init__(num_classes, loss or default, sampler)

    def predict(self, logits: Tensor) -> Tensor:
        return logits.argmax(dim=1, keepdim=True).to(torch.uint8)

    def scores(self, logits: Tensor) -> Tensor:
        return logits.float().softmax(dim=1)

    def decide(self, scores: Tensor) -> Tensor:
        return self.predict(scores)


@MODELS.register_module()
class ProbabilityOutput(TaskOutput):
    """One logit to a probability ``(B, 1, H, W)`` in 0..1: saliency and edges.

    Args:
        loss: Config of the loss, or a list of them; balanced cross-entropy by default.
    """

    kind = 'binary'

    def __init__(self, loss: LossConfig | None = None) -> None:
        super().__init__(1, loss or dict(type='mmvmt.WeightedBCELoss', positive_weight='balanced'))

    def predict(self, logits: Tensor) -> Tensor:
        return logits.float().sigmoid()


@MODELS.register_module()
class UnitVectorOutput(TaskOutput):
    """Three logits to unit vectors ``(B, 3, H, W)``: surface normals.

    Args:
        loss: Config of the loss, or a list of them; L1 on unit vectors by default.
    """

    kind = 'vectors'

    def __init__(self, loss: LossConfig | None = None) -> None:
        super().__init__(3, loss or dict(type='mmvmt.L1PixelLoss', unit_vectors=True))

    def predict(self, logits: Tensor) -> Tensor:
        return unit_length(logits.float())

    def mirror(self, scores: Tensor, direction: str) -> Tensor:
        # Wherever the axes point: a mirror that exchanges columns turns x around, one that exchanges rows y.
        signs = scores.new_tensor([-1.0 if dim in _MIRRORED[direction] else 1.0 for dim in (3, 2, 1)])
        return super().mirror(scores, direction) * signs.view(1, 3, 1, 1)

    def decide(self, scores: Tensor) -> Tensor:
        return unit_length(scores)


@MODELS.register_module()
class DepthOutput(TaskOutput):
    """One logit to metres ``(B, 1, H, W)``, not below zero.

    Args:
        loss: Config of the loss, or a list of them; L1 in metres by default.
    """

    kind = 'metric'

    def __init__(self, loss: LossConfig | None = None) -> None:
        super().__init__(1, loss or dict(type='mmvmt.L1PixelLoss'))

    def predict(self, logits: Tensor) -> Tensor:
        return logits.float().clamp(min=0)
