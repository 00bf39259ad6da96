"""What a layout says of an encoder to an ``AdaptedBackbone``: where its parts are and how they run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any, ClassVar

from torch import Tensor, nn

Size = tuple[int, int]
"""Height and width of a map of tokens."""

BRANCH_OF = {'qkv': 'attn', 'proj': 'attn', 'fc1': 'ffn', 'fc2': 'ffn'}
"""The branch that a linear layer stands in, by slots."""

LAYOUTS: dict[str, type[Layout]] = {}
"""Layouts by the encoders that they are for: package and class, such as ``'mmseg.VisionTransformer'``."""


def register_layout(*encoders: str) -> Callable[[type[Layout]], type[Layout]]:
    """Register a layout for encoders, each named by its package and class, such as ``'mmseg.VisionTransformer'``."""

    def register(layout: type[Layout]) -> type[Layout]:
        LAYOUTS.update(dict.fromkeys(encoders, layout))
        return layout

    return register


def encoder_name(kind: type) -> str:
    """Package and class, as layouts are registered."""
    return f'{kind.__module__.partition(".")[0]}.{kind.__name__}'


def layout_for(encoder: nn.Module) -> Layout:
    """The layout of an encoder: of its class, or of one that it is derived from and runs by the ``forward`` of.

    Raises:
        ValueError: No layout knows the encoder, or the layout refuses its options.
    """
    for kind in type(encoder).__mro__:
        if encoder_name(kind) in LAYOUTS and type(encoder).forward is kind.forward:
            layout = LAYOUTS[encoder_name(kind)](encoder)
            layout.keep_what_is_there()
            return layout
    raise ValueError(
        f'no layout knows the encoder {encoder_name(type(encoder))}; known are {", ".join(sorted(LAYOUTS))}. To add '
        f'one, subclass mmvmt.models.Layout and register it under that name, see docs/encoders.md'
    )


def find(module: nn.Module, name: str) -> nn.Module | None:
    """A module inside of another by its dotted name (``''``: itself), registered or not; None: there is none."""
    for part in name.split('.') if name else ():
        if part.isdecimal():
            module = module[int(part)] if isinstance(module, (nn.Sequential, nn.ModuleList)) else None
        else:
            module = getattr(module, part, None)
        if module is None:
            return None
    return module


def through(block: nn.Module, names: tuple[str, ...], x: Tensor) -> Tensor:
    """Tokens through parts of a block: modules, and vectors that scale."""
    for part in (find(block, name) for name in names):
        if part is not None:
            x = part(x) if isinstance(part, nn.Module) else x * part
    return x


class Layout:
    """Where the parts of an encoder are, and how they run one after another.

    A layout knows the encoder's modules by their names and runs them as its ``forward`` does. In ``__init__`` it sets
    the attributes below that depend on the encoder; what is the same for all of the family stands in the class.

    Args:
        encoder: The encoder, whose modules stay where they are.
    """

    layers: ClassVar[Mapping[str, str | tuple[str, ...]]] = {}
    """Linear layers of a block that are slots: the slot, and the layer's name in the block, or the names of which a
    block has one."""

    branches: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """Residual branches of a block: the slot, the name in the block of the module that the stream enters the branch by
    (``''`` is the block), and of drop path or what stands in its place. Behind that the branch is added to the stream,
    or behind a third module, where one is named."""

    norms: ClassVar[Mapping[str, str]] = {'attn': 'norm1', 'ffn': 'norm2'}
    """The LayerNorm of a branch, by slot."""

    optional: ClassVar[tuple[str, ...]] = ()
    """Branches that some blocks do not have; slots inside of them are offered by the others alone."""

    channels_first: ClassVar[bool] = False
    """Whether branches run on maps ``(B, C, H, W)``; else on tokens, or on maps ``(B, H, W, C)``."""

    post_norm: bool = False
    """Whether the norms stand behind attention and MLP, which read the stream itself."""

    norms_turned: bool = False
    """Whether norms inside of branches run on maps ``(B, H, W, C)`` although the branches run on ``(B, C, H, W)``."""

    in_windows: ClassVar[tuple[str, ...]] = ()
    """Slots of layers that run on windows of the map, ``(windows, N, C)``, the windows of an image together."""

    behind_proj: ClassVar[tuple[str, ...]] = ()
    """What the outputs of ``proj`` go through before they are added to the stream: names in the block of modules and of
    vectors that scale, in their order; those that a block does not have are left out. For tails of tasks."""

    mlp: ClassVar[tuple[str, ...]] = ()
    """What the stream goes through in the branch ``ffn``, in the same way."""

    prompts: ClassVar[bool] = False
    """Whether the attention is among all tokens, so that prompts can stand in front of them: the slot ``tokens``."""

    any_batch: ClassVar[bool] = True
    """Whether graphs of the encoder are for any number of images; if not, it is not exported."""

    any_size: ClassVar[bool] = False
    """Whether one graph of the encoder can be for images of any size, from :attr:`smallest_edge` on."""

    smallest_edge: ClassVar[int] = 65
    """Pixels along an edge from which on such a graph holds: no map that it makes of an image has a single row."""

    blocks: list[list[str]]
    """Names of the blocks by stage."""

    widths: list[int]
    """Width of each stage."""

    out_indices: tuple[int, ...]
    """Stages whose maps leave."""

    embedding: tuple[str, ...]
    """Names of the modules that :meth:`embed` runs."""

    transitions: tuple[tuple[str, ...], ...] = ()
    """Names of the modules that :meth:`pass_on` runs behind each stage; none: the next stage follows at once."""

    downsamples: Mapping[int, str] = {}
    """Linear layers that lead from a stage to the next, by stage; each has a LayerNorm ``norm`` beside it."""

    leaving_norms: Mapping[int, str] = {}
    """Names of the norms that the maps go through which leave the plain encoder, by stage."""

    output_norms: tuple[int, ...] = ()
    """Stages whose leaving norm is read by nothing else in the encoder: with tasks the heads have it instead."""

    left_out: tuple[str, ...] = ()
    """Names of modules of the plain encoder that nothing reads, which are not there."""

    prefix: int = 0
    """Number of tokens in front of those of the map: class and register tokens."""

    class_token_leaves: bool = False
    """Whether the plain encoder gives pairs of a map and the class token."""

    patch_size: int
    """Edge of an image patch, pixels."""

    multiple: int = 1
    """Images are padded to multiples of this many pixels, and maps cut to what the image covers."""

    def __init__(self, encoder: nn.Module) -> None:
        self.encoder = encoder

    @property
    def slots(self) -> tuple[str, ...]:
        """The slots that blocks offer."""
        merging = ('downsample',) if self.downsamples else ()
        return (*self.branches, *self.layers, *merging, *(('tokens',) if self.prompts else ()))

    @property
    def normed_slots(self) -> tuple[str, ...]:
        """Branches in which methods can read what the attention or the MLP reads: the outputs of the norm that they
        begin with, or the stream."""
        return tuple(slot for slot, names in self.branches.items() if self.post_norm or names[0] == self.norms[slot])

    @property
    def offers_tails(self) -> bool:
        """Whether blocks run tails of tasks, see :meth:`mmvmt.adapters.Method.branch`."""
        return bool(self.behind_proj and self.mlp) and {'proj', 'fc1', 'fc2'} <= set(self.layers)

    def embed(self, image: Tensor) -> tuple[Tensor, Size]:
        """Images ``(B, 3, H, W)`` as what enters the first block, ``(B, prefix + H' * W', C)``, and (H', W')."""
        raise NotImplementedError(f'{type(self).__name__} does not define embed()')

    def run(self, block: nn.Module, x: Tensor, hw: Size) -> Tensor:
        """Run a block, and what :meth:`beside` names."""
        return block(x)

    def beside(self, block: str) -> tuple[str, ...]:
        """Names of the modules outside of a block that :meth:`run` runs with it."""
        return ()

    def size_behind(self, block: nn.Module, hw: Size) -> Size:
        """Height and width behind a block: as before, but where its attention has fewer queries than tokens."""
        return hw

    def open(self, block: nn.Module, slot: str) -> None:
        """Make a block call the layer of a slot, where it would use the weights alone."""

    def pass_on(self, stage: int, x: Tensor, hw: Size) -> tuple[Tensor, Size]:
        """Tokens behind the last block of a stage, and their height and width, as they enter the next stage."""
        raise NotImplementedError(f'{type(self).__name__} does not define pass_on()')

    def shortcut(self, block: nn.Module, x: Tensor, hw: Size) -> Tensor:
        """The stream that the branch ``attn`` is added to; for tails of tasks, as are the next ones."""
        return x

    def to_tokens(self, block: nn.Module, x: Tensor, hw: Size) -> Tensor:
        """Outputs of ``proj``, where it runs on windows, as tokens."""
        return x

    def mlp_branch(self, block: nn.Module, x: Tensor, hw: Size) -> Tensor:
        """What the branch ``ffn`` adds to the stream."""
        return through(block, self.mlp, x)

    def finish(self, block: nn.Module, x: Tensor, hw: Size) -> Tensor:
        """What happens to the stream behind both branches."""
        return x

    def prepare(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Weights of the encoder's own library as this encoder needs them, such as positions for another size."""
        return weights

    def start_from_scratch(self) -> None:
        """Initialise the encoder as its library does; by default it did when it was built."""

    def offered(self, block: nn.Module) -> tuple[str, ...]:
        """The slots that a block offers."""
        there = tuple(slot for slot, names in self.branches.items() if find(block, names[0]) is not None)
        layers = (slot for slot in self.layers if BRANCH_OF[slot] in there)
        return (*there, *layers, *(('tokens',) if self.prompts and 'attn' in there else ()))

    def layer(self, block: nn.Module, slot: str) -> nn.Module | None:
        """The layer of a slot in a block."""
        names = self.layers[slot]
        found = (find(block, name) for name in ((names,) if isinstance(names, str) else names))
        return next((layer for layer in found if hasattr(layer, 'in_features')), None)

    def keep_what_is_there(self) -> None:
        """Leave the layers out that blocks of this encoder do not have, such as ``fc1`` of an MLP with gates.

        Raises:
            ValueError: A branch of a block is not where the layout says.
        """
        blocks = [self.encoder.get_submodule(name) for stage in self.blocks for name in stage]
        for slot, names in self.branches.items():
            having = [b for b in blocks if slot not in self.optional or find(b, names[0]) is not None]
            if any(find(block, name) is None for block in having for name in (*names, self.norms[slot])):
                raise ValueError(
                    f'{encoder_name(type(self.encoder))} is built of {type(blocks[0]).__name__}, whose branch {slot!r} '
                    f'this layout does not know: it has not all of {", ".join((*names, self.norms[slot]))}'
                )
        self.layers = {
            slot: names
            for slot, names in self.layers.items()
            if all(
                self.layer(block, slot) is not None
                for block in blocks
                if find(block, self.branches[BRANCH_OF[slot]][0]) is not None
            )
        }

    def refuse(self, **options: Any) -> None:
        """Refuse options of the encoder under which it gives no maps.

        Args:
            **options: The only values that can be run, by attribute of the encoder.

        Raises:
            ValueError: One has another value.
        """
        for name, needed in options.items():
            found = getattr(self.encoder, name, needed)
            if found != needed:
                raise ValueError(
                    f'{encoder_name(type(self.encoder))} with {name}={found!r} gives no maps for heads; set '
                    f'encoder.{name}={needed!r}'
                )


