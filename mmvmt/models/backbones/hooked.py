"""Any encoder of mmseg, mmpretrain or timm with named slots for adapters, run by its own modules.

The encoder's modules stay what and where they are: hooks on those that a layout names fill the slots.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmvmt.adapters.base import Site
from mmvmt.compat import is_exporting
from mmvmt.models.library_checkpoint import load_library_checkpoint
from mmvmt.registry import MODELS
from mmvmt.structures import TaskDeclarations

from .adapted import AdaptedEncoder, Features
from .layouts import Layout, build_timm, encoder_name, layout_for
from .layouts.base import BRANCH_OF, find, through
from .passes import PartNames
from .slot_hooks import AtEnd, AtEntry, AtLayer, AtMerging, AtNorm, InFrontOfDropPath, Run, instead
from .slots import Fills, Prompts, Size, Tails

_SHARED = ('_modules', '_parameters', '_buffers', '_non_persistent_buffers_set', '_load_state_dict_pre_hooks')
"""What an :class:`AdaptedBackbone` and its encoder have in common, by the names of torch."""


class Part(nn.Module):
    """Modules of an encoder that run together, by a function of its layout. It stands outside the encoder's tree.

    Args:
        function: Runs them.
        modules: The modules, by their names in the encoder.
    """

    def __init__(self, function: Callable[..., Any], modules: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.function = function
        self.inside: dict[str, str] = {}
        for index, (name, module) in enumerate(modules.items()):
            self.add_module(str(index), module)
            self.inside[name] = str(index)

    def forward(self, *args: Any) -> Any:
        """Run the modules."""
        return self.function(*args)


class HookedBlock(Part):
    """A block of an encoder, with hooks for the slots that are filled.

    Args:
        layout: The layout of the encoder.
        name: The block's name in the encoder.
    """

    def __init__(self, layout: Layout, name: str) -> None:
        block, beside = layout.encoder.get_submodule(name), layout.beside(name)
        super().__init__(layout.run, {name: block, **{name: layout.encoder.get_submodule(name) for name in beside}})
        self.layout, self.slots = layout, layout.offered(block)
        # Ours does not go back to the encoder's inputs, and sees parameters that stand in for others.
        self.with_cp = bool(getattr(block, 'with_cp', False))
        if hasattr(block, 'with_cp'):
            block.with_cp = False
        self.current = Run()

    @property
    def block(self) -> nn.Module:
        """The encoder's own block."""
        return self._modules['0']

    def layers(self) -> dict[str, nn.Module]:
        """The linear layers that are slots."""
        return {slot: self.layout.layer(self.block, slot) for slot in self.layout.layers if slot in self.slots}

    def hook(self, slot: str, normed: bool) -> None:
        """Put the hooks of a slot in place.

        Args:
            slot: The slot.
            normed: Whether a method in it reads what stands behind the norm.
        """
        at, layout = (self.current, slot, self.layout), self.layout
        layout.open(self.block, slot)
        if slot in layout.branches:
            modules = [find(self.block, name) for name in layout.branches[slot]]
            modules[0].register_forward_pre_hook(AtEntry(*at))
            if normed and not layout.post_norm:
                find(self.block, layout.norms[slot]).register_forward_hook(AtNorm(*at))
            modules[1].register_forward_pre_hook(InFrontOfDropPath(*at))
            modules[-1].register_forward_hook(AtEnd(*at))
        elif slot in layout.layers:
            self.layers()[slot].register_forward_hook(AtLayer(*at))

    def forward(
        self, x: Tensor, hw: Size, fills: Fills, prompts: Prompts | None = None, tails: Tails | None = None
    ) -> tuple[Tensor, Tensor | None, list[Tensor]]:
        """``(B, prefix + H*W, C)`` to the same; the prompts that are carried on; what goes to the stage's tap."""
        count = 0
        if prompts is not None:
            count = prompts.tokens.shape[1]
            x = torch.cat((prompts.of_images(x.shape[0]).to(x.dtype), x), dim=1)
        current, tapped = self.current, []
        current.hw, current.hw_behind = hw, self.layout.size_behind(self.block, hw)
        current.fills, current.tapped, current.tails, before = fills, tapped, tails, x
        try:
            x = self.function(self.block, x, hw)
            if tails is not None:
                current.fills = {}
                streams = [self._tail(before, hw, tails, tasks)[:, count:] for tasks in tails.groups]
                tapped += tails.tapped(streams)
        finally:
            current.fills, current.tapped, current.tails, current.streams, current.normed = {}, [], None, {}, {}
        return x[:, count:] if count else x, x[:, :count] if count and prompts.carry else None, tapped

    def _tail(self, x: Tensor, hw: Size, tails: Tails, tasks: tuple[str, ...]) -> Tensor:
        """The streams of some tasks behind the block, ``(T * B, N, C)``, of the shared stream in front of it."""
        layout, block, layers = self.layout, self.block, self.layers()
        to_tokens = (lambda out: layout.to_tokens(block, out, hw)) if 'proj' in layout.in_windows else None
        out = tails.layer('proj', tasks, to_tokens=to_tokens)
        x = layout.shortcut(block, x, hw).repeat(len(tasks), 1, 1) + through(block, layout.behind_proj, out)
        with instead({slot: layers[slot] for slot in ('fc1', 'fc2')}, lambda slot, own: tails.layer(slot, tasks, own)):
            x = x + layout.mlp_branch(block, x, self.current.hw_behind)
        return layout.finish(block, x, self.current.hw_behind)


