"""A multi-task model as one graph, for ``torch.export`` and ONNX: from images of any size to one map per task.

What an encoder does for speed, keeping index tables of the last size and padding only where it must, depends on
numbers that are unknown when a graph is recorded. Here the same function is written so that the graph computes these
tables from the size of its input.
"""

from __future__ import annotations

import copy
import importlib.util
import json
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from mmseg.models.utils.embed import AdaptivePadding
from torch import Tensor, nn

from mmvmt.compat import check_records_graphs
from mmvmt.models.backbones import AdaptedBackbone, AdaptedSwin
from mmvmt.models.backbones.slots import Fills, Prompts, Size, Tails
from mmvmt.models.backbones.windows import ShiftedWindowAttention
from mmvmt.models.multi_task_encoder_decoder import MultiTaskEncoderDecoder
from mmvmt.models.task_heads.base import upsample
from mmvmt.models.wrappers import unwrapped
from mmvmt.structures import NormalsAxes, Task, check_tasks, declarations
from mmvmt.version import __version__

AXES = {0: 'batch', 2: 'height', 3: 'width'}
"""Names of the axes of an image that can be free."""

SMALLEST_EDGE, LARGEST_EDGE, LARGEST_BATCH = 33, 8192, 4096
"""Bounds of what is recorded. With 33 pixels the last of four stages has two rows of tokens; a size of one stands for
broadcasting, which would be another graph."""