def from_windows(x: Tensor, hw: Size, size: Size) -> Tensor:
    """Windows ``(windows of all images, tokens, C)`` as maps ``(B, H, W, C)``, padded to whole windows."""
    rows, columns = (-(-edge // of_window) for edge, of_window in zip(hw, size))
    return x.view(-1, rows, columns, *size, x.shape[-1]).transpose(2, 3).flatten(3, 4).flatten(1, 2)


class Columnar(Layout):
    """Base of encoders of one width, whose blocks up to each ``out_index`` form a stage. Blocks behind the last one are
    left out, since nothing reads them.

    Args:
        encoder: The encoder.
        column: Name of its list of blocks.
        out_indices: Blocks whose outputs leave.
        width: Width of the encoder.
    """

    prompts = True

    def __init__(self, encoder: nn.Module, column: str, out_indices: tuple[int, ...], width: int) -> None:
        super().__init__(encoder)
        blocks, depth = getattr(encoder, column), len(getattr(encoder, column))
        indices = [index + depth if index < 0 else index for index in out_indices]
        if not indices or indices != sorted(set(indices)) or indices[0] < 0 or indices[-1] >= depth:
            raise ValueError(
                f'out_indices must be blocks in their order, from 0 to {depth - 1} (-1 is the last), got {out_indices}'
            )
        for module in encoder.modules():
            # mmpretrain has numpy's numbers, on which graphs cannot branch.
            if hasattr(module, 'drop_prob'):
                module.drop_prob = float(module.drop_prob)
        self.reaches_end = indices[-1] == depth - 1
        del blocks[indices[-1] + 1 :]
        self.left_out = tuple(f'{column}.{index}' for index in range(indices[-1] + 1, depth))
        bounds = [0, *(index + 1 for index in indices)]
        self.blocks = [[f'{column}.{index}' for index in range(*stage)] for stage in pairwise(bounds)]
        self.widths = [width] * len(indices)
        self.out_indices = tuple(range(len(indices)))

    def leave_final_norm(self, name: str | None) -> None:
        """Say which norm stands behind the last block, if any does. Where that block is left out, so is the norm."""
        if name is None:
            return
        if self.reaches_end:
            self.leaving_norms, self.output_norms = {len(self.blocks) - 1: name}, (len(self.blocks) - 1,)
        else:
            setattr(self.encoder, name, nn.Identity())
            self.left_out += (name,)