class HookedTransition(Part):
    """What stands between two stages of an encoder, with a hook where its linear layer is filled.

    Args:
        layout: The layout of the encoder.
        stage: The stage in front of it.
    """

    def __init__(self, layout: Layout, stage: int) -> None:
        names = layout.transitions[stage]
        super().__init__(partial(layout.pass_on, stage), {name: layout.encoder.get_submodule(name) for name in names})
        self.layout, self.stage, self.current = layout, stage, Run()

    def hook(self) -> None:
        """Put the hook of the slot ``downsample`` in place."""
        layer = self.layout.encoder.get_submodule(self.layout.downsamples[self.stage])
        layer.register_forward_hook(AtMerging(self.current, 'downsample', self.layout))

    def forward(self, x: Tensor, hw: Size, fills: Fills | None = None) -> tuple[Tensor, Size]:
        """Tokens behind a stage, and their height and width, to those in front of the next one."""
        self.current.hw, self.current.fills = hw, fills or {}
        try:
            return self.function(x, hw)
        finally:
            self.current.fills = {}


@MODELS.register_module()
class AdaptedBackbone(AdaptedEncoder):
    """An encoder of mmseg, mmpretrain or timm whose blocks offer named slots to adapters.

    A layout in ``mmvmt.models.backbones.layouts`` says where its blocks, branches and linear layers are; the page
    docs/encoders.md lists the encoders and their slots. The keys in the ``state_dict`` are those of the encoder itself.
    Without ``tasks`` it returns the maps of the encoder itself; with ``tasks`` the maps of every task, and norms that
    only outputs go through are left to the heads. Images that patches do not divide are padded at the right and below.

    Args:
        encoder: Config of the encoder, such as ``dict(type='mmpretrain.VisionTransformer', arch='deit-small',
            out_type='featmap')``; for timm ``dict(type='timm', model_name='pvt_v2_b2', out_indices=(0, 1, 2, 3))`` with
            further arguments of the model. ``init_cfg`` in it is taken for the one here, where there is none.
        tasks: As in :class:`AdaptedSwin`.
        plugins: As in :class:`AdaptedSwin`.
        task_order: As in :class:`AdaptedSwin`.
        frozen_dtype: As in :class:`AdaptedSwin`.
        init_cfg: Initialisers of mmengine; ``dict(type='Pretrained', checkpoint=PATH_OR_URL)`` reads weights under the
            names of the encoder's own library, alone or in a whole model. None: as the encoder starts from scratch.
        pretrained: Path or URL of such weights; where segmentors of mmseg have ``pretrained``, they hand it down here.

    Raises:
        ValueError: No layout knows the encoder, it is built so that it gives no maps, or as in :class:`AdaptedSwin`.
        ImportError: timm is asked for and not installed.
    """

    def __init__(
        self,
        encoder: Mapping[str, Any],
        tasks: TaskDeclarations | None = None,
        plugins: Sequence[dict] | None = None,
        task_order: str = 'sequential',
        frozen_dtype: str | None = None,
        init_cfg: Any = None,
        pretrained: str | None = None,
    ) -> None:
        cfg = dict(encoder)
        inner = cfg.pop('init_cfg', None)
        if pretrained is not None and init_cfg is not None:
            raise ValueError(
                f'pretrained={pretrained!r} and init_cfg={init_cfg!r} are two sources of weights; leave one'
            )
        if pretrained is not None:
            init_cfg = dict(type='Pretrained', checkpoint=pretrained)
        super().__init__(inner if init_cfg is None else init_cfg)
        plain = build_timm(cfg) if cfg.get('type') == 'timm' else MODELS.build(cfg)
        layout = layout_for(plain)
        if tasks is not None and layout.class_token_leaves:
            raise ValueError(
                f'{encoder_name(type(plain))} gives its class token beside every map, which no head of a task reads; '
                f'set encoder.output_cls_token=False'
            )
        own = (*dict(plain.named_children()), *dict(plain.named_parameters(recurse=False)))
        taken = [name for name in own if hasattr(self, name)]
        if taken:
            raise ValueError(f'{encoder_name(type(plain))} cannot be adapted: {taken[0]!r} is a name of ours too')
        # The encoder's modules, parameters and buffers are ours under their own names, in the same dictionaries: what
        # is moved, loaded or replaced on one side is so on the other. The encoder itself is no child and adds no name.
        self.layout = layout
        for shared in _SHARED:
            self.__dict__[shared] = plain.__dict__[shared]
        self.slots, self.num_features, self.out_indices = layout.slots, layout.widths, layout.out_indices
        self.normed_slots, self.offers_branches = layout.normed_slots, layout.offers_tails
        self.patch_size = layout.patch_size
        self.frozen_stages = getattr(plain, 'frozen_stages', -1)
        self._embedding = (Part(layout.embed, self._named(layout.embedding)),)
        self._blocks = [[HookedBlock(layout, name) for name in stage] for stage in layout.blocks]
        self._transitions = [
            HookedTransition(layout, stage) if names else None
            for stage, names in enumerate(layout.transitions or ((),) * len(layout.blocks))
        ]
        self.insert_adapters(tasks, plugins, task_order, frozen_dtype)
        mixing = [type(a).__name__ for a in self.adapters if not a.carry_residual]
        if mixing:
            raise ValueError(
                f'{mixing[0]} takes prompts around the residual connection, which blocks of {self.label} do not offer'
            )
        for (stage, block), filled in self.filled.items():
            for slot in dict.fromkeys(site.slot for _, site in filled):
                if slot == 'downsample':
                    self._transitions[stage].hook()
                else:
                    normed = any(self.adapters[index].reads_normed for index, site in filled if site.slot == slot)
                    self._blocks[stage][block].hook(slot, normed)

    @property
    def label(self) -> str:
        return encoder_name(type(self.layout.encoder))

    def stage_blocks(self) -> list[list[HookedBlock]]:
        return self._blocks

    def offers(self, stage: int, block: int, slot: str) -> bool:
        return slot in self.slot_layers(stage, block) or slot in self._blocks[stage][block].slots

    def size_behind(self, stage: int, block: int, hw: tuple[int, int]) -> tuple[int, int]:
        return self.layout.size_behind(self._blocks[stage][block].block, hw)

    def slot_layers(self, stage: int, block: int) -> dict[str, nn.Module]:
        layers, merging = self._blocks[stage][block].layers(), self.layout.downsamples.get(stage)
        if merging is None or block < len(self._blocks[stage]) - 1:
            return layers
        return layers | dict(downsample=self.get_submodule(merging))

    def norm_of(self, site: Site) -> nn.LayerNorm:
        if site.slot == 'downsample':
            return self.get_submodule(self.layout.downsamples[site.stage].rpartition('.')[0]).norm
        slot = BRANCH_OF.get(site.slot, site.slot)
        return find(self._blocks[site.stage][site.block].block, self.layout.norms['attn' if slot == 'tokens' else slot])

    def embedding_part(self) -> nn.Module:
        return self._embedding[0]

    def transition_part(self, stage: int) -> nn.Module | None:
        return self._transitions[stage]

    def name_parts(self) -> PartNames:
        parts = {'embedding': self._embedding[0]}
        blocks = {(s, b): f'stage {s}, block {b}' for s, stage in enumerate(self._blocks) for b in range(len(stage))}
        parts |= {name: self._blocks[stage][block] for (stage, block), name in blocks.items()}
        transitions = {
            stage: None if part is None else f'behind stage {stage}' for stage, part in enumerate(self._transitions)
        }
        parts |= {name: self._transitions[stage] for stage, name in transitions.items() if name is not None}
        inside = {module: (name, own) for name, part in parts.items() for module, own in part.inside.items()}
        return PartNames('embedding', blocks, transitions, inside)

    def to_map(self, tokens: Tensor, hw: tuple[int, int]) -> Tensor | list[Tensor]:
        """Tokens ``(B, prefix + H * W, C)`` as a map ``(B, C, H, W)``, without class and register tokens.

        Where the plain encoder gives its class token too, a list of the map and of that, ``(B, C)``.
        """
        made = super().to_map(tokens[:, self.layout.prefix :], hw)
        return [made, tokens[:, 0]] if self.layout.class_token_leaves else made

    def drop_output_norms(self) -> None:
        for index in self.layout.output_norms:
            owner, _, name = self.layout.leaving_norms[index].rpartition('.')
            # In its place, since lists of modules have no gaps.
            self.get_submodule(owner)._modules[name] = nn.Identity()

    def own_parameters(self) -> dict[str, nn.Parameter]:
        others = {id(p) for norm in self._output_norms().values() for p in norm.parameters()}
        return {name: p for name, p in super().own_parameters().items() if id(p) not in others}

    def load_checkpoint(self, init_cfg: Mapping[str, Any]) -> None:
        """Load weights under the names of the encoder's own library."""
        load_library_checkpoint(self, init_cfg)

    def start_from_scratch(self) -> None:
        encoder = self.layout.encoder
        # mmengine's record of who initialised what goes from a model to its modules, and the encoder is none of them.
        record = getattr(self, '_params_init_info', None)
        if record is not None:
            encoder._params_init_info = record
        self.layout.start_from_scratch()
        if record is not None:
            del encoder._params_init_info

    def train(self, mode: bool = True) -> AdaptedBackbone:
        """Set training or evaluation mode; returns self."""
        self.layout.encoder.train(mode)
        super().train(mode)
        return self

    def _encode(self, x: Tensor, tasks: tuple[str, ...]) -> Features | dict[str, Features]:
        multiple, (height, width) = self.layout.multiple, x.shape[2:]
        rows, columns = (-edge % multiple for edge in (height, width))
        # A graph for any size has to pad always, since that is how it knows nothing of the size.
        if not (is_exporting() and multiple > 1) and not rows and not columns:
            return super()._encode(x, tasks)
        features = super()._encode(F.pad(x, (0, columns, 0, rows)), tasks)

        known: list[tuple[Tensor, Tensor]] = []  # maps that tasks have in common stay so

        def cut(maps: Features) -> Features:
            parts = []
            for m in maps:
                part = next((part for whole, part in known if whole is m), None)
                if part is None:
                    h, w = -(-m.shape[2] * height // (height + rows)), -(-m.shape[3] * width // (width + columns))
                    part = m[:, :, :h, :w]
                    known.append((m, part))
                parts.append(part)
            return tuple(parts)

        return cut(features) if self.tasks is None else {task: cut(maps) for task, maps in features.items()}

    def _output_norms(self) -> dict[int, nn.Module]:
        norms = {index: self.get_submodule(self.layout.leaving_norms[index]) for index in self.layout.output_norms}
        return {index: norm for index, norm in norms.items() if not isinstance(norm, nn.Identity)}

    def _normed(self, maps: Features) -> Features:
        def leaving(feature: Tensor | list[Tensor], norm: nn.Module) -> Tensor | list[Tensor]:
            if isinstance(feature, list):
                return [leaving(feature[0], norm), norm(feature[1])]
            return norm(feature.permute(0, 2, 3, 1)).permute(0, 3, 1, 2).contiguous()

        names, none = self.layout.leaving_norms, nn.Identity()
        norms = (self.get_submodule(names[index]) if index in names else none for index in self.out_indices)
        return tuple(leaving(feature, norm) for feature, norm in zip(maps, norms))

    def _named(self, names: Sequence[str]) -> dict[str, nn.Module]:
        return {name: self.get_submodule(name) for name in names}
