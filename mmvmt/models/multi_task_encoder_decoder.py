"""The model: one encoder, one head per task. mmseg's ``EncoderDecoder``, for T tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from mmengine.logging import MessageHub
from mmengine.model import BaseModel, ModuleDict
from mmengine.structures import PixelData
from torch import Tensor, nn

from mmvmt.registry import MODELS
from mmvmt.structures import TASKS, MultiTaskDataSample, TaskDeclarations, check_tasks, declare_tasks

from .gradients_at_once import loss_with_gradients
from .losses import sum_of_losses
from .model_checkpoint import check_model_checkpoint
from .sliding import checked_test_cfg, slide
from .task_heads import Neck, TaskHead, heads_by_task, output_config
from .task_heads.base import first_of, upsample
from .training_subset import TrainingSubset

TaskLosses = tuple[str, Tensor, dict[str, Tensor]]
"""A task, the loss that trains, and its terms without gradient."""


@MODELS.register_module()
class MultiTaskEncoderDecoder(BaseModel):
    """One encoder pass gives the features of all tasks; one head per task turns them into a map.

    Args:
        backbone: Config of an encoder that returns ``{task: maps}``. Its ``tasks`` are taken from ``heads``.
        heads: ``{task: config of its head}``, in the order of the tasks, or one config for all ``tasks``.
            ``in_channels`` defaults to the encoder's widths, ``output`` to what the task is declared with.
        data_preprocessor: Config of the data preprocessor.
        train_cfg: ``tasks``, the tasks that train, see :meth:`set_trained_tasks`; None: all.
        test_cfg: ``mode='whole'``, or ``mode='slide'`` with ``crop_size`` and ``stride`` as (height, width);
            ``resolution='original'`` resizes predictions to the image before the pipeline, ``'input'`` leaves them at
            the size that entered the model.
        gradients_at_once: Turn the loss of each task into gradients before the next head runs, so that the intermediate
            results of one head are in memory at a time, see :func:`loss_with_gradients`. Gradients are the same.
        strict_heads: Refuse checkpoints of other tasks or with other heads, such as another number of classes. False: a
            training starts from what fits of them, and the log says what was left out. Tests and resumed trainings are
            always strict.
        init_cfg: As in mmengine.
        tasks: The tasks' declarations, see :func:`~mmvmt.structures.declare_tasks`; None: the package knows all of
            them.
        task_weights: Config of the weights of the tasks' losses, such as ``dict(type='mmvmt.UncertaintyWeights')``, see
            :class:`~mmvmt.models.TaskWeights`; None: 1 each.
        neck: Config of a neck of mmseg, such as ``dict(type='mmseg.FPN', out_channels=256, num_outs=4)``, behind a
            LayerNorm per level. All tasks share its weights; it runs once for tasks that have the same features, and
            once for every task that has features of its own. A neck of one task alone is an option of its head.

    Raises:
        ValueError: A task is unknown or has no head, a head does not fit its task, or ``train_cfg`` or ``test_cfg`` is
            wrong.
    """

    def __init__(
        self,
        backbone: dict[str, Any],
        heads: dict[str, dict[str, Any]],
        data_preprocessor: dict[str, Any] | nn.Module | None = None,
        train_cfg: dict[str, Any] | None = None,
        test_cfg: dict[str, Any] | None = None,
        gradients_at_once: bool = True,
        strict_heads: bool = True,
        init_cfg: dict[str, Any] | None = None,
        tasks: TaskDeclarations | None = None,
        task_weights: dict[str, Any] | None = None,
        neck: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(data_preprocessor=data_preprocessor, init_cfg=init_cfg)
        declared = None if tasks is None else declare_tasks(tasks)
        heads = heads_by_task(heads, declared)
        if declared is not None and sorted(declared) != sorted(heads):
            raise ValueError(f'model.tasks {list(declared)} differ from the heads {list(heads)}')
        self.tasks = check_tasks(heads)
        backbone = dict(backbone)
        if tuple(backbone.setdefault('tasks', self.tasks)) != self.tasks:
            raise ValueError(f'backbone.tasks {list(backbone["tasks"])} differ from the heads {list(self.tasks)}')
        self.backbone = MODELS.build(backbone)
        self.feature_widths = self.backbone.feature_widths
        self.neck = None if neck is None else Neck(self.feature_widths, neck, key='model.neck')
        self.heads = ModuleDict()
        for task, head in heads.items():
            self.heads[task] = self.build_head(task, head)
        self.task_weights = None if task_weights is None else MODELS.build(dict(task_weights, tasks=self.tasks))
        if self.neck is not None:
            self.neck.freeze_unread(sorted({level for head in self.heads.values() for level in head.levels_read}))
        self.train_cfg = train_cfg
        self.test_cfg = checked_test_cfg(test_cfg)
        self.gradients_at_once = gradients_at_once
        self.strict_heads = strict_heads
        self.active_tasks = self.trained_tasks = self.tasks
        self._training_subset = TrainingSubset()
        unknown = sorted(set(train_cfg or {}) - {'tasks'})
        if unknown:
            raise ValueError(f'train_cfg has unknown keys {unknown}; known: tasks')
        if train_cfg and train_cfg.get('tasks') is not None:
            self.set_trained_tasks(train_cfg['tasks'])

    def build_head(self, task: str, cfg: dict[str, Any]) -> TaskHead:
        """Build the head of a task, which the model does not take over yet.

        Args:
            task: The task.
            cfg: Config of the head; ``in_channels`` and ``output`` have defaults, see the class.

        Raises:
            ValueError: The head does not fit the features, or the task: its kind of map, channels or classes.
        """
        output = output_config(
            TASKS[task], cfg.get('output'), with_loss='loss_decode' not in cfg.get('decode_head', ())
        )
        cfg = dict(cfg, output=output)
        cfg.setdefault('in_channels', self.feature_widths if self.neck is None else self.neck.out_channels)
        try:
            head = MODELS.build(cfg)
        except ValueError as error:
            raise ValueError(f'model.heads.{task}: {error}') from error
        if not isinstance(head, TaskHead):
            raise TypeError(f'model.heads.{task} must be a mmvmt.models.TaskHead, got {type(head).__name__}')
        head.bind(TASKS[task])
        return head

    def set_active_tasks(self, tasks: Sequence[str] | None = None) -> None:
        """Compute only some tasks in ``predict`` and ``tensor`` mode: their features and their heads.

        Args:
            tasks: Names of tasks; None: all.

        Raises:
            ValueError: A task is none of this model's, is listed twice, or the list is empty.
        """
        chosen = self.tasks if tasks is None else check_tasks(tasks, self.tasks)
        self.active_tasks = tuple(task for task in self.tasks if task in chosen)

    def set_trained_tasks(self, tasks: Sequence[str] | None = None) -> None:
        """Train only some tasks: what belongs to them alone, their heads and their parts of the adapters.

        What tasks share is frozen then, and the other tasks' parts too. Their heads are in evaluation mode and take no
        part in the loss. What was frozen before, such as norms of ``norm_cfg=dict(type='BN', requires_grad=False)``,
        stays so in every case. Optimizers that exist already are not changed.

        Args:
            tasks: Names of tasks; None, or all of them: everything that trained before.

        Raises:
            ValueError: A task is none of this model's, is listed twice, the list is empty, or an adapter does not say
                which of its parts belong to a task.
        """
        chosen = self.tasks if tasks is None else check_tasks(tasks, self.tasks)
        trained = tuple(task for task in self.tasks if task in chosen)
        everything = trained == self.tasks
        self.backbone.set_trained_tasks(None if everything else trained)
        parts = (self.backbone, *(self.heads[task] for task in trained))
        kept = [p for part in parts for p in part.parameters()]
        if self.task_weights is not None:
            kept += [p for task in trained for p in self.task_weights.task_parameters(task)]
        self._training_subset.set(self, None if everything else kept)
        self.trained_tasks = trained
        self.train(self.training)

    def train(self, mode: bool = True) -> MultiTaskEncoderDecoder:
        """Set training or evaluation mode; heads of tasks that do not train stay in evaluation mode, and where there
        are such tasks, so does the neck that they share with others."""
        super().train(mode)
        if self.neck is not None and self.trained_tasks != self.tasks:
            self.neck.eval()
        for task, head in self.heads.items():
            if task not in self.trained_tasks:
                head.eval()
        return self

    def forward(
        self, inputs: Tensor, data_samples: Sequence[MultiTaskDataSample] | None = None, mode: str = 'tensor'
    ) -> dict[str, Tensor] | list[MultiTaskDataSample]:
        """Run the model.

        Args:
            inputs: ``(B, 3, H, W)``, normalised and padded.
            data_samples: One per image; needed for ``loss``.
            mode: ``'loss'`` gives a dictionary of losses, ``'predict'`` a list of data samples with ``pred``,
                ``'tensor'`` a dictionary of logits ``(B, C, H / 4, W / 4)``.

        Raises:
            ValueError: The mode is unknown.
        """
        if mode == 'loss':
            return self.loss(inputs, data_samples)
        if mode == 'predict':
            return self.predict(inputs, data_samples)
        if mode == 'tensor':
            return self.encode_decode(inputs)
        raise ValueError(f"mode must be 'loss', 'predict' or 'tensor', got {mode!r}")

    def extract_feat(self, inputs: Tensor, tasks: Sequence[str] | None = None) -> dict[str, tuple[Tensor, ...]]:
        """Features of some tasks (None: of all), from one call of the encoder."""
        features = self.backbone(inputs, tasks)
        return features if self.neck is None else self.neck.of_tasks(features)

    def encode_decode(self, inputs: Tensor, tasks: Sequence[str] | None = None) -> dict[str, Tensor]:
        """Logits of some tasks (None: of the active ones) at the heads' resolution."""
        tasks = self.active_tasks if tasks is None else tasks
        features = self.extract_feat(inputs, tasks)
        return {task: self.heads[task](features[task]) for task in tasks}

    def loss(self, inputs: Tensor, data_samples: Sequence[MultiTaskDataSample]) -> dict[str, Tensor]:
        """Weighted loss of every task that trains.

        A task without a labelled pixel in the batch has a loss of zero that still reaches all its parameters.

        Returns:
            ``loss_<task>`` by task; and without gradient, for the log alone, where a head has several losses each of
            them as ``<task>.<name>``, and where tasks are weighted ``<task>.weight`` and ``<task>.unweighted``.

        Raises:
            KeyError: A sample lacks the labels of a task.
            ValueError: A head has another number of classes than the data set, or a label is no class of it.
            FloatingPointError: A loss is not finite.
        """
        at_once = self.gradients_at_once and len(self.trained_tasks) > 1
        compute = self._losses_at_once if at_once else self._losses
        losses, terms = {}, {}
        for task, loss, of_task in compute(inputs, data_samples):
            losses[task] = loss
            if len(of_task) > 1:
                # mmengine adds up whatever has `loss` in its name.
                terms |= {f'{task}.{name.replace("loss", "").strip("_")}': value for name, value in of_task.items()}
        if self.task_weights is not None:
            terms |= {f'{task}.unweighted': loss.detach() for task, loss in losses.items()}
            losses, weights = self.task_weights(losses)
            terms |= {f'{task}.weight': weight for task, weight in weights.items()}
        losses = {f'loss_{task}': loss for task, loss in losses.items()}
        self._check_finite(losses, data_samples)
        return losses | terms

    def _losses(self, inputs: Tensor, data_samples: Sequence[MultiTaskDataSample]) -> Iterator[TaskLosses]:
        logits = self.encode_decode(inputs, self.trained_tasks)
        for task, of_task in logits.items():
            losses = self.heads[task].losses(of_task, self._targets(task, data_samples))
            yield task, sum_of_losses(losses), {name: loss.detach() for name, loss in losses.items()}

    def _losses_at_once(self, inputs: Tensor, data_samples: Sequence[MultiTaskDataSample]) -> Iterator[TaskLosses]:
        features = dict(self.extract_feat(inputs, self.trained_tasks))
        for task in self.trained_tasks:
            head, target, terms = self.heads[task], self._targets(task, data_samples), {}

            def compute(maps: Sequence[Tensor], head=head, target=target, terms=terms) -> Tensor:
                losses = head.losses(head(maps), target)
                terms.update({name: loss.detach() for name, loss in losses.items()})
                return sum_of_losses(losses)

            # Nothing else needs the features of this task.
            maps, parameters = features.pop(task), [p for p in head.parameters() if p.requires_grad]
            yield task, loss_with_gradients(compute, maps, parameters), terms

    def _targets(self, task: str, data_samples: Sequence[MultiTaskDataSample]) -> Tensor:
        for sample in data_samples:
            if 'gt' not in sample or task not in sample.gt:
                raise KeyError(
                    f'sample {sample.get("img_id")!r} has no labels for task {task!r}; '
                    f"list the task in the data set's tasks"
                )
        target = torch.stack([sample.gt.get(task) for sample in data_samples])
        # Readers keep to what a data set declares; of others the values have to be looked at, which costs a GPU a stop.
        if self.heads[task].output.kind == 'classes' and not self._check_declared(task, data_samples):
            self._check_values(task, target, data_samples)
        return target

    def _check_declared(self, task: str, data_samples: Sequence[MultiTaskDataSample]) -> bool:
        """Compare a head with the numbers of classes that the data set declares; whether it does for all samples."""
        classes = self.heads[task].output.channels
        declared = [sample.get('num_classes', {}).get(task) for sample in data_samples]
        for number in declared:
            if number not in (None, classes):
                raise ValueError(
                    f'model.heads.{task}.output.num_classes is {classes}, but the data set has {number} classes of '
                    f'{task!r}; make them agree there or by num_classes=dict({task}={classes}) of the data set'
                )
        return None not in declared

    def _check_values(self, task: str, target: Tensor, data_samples: Sequence[MultiTaskDataSample]) -> None:
        """Look for labels that are no class of the head."""
        classes = self.heads[task].output.channels
        wrong = ((target >= classes) & self.heads[task].output.task.known(target)[:, None]).flatten(1)
        if wrong.any():
            index = int(wrong.any(dim=1).nonzero()[0])
            label, sample = int(target[index].flatten()[wrong[index]][0]), data_samples[index]
            raise ValueError(
                f'image {sample.get("img_path") or sample.get("img_id")!r} holds the class {label} of task {task!r}, '
                f'but model.heads.{task}.output.num_classes is {classes}'
            )

    @staticmethod
    def _check_finite(losses: dict[str, Tensor], data_samples: Sequence[MultiTaskDataSample]) -> None:
        """Stop before a step would spread NaN into the weights."""
        values = torch.stack([loss.detach() for loss in losses.values()])
        if torch.isfinite(values).all():
            return
        bad = [
            f'{name.removeprefix("loss_")} ({value})'
            for name, value in zip(losses, values.tolist())
            if not abs(value) < float('inf')
        ]
        ids = [sample.get('img_id') for sample in data_samples]
        iteration = MessageHub.get_current_instance().runtime_info.get('iter', 'unknown')
        raise FloatingPointError(
            f'loss of task {", ".join(bad)} is not finite at iteration {iteration}, samples {ids}; no weight was '
            f'changed by it. Resume from the last checkpoint with a smaller learning rate or gradient clipping, or '
            f'check these samples'
        )

    @torch.no_grad()
    def predict(
        self, inputs: Tensor, data_samples: Sequence[MultiTaskDataSample] | None = None
    ) -> list[MultiTaskDataSample]:
        """Predictions of every active task, as ``pred`` of the data samples.

        Raises:
            ValueError: A sample was flipped, which predictions do not undo, or a head has another number of classes
                than the data set.
        """
        if data_samples is not None:
            flipped = [sample.get('img_id') for sample in data_samples if sample.get('flip')]
            if flipped:
                raise ValueError(f'samples {flipped} were flipped: leave random flips out of the test pipeline')
        else:
            data_samples = [
                MultiTaskDataSample(metainfo=dict(ori_shape=tuple(inputs.shape[2:]), img_shape=tuple(inputs.shape[2:])))
                for _ in range(len(inputs))
            ]
        logits = self.full_logits(inputs, data_samples)
        for index, sample in enumerate(data_samples):
            pred = PixelData()
            for task in self.active_tasks:
                of_image, size = logits[task][index : index + 1], self.size_of(sample)
                pred.set_field(self.at_size(task, of_image, sample, size, self.heads[task].predict)[0], task)
            sample.pred = pred
        return list(data_samples)

    def full_logits(self, inputs: Tensor, data_samples: Sequence[MultiTaskDataSample]) -> dict[str, Tensor]:
        """Logits of the active tasks at the size of the inputs, from whole images or from crops.

        Raises:
            ValueError: A head has another number of classes than the data set.
        """
        for task in self.active_tasks:
            self._check_declared(task, data_samples)
        if self.test_cfg['mode'] == 'slide':
            return slide(self._whole, inputs, self.test_cfg['crop_size'], self.test_cfg['stride'])
        return self._whole(inputs)

    def size_of(self, sample: MultiTaskDataSample) -> tuple[int, int]:
        """Height and width of a sample's predictions, at the resolution that ``test_cfg`` asks for."""
        return tuple(sample.ori_shape if self.test_cfg['resolution'] == 'original' else sample.img_shape)

    def at_size(
        self,
        task: str,
        logits: Tensor,
        sample: MultiTaskDataSample,
        size: tuple[int, int],
        read: Callable[[Tensor], Tensor],
    ) -> Tensor:
        """What a sample's logits stand for, at another size, where displacements and disparities have other values.

        Args:
            task: The task.
            logits: ``(1, C, H, W)`` of the padded picture; the padding is cut off.
            sample: The sample.
            size: Height and width wanted.
            read: Turns logits into what they stand for.
        """
        _, right, _, bottom = sample.get('padding_size', (0, 0, 0, 0))
        height, width = logits.shape[2] - bottom, logits.shape[3] - right
        logits = logits[:, :, :height, :width]
        if size != (height, width):
            logits = upsample(logits.float(), size, self.heads[task].align_corners)
        return self.heads[task].output.task.rescaled(read(logits), width=size[1] / width, height=size[0] / height)

    def _whole(self, inputs: Tensor) -> dict[str, Tensor]:
        size = inputs.shape[2:]
        logits = self.encode_decode(inputs)
        return {t: upsample(first_of(x).float(), size, self.heads[t].align_corners) for t, x in logits.items()}

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # Every way of loading passes here, mmengine's non-strict one too, which would only warn.
        check_model_checkpoint(self, state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)
