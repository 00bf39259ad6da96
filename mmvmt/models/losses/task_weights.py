"""How the losses of several tasks are weighed against each other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from mmengine.logging import MessageHub
from torch import Tensor, nn

from mmvmt.registry import MODELS
from mmvmt.structures import TASKS

from .pixel import mean_over_ranks


class TaskWeights(nn.Module):
    """Base class: weighs the losses of the tasks that train, in every step.

    What is learned or counted is part of the model's checkpoints, and of no adapter file: predictions need none of it.

    Args:
        tasks: Tasks of the model.
    """

    def __init__(self, tasks: Sequence[str]) -> None:
        super().__init__()
        self.tasks = tuple(tasks)

    def forward(self, losses: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The losses that train, whose sum is the loss of the step.

        Args:
            losses: Scalars by task; a task without a labelled pixel on any rank has exactly zero.

        Returns:
            By task the weighted loss, and the weight without gradient, for the log.
        """
        raise NotImplementedError

    def task_parameters(self, task: str) -> list[nn.Parameter]:
        """What is learned for one task alone."""
        return []

    def set_tasks(self, tasks: Iterable[str]) -> None:
        """Take over the tasks of a model that gained or lost some; what is known of the others stays."""
        self.tasks = tuple(tasks)

    def no_decay_parameters(self) -> list[nn.Parameter]:
        """Parameters that get no weight decay: all."""
        return list(self.parameters())


