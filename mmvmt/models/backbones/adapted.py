"""The engine of all encoders: plugins, what is frozen and trains, features by task, tasks added. No architecture."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from mmengine.model import BaseModule, ModuleList, initialize
from torch import Tensor, nn

from mmvmt.adapters.base import Site
from mmvmt.models.checkpoint import initialisers_of, load_encoder_checkpoint
from mmvmt.models.frozen_linear import use_onednn
from mmvmt.models.training_subset import TrainingSubset
from mmvmt.structures import TaskDeclarations, declare_tasks

from .passes import PartNames, as_type, maps_of, run_passes
from .plugins import build_method, check_together

UNNAMED_TASK = 'default'
"""The one task of an encoder that was built without tasks."""

FROZEN_DTYPES = {'bfloat16': torch.bfloat16, 'float16': torch.float16}
"""Types in which frozen weights can be stored."""

TASK_ORDERS = ('sequential', 'stacked')
"""How methods that depend on the task run the encoder: task after task, or all tasks along the batch."""

Features = tuple[Tensor, ...]
"""The maps that leave an encoder, ``(B, C_i, H_i, W_i)``."""

Transition = Callable[[Tensor, tuple[int, int]], tuple[Tensor, tuple[int, int]]]
"""What happens between two stages: ``(B, H * W, C)`` and (H, W) to those of the next stage."""


class AdaptedEncoder(BaseModule):
    """Base class of encoders whose blocks offer named slots to adapters.

    This class runs an encoder; a subclass says what there is to run. It builds its modules, sets ``num_features``, the
    width of each stage, and ``out_indices``, the stages whose features leave, calls :meth:`insert_adapters` at the end
    of its ``__init__``, and defines:

    - :attr:`slots`, and for a site :meth:`slot_layers`, :meth:`norm_of` and, if blocks differ, :meth:`slot_channels`,
      :meth:`offers`, :meth:`size_behind`;
    - three kinds of *parts*, modules that run alone and one after another: :meth:`embedding_part`, how an image becomes
      tokens; :meth:`stage_blocks`, the blocks in their order; :meth:`transition_part`, what happens between two stages;
    - where it differs from what stands here: :meth:`enter`, what happens to tokens before the first block;
      :meth:`prompts_behind`, how prompts pass a transition; :meth:`to_map`, how tokens become a map.

    A block is a module that runs as ``block(x, hw, fills, prompts)``, and with ``tails`` behind these where
    :attr:`offers_branches`. ``x`` is the stream, ``(B, H * W, C)``, and ``hw`` its height and width; ``fills`` goes
    into :func:`~mmvmt.models.backbones.slots.fill` behind each linear layer that is a slot, and into
    :func:`~mmvmt.models.backbones.slots.branch` for what a branch adds to the stream; ``prompts`` are the tokens of the
    slot ``tokens``, or None. It returns the stream; what it made of the prompts where ``prompts.carry``, else None; and
    the list that it gave to ``branch`` as ``tapped``. Its attribute ``with_cp``, where it has one, asks for gradient
    checkpointing. With ``tails``, a :class:`~mmvmt.models.backbones.slots.Tails`, it gives them to ``fill`` behind
    ``proj``, ``fc1`` and ``fc2``, runs them through the same layers, and appends what they make of it.

    A transition runs as ``transition(x, hw)``, and with ``fills`` behind these where the slot ``downsample`` is filled.

    Output norms, where the encoder has any, are called ``norm0``, ``norm1``, ... by stage, as in mmseg. With ``tasks``
    they are left to the heads.
    """

    slots: ClassVar[tuple[str, ...]] = ()
    """The slots that every block offers, of :data:`mmvmt.adapters.base.SLOTS`."""

    normed_slots: Sequence[str] = ()
    """Branches for which blocks give ``branch`` as ``normed`` what the attention or the MLP reads."""

    offers_branches: ClassVar[bool] = False
    """Whether blocks run tails of tasks, see :meth:`mmvmt.adapters.Method.branch`."""

    offers_prompt_scores: ClassVar[bool] = False
    """Whether tails see the scores of prompts, see :attr:`mmvmt.adapters.Method.wants_prompt_scores`."""

    features_after_merging: bool = False
    """Whether what leaves a stage leaves behind its transition, where there is one; only with tasks."""

    num_features: Sequence[int]
    out_indices: Sequence[int]

    patch_size: int = 4
    """Edge of an image patch, pixels."""

    @property
    def feature_widths(self) -> list[int]:
        """Widths of the maps that leave."""
        return [self.num_features[index] for index in self.out_indices]

    @property
    def label(self) -> str:
        """What kind of encoder it is, for messages."""
        return type(self).__name__

    def stage_blocks(self) -> Sequence[Sequence[nn.Module]]:
        """The blocks of every stage, in the order of the stream."""
        raise NotImplementedError(f'{type(self).__name__} does not define stage_blocks()')

    def offers(self, stage: int, block: int, slot: str) -> bool:
        """Whether a block has a slot; ``downsample`` is in last blocks that another stage follows."""
        return slot != 'downsample' or slot in self.slot_layers(stage, block)

    def size_behind(self, stage: int, block: int, hw: tuple[int, int]) -> tuple[int, int]:
        """Height and width of the map behind a block, by default as before."""
        return hw

    def slot_layers(self, stage: int, block: int) -> dict[str, nn.Linear]:
        """The linear layers of a block that are slots, by slot."""
        raise NotImplementedError(f'{type(self).__name__} does not define slot_layers()')

    def norm_of(self, site: Site) -> nn.LayerNorm:
        """The LayerNorm of the block that stands in front of a slot."""
        raise NotImplementedError(f'{type(self).__name__} does not define norm_of()')

    def slot_channels(self, stage: int, block: int, slot: str) -> tuple[int, int]:
        """Width of what enters a slot, and of what it puts out: the layer's, or the stage's where it is no layer.

        Raises:
            ValueError: The block cannot offer the slot.
        """
        layer = self.slot_layers(stage, block).get(slot)
        if layer is None:
            return self.num_features[stage], self.num_features[stage]
        return layer.in_features, layer.out_features

    def embedding_part(self) -> nn.Module:
        """What turns images ``(B, 3, H, W)`` into tokens ``(B, H' * W', C)`` and (H', W')."""
        raise NotImplementedError(f'{type(self).__name__} does not define embedding_part()')

    def enter(self, tokens: Tensor) -> Tensor:
        """What happens to the tokens before the first block; by default nothing."""
        return tokens

    def transition_part(self, stage: int) -> nn.Module | None:
        """What stands behind the last block of a stage, a :data:`Transition`; None where the next stage follows."""
        return None

    def prompts_behind(self, stage: int, prompts: Tensor, transition: Transition) -> Tensor:
        """Prompts ``(B, P, C)`` for the next stage, behind a transition; for encoders with slot ``tokens``."""
        raise NotImplementedError(f'{type(self).__name__} does not define prompts_behind()')

    def name_parts(self) -> PartNames:
        """Names of the parts; by default their names in the encoder, of which each is one module."""
        return PartNames.of(self)

    def drop_output_norms(self) -> None:
        """Take out the norms that only what leaves goes through: with tasks the heads have them."""
        for index in self._output_norms():
            delattr(self, f'norm{index}')

    def load_checkpoint(self, init_cfg: Mapping[str, Any]) -> None:
        """Load the pretrained weights that ``dict(type='Pretrained', checkpoint=PATH_OR_URL)`` names."""
        load_encoder_checkpoint(self, init_cfg)

    def start_from_scratch(self) -> None:
        """Initialise the encoder where ``init_cfg`` is None."""
        super().init_weights()

    def to_map(self, tokens: Tensor, hw: tuple[int, int]) -> Tensor:
        """Tokens ``(B, H * W, C)`` as a map ``(B, C, H, W)``: a view, in channels-last memory order."""
        return tokens.unflatten(1, hw).permute(0, 3, 1, 2)

    def insert_adapters(
        self,
        tasks: TaskDeclarations | None = None,
        plugins: Sequence[dict] | None = None,
        task_order: str = 'sequential',
        frozen_dtype: str | None = None,
    ) -> None:
        """Fill the slots and freeze what does not train; called once, when all modules of the encoder stand.

        Args:
            tasks: Names of the tasks, or their declarations, see :func:`~mmvmt.structures.declare_tasks`; None: one
                unnamed task.
            plugins: Adapters to insert, see :class:`~mmvmt.models.AdaptedSwin`.
            task_order: One of :data:`TASK_ORDERS`.
            frozen_dtype: One of :data:`FROZEN_DTYPES`, or None for float32.

        Raises:
            ValueError: As in :class:`~mmvmt.models.AdaptedSwin`.
        """
        if task_order not in TASK_ORDERS:
            raise ValueError(f'task_order must be one of {", ".join(TASK_ORDERS)}, got {task_order!r}')
        self.task_order = task_order
        if frozen_dtype is not None and frozen_dtype not in FROZEN_DTYPES:
            raise ValueError(f'frozen_dtype must be one of {", ".join(FROZEN_DTYPES)}, got {frozen_dtype!r}')
        if frozen_dtype is not None and not plugins:
            raise ValueError(
                f'frozen_dtype={frozen_dtype!r} is for frozen weights, but without plugins nothing is frozen'
            )
        self.frozen_dtype = FROZEN_DTYPES.get(frozen_dtype)
        frozen_stages = getattr(self, 'frozen_stages', -1)
        if plugins and frozen_stages >= 0:
            raise ValueError(
                f'frozen_stages={frozen_stages} cannot be combined with plugins: what trains is what they declare'
            )
        self.tasks = declare_tasks(tasks) if tasks is not None else None
        use_onednn(self)
        if self.tasks is not None:
            self.drop_output_norms()
        self.part_names = self.name_parts()
        self.plugins = [dict(plugin) for plugin in plugins or ()]
        self.adapters = ModuleList(
            [build_method(plugin, self, self.tasks or (UNNAMED_TASK,)) for plugin in self.plugins]
        )
        check_together(self.adapters)
        self.filled: dict[tuple[int, int], list[tuple[int, Site]]] = {}
        for index, adapter in enumerate(self.adapters):
            for site in adapter.sites:
                self.filled.setdefault((site.stage, site.block), []).append((index, site))
        for adapter in self.adapters:
            adapter.attach(self)
        self._constants = frozenset(name for name, p in self.adapters.named_parameters() if not p.requires_grad)
        self._training_subset = TrainingSubset()
        if self.plugins:
            # By identity, never by name.
            trainable = {id(p) for p in self.declared_parameters()}
            for parameter in self.parameters():
                parameter.requires_grad = id(parameter) in trainable
        self._frozen = frozenset(name for name, p in self.own_parameters().items() if not p.requires_grad)
        self._store_frozen(self.frozen_dtype)

    def init_weights(self) -> None:
        """Initialise the encoder as ``init_cfg`` says, then the adapters.

        ``init_cfg`` is, as in mmengine, an initialiser or a list of them, of which ``Pretrained`` comes last and loads
        all of the encoder or nothing; None: as the encoder itself starts from scratch.

        Raises:
            FileNotFoundError, ValueError: A checkpoint is missing, unreadable, or of another encoder; or ``init_cfg``
                is something else.
        """
        initialisers, pretrained = initialisers_of(self.init_cfg)
        if initialisers or not pretrained:
            # Random numbers are drawn in float32 and rounded once.
            self._store_frozen(torch.float32 if self.frozen_dtype else None)
            initialize(self, initialisers) if initialisers else self.start_from_scratch()
            self._store_frozen(self.frozen_dtype)
        for cfg in pretrained:
            self.load_checkpoint(cfg)
        for adapter in self.adapters:
            adapter.reset_parameters()

    def forward(self, x: Tensor, tasks: Sequence[str] | None = None) -> Features | dict[str, Features]:
        """Encode a batch of images.

        Args:
            x: ``(B, 3, H, W)``.
            tasks: Some of the encoder's tasks, whose features alone are computed; None: all.

        Returns:
            Without tasks, mmseg's tuple of maps ``(B, C_i, H_i, W_i)``, normed; with tasks such a tuple for every
            task, not yet normed.
        """
        wanted = (self.tasks or (UNNAMED_TASK,)) if tasks is None else tuple(tasks)
        if self.frozen_dtype is None:
            return self._encode(x, wanted)
        mixed_outside = torch.is_autocast_enabled(x.device.type)
        with torch.autocast(x.device.type, dtype=self.frozen_dtype):
            features = self._encode(x, wanted)
        return features if mixed_outside else as_type(features, x.dtype)

    def _encode(self, x: Tensor, tasks: tuple[str, ...]) -> Features | dict[str, Features]:
        features = maps_of(self, run_passes(self, x, tasks))
        return features if self.tasks is not None else self._normed(features[UNNAMED_TASK])

    def _normed(self, maps: Features) -> Features:
        """The output norms over the maps of the one unnamed task."""
        norms, normed = self._output_norms(), []
        for index, feature in zip(self.out_indices, maps):
            if index in norms:
                feature = norms[index](feature.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            normed.append(feature.contiguous())
        return tuple(normed)

    @property
    def is_pretrained(self) -> bool:
        """Whether ``init_cfg`` names a checkpoint of the encoder."""
        return bool(initialisers_of(self.init_cfg)[1])

    @property
    def per_task(self) -> bool:
        """Whether the encoder runs once per task."""
        return any(adapter.per_task for adapter in self.adapters)

    def block_indices(self) -> list[tuple[int, int]]:
        """Every (stage, block) in the order of the stream."""
        return [(stage, block) for stage, blocks in enumerate(self.stage_blocks()) for block in range(len(blocks))]

    def layer_of(self, site: Site) -> nn.Linear:
        """The frozen linear layer of a slot.

        Raises:
            ValueError: The slot is a branch or tokens.
        """
        layers = self.slot_layers(site.stage, site.block)
        if site.slot not in layers:
            raise ValueError(f'slot {site.slot!r} is no linear layer; those are {", ".join(layers)}')
        return layers[site.slot]

    def own_parameters(self) -> dict[str, nn.Parameter]:
        """Parameters of the pretrained encoder by name: without adapters and output norms."""
        own = dict(self.named_parameters(recurse=False))
        for name, child in self._own_children().items():
            own |= child.named_parameters(prefix=name)
        return own

    def adapter_parameters(self) -> list[nn.Parameter]:
        """The adapters' own parameters."""
        return [p for adapter in self.adapters for p in adapter.parameters()]

    def declared_parameters(self) -> list[nn.Parameter]:
        """What trains: all parameters without plugins, else what those declare, and the output norms."""
        if not self.plugins:
            return list(self.parameters())
        declared = [p for name, p in self.adapters.named_parameters() if name not in self._constants]
        declared.extend(p for adapter in self.adapters for p in adapter.encoder_parameters(self))
        declared.extend(p for norm in self._output_norms().values() for p in norm.parameters())
        return list({id(p): p for p in declared}.values())

    def frozen_parameters(self) -> dict[str, nn.Parameter]:
        """The parameters of the pretrained encoder, by name, that nothing trains by the encoder's config."""
        return {name: p for name, p in self.own_parameters().items() if name in self._frozen}

    def half_storable_names(self) -> set[str]:
        """Names of the frozen parameters that ``frozen_dtype`` stores in half precision."""
        weights = {id(layer.weight) for layer in self._weighted_layers()}
        return {name for name, p in self.frozen_parameters().items() if id(p) in weights}

    def pretrained_names(self) -> set[str]:
        """Names in the ``state_dict`` of what the pretrained encoder alone determines: frozen parameters, buffers."""
        buffers = {f'{name}.{key}' for name, child in self._own_children().items() for key, _ in child.named_buffers()}
        return (set(self._frozen) | buffers) & set(self.state_dict())

    def set_trained_tasks(self, tasks: Sequence[str] | None) -> None:
        """Let only the parts of some tasks train, and nothing that tasks share; None: all that trained before.

        Raises:
            ValueError: A plugin does not say which of its parts belong to a task.
        """
        kept = [p for adapter in self.adapters for task in tasks or () for p in adapter.task_parameters(task)]
        self._training_subset.set(self, None if tasks is None else kept)

    def add_task(self, task: str) -> None:
        """Give every adapter the parts of a further task.

        Raises:
            ValueError: The encoder was built without tasks, or an adapter cannot get one; nothing is changed then.
        """
        if self.tasks is None:
            raise ValueError(f'an encoder without tasks cannot get task {task!r}; build it with tasks')
        done = []
        try:
            for adapter in self.adapters:
                adapter.add_task(task)
                done.append(adapter)
        except ValueError:
            for adapter in done:
                adapter.remove_task(task)
            raise
        self.tasks = (*self.tasks, task)

    def remove_task(self, task: str) -> None:
        """Drop a task's parts of every adapter.

        Raises:
            ValueError: There is no such task, it is the only one, or an adapter does not say what belongs to it.
        """
        if task not in (self.tasks or ()):
            raise ValueError(f'the encoder has no task {task!r}; it has {", ".join(self.tasks or ()) or "no task"}')
        if len(self.tasks) == 1:
            raise ValueError(f'{task!r} is the only task of the encoder and cannot be removed')
        for adapter in self.adapters:
            adapter.task_parts()
        for adapter in self.adapters:
            adapter.remove_task(task)
        self.tasks = tuple(name for name in self.tasks if name != task)

    def _output_norms(self) -> dict[int, nn.Module]:
        """The output norms that there are, by stage."""
        norms = {index: getattr(self, f'norm{index}', None) for index in self.out_indices}
        return {index: norm for index, norm in norms.items() if norm is not None}

    def _own_children(self) -> dict[str, nn.Module]:
        """The modules of the pretrained encoder by name: without adapters and output norms."""
        others = {id(self.adapters), *map(id, self._output_norms().values())}
        return {name: child for name, child in self.named_children() if id(child) not in others}

    def _weighted_layers(self) -> list[nn.Linear | nn.Conv2d]:
        """The layers of the pretrained encoder whose weights can be stored in half precision."""
        modules = (module for child in self._own_children().values() for module in child.modules())
        return [module for module in modules if isinstance(module, (nn.Linear, nn.Conv2d))]

    def _store_frozen(self, dtype: torch.dtype | None) -> None:
        """Store the weights of frozen layers in another type."""
        for layer in self._weighted_layers() if dtype is not None else ():
            if not layer.weight.requires_grad:
                layer.weight.data = layer.weight.data.to(dtype)