class ConstantPadding(nn.Module):
    """Corner padding by an amount that does not depend on the image.

    A kernel that covers K pixels needs between 0 and K - 1 rows and columns of zeros to reach the last pixel. With
    K - 1 of them it stops at the same ``ceil(H / stride)`` positions: what lies beyond them is never read.

    Args:
        padding: mmseg's padding, which computes the amount from the image.

    Raises:
        ValueError: It pads on both sides.
    """

    def __init__(self, padding: AdaptivePadding) -> None:
        super().__init__()
        if padding.padding != 'corner':
            raise ValueError(f'only padding at the corner can be exported, got {padding.padding!r}')
        self.rows, self.columns = (
            (kernel - 1) * dilation for kernel, dilation in zip(padding.kernel_size, padding.dilation)
        )

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` to ``(B, C, H + rows, W + columns)``."""
        return F.pad(x, (0, self.columns, 0, self.rows))


def _divide(numbers: Tensor, by: int) -> tuple[Tensor, Tensor]:
    """Quotients and remainders; ONNX has no translation of ``%`` for a divisor that depends on the input's size."""
    quotients = numbers // by
    return quotients, numbers - quotients * by


class _Places(NamedTuple):
    """Where the tokens of a batch stand among shifted windows, ordered by image, window, and place in it.

    Args:
        windows: Windows of an image.
        to_windows: ``(B * windows * N,)``, row of ``(B * H * W, C)`` for every place; ``B * H * W`` for padding.
        to_tokens: ``(B * H * W,)``, the inverse.
        mask: ``(B * windows, N, N)``, -100 between tokens that were no neighbours before the shift; None without one.
    """

    windows: int
    to_windows: Tensor
    to_tokens: Tensor
    mask: Tensor | None


def _places(batch: int, hw: tuple[int, int], size: int, shift: int, device: torch.device) -> _Places:
    """Cut every image into windows; all of it follows from the numbers alone, which may be symbols."""
    height, width = hw
    rows, columns = (height + size - 1) // size, (width + size - 1) // size
    windows, area = rows * columns, size * size
    tokens = height * width

    image, window = _divide(torch.arange(batch * windows, device=device).unsqueeze(1), windows)
    row, column = _divide(window, columns)
    place_y, place_x = _divide(torch.arange(area, device=device).unsqueeze(0), size)
    y, x = row * size + place_y, column * size + place_x
    from_y, from_x = _divide(y + shift, rows * size)[1], _divide(x + shift, columns * size)[1]
    inside = (from_y < height) & (from_x < width)
    to_windows = torch.where(inside, image * tokens + from_y * width + from_x, batch * tokens).flatten()

    image, token = _divide(torch.arange(batch * tokens, device=device), tokens)
    at_y, at_x = _divide(token, width)
    row, place_y = _divide(_divide(at_y + (rows * size - shift), rows * size)[1], size)
    column, place_x = _divide(_divide(at_x + (columns * size - shift), columns * size)[1], size)
    to_tokens = ((image * rows + row) * columns + column) * area + place_y * size + place_x

    if not shift:
        return _Places(windows, to_windows, to_tokens, None)
    region_y = (y >= (rows - 1) * size).long() + (y >= rows * size - shift).long()
    region_x = (x >= (columns - 1) * size).long() + (x >= columns * size - shift).long()
    region = region_y * 3 + region_x
    mask = torch.where(region.unsqueeze(1) == region.unsqueeze(2), 0.0, -100.0)
    return _Places(windows, to_windows, to_tokens, mask)


class _SharedPlaces:
    """What the blocks of one stage computed in this pass, by their shift.

    An object of its own, because torch.export exchanges lists and dictionaries that modules hold for copies.
    """

    def __init__(self) -> None:
        self.of_shift: dict[int, _Places] = {}


class DynamicWindowAttention(ShiftedWindowAttention):
    """The attention of :class:`ShiftedWindowAttention`, its windows cut by tensor operations on the size alone.

    The windows of all images stand along one axis. Every window gets a mask of its own, and the softmax is written out:
    no step depends on a value, only on shapes.

    Args:
        attn: The attention whose parameters are taken over.
        shared: Where blocks of one stage leave the places for each other.
    """

    def __init__(self, attn: ShiftedWindowAttention, shared: _SharedPlaces) -> None:
        super().__init__(attn)
        self._shared = shared

    def forward(
        self, x: Tensor, hw: Size, fills: Fills, prompts: Prompts | None = None, tails: Tails | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """``(B, H*W, C)`` to ``(B, H*W, C)``, and the prompts' ``(B, P, C)`` where they are carried on."""
        w_msa, area = self.w_msa, self.window_size**2
        batch, _, width = x.shape
        places = self._shared.of_shift
        if self.shift_size not in places:
            places[self.shift_size] = _places(batch, hw, self.window_size, self.shift_size, x.device)
        windows, to_windows, _, mask = places[self.shift_size]
        # The row of zeros behind the tokens is what the padding reads.
        x = F.pad(x.flatten(0, 1), (0, 0, 0, 1)).index_select(0, to_windows).view(batch * windows, area, width)
        q, k, v = self._qkv(x, fills, self._window).permute(2, 0, 3, 1, 4).unbind(0)

        table = w_msa.relative_position_bias_table
        bias = table[w_msa.relative_position_index.view(-1)].view(area, area, -1).permute(2, 0, 1).unsqueeze(0)
        mask = bias if mask is None else bias + mask.unsqueeze(1)
        carried = 0
        if prompts is not None:
            count = prompts.tokens.shape[1]
            carried = count if prompts.carry else 0
            image = torch.arange(batch * windows, device=x.device) // windows
            of_prompts = self._qkv(prompts.tokens, fills).permute(2, 0, 3, 1, 4)
            of_prompts = of_prompts.expand(-1, batch, -1, -1, -1).index_select(1, image)
            q_p, k_p, v_p = of_prompts.unbind(0)
            k, v = torch.cat((k_p, k), dim=2), torch.cat((v_p, v), dim=2)
            q = torch.cat((q_p, q), dim=2) if carried else q
            mask = F.pad(mask, (count, 0, carried, 0))
        attention = (q * w_msa.scale) @ k.transpose(-1, -2) + mask
        out = (attention.softmax(-1) @ v).transpose(1, 2).flatten(2)

        out_prompts = None
        if carried:
            # Every window has its own outputs for the prompts; what goes on is their mean.
            of_windows = out[:, :carried].unflatten(0, (batch, windows))
            out_prompts = self._proj(of_windows.mean(1), fills)
        return self.to_tokens(self._proj(out[:, carried:], fills, self._window, tails), hw), out_prompts

    def to_tokens(self, x: Tensor, hw: Size) -> Tensor:
        """``(B * windows, N, C)`` in the order of windows to ``(B, H*W, C)``."""
        _, _, to_tokens, _ = self._shared.of_shift[self.shift_size]
        return x.reshape(-1, x.shape[-1]).index_select(0, to_tokens).view(-1, hw[0] * hw[1], x.shape[-1])


class MultiTaskGraph(nn.Module):
    """A model from images to maps, in evaluation mode, that can be recorded for any number and size of images.

    The maps are those of :meth:`mmvmt.models.MultiTaskEncoderDecoder.predict` for whole images, at the resolution of
    the input: classes ``(B, H, W)`` uint8 (of more than 255 int32); probabilities ``(B, H, W)``; unit vectors ``(B, 3,
    H, W)``; depth ``(B, H, W)`` in metres; values ``(B, C, H, W)``, of one channel ``(B, H, W)``; all but classes
    float32.

    Args:
        model: The model; it is copied, its weights are not.
        tasks: Tasks to compute, in the order of the outputs; None: all of the model.
        normalised: The input is ``(B, 3, H, W)`` float32 as it enters the encoder. Otherwise it is ``(B, 3, H, W)``
            uint8 in the channel order that the data preprocessor takes (BGR in all shipped configs), and the graph
            normalises it.
        logits: Put out logits ``(B, C, H, W)`` instead of maps.
        axes: Axes of the normals that the model was trained on, to be written into the file; None: those of PASCAL_MT.

    Raises:
        ValueError: A task is unknown, or the model has something that has no place in such a graph: another encoder
            than ``AdaptedSwin`` and ``AdaptedBackbone``, heads that graphs cannot hold, weights in half precision, or a
            data preprocessor that pads.
    """

    def __init__(
        self,
        model: MultiTaskEncoderDecoder,
        *,
        tasks: Sequence[str] | None = None,
        normalised: bool = False,
        logits: bool = False,
        axes: NormalsAxes | None = None,
    ) -> None:
        super().__init__()
        model = unwrapped(model)
        self.tasks = model.tasks if tasks is None else check_tasks(tasks, model.tasks)
        _check_exportable(model, normalised)
        self.normalised = normalised
        self.logits = logits
        self.axes = axes or NormalsAxes()
        preprocessor = model.data_preprocessor
        if not normalised:
            self.bgr_to_rgb = preprocessor.bgr_to_rgb
            self.register_buffer('mean', preprocessor.mean.clone())
            self.register_buffer('std', preprocessor.std.clone())
        # The copy shares the weights: only modules are exchanged in it.
        shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
        copied = copy.deepcopy(model, shared).eval()
        self.backbone, self.neck = copied.backbone, copied.neck
        self.heads = nn.ModuleDict({task: copied.heads[task] for task in self.tasks})
        # Tasks stacked along the batch would have to be cut apart at a place that depends on its size.
        self.backbone.task_order = 'sequential'
        stages = self.backbone.stages if isinstance(self.backbone, AdaptedSwin) else ()
        self._shared = tuple(_SharedPlaces() for _ in stages)
        for stage, shared in zip(stages, self._shared):
            for block in stage.blocks:
                block.attn = DynamicWindowAttention(block.attn, shared).eval()
        for module in self.backbone.modules():
            if isinstance(getattr(module, 'adap_padding', None), AdaptivePadding):
                module.adap_padding = ConstantPadding(module.adap_padding)

    @property
    def smallest_edge(self) -> int:
        """Pixels along an edge from which on a graph for any size holds."""
        return self.backbone.layout.smallest_edge if isinstance(self.backbone, AdaptedBackbone) else SMALLEST_EDGE

    def description(self) -> dict[str, str]:
        """What goes into a file beside the graph: the kind of input; by task kind, channels, and axes; declarations of
        tasks."""
        order = 'as it enters the encoder' if self.normalised else 'BGR' if self.bgr_to_rgb else 'RGB'
        outputs = {
            task: dict(kind='logits' if self.logits else head.output.kind, channels=head.output.channels)
            | self._axes_of(head.output.task)
            for task, head in self.heads.items()
        }
        declared = declarations(self.tasks)
        described = dict(input=f'{"float32" if self.normalised else "uint8"}, {order}', outputs=json.dumps(outputs))
        return described | (dict(task_declarations=json.dumps(declared)) if declared else {})

    def _axes_of(self, task: Task) -> dict[str, str]:
        axes = task.axes_in(self.axes.meta)
        return {} if axes is None else axes.meta

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """One map per task for ``(B, 3, H, W)``."""
        size = image.shape[2:]
        if not self.normalised:
            image = image.flip(1) if self.bgr_to_rgb else image
            image = (image.float() - self.mean) / self.std
        try:
            features = self.backbone(image, self.tasks)
        finally:
            for shared in self._shared:
                shared.of_shift.clear()
        features = features if self.neck is None else self.neck.of_tasks(features)
        maps = []
        for task, head in self.heads.items():
            logits = upsample(head(features[task]).float(), size, head.align_corners)
            prediction = logits if self.logits else head.predict(logits)
            single = not self.logits and prediction.shape[1] == 1
            maps.append(prediction.squeeze(1) if single else prediction)
        return tuple(maps)


def example_images(graph: MultiTaskGraph, batch: int, height: int, width: int, seed: int = 0) -> Tensor:
    """Random images ``(batch, 3, height, width)`` of the kind that a graph takes."""
    generator = torch.Generator().manual_seed(seed)
    if graph.normalised:
        return torch.randn(batch, 3, height, width, generator=generator)
    return torch.randint(0, 256, (batch, 3, height, width), generator=generator, dtype=torch.uint8)


def export_graph(
    graph: MultiTaskGraph, *, height: int = 224, width: int = 288, dynamic: bool = True
) -> torch.export.ExportedProgram:
    """Record a graph by ``torch.export``, for any number of images.

    Args:
        graph: The model.
        height: Height in pixels of the images that are traced.
        width: Their width in pixels.
        dynamic: Whether the graph takes images of any size, from 33 to 8,192 pixels along an edge; otherwise of the
            traced one.

    Raises:
        ImportError: PyTorch is older than 2.7.
        ValueError: The size is out of range, or encoder or heads are for images of one size.
    """
    if dynamic and isinstance(graph.backbone, AdaptedBackbone) and not graph.backbone.layout.any_size:
        raise ValueError(f'{graph.backbone.label} computes with the size of an image: export it with a fixed size')
    smallest = graph.smallest_edge if dynamic else SMALLEST_EDGE
    if min(height, width) < smallest or max(height, width) > LARGEST_EDGE:
        span = f'{smallest} to {LARGEST_EDGE} pixels along an edge'
        raise ValueError(f'graphs are traced with {span}, got {height} x {width}')
    if dynamic and getattr(graph.backbone, 'use_abs_pos_embed', False):
        raise ValueError('the encoder has positions of one size (use_abs_pos_embed): export it with a fixed size')
    check_records_graphs('torch.export of a multi-task model')
    bounds = {0: (1, LARGEST_BATCH)}
    if dynamic:
        bounds |= {2: (smallest, LARGEST_EDGE), 3: (smallest, LARGEST_EDGE)}
    dims = {axis: torch.export.Dim(AXES[axis], min=low, max=high) for axis, (low, high) in bounds.items()}
    try:
        # A batch of one would be taken for a batch that is always one.
        return torch.export.export(graph, (example_images(graph, 2, height, width),), dynamic_shapes=(dims,))
    # What PyTorch raises where a part, such as a head of mmseg, computes with the sizes as numbers.
    except RuntimeError as error:
        remedy = '; export it with a fixed size' if dynamic else ''
        raise ValueError(f'no graph can be recorded of this model{remedy}: {error}') from error


def save_onnx(program: torch.export.ExportedProgram, graph: MultiTaskGraph, path: str) -> None:
    """Write an exported graph as an ONNX file, with input ``image`` and one output per task, named as the tasks.

    Args:
        program: What :func:`export_graph` gave.
        graph: The graph that was exported.
        path: The file.

    Raises:
        ImportError: onnx or onnxscript is not installed.
        ValueError: The graph is for any size and pools into a fixed number of cells, which such files cannot.
    """
    missing = [name for name in ('onnx', 'onnxscript') if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(
            f'ONNX files need the packages {" and ".join(missing)}: pip install -r requirements/optional.txt'
        )
    (image,) = program.graph_signature.user_inputs
    shape = next(node.meta['val'].shape for node in program.graph.nodes if node.name == image)
    names = {axis: name for axis, name in AXES.items() if isinstance(shape[axis], torch.SymInt)}
    # The exporter takes cells of the traced size then, without a word.
    cells = [n.args[1] for n in program.graph.nodes if 'adaptive' in str(n.target) and 'pool' in str(n.target)]
    if len(names) > 1 and any(set(number) != {1} for number in cells):
        raise ValueError(
            f'the model pools into {cells} cells, which an ONNX file cannot for images of any size: export it with a '
            f'fixed size, or as a torch.export program'
        )
    onnx = torch.onnx.export(
        program,
        dynamo=True,
        input_names=['image'],
        output_names=list(graph.tasks),
        dynamic_shapes={'image': names},
        verbose=False,
    )
    model = onnx.model
    # Nodes carry the lines of Python that they came from: larger than the weights of a small model, and of no use here.
    for part in (model.graph, *model.functions.values()):
        for node in part.all_nodes():
            node.metadata_props.clear()
    model.metadata_props.update(graph.description())
    model.producer_name, model.producer_version = 'mmvmt', __version__
    onnx.save(path)


def _check_exportable(model: MultiTaskEncoderDecoder, normalised: bool) -> None:
    if not isinstance(model.backbone, (AdaptedSwin, AdaptedBackbone)):
        kind = type(model.backbone).__name__
        raise ValueError(f'only models with an AdaptedSwin or AdaptedBackbone can be exported, got {kind}')
    if isinstance(model.backbone, AdaptedBackbone) and not model.backbone.layout.any_batch:
        raise ValueError(
            f'a graph of {model.backbone.label} by its own modules is for one number of images; a Swin Transformer '
            f"(V1) can be exported as model.backbone.type='mmvmt.AdaptedSwin'"
        )
    if model.backbone.frozen_dtype is not None:
        raise ValueError('frozen weights are stored in half precision: build it with model.backbone.frozen_dtype=None')
    for task, head in model.heads.items():
        obstacle = head.graph_obstacle()
        if obstacle is not None:
            raise ValueError(f'the head of task {task!r}, {type(head).__name__}, cannot be exported: {obstacle}')
    preprocessor = model.data_preprocessor
    if not normalised and (preprocessor.size is not None or preprocessor.size_divisor != 1):
        raise ValueError(
            f'the data preprocessor pads (size={preprocessor.size}, size_divisor={preprocessor.size_divisor}), which '
            'is no part of a graph: export with normalised inputs, and pad them before'
        )