@MODELS.register_module()
class FixedWeights(TaskWeights):
    """Weights that stay, on top of the ``loss_weight`` of each loss.

    Args:
        tasks: Tasks of the model.
        weights: By task; others have 1.

    Raises:
        ValueError: A weight is of no task of the model, or negative.
    """

    def __init__(self, tasks: Sequence[str], weights: Mapping[str, float]) -> None:
        super().__init__(tasks)
        for task, weight in weights.items():
            if task not in self.tasks:
                raise ValueError(f'task_weights names task {task!r}; the tasks are {", ".join(self.tasks)}')
            if not weight >= 0:
                raise ValueError(f'task_weights of task {task!r} must not be negative, got {weight!r}')
        self.weights = dict(weights)

    def forward(self, losses: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        weights = {task: loss.new_tensor(self.weights.get(task, 1.0)) for task, loss in losses.items()}
        return {task: weights[task] * loss for task, loss in losses.items()}, weights


@MODELS.register_module()
class UncertaintyWeights(TaskWeights):
    r"""Weights learned as the uncertainty of tasks (Kendall, Gal, Cipolla, CVPR 2018, arXiv 1705.07115).

    With a learned :math:`s_t = \log \sigma_t^2` per task,

    .. math:: L = \sum_t c_t\, e^{-s_t} L_t + \frac{s_t}{2},

    where :math:`c_t` is 1 for classes and binary maps and 1/2 for numbers, as the likelihoods of the paper have it. At
    the start all :math:`s_t` are ``initial``. The term :math:`s_t / 2` of a task without a labelled pixel in the batch,
    on any rank, is left out: nothing of the task moves then. The loss may become negative.

    Args:
        tasks: Tasks of the model.
        initial: :math:`s_t` at the start.
    """

    def __init__(self, tasks: Sequence[str], initial: float = 0.0) -> None:
        super().__init__(tasks)
        self.initial = float(initial)
        self.log_variances = nn.ParameterDict()
        self.set_tasks(tasks)

    def set_tasks(self, tasks: Iterable[str]) -> None:
        super().set_tasks(tasks)
        for task in self.log_variances.keys() - set(self.tasks):
            del self.log_variances[task]
        like = next(self.log_variances.parameters(), torch.zeros(()))
        for task in self.tasks:
            if task not in self.log_variances:
                self.log_variances[task] = nn.Parameter(torch.full_like(like, self.initial))

    def task_parameters(self, task: str) -> list[nn.Parameter]:
        return [self.log_variances[task]]

    def forward(self, losses: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        labelled = mean_over_ranks(torch.stack([loss.detach() != 0 for loss in losses.values()])) > 0
        weighted, weights = {}, {}
        for (task, loss), counts in zip(losses.items(), labelled):
            kind = TASKS[task].kind if task in TASKS else 'values'
            factor = 1.0 if kind in ('classes', 'binary') else 0.5
            log_variance = self.log_variances[task]
            weight = factor * (-log_variance).exp()
            weighted[task] = weight * loss + log_variance / 2 * counts
            weights[task] = weight.detach()
        return weighted, weights


@MODELS.register_module()
class DynamicWeightAverage(TaskWeights):
    r"""Weights by how fast losses fall (Liu, Johns, Davison, CVPR 2019, arXiv 1803.10704).

    With :math:`L_t(k)` the mean of a task's loss over the k-th interval, over all ranks and the steps in which it had
    labels, the weights of interval k are

    .. math:: w_t = T\, \mathrm{softmax}_t (r_t / \mathrm{temperature}), \quad r_t = L_t(k - 1) / L_t(k - 2),

    and 1 in the first two. A task of which an interval has no labels keeps the mean of the one before.

    Args:
        tasks: Tasks of the model.
        temperature: Large ones make weights equal.
        interval: Steps of an interval; None: an epoch of mmengine's ``EpochBasedTrainLoop``.

    Raises:
        ValueError: ``temperature`` or ``interval`` is not positive.
    """

    def __init__(self, tasks: Sequence[str], temperature: float = 2.0, interval: int | None = None) -> None:
        super().__init__(tasks)
        if not temperature > 0:
            raise ValueError(f'temperature must be positive, got {temperature}')
        if interval is not None and interval < 1:
            raise ValueError(f'interval must be 1 or more steps, or None for epochs, got {interval}')
        self.temperature = temperature
        self.interval = interval
        self.register_buffer('steps', torch.zeros((), dtype=torch.int64))
        self.register_buffer('epoch', torch.zeros((), dtype=torch.int64))
        # By name: a config that was written and read again may have its tasks in another order.
        self.histories = nn.ModuleDict()
        self.set_tasks(tasks)

    def set_tasks(self, tasks: Iterable[str]) -> None:
        super().set_tasks(tasks)
        for task in self.histories.keys() - set(self.tasks):
            del self.histories[task]
        for task in self.tasks:
            if task not in self.histories:
                self.histories[task] = _History().to(self.steps.device)

    def forward(self, losses: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        weights = dict(zip(losses, self._weigh(losses)))
        return {task: weights[task] * loss for task, loss in losses.items()}, weights

    @torch.no_grad()
    def _weigh(self, losses: Mapping[str, Tensor]) -> Tensor:
        """``(T,)``, the weights of this step, whose losses count for the interval after the next."""
        histories = [self.histories[task] for task in losses]
        if self.training:
            self._start_interval(histories)
        last, before_last = (
            torch.stack([getattr(each, name) for each in histories]) for name in ('last', 'before_last')
        )
        ratios = torch.where(before_last > 0, last / before_last, 1.0)
        weights = len(histories) * (ratios / self.temperature).softmax(dim=0)
        if self.training:
            values = mean_over_ranks(torch.stack([loss.detach() for loss in losses.values()]))
            for history, value in zip(histories, values):
                history.sums += value
                history.counts += value != 0
            self.steps += 1
        return weights

    def _start_interval(self, histories: Sequence[_History]) -> None:
        """Close the interval if it is over; decided in tensors, which keep no GPU waiting."""
        if self.interval is not None:
            over = self.steps >= self.interval
        else:
            info = MessageHub.get_current_instance().runtime_info
            if info.get('max_epochs', 1) <= 1:
                raise ValueError(
                    'task_weights: DynamicWeightAverage goes by epochs, and this training is one of iterations, or of '
                    'one epoch: give it interval=N steps, such as the number of batches in the training data'
                )
            over = self.epoch != info['epoch']
            self.epoch.fill_(info['epoch'])
        self.steps.copy_(torch.where(over, 0, self.steps))
        for history in histories:
            history.close(over)


class _History(nn.Module):
    """Sum of a task's losses in this interval, and the means of the two before; 0 where there was none."""

    def __init__(self) -> None:
        super().__init__()
        for name in ('sums', 'counts', 'last', 'before_last'):
            self.register_buffer(name, torch.zeros(()))

    def close(self, over: Tensor) -> None:
        """Begin a new interval where ``over``, a scalar, is true."""
        mean = torch.where(self.counts > 0, self.sums / self.counts, self.last)
        self.before_last.copy_(torch.where(over, self.last, self.before_last))
        self.last.copy_(torch.where(over, mean, self.last))
        for buffer in (self.sums, self.counts):
            buffer.copy_(torch.where(over, 0.0, buffer))
