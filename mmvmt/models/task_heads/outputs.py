"""What a head's logits mean: the loss they learn by, and how they become a prediction."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmvmt.models.losses import PixelLoss, decode_loss, loss_name, sum_of_losses, unit_length
from mmvmt.registry import MODELS, TASK_UTILS
from mmvmt.structures import IGNORE_INDEX, WIDE_IGNORE_INDEX, Task

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
        **fields: What the output says of its task besides its kind, see :class:`mmvmt.structures.Task`.

    Raises:
        ValueError: A loss of mmseg cannot be computed from this output's logits and labels, or does not depend on the
            logits; or no loss trains.
    """

    kind: str
    """The kind of label map that this output learns from, see :class:`mmvmt.structures.Task`."""

    def __init__(self, channels: int, loss: LossConfig, sampler: dict[str, Any] | None = None, **fields: Any) -> None:
        super().__init__()
        self.channels = channels
        # The one logit per class is no channel of a map.
        of_maps = channels if self.kind in ('vectors', 'values') else None
        self.task = Task('unnamed', self.kind, channels=of_maps, **fields)
        """The task, by whose rules targets are read and predictions treated; a model says which it is."""
        # By this name pixel samplers ask for it.
        self.loss_decode = nn.ModuleList([MODELS.build(cfg) for cfg in ([loss] if isinstance(loss, dict) else loss)])
        self.sampler = None if sampler is None else TASK_UTILS.build(dict(sampler, context=self))
        if not any('loss' in loss_name(module) for module in self.loss_decode):
            names = [loss_name(module) for module in self.loss_decode]
            raise ValueError(f"{type(self).__name__} would not train: no loss has 'loss' in its loss_name, got {names}")
        self._try_losses()

    def bind(self, task: Task) -> None:
        """Take over the rules of a task of this kind.

        Raises:
            ValueError: The task has another kind, or other channels or classes, or its losses do not fit its labels.
        """
        name, own = task.name, self.task
        if task.kind != self.kind:
            raise ValueError(
                f'the head of task {name!r} puts out {self.kind!r} maps, but the task has {task.kind!r} maps; '
                f'change heads.{name}.output.type'
            )
        for what, theirs, ours in (
            ('channels', task.channels, own.channels),
            ('num_classes', len(task.classes or own.classes or ()), len(own.classes or ())),
            ('scale', task.scale, own.scale),
        ):
            if theirs != ours:
                raise ValueError(
                    f'the head of task {name!r} has {what}={ours!r}, but the task is declared with {theirs!r}; change '
                    f'heads.{name}.output.{what} or the declaration'
                )
        if task.ignore < own.ignore:
            raise ValueError(
                f'the head of task {name!r} has {self.channels} classes, but the labels of the task end at '
                f'{task.ignore}, which is unknown: declare it as tasks=dict({name}=dict(kind={self.kind!r}, '
                f'classes={self.channels}))'
            )
        self.task = task
        if task.ignore > own.ignore:
            self._try_losses()

    @property
    def ignore_index(self) -> int:
        """Label that a pixel sampler leaves out."""
        return int(self.task.ignore)

    def losses(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Every loss by its name; losses of one name are added.

        Args:
            logits: ``(B, channels, H, W)``.
            target: Of the same size, as in data samples.

        Returns:
            Scalars. Those train whose name has ``loss`` in it.
        """
        weight = None if self.sampler is None else self.sampler.sample(logits.float(), target)
        known = self.task.known(target)
        values: dict[str, Tensor] = {}
        own = theirs = None
        for loss in self.loss_decode:
            if isinstance(loss, PixelLoss):
                own = own or self._as_learned(logits, target, known)
                value = loss(*own, known)
            else:
                theirs = theirs or self._as_mmseg(logits.float(), target, known)
                value = decode_loss(loss, *theirs, known, weight, ignore_index=self._ignored)
            name = loss_name(loss)
            values[name] = values[name] + value if name in values else value
        return values

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """The loss that trains, the sum of :meth:`losses`: a scalar."""
        return sum_of_losses(self.losses(logits, target))

    def _as_learned(self, logits: Tensor, target: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and target ``(B, C, H, W)`` as our losses compare them."""
        return logits, target

    def _as_mmseg(self, logits: Tensor, target: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and target as mmseg's losses take them: labels as ``(B, H, W)`` int64."""
        return logits, target.squeeze(1).long() if self._ignored is not None else target

    @property
    def _ignored(self) -> int | None:
        """Label of unknown pixels, of maps that hold labels."""
        return int(self.task.ignore) if self.kind in ('classes', 'binary') else None

    def _try_losses(self) -> None:
        """Compute every loss of mmseg once, on a few pixels, so that one that does not fit is told at the start.

        Others are not: they may need a GPU, or more pixels.
        """
        # As wide as no dimension of the logits, so that weights of classes cannot be taken for weights of columns.
        shape = (2, 4, 5 + (self.channels == 5))
        numbers = torch.arange(2 * self.channels * shape[1] * shape[2], dtype=torch.float32, device='cpu')
        logits = numbers.sin().view(2, -1, *shape[1:])
        target = logits.detach() + 2
        if self._ignored is not None:
            target = torch.arange(target[:, 0].numel(), device='cpu').view(shape)[:, None] % max(self.channels, 2)
            target[0, 0, 0, 0] = self._ignored
        known = self.task.known(target)
        for loss in self.loss_decode:
            if type(loss).__module__.partition('.')[0] != 'mmseg':
                continue
            problem = None
            with torch.enable_grad():
                inputs = logits.clone().requires_grad_()
                try:
                    weight = None if self.sampler is None else self.sampler.sample(inputs, target)
                    value = decode_loss(
                        loss,
                        *self._as_mmseg(inputs, target, known),
                        known,
                        weight,
                        over_ranks=False,
                        ignore_index=self._ignored,
                    )
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
        dims = _MIRRORED[direction]
        return self.task.mirrored(scores.flip(dims), x=3 in dims, y=2 in dims)

    def decide(self, scores: Tensor) -> Tensor:
        """Averaged scores to the prediction that a data sample holds."""
        return scores


@MODELS.register_module()
class ClassesOutput(TaskOutput):
    """Class logits to class indices ``(B, 1, H, W)``, uint8, of more than 255 classes int32.

    Args:
        num_classes: Number of classes, background included.
        loss: Config of the loss, or a list of them; cross-entropy over the labelled pixels by default.
        sampler: Config of a pixel sampler of mmseg, such as ``dict(type='mmseg.OHEMPixelSampler', thresh=0.7)``.

    Raises:
        ValueError: ``num_classes`` does not fit 16-bit labels.
    """

    kind = 'classes'

    def __init__(self, num_classes: int, loss: LossConfig | None = None, sampler: dict[str, Any] | None = None) -> None:
        if not 2 <= num_classes <= WIDE_IGNORE_INDEX:
            raise ValueError(f'num_classes must be between 2 and {WIDE_IGNORE_INDEX}, got {num_classes}')
        default = dict(type='mmseg.CrossEntropyLoss', avg_non_ignore=True, loss_weight=1.0)
        super().__init__(num_classes, loss or default, sampler, classes=num_classes)

    def predict(self, logits: Tensor) -> Tensor:
        return logits.argmax(dim=1, keepdim=True).to(torch.uint8 if self.channels <= IGNORE_INDEX else torch.int32)

    def scores(self, logits: Tensor) -> Tensor:
        return logits.float().softmax(dim=1)

    def decide(self, scores: Tensor) -> Tensor:
        return self.predict(scores)


@MODELS.register_module()
class ProbabilityOutput(TaskOutput):
    """One logit to a probability ``(B, 1, H, W)`` in 0..1: saliency, edges, and other binary maps.

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
    """As many logits as channels to unit vectors ``(B, C, H, W)``: surface normals.

    Args:
        loss: Config of the loss, or a list of them; L1 on unit vectors by default.
        channels: 3 or 2.
    """

    kind = 'vectors'

    def __init__(self, loss: LossConfig | None = None, channels: int = 3) -> None:
        super().__init__(channels, loss or dict(type='mmvmt.L1PixelLoss', unit_vectors=True))

    def predict(self, logits: Tensor) -> Tensor:
        return unit_length(logits.float())

    def decide(self, scores: Tensor) -> Tensor:
        return unit_length(scores)


@MODELS.register_module()
class DepthOutput(TaskOutput):
    """One logit to metres, or another unit, ``(B, 1, H, W)``, not below zero: depth, disparity.

    Args:
        loss: Config of the loss, or a list of them; L1 by default.
        scale: ``'linear'``: the logit is the value. ``'log'``: it is its natural logarithm, in which our losses compare
            it with the truth; mmseg's get the values.
    """

    kind = 'metric'

    def __init__(self, loss: LossConfig | None = None, scale: str = 'linear') -> None:
        super().__init__(1, loss or dict(type='mmvmt.L1PixelLoss'), scale=scale)

    def _as_learned(self, logits: Tensor, target: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        if self.task.scale == 'linear':
            return logits, target
        return logits, torch.where(known[:, None], target, 1.0).log()

    def _as_mmseg(self, logits: Tensor, target: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        return logits if self.task.scale == 'linear' else logits.exp(), target

    def predict(self, logits: Tensor) -> Tensor:
        return logits.float().clamp(min=0) if self.task.scale == 'linear' else logits.float().exp()


@MODELS.register_module()
class ValuesOutput(TaskOutput):
    """As many logits as channels, which are the values ``(B, C, H, W)``: albedo, optical flow, heat maps.

    Args:
        channels: Channels of the maps.
        loss: Config of the loss, or a list of them; L1 by default. See also ``mmvmt.L2PixelLoss`` and
            ``mmvmt.HuberPixelLoss``.
    """

    kind = 'values'

    def __init__(self, channels: int = 1, loss: LossConfig | None = None) -> None:
        super().__init__(channels, loss or dict(type='mmvmt.L1PixelLoss'))

    def _as_mmseg(self, logits: Tensor, target: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        # Other losses know of no unknown values: there the difference is zero.
        return logits, torch.where(known[:, None], target, logits.detach())

    def predict(self, logits: Tensor) -> Tensor:
        return logits.float()


_OUTPUTS = dict(
    classes=ClassesOutput, binary=ProbabilityOutput, vectors=UnitVectorOutput, metric=DepthOutput, values=ValuesOutput
)


def heads_by_task(heads: Mapping[str, Any], tasks: Iterable[str] | None) -> Mapping[str, Any]:
    """Configs of heads by task, of which a config may hold one for all ``tasks``."""
    return dict.fromkeys(tasks, heads) if 'type' in heads and tasks is not None else heads


def output_config(task: Task, cfg: Mapping[str, Any] | None = None, with_loss: bool = True) -> dict[str, Any]:
    """Config of the output of a task's head, completed by what the task is declared with.

    Args:
        task: The task.
        cfg: What a user says of the output: nothing, options without a type, or a whole config.
        with_loss: Whether the loss is that of the task by default.

    Returns:
        ``cfg`` with the output that the task's kind of map needs, unless it names one, and with the loss that the task
        has by default, unless it names one.

    Raises:
        ValueError: The task has classes, and nothing says how many.
    """
    cfg = dict(cfg or {})
    if with_loss and task.loss is not None:
        cfg.setdefault('loss', task.loss)
    if 'type' in cfg:
        return cfg
    fields: dict[str, Any] = dict(type=f'mmvmt.{_OUTPUTS[task.kind].__name__}')
    if task.classes is not None:
        fields['num_classes'] = len(task.classes)
    if task.channels != Task(task.name, task.kind).channels:
        fields['channels'] = task.channels
    if task.scale != 'linear':
        fields['scale'] = task.scale
    if task.kind == 'classes' and 'num_classes' not in fields | cfg:
        raise ValueError(
            f'task {task.name!r} has classes, and nothing says how many: declare them, as '
            f"tasks=dict({task.name}=dict(kind='classes', classes=5)) does, or give the head output.num_classes"
        )
    return fields | cfg
