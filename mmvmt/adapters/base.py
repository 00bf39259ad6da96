"""The adapter contract: what a parameter-efficient method says of itself, and what an encoder asks of it.

A method is one ``nn.Module`` for the whole encoder. The encoder describes the places that it offers as :class:`Site`
and calls the method there; the method never edits the encoder and knows nothing of its architecture, of what tasks mean
or of data.

What an encoder offers to a method: ``block_indices()``, all (stage, block) in their order; ``own_parameters()``, its
parameters by name without adapters and output norms; ``layer_of(site)``, the linear layer of a slot;
``norm_of(site)``, the LayerNorm in front of a slot.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mmvmt.compat import is_recording

from .sites import SLOTS, SharedLayer, Site

__all__ = ['SLOTS', 'Method', 'SharedLayer', 'Site']


class Method(nn.Module):
    """Base class of all methods.

    Args:
        sites: The places to fill, in the encoder's order.
        tasks: Names of the tasks; a single unnamed task is called ``default``.

    Raises:
        ValueError: There is no site, no task, or a site's slot is none of :attr:`positions`.
    """

    positions: ClassVar[tuple[str, ...]] = ()
    """Slots that the method can fill. Empty where the method adds no module to the blocks."""

    default_positions: ClassVar[tuple[str, ...] | None] = None
    """Slots that it fills when the plugin names none; None: the first of :attr:`positions`."""

    per_task: bool = False
    """Whether the stream itself depends on the task, so that the encoder runs once per task."""

    inside_drop_path: bool = False
    """Whether drop path stands behind :meth:`adapt` of a branch, and so drops the adapter along with the branch."""

    reads_normed: bool = False
    """Whether :meth:`adapt` of a branch gets what the attention or the MLP reads, instead of the stream."""

    former_defaults: ClassVar[dict[str, Any]] = {}
    """Options whose default changed, with what it was before: weights whose record does not name them were trained with
    these. A record names them now, see :mod:`mmvmt.models.identity`."""

    branches: bool = False
    """Whether every task has a tail of its own through the last block of each filled stage, see :meth:`branch`."""

    wants_prompt_scores: bool = False
    """Whether :meth:`branch` wants the scores of its prompts in ``proj``; only with :attr:`branches`."""

    carry_residual: bool = True
    """Whether prompts that are carried on are added to what attention makes of them, as the stream is. Else that goes
    into the MLP alone, whose outputs are added to the prompts."""

    tasks_interact: bool = False
    """Whether the features of a task depend on which other tasks there are: one that is added changes them all."""

    is_merged: bool = False
    """Whether the method's effect is in the encoder's own weights at present, see :meth:`merge`."""

    def __init__(self, sites: Sequence[Site], tasks: Sequence[str]) -> None:
        super().__init__()
        self.sites = tuple(sites)
        self.tasks = tuple(tasks)
        self._kept: tuple[tuple, dict[str | None, Any]] | None = None
        name = type(self).__name__
        if not self.tasks:
            raise ValueError(f'{name} got no task')
        if self.positions and not self.sites:
            raise ValueError(f'{name} got no site to fill: its plugin matches no slot of the encoder')
        for site in self.sites:
            if site.slot not in self.positions:
                raise ValueError(f'{name} cannot fill slot {site.slot!r}; it fills {", ".join(self.positions)}')

    def attach(self, encoder: nn.Module) -> None:
        """Make a copy of every encoder parameter in :meth:`copied_parameters` for every task.

        The encoder calls it once when it is built. A copy is kept as its offset from the frozen value.

        Raises:
            ValueError: The method runs once for all tasks and so has no use for copies.
        """
        chosen = {id(p) for p in self.copied_parameters(encoder)}
        copied = {name: p for name, p in encoder.own_parameters().items() if id(p) in chosen}
        if not copied:
            return
        if not self.per_task:
            raise ValueError(f'{type(self).__name__} runs once for all tasks and cannot have copies per task')
        self.offsets = nn.ModuleDict(
            {
                task: nn.ParameterDict(
                    {name.replace('.', '-'): nn.Parameter(torch.zeros_like(p)) for name, p in copied.items()}
                )
                for task in self.tasks
            }
        )

    def reset_parameters(self) -> None:
        """Set the method's own parameters to their initial values; here the copies, to the frozen ones."""
        for parameter in self._offset_parameters():
            nn.init.zeros_(parameter)

    def task_parts(self) -> Sequence[nn.ModuleDict | nn.ParameterDict]:
        """What is there once per task: containers with an entry for every task, by its name.

        Tasks can be added and removed where a method says this. Here: the copies, and nothing where no feature depends
        on the task.

        Raises:
            ValueError: The method depends on the task and does not say which parts belong to one.
        """
        if hasattr(self, 'offsets'):
            return (self.offsets,)
        if self.per_task or type(self).tap is not Method.tap:
            raise ValueError(
                f'{type(self).__name__} does not say which of its parts belong to a task: define task_parts() to add, '
                f'remove or train single tasks'
            )
        return ()

    def task_parameters(self, task: str) -> list[nn.Parameter]:
        """The parameters that belong to one task alone.

        Raises:
            ValueError: As in :meth:`task_parts`.
        """
        parts = [container[task] for container in self.task_parts()]
        return [p for part in parts for p in (part.parameters() if isinstance(part, nn.Module) else (part,))]

    def add_task(self, task: str) -> None:
        """Make the parts of a further task, at their initial values; all other parts stay as they are.

        Raises:
            ValueError: The task is there already, the method is merged, or it does not say what belongs to a task.
        """
        if task in self.tasks:
            raise ValueError(f'{type(self).__name__} has task {task!r} already')
        if self.is_merged:
            raise ValueError(f'{type(self).__name__} is merged and cannot get a task: call unmerge(encoder) first')
        for container in self.task_parts():
            container[task] = copy.deepcopy(container[self.tasks[0]])
        self.tasks = (*self.tasks, task)
        self._kept = None
        self.reset_task(task)
        for parameter in self.task_parameters(task):
            parameter.grad = None
            parameter.requires_grad = True

    def remove_task(self, task: str) -> None:
        """Drop the parts of a task.

        Raises:
            ValueError: There is no such task, it is the only one, or the method does not say what belongs to a task.
        """
        if task not in self.tasks:
            raise ValueError(f'{type(self).__name__} has no task {task!r}; it has {", ".join(self.tasks)}')
        if len(self.tasks) == 1:
            raise ValueError(f'{task!r} is the only task of {type(self).__name__} and cannot be removed')
        for container in self.task_parts():
            del container[task]
        self.tasks = tuple(name for name in self.tasks if name != task)
        self._kept = None

    def reset_task(self, task: str) -> None:
        """Set the parts of one task to their initial values: modules by ``reset_parameters``, copies to zero."""
        for container in self.task_parts():
            if isinstance(container, nn.ModuleDict):
                for module in container[task].modules():
                    if callable(getattr(module, 'reset_parameters', None)):
                        module.reset_parameters()
        if hasattr(self, 'offsets'):
            for offset in self.offsets[task].parameters():
                nn.init.zeros_(offset)

    def substitutes(self, encoder: nn.Module, task: str | None, generated: Any) -> dict[str, Tensor]:
        """What stands in for parameters of the encoder in a pass, by their names.

        Args:
            encoder: The encoder.
            task: The task of the pass; None unless :attr:`per_task`.
            generated: What :meth:`generate` made of it.
        """
        if not hasattr(self, 'offsets'):
            return {}
        frozen = encoder.own_parameters()
        offsets = {key.replace('-', '.'): offset for key, offset in self.offsets[task].items()}
        return {name: frozen[name] + offset for name, offset in offsets.items()}

    def generated(self, task: str | None) -> Any:
        """:meth:`generate`, kept in evaluation mode without gradients until a parameter or the mode changes."""
        if type(self).generate is Method.generate:
            return None
        parameters = list(self.parameters())
        trains = torch.is_grad_enabled() and any(p.requires_grad for p in parameters)
        if self.training or trains or is_recording() or any(p.is_inference() for p in parameters):
            return self.generate(task)
        device = parameters[0].device.type if parameters else 'cpu'
        precision = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        key = (precision, *((p.data_ptr(), p._version) for p in parameters))
        if self._kept is None or self._kept[0] != key:
            self._kept = (key, {})
        kept = self._kept[1]
        if task not in kept:
            # What is made in inference mode could not be used outside of it later.
            with torch.inference_mode(False), torch.no_grad():
                kept[task] = self.generate(task)
        return kept[task]

    def generate(self, task: str | None) -> Any:
        """What :meth:`adapt` needs of a pass, made once per task and step before the blocks run.

        Args:
            task: The task of the pass; None unless :attr:`per_task`.
        """
        return None

    def train(self, mode: bool = True) -> Method:
        """Set the mode and forget what was generated."""
        self._kept = None
        return super().train(mode)

    def adapt(
        self, site: Site, inputs: Tensor, outputs: Tensor, task: str | None, generated: Any
    ) -> tuple[Tensor, Tensor | None]:
        """Adapt a branch or a layer.

        Args:
            site: Where.
            inputs: ``(..., site.in_channels)``. For a branch the stream before its norm, or behind it where
                :attr:`reads_normed`; for a layer the layer's input.
            outputs: ``(..., site.out_channels)``, what the frozen layer puts out, or the branch: after drop path, or
                before it where :attr:`inside_drop_path`.
            task: The task of this pass; None unless :attr:`per_task`.
            generated: What :meth:`generate` gave for this task.

        Returns:
            The adapted outputs, and what :meth:`tap` wants to see of this block, or None.
        """
        raise NotImplementedError(f'{type(self).__name__} fills slots but does not define adapt()')

    def adapt_map(
        self, site: Site, inputs: Tensor, outputs: Tensor, task: str | None, generated: Any, hw: tuple[int, int] | None
    ) -> tuple[Tensor, Tensor | None]:
        """:meth:`adapt` for methods that mix neighbours: it is this that an encoder calls.

        Args:
            site, inputs, outputs, task, generated: As for :meth:`adapt`.
            hw: Height and width of the map whose tokens the axis before the last is; of one window, where the layer
                works on windows. None where the tokens are prompts, which stand at no position.
        """
        return self.adapt(site, inputs, outputs, task, generated)

    def branch(
        self, site: Site, own: Tensor | None, shared: SharedLayer, task: str, generated: Any
    ) -> tuple[Tensor, Tensor | None]:
        r"""What a task's own tail makes of ``proj``, ``fc1`` or ``fc2`` in a stage's last block; for :attr:`branches`.

        Beside the shared stream, from the same stream h before the block and the same outputs of the attention, runs

        .. math:: u_t = h + L^{proj}_t, \quad y_t = u_t + L^{fc2}_t(g(L^{fc1}_t(LN(u_t))))

        with the block's own norm, activation and drop path. It leaves the stage, see :meth:`tap`, and enters nothing
        else, so the encoder runs once for all tasks.

        Args:
            site: Where.
            own: ``(..., site.in_channels)``, what enters the layer in the task's tail; None for ``proj``, where that is
                the shared input.
            shared: What the shared stream did here.
            task: The task.
            generated: As for :meth:`adapt`, of the pass that serves all tasks.

        Returns:
            ``(..., site.out_channels)``, and what :meth:`tap` wants to see of it (in that order of tokens), or None.
        """
        raise NotImplementedError(f'{type(self).__name__} has tails per task but does not define branch()')

    def merge_prompts(self, stage: int, prompts: Tensor, merge: Callable[[Tensor], Tensor]) -> Tensor:
        """Prompts for the next stage.

        Args:
            stage: The stage that they leave.
            prompts: ``(B, P, C)``, what its last block made of them.
            merge: What the encoder would do, in ``(B, P, C)`` and out ``(B, P, C')``.
        """
        return merge(prompts)

    def tokens(self, site: Site, carried: Tensor | None, task: str | None) -> tuple[Tensor, bool]:
        """Prompts that the windows of a block see, for the slot ``tokens``.

        Args:
            site: Where.
            carried: ``(B, P, C)``, what the block before made of its prompts (behind a stage, what
                :meth:`merge_prompts` made of that); None where nothing was carried on.
            task: The task of this pass; None unless :attr:`per_task`.

        Returns:
            ``(P, C)`` or ``(B, P, C)``, and whether the block's outputs of the prompts go on to the next block.
        """
        raise NotImplementedError(f'{type(self).__name__} fills the slot tokens but does not define tokens()')

    def tap(self, stage: int, x: Tensor, tapped: Sequence[Tensor], tasks: Sequence[str]) -> dict[str, Tensor] | None:
        """Features that leave a stage.

        Args:
            stage: Index of the stage.
            x: ``(B, H*W, C)``, the stage's output.
            tapped: What :meth:`adapt` handed out in this stage, in the blocks' order; then, for a method with
                :attr:`branches`, ``(B, H*W, C)`` for each of ``tasks``, its tail, and what :meth:`branch` handed out
                for each, slot by slot.
            tasks: Tasks whose features are wanted, in this order.

        Returns:
            ``(B, H*W, C)`` for each of ``tasks``, or None where every task gets ``x`` itself.
        """
        return None

    def encoder_parameters(self, encoder: nn.Module) -> Iterable[nn.Parameter]:
        """Parameters of the frozen encoder that this method trains besides its own, the same for all tasks."""
        return ()

    def copied_parameters(self, encoder: nn.Module) -> Iterable[nn.Parameter]:
        """Parameters of the frozen encoder of which every task trains a copy; only where :attr:`per_task`."""
        return ()

    def no_decay_parameters(self) -> Iterable[nn.Parameter]:
        """Own parameters without weight decay: here vectors, and the offsets of copies from the frozen values."""
        yield from (p for p in self.parameters() if p.ndim <= 1)
        yield from self._offset_parameters()

    def merge(self, encoder: nn.Module) -> None:
        """Put the method's effect into the encoder's own weights, so that inference costs nothing more.

        Raises:
            ValueError: The method is no change of weights.
        """
        raise ValueError(
            f"{type(self).__name__} cannot be merged: what it computes is no change of the encoder's weights. "
            f'Keep it as it is for inference'
        )

    def unmerge(self, encoder: nn.Module) -> None:
        """Undo :meth:`merge`.

        Raises:
            ValueError: Nothing was merged.
        """
        raise ValueError(f'{type(self).__name__} was not merged')

    def structure_of(self, names: Iterable[str]) -> dict[str, Any]:
        """Options that weights were trained with, as far as the names of the tensors tell; here, nothing."""
        return {}

    def check_structure(self, names: Iterable[str]) -> None:
        """Refuse weights of another structure, which would load in part.

        Args:
            names: Names of the weights within the method; none: there is nothing to check.

        Raises:
            ValueError: They are of another structure; the message names the options that have it.
        """
        names = list(names)
        theirs = self.structure_of(names) if names else {}
        ours = self.structure_of(self.state_dict())
        if any(theirs[key] != ours[key] for key in theirs.keys() & ours.keys()):
            # Weights without a record: of the structure that was the default, so with what else was then.
            if theirs.items() <= self.former_defaults.items():
                theirs = self.former_defaults
            wanted = ', '.join(f'{key}={value!r}' for key, value in theirs.items())
            raise ValueError(
                f'these weights of {type(self).__name__} are of another structure than this model has; build it with '
                f'the structure that they were trained with: cfg=dict(type={type(self).__name__!r}, {wanted}) in '
                f'model.backbone.plugins'
            )

    def _load_from_state_dict(self, state_dict: Mapping[str, Tensor], prefix: str, *args: Any, **kwargs: Any) -> None:
        self.check_structure(name.removeprefix(prefix) for name in state_dict if name.startswith(prefix))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def _offset_parameters(self) -> Iterator[nn.Parameter]:
        if hasattr(self, 'offsets'):
            yield from self.offsets.parameters()
