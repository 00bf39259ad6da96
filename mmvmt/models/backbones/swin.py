"""mmsegmentation's Swin Transformer (Liu et al., ICCV 2021, arXiv 2103.14030) with named slots for adapters.

The parameters are mmseg's own modules under mmseg's names, so every checkpoint published for mmseg's Swin loads
unchanged. Only the way they are run is ours: scaled-dot-product attention, cached masks, and the slots.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from mmengine.model import ModuleList
from mmseg.models.backbones.swin import SwinTransformer
from torch import Tensor, nn
from torch.func import functional_call

from mmvmt.adapters.base import SLOTS, Method, Site
from mmvmt.compat import is_exporting
from mmvmt.models.checkpoint import load_encoder_checkpoint
from mmvmt.models.frozen_linear import use_onednn
from mmvmt.models.training_subset import TrainingSubset
from mmvmt.registry import ADAPTERS, MODELS, class_of
from mmvmt.structures import check_tasks

UNNAMED_TASK = 'default'
"""The one task of an encoder that was built without tasks."""

FROZEN_DTYPES = {'bfloat16': torch.bfloat16, 'float16': torch.float16}
"""Types in which frozen weights can be stored."""

TASK_ORDERS = ('sequential', 'stacked')
"""How methods that depend on the task run the encoder: task after task, or all tasks along the batch."""


class _Fill(NamedTuple):
    """A method in a slot, in one pass of the encoder.

    Args:
        method: The method.
        site: Where it stands.
        tasks: Tasks of the pass, stacked along the batch in this order; ``(None,)`` for a method that knows no task.
        generated: What the method generated for each of them.
    """

    method: Method
    site: Site
    tasks: tuple[str | None, ...]
    generated: tuple[Any, ...]

    def adapt(self, inputs: Tensor, outputs: Tensor, batch_dim: int) -> tuple[Tensor, Tensor | None]:
        """Adapt the outputs; those of stacked tasks each with their own part of the method."""
        count = len(self.tasks)
        if count == 1:
            return self.method.adapt(self.site, inputs, outputs, self.tasks[0], self.generated[0])
        parts = zip(inputs.chunk(count, batch_dim), outputs.chunk(count, batch_dim), self.tasks, self.generated)
        adapted = [self.method.adapt(self.site, i, o, task, generated)[0] for i, o, task, generated in parts]
        return torch.cat(adapted, batch_dim), None

    def tokens(self, carried: Tensor | None) -> tuple[Tensor, bool]:
        """Prompts of all tasks of the pass, ``(T, P, C)`` or ``(T * B, P, C)``."""
        count = len(self.tasks)
        before = carried.chunk(count) if carried is not None and count > 1 else [carried] * count
        prompts, carry = [], False
        for task, part in zip(self.tasks, before):
            tokens, carry = self.method.tokens(self.site, part, task)
            prompts.append(tokens if tokens.ndim == 3 else tokens.unsqueeze(0))
        return torch.cat(prompts), carry


Fills = dict[str, list[_Fill]]
"""What fills the slots of one block, in one pass."""


def _fill(
    fills: Fills,
    slot: str,
    inputs: Tensor,
    outputs: Tensor,
    tapped: list[Tensor] | None = None,
    batch_dim: int = 0,
    inside_drop_path: bool | None = None,
) -> Tensor:
    """Run the methods of a slot, or those of them on one side of drop path, over a branch's or a layer's outputs."""
    for fill in fills.get(slot, ()):
        if inside_drop_path is not None and fill.method.inside_drop_path != inside_drop_path:
            continue
        outputs, tap = fill.adapt(inputs, outputs, batch_dim)
        if tap is not None and tapped is not None:
            tapped.append(tap)
    return outputs


class _Prompts(NamedTuple):
    """Tokens that the windows of a block see besides their own: ``(B, P, C)``, or one set for several images."""

    tokens: Tensor
    carry: bool


class _PermuteRows(torch.autograd.Function):
    """Rows in another order, each at most once: ``y[i] = x[there[i]]``, a row of zeros where ``there`` is ``len(x)``.

    The gradient is the same with ``back``, so nothing is added up and nothing but indices is kept.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, there: Tensor, back: Tensor) -> Tensor:
        ctx.save_for_backward(there, back)
        return _take_rows(x, there, len(back))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        there, back = ctx.saved_tensors
        return _take_rows(grad, back, len(there)), None, None


def _take_rows(x: Tensor, index: Tensor, rows: int) -> Tensor:
    """``x[index]`` for ``(M, C)``; with fewer than ``len(index)`` rows, the index ``len(x)`` is a row of zeros."""
    if len(index) > rows:
        x = F.pad(x, (0, 0, 0, 1))
    return x.index_select(0, index)


class _Windows(NamedTuple):
    """Where the tokens of a batch stand among shifted windows.

    The order is (window, image, token): windows with the same mask stand together, whatever the number of images.

    Args:
        count: Windows of an image.
        to_windows: ``(count * B * N,)``, row of ``(B * H * W, C)`` for every place; ``B * H * W`` where it is padding.
        to_tokens: ``(B * H * W,)``, the inverse.
        kinds: What tells the groups of windows with one mask apart: 0 inside, 1 last column, 2 last row, 3 both.
        groups: Number of windows of each kind.
        masks: ``(1, 1, N, N)`` for each kind, or None where all tokens of a window are neighbours.
    """

    count: int
    to_windows: Tensor
    to_tokens: Tensor
    kinds: tuple[int, ...]
    groups: tuple[int, ...]
    masks: tuple[Tensor | None, ...]


def _windows(batch: int, hw: tuple[int, int], size: int, shift: int, device: torch.device) -> _Windows:
    """Cut the padded and cyclically shifted map of every image into windows."""
    height, width = hw
    rows, columns = -(-height // size), -(-width // size)

    def coordinates(windows: int) -> tuple[Tensor, Tensor]:
        """For every place of a shifted axis where it comes from, and the region whose tokens are its neighbours."""
        place = torch.arange(windows * size, device=device)
        region = (
            (place >= (windows - 1) * size).long() + (place >= windows * size - shift).long() if shift else 0 * place
        )
        return (place + shift) % (windows * size), region

    (y, region_y), (x, region_x) = coordinates(rows), coordinates(columns)
    inside = (y < height).unsqueeze(1) & (x < width).unsqueeze(0)
    token = torch.where(inside, y.unsqueeze(1) * width + x.unsqueeze(0), -1)
    region = region_y.unsqueeze(1) * 3 + region_x.unsqueeze(0)

    def cut(grid: Tensor) -> Tensor:
        return grid.view(rows, size, columns, size).transpose(1, 2).reshape(rows * columns, size * size)

    token, region = cut(token), cut(region)
    kinds, groups, masks = (0,), (rows * columns,), (None,)
    if shift:
        # Only windows of the last row and column hold regions that were no neighbours before the shift.
        of_kind: dict[int, list[int]] = {kind: [] for kind in range(4)}
        for row in range(rows):
            for column in range(columns):
                of_kind[2 * (row == rows - 1) + (column == columns - 1)].append(row * columns + column)
        kinds = tuple(kind for kind, members in of_kind.items() if members)
        groups = tuple(len(of_kind[kind]) for kind in kinds)
        order = torch.tensor([window for kind in kinds for window in of_kind[kind]], device=device)
        neighbours = [region[of_kind[kind][0]] for kind in kinds]
        masks = tuple(
            torch.where(r.unsqueeze(0) == r.unsqueeze(1), 0.0, -100.0)[None, None] if kind else None
            for kind, r in zip(kinds, neighbours)
        )
        token = token[order]
    image = torch.arange(batch, device=device).view(1, batch, 1)
    total = batch * height * width
    to_windows = torch.where(token.unsqueeze(1) < 0, total, token.unsqueeze(1) + image * (height * width)).flatten()
    place = torch.arange(len(to_windows), device=device)
    to_tokens = to_windows.new_empty(total + 1).index_copy_(0, to_windows, place)[:total]
    return _Windows(rows * columns, to_windows, to_tokens, kinds, groups, masks)


def _attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, dropout: float, scale: float) -> Tensor:
    """``softmax(scale * q k^T + mask) v`` for ``(B, heads, N, C)``.

    On a CPU the kernel of PyTorch for half precision is slow with windows as small as here, its backward pass by a
    factor of 7 compared with plain operations. Their price is that the attention weights are kept for that pass.
    """
    if q.device.type != 'cpu' or q.dtype not in (torch.bfloat16, torch.float16) or is_exporting():
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, scale=scale)
    weights = torch.add(mask, q @ k.transpose(-2, -1), alpha=scale).softmax(-1)
    if dropout:
        weights = F.dropout(weights, dropout)
    return weights @ v


class ShiftedWindowAttention(nn.Module):
    """Window attention over mmseg's parameters.

    Args:
        attn: mmseg's ``ShiftWindowMSA``, whose parameters are taken over.
    """

    def __init__(self, attn: nn.Module) -> None:
        super().__init__()
        self.w_msa = attn.w_msa
        self.window_size = attn.window_size
        self.shift_size = attn.shift_size
        self._windows_cache: tuple[tuple, _Windows] | None = None
        self._mask_cache: tuple[tuple, tuple[Tensor, ...]] | None = None

    def forward(
        self, x: Tensor, hw: tuple[int, int], fills: Fills, prompts: _Prompts | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """``(B, H*W, C)`` to ``(B, H*W, C)``, and the prompts' ``(B, P, C)`` where they are carried on."""
        w_msa, area = self.w_msa, self.window_size**2
        batch, _, width = x.shape
        windows = self.windows(batch, hw, x.device)
        x = _PermuteRows.apply(x.flatten(0, 1), windows.to_windows, windows.to_tokens)
        x = x.view(windows.count, batch, area, width)

        qkv = self._qkv(x, fills).flatten(0, 1)
        of_prompts, count, carry = None, 0, False
        if prompts is not None:
            count, carry = prompts.tokens.shape[1], prompts.carry
            # Prompts are projected once, not once per window.
            of_prompts = self._qkv(prompts.tokens.unsqueeze(0), fills).squeeze(0)
            of_prompts = of_prompts.repeat_interleave(batch // len(of_prompts), 0)
        masks = self.attention_masks(windows, qkv.dtype, count, carry)
        dropout = w_msa.attn_drop.p if self.training else 0.0
        outs = []
        for part, mask in zip(qkv.split([group * batch for group in windows.groups]), masks):
            q, k, v = part.permute(2, 0, 3, 1, 4)
            if of_prompts is not None:
                q_p, k_p, v_p = of_prompts.repeat(len(part) // batch, 1, 1, 1, 1).permute(2, 0, 3, 1, 4)
                k, v = torch.cat((k_p, k), dim=2), torch.cat((v_p, v), dim=2)
                q = torch.cat((q_p, q), dim=2) if carry else q
            out = _attention(q, k, v, mask, dropout, w_msa.scale)
            outs.append(out.transpose(1, 2).flatten(2))
        out = torch.cat(outs) if len(outs) > 1 else outs[0]
        out = out.unflatten(0, (windows.count, batch))
        out_prompts = None
        if carry:
            # Every window has its own outputs for the prompts; what goes on is their mean.
            of_windows, out = out[:, :, :count], out[:, :, count:]
            out_prompts = self._proj(of_windows.mean(0, keepdim=True), fills).squeeze(0)
        out = self._proj(out, fills).reshape(-1, width)
        return _PermuteRows.apply(out, windows.to_tokens, windows.to_windows).view(batch, -1, width), out_prompts

    def _qkv(self, x: Tensor, fills: Fills) -> Tensor:
        """``(windows, B, N, C)`` to queries, keys and values, ``(windows, B, N, 3, heads, C / heads)``."""
        qkv = _fill(fills, 'qkv', x, self.w_msa.qkv(x), batch_dim=1)
        return qkv.unflatten(-1, (3, self.w_msa.num_heads, -1))

    def _proj(self, x: Tensor, fills: Fills) -> Tensor:
        """``(windows, B, N, C)`` to ``(windows, B, N, C)``."""
        out = _fill(fills, 'proj', x, self.w_msa.proj(x), batch_dim=1)
        return self.w_msa.proj_drop(out) if self.w_msa.proj_drop.p else out

    def windows(self, batch: int, hw: tuple[int, int], device: torch.device) -> _Windows:
        """The places of the tokens, kept for the last size."""
        key = (batch, hw, device)
        if torch.compiler.is_compiling() or self._windows_cache is None or self._windows_cache[0] != key:
            with torch.inference_mode(False):
                windows = _windows(batch, hw, self.window_size, self.shift_size, device)
            if torch.compiler.is_compiling():
                return windows
            self._windows_cache = (key, windows)
        return self._windows_cache[1]

    def attention_masks(
        self, windows: _Windows, dtype: torch.dtype, prompts: int = 0, carry: bool = False
    ) -> tuple[Tensor, ...]:
        """Relative position bias plus the mask of shifted windows; zero for prompts, which stand at no position.

        They are kept for the last size while nothing is trained through them. Loading the table renews them, and so
        does every change between training and evaluation, which covers averaged weights that are swapped in for an
        evaluation.

        Args:
            windows: The windows.
            dtype: Type of the queries.
            prompts: Number of prompts P in front of the keys.
            carry: Whether they stand in front of the queries too.

        Returns:
            For every group of windows ``(1, heads, N, P + N)``, with N = window area; with ``carry`` P + N instead of
            the first N. Their number depends neither on the number of images nor on that of windows.
        """
        table = self.w_msa.relative_position_bias_table
        # A table that stands in for the frozen one lives for one pass: its address says nothing of its values.
        cacheable = not torch.compiler.is_compiling() and isinstance(table, nn.Parameter)
        if cacheable and (torch.is_inference_mode_enabled() or table.is_inference()):
            cacheable = False
        if table.requires_grad and torch.is_grad_enabled():
            cacheable = False
        key = None
        if cacheable:
            key = (windows.kinds, dtype, prompts, carry, table.device, table.data_ptr(), table._version)
            if self._mask_cache is not None and self._mask_cache[0] == key:
                return self._mask_cache[1]
        area = self.window_size**2
        bias = table[self.w_msa.relative_position_index.view(-1)].view(area, area, -1).permute(2, 0, 1).unsqueeze(0)
        masks = []
        for shifted in windows.masks:
            mask = bias if shifted is None else bias + shifted
            if prompts:
                mask = F.pad(mask, (prompts, 0, prompts if carry else 0, 0))
            masks.append(mask.to(dtype).contiguous())
        kept = tuple(masks)
        if cacheable:
            self._mask_cache = (key, kept)
        return kept

    def train(self, mode: bool = True) -> ShiftedWindowAttention:
        """Set the mode and forget the masks."""
        self._mask_cache = None
        return super().train(mode)


class SwinBlock(nn.Module):
    """A Swin block with slots, over mmseg's parameters.

    Args:
        block: mmseg's ``SwinBlock``, whose parameters are taken over.
    """

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.norm1 = block.norm1
        self.attn = ShiftedWindowAttention(block.attn)
        self.norm2 = block.norm2
        self.ffn = block.ffn
        self.with_cp = block.with_cp
        self.drop_path = block.attn.drop

    @property
    def layers(self) -> dict[str, nn.Linear]:
        """The linear layers that are slots."""
        w_msa, ffn = self.attn.w_msa, self.ffn.layers
        return {'qkv': w_msa.qkv, 'proj': w_msa.proj, 'fc1': ffn[0][0], 'fc2': ffn[1]}

    def slot_channels(self, slot: str) -> tuple[int, int]:
        """Width of what enters a slot, and of what it puts out.

        Raises:
            ValueError: Prompts are asked for in windows of one token.
        """
        if slot == 'tokens' and self.attn.window_size < 2:
            raise ValueError(
                f'prompts need windows of at least 2 x 2 tokens, but window_size is {self.attn.window_size}: '
                f'a single token attends to nothing but itself'
            )
        if slot in self.layers:
            return self.layers[slot].in_features, self.layers[slot].out_features
        width = self.attn.w_msa.embed_dims
        return width, width

    def forward(
        self, x: Tensor, hw: tuple[int, int], fills: Fills, prompts: _Prompts | None = None
    ) -> tuple[Tensor, Tensor | None, list[Tensor]]:
        """``(B, H*W, C)`` to ``(B, H*W, C)``; the prompts that are carried on; what goes to the stage's tap."""
        tapped: list[Tensor] = []
        carried = None
        if prompts is None:
            out, _ = self.attn(self.norm1(x), hw, fills)
        else:
            carry = prompts.carry
            out, out_prompts = self.attn(self.norm1(x), hw, fills, _Prompts(self.norm1(prompts.tokens), carry))
            if carry:
                before = prompts.tokens.repeat_interleave(x.shape[0] // prompts.tokens.shape[0], 0)
                carried = before + self._branch('attn', before, out_prompts, fills)
                carried = carried + self._branch('ffn', carried, self._mlp(self.norm2(carried), fills), fills)
        x = x + self._branch('attn', x, out, fills, tapped)
        x = x + self._branch('ffn', x, self._mlp(self.norm2(x), fills), fills, tapped)
        return x, carried, tapped

    def _branch(self, slot: str, x: Tensor, out: Tensor, fills: Fills, tapped: list[Tensor] | None = None) -> Tensor:
        """What a residual branch adds to the stream x: its output through drop path, adapted on either side of it."""
        out = _fill(fills, slot, x, out, tapped, inside_drop_path=True)
        return _fill(fills, slot, x, self._drop_path(out), tapped, inside_drop_path=False)

    def _mlp(self, x: Tensor, fills: Fills) -> Tensor:
        (fc1, act, drop1), fc2, drop2 = self.ffn.layers
        hidden = act(_fill(fills, 'fc1', x, fc1(x)))
        if drop1.p:
            hidden = drop1(hidden)
        out = _fill(fills, 'fc2', hidden, fc2(hidden))
        return drop2(out) if drop2.p else out

    def _drop_path(self, x: Tensor) -> Tensor:
        return self.drop_path(x) if self.training and self.drop_path.drop_prob else x


class _Stream(NamedTuple):
    """State of the encoder between two blocks."""

    x: Tensor
    hw: tuple[int, int]
    prompts: Tensor | None = None
    tapped: tuple[Tensor, ...] = ()
    taps: tuple[dict[str, Tensor] | Tensor, ...] = ()
    sizes: tuple[tuple[int, int], ...] = ()


class _Pass(NamedTuple):
    """One run of the encoder, for one task, for several stacked along the batch, or for none (``(None,)``).

    Args:
        tasks: The tasks.
        generated: For each method (None where it takes no part) what it generated, one entry per task.
        substitutes: For each task what stands in for parameters of the encoder: ``{module: {parameter: tensor}}``.
    """

    tasks: tuple[str | None, ...]
    generated: tuple[tuple[Any, ...] | None, ...]
    substitutes: tuple[dict[str, dict[str, Tensor]], ...]

    def of(self, index: int) -> _Pass:
        """The pass of one of the tasks alone."""
        generated = tuple(
            given if given is None or len(given) < len(self.tasks) else given[index : index + 1]
            for given in self.generated
        )
        return _Pass(self.tasks[index : index + 1], generated, self.substitutes[index : index + 1])


@MODELS.register_module()
class AdaptedSwin(SwinTransformer):
    """Swin Transformer whose blocks offer named slots to adapters.

    Without ``tasks`` it is a drop-in for mmseg's ``SwinTransformer``: same arguments, same state_dict keys, same
    tuple of maps. With ``tasks`` it returns the features of every task, and the four output norms are left to the
    heads.

    With ``plugins`` the encoder is frozen, but for what the plugins declare to train. Without plugins nothing is
    frozen, as in mmseg.

    Args:
        tasks: Names of the tasks, each once; None: one unnamed task.
        plugins: Adapters to insert, in mmseg's convention: ``dict(cfg=dict(type='mmvmt.VMTAdapter', reduction=4),
            stages=(True, True, True, True), position='ffn')``. ``stages`` defaults to all, ``position`` (a slot or a
            list of slots) to the method's own.
        task_order: For methods that run the encoder once per task: ``'sequential'``, one task after another, needs
            little memory; ``'stacked'``, all tasks along the batch, is fast on GPUs. Equal results.
        frozen_dtype: ``'bfloat16'`` or ``'float16'``: the weights of frozen linear layers and convolutions are stored
            in this type and the encoder runs in mixed precision with it, exactly as autocast would run it on float32
            weights, in half the memory and without casting them in every step. Frozen biases, norms and position
            tables, and all that trains, stay float32. None: everything is float32.
        **kwargs: Arguments of mmseg's ``SwinTransformer``.

    Raises:
        ValueError: A plugin matches no slot, two plugins want to tap the same stage, ``frozen_stages`` is set too,
            ``task_order`` or ``frozen_dtype`` is unknown, or there are no plugins and so nothing is frozen.
    """

    def __init__(
        self,
        *,
        tasks: Sequence[str] | None = None,
        plugins: Sequence[dict] | None = None,
        task_order: str = 'sequential',
        frozen_dtype: str | None = None,
        **kwargs,
    ) -> None:
        super().__init__(**kwargs)
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
        if plugins and self.frozen_stages >= 0:
            raise ValueError(
                f'frozen_stages={self.frozen_stages} cannot be combined with plugins: what trains is what they declare'
            )
        self.tasks = check_tasks(tasks) if tasks is not None else None
        for stage in self.stages:
            stage.blocks = ModuleList([SwinBlock(block) for block in stage.blocks])
        use_onednn(self.stages)
        if self.tasks is not None:
            for index in self.out_indices:
                delattr(self, f'norm{index}')
        self.plugins = [dict(plugin) for plugin in plugins or ()]
        self.adapters = ModuleList([self._build_plugin(plugin) for plugin in self.plugins])
        self._filled: dict[tuple[int, int], list[tuple[int, Site]]] = {}
        for index, adapter in enumerate(self.adapters):
            for site in adapter.sites:
                self._filled.setdefault((site.stage, site.block), []).append((index, site))
        self._check_taps()
        for adapter in self.adapters:
            adapter.attach(self)
        self._constants = frozenset(name for name, p in self.adapters.named_parameters() if not p.requires_grad)
        self._training_subset = TrainingSubset()
        if self.plugins:
            self._freeze()
        self._frozen = frozenset(name for name, p in self.own_parameters().items() if not p.requires_grad)
        self._store_frozen(self.frozen_dtype)

    def _build_plugin(self, plugin: dict) -> Method:
        plugin = dict(plugin)
        cfg = plugin.pop('cfg', None)
        if not isinstance(cfg, dict) or 'type' not in cfg:
            raise ValueError(
                f"a plugin needs cfg=dict(type=...), got {plugin or cfg!r}; e.g. cfg=dict(type='VMTAdapter')"
            )
        stages = tuple(plugin.pop('stages', (True,) * len(self.stages)))
        position = plugin.pop('position', None)
        if plugin:
            raise ValueError(f'plugin {cfg["type"]!r} has unknown keys {sorted(plugin)}; known: cfg, stages, position')
        if len(stages) != len(self.stages):
            raise ValueError(
                f'plugin {cfg["type"]!r} names {len(stages)} stages {stages}, but the encoder has {len(self.stages)}'
            )
        method = class_of(ADAPTERS, cfg['type'])
        if method is None:
            raise ValueError(f'unknown adapter {cfg["type"]!r}; known: {", ".join(sorted(ADAPTERS.module_dict))}')
        if position is None:
            position = method.positions[:1] if method.default_positions is None else method.default_positions
        slots = (position,) if isinstance(position, str) else tuple(position)
        if len(set(slots)) < len(slots):
            raise ValueError(f'plugin {cfg["type"]!r} names a position twice: {list(slots)}')
        for slot in slots:
            if slot not in SLOTS or slot not in method.positions:
                raise ValueError(
                    f'plugin {cfg["type"]!r} matches no slot: it cannot fill position {slot!r}; '
                    f'it fills {", ".join(method.positions) or "none"}, and blocks offer {", ".join(SLOTS)}'
                )
        sites = [
            Site(stage, index, slot, *block.slot_channels(slot), leaves=stage in self.out_indices)
            for stage, filled in enumerate(stages)
            if filled
            for index, block in enumerate(self.stages[stage].blocks)
            for slot in slots
        ]
        if method.positions and not sites:
            raise ValueError(f'plugin {cfg["type"]!r} matches no slot: stages={stages}, position={position!r}')
        options = {key: value for key, value in cfg.items() if key != 'type'}
        return method(sites=sites, tasks=self.tasks or (UNNAMED_TASK,), **options)

    def _check_taps(self) -> None:
        tapping = self._tapping_adapters()
        stages = [{site.stage for site in adapter.sites} for adapter in tapping]
        if len(set().union(*stages)) < sum(map(len, stages)):
            names = ', '.join(type(a).__name__ for a in tapping)
            raise ValueError(
                f'only one plugin can make the features of the tasks in a stage, got {names}; give each its own stages'
            )
        per_task = [a for a in self.adapters if a.per_task]
        if per_task and tapping:
            raise ValueError(
                f'{type(per_task[0]).__name__} runs the encoder once per task and cannot be combined with '
                f'{type(tapping[0]).__name__}, which makes the features of all tasks in one pass'
            )
        for (stage, block), filled in self._filled.items():
            if sum(site.slot == 'tokens' for _, site in filled) > 1:
                raise ValueError(f'two plugins bring prompts into block {block} of stage {stage}; give each its stages')

    def _tapping_adapters(self) -> list[Method]:
        """Methods that make features of their own for the tasks."""
        return [adapter for adapter in self.adapters if type(adapter).tap is not Method.tap]

    def _freeze(self) -> None:
        """Leave only declared parameters trainable: by identity, never by name."""
        trainable = {id(p) for p in self.declared_parameters()}
        for parameter in self.parameters():
            parameter.requires_grad = id(parameter) in trainable

    def frozen_parameters(self) -> dict[str, nn.Parameter]:
        """The parameters of the pretrained encoder, by name, that nothing trains by the encoder's config."""
        return {name: p for name, p in self.own_parameters().items() if name in self._frozen}

    def half_storable_names(self) -> set[str]:
        """Names of the frozen parameters that ``frozen_dtype`` stores in half precision."""
        layers = (m for part in (self.patch_embed, self.stages) for m in part.modules())
        weights = {id(m.weight) for m in layers if isinstance(m, (nn.Linear, nn.Conv2d))}
        return {name for name, p in self.frozen_parameters().items() if id(p) in weights}

    def pretrained_names(self) -> set[str]:
        """Names in the ``state_dict`` of what the pretrained encoder alone determines: frozen parameters, buffers."""
        buffers = {f'stages.{name}' for name, _ in self.stages.named_buffers()}
        return (set(self._frozen) | buffers) & set(self.state_dict())

    def set_trained_tasks(self, tasks: Sequence[str] | None) -> None:
        """Let only the parts of some tasks train, and nothing that tasks share; None: all that trained before.

        Raises:
            ValueError: A plugin does not say which of its parts belong to a task.
        """
        kept = None
        if tasks is not None:
            kept = [p for adapter in self.adapters for task in tasks for p in adapter.task_parameters(task)]
        self._training_subset.set(self, kept)

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

    def _store_frozen(self, dtype: torch.dtype | None) -> None:
        """Store the weights of frozen layers in another type."""
        if dtype is None:
            return
        for part in (self.patch_embed, self.stages):
            for module in part.modules():
                if isinstance(module, (nn.Linear, nn.Conv2d)) and not module.weight.requires_grad:
                    module.weight.data = module.weight.data.to(dtype)

    @property
    def per_task(self) -> bool:
        """Whether the encoder runs once per task."""
        return any(adapter.per_task for adapter in self.adapters)

    def blocks(self) -> list[tuple[int, int]]:
        """Every (stage, block) in the order of the stream."""
        return [(index, block) for index, stage in enumerate(self.stages) for block in range(len(stage.blocks))]

    def own_parameters(self) -> dict[str, nn.Parameter]:
        """Parameters of the pretrained encoder by name: without adapters and output norms."""
        parts = {'patch_embed': self.patch_embed, 'stages': self.stages}
        own = {f'{prefix}.{name}': p for prefix, part in parts.items() for name, p in part.named_parameters()}
        return own | ({'absolute_pos_embed': self.absolute_pos_embed} if self.use_abs_pos_embed else {})

    def layer_of(self, site: Site) -> nn.Linear:
        """The frozen linear layer of a slot.

        Raises:
            ValueError: The slot is a branch or tokens.
        """
        layers = self.stages[site.stage].blocks[site.block].layers
        if site.slot not in layers:
            raise ValueError(f'slot {site.slot!r} is no linear layer; those are {", ".join(layers)}')
        return layers[site.slot]

    def norm_of(self, site: Site) -> nn.LayerNorm:
        """The LayerNorm of the block that stands in front of a slot."""
        block = self.stages[site.stage].blocks[site.block]
        return block.norm2 if site.slot in ('ffn', 'fc1', 'fc2') else block.norm1

    def train(self, mode: bool = True) -> AdaptedSwin:
        """Set training or evaluation mode; returns self, which mmseg's does not."""
        super().train(mode)
        return self

    def _freeze_stages(self) -> None:
        # mmseg's own asks for output norms, which the heads have when there are tasks.
        if self.frozen_stages < 0:
            return
        frozen: list[nn.Module] = [self.patch_embed, self.drop_after_pos, *self.stages[: self.frozen_stages]]
        norms = [getattr(self, f'norm{i}', None) for i in range(self.frozen_stages) if i in self.out_indices]
        for module in frozen + [norm for norm in norms if norm is not None]:
            module.eval()
            module.requires_grad_(False)
        if self.use_abs_pos_embed:
            self.absolute_pos_embed.requires_grad = False

    def init_weights(self) -> None:
        """Load the encoder that ``init_cfg`` names, or initialise it as mmseg does; then initialise the adapters.

        Raises:
            FileNotFoundError, ValueError: The checkpoint is missing, unreadable, or of another encoder.
        """
        if self.init_cfg is None:
            # Random numbers are drawn in float32 and rounded once.
            self._store_frozen(torch.float32 if self.frozen_dtype else None)
            super().init_weights()
            self._store_frozen(self.frozen_dtype)
        else:
            load_encoder_checkpoint(self, self.init_cfg)
        for adapter in self.adapters:
            adapter.reset_parameters()

    def forward(
        self, x: Tensor, tasks: Sequence[str] | None = None
    ) -> tuple[Tensor, ...] | dict[str, tuple[Tensor, ...]]:
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
        if mixed_outside:
            return features
        if self.tasks is None:
            return tuple(feature.to(x.dtype) for feature in features)
        return {task: tuple(feature.to(x.dtype) for feature in maps) for task, maps in features.items()}

    def _encode(self, x: Tensor, tasks: tuple[str, ...]) -> tuple[Tensor, ...] | dict[str, tuple[Tensor, ...]]:
        blocks = self.blocks()
        common = tuple(None if a.per_task else (a.generated(None),) for a in self.adapters)
        run = _Pass((None,), common, ({},))
        if not self.per_task:
            streams = dict.fromkeys(tasks, self._run(self._embed(x, run), blocks, run, tasks))
        else:
            streams = self._run_per_task(x, blocks, run, tasks)
        features = {task: self._maps(stream, task) for task, stream in streams.items()}
        return features if self.tasks is not None else self._normed(features[UNNAMED_TASK])

    def _run_per_task(
        self, x: Tensor, blocks: Sequence[tuple[int, int]], common: _Pass, tasks: tuple[str, ...]
    ) -> dict[str, _Stream]:
        """Run what does not depend on the task once, and the rest for every task."""
        of_task = [
            tuple(
                given if given is not None else (a.generated(task),)
                for a, given in zip(self.adapters, common.generated)
            )
            for task in tasks
        ]
        substitutes = [self._substitutes(task) for task in tasks]
        first = self._first_of_task(blocks, substitutes[0])
        shared = None if first is None else self._run(self._embed(x, common), blocks[:first], common, tasks)
        rest = blocks[first or 0 :]

        if self.task_order == 'sequential':
            streams = {}
            for task, generated, substituted in zip(tasks, of_task, substitutes):
                run = _Pass((task,), generated, (substituted,))
                streams[task] = self._run(self._embed(x, run) if shared is None else shared, rest, run, (task,))
            return streams
        generated = tuple(
            given if given is not None else tuple(of[index][0] for of in of_task)
            for index, given in enumerate(common.generated)
        )
        run = _Pass(tasks, generated, tuple(substitutes))
        stream = self._embed(x, run) if shared is None else self._stack(shared, len(tasks))
        kept = len(stream.taps)
        stream = self._run(stream, rest, run, tasks)
        parts = [tap.chunk(len(tasks)) for tap in stream.taps[kept:]]
        return {
            task: stream._replace(taps=stream.taps[:kept] + tuple(part[index] for part in parts))
            for index, task in enumerate(tasks)
        }

    @staticmethod
    def _stack(stream: _Stream, tasks: int) -> _Stream:
        """The stream once for every task, along the batch."""
        prompts = None if stream.prompts is None else stream.prompts.repeat(tasks, 1, 1)
        return stream._replace(x=stream.x.repeat(tasks, 1, 1), prompts=prompts)

    def _substitutes(self, task: str) -> dict[str, dict[str, Tensor]]:
        """What stands in for parameters in the pass of a task, by the module that is run with it.

        Raises:
            ValueError: Two methods have copies of the same parameter, or one is none of a module that is run alone.
        """
        modules: dict[str, dict[str, Tensor]] = {}
        for adapter in self.adapters:
            for name, tensor in adapter.substitutes(self, task).items() if adapter.per_task else ():
                parts = name.split('.')
                depth = {'patch_embed': 1, 'absolute_pos_embed': 0}.get(parts[0], 4 if parts[2] == 'blocks' else 3)
                if depth == 0:
                    raise ValueError(f'{type(adapter).__name__} cannot copy {name!r} per task')
                module, parameter = '.'.join(parts[:depth]), '.'.join(parts[depth:])
                if parameter in modules.setdefault(module, {}):
                    raise ValueError(f'two plugins have copies of {name!r}; only one can')
                modules[module][parameter] = tensor
        return modules

    def _first_of_task(
        self, blocks: Sequence[tuple[int, int]], substitutes: dict[str, dict[str, Tensor]]
    ) -> int | None:
        """Position of the first block whose outputs depend on the task; None if even the patches do."""
        if 'patch_embed' in substitutes:
            return None
        for position, (stage, block) in enumerate(blocks):
            filled = any(self.adapters[index].per_task for index, _ in self._filled.get((stage, block), ()))
            last = block == len(self.stages[stage].blocks) - 1
            merged = last and f'stages.{stage}.downsample' in substitutes
            if filled or merged or f'stages.{stage}.blocks.{block}' in substitutes:
                return position
        return len(blocks)

    def _fills(self, stage: int, block: int, run: _Pass) -> Fills:
        """What fills the slots of a block in a pass."""
        fills: Fills = {}
        for index, site in self._filled.get((stage, block), ()):
            adapter, generated = self.adapters[index], run.generated[index]
            tasks = run.tasks if adapter.per_task else (None,)
            fills.setdefault(site.slot, []).append(_Fill(adapter, site, tasks, generated))
        return fills

    def _embed(self, image: Tensor, run: _Pass) -> _Stream:
        """Patches of the images, for every task of the pass if they depend on it."""
        parts = [substitutes.get('patch_embed') for substitutes in run.substitutes]
        if any(parts):
            embedded = [functional_call(self.patch_embed, part, (image,)) for part in parts]
            x, hw = torch.cat([tokens for tokens, _ in embedded]), embedded[0][1]
        else:
            x, hw = self.patch_embed(image)
        if self.use_abs_pos_embed:
            x = x + self.absolute_pos_embed
        return _Stream(self.drop_after_pos(x), tuple(hw))

    def _run(self, stream: _Stream, blocks: Iterable[tuple[int, int]], run: _Pass, tasks: tuple[str, ...]) -> _Stream:
        """Take the stream through some blocks; at a stage's end, tap the features of the tasks and merge patches."""
        for stage_index, block_index in blocks:
            stage = self.stages[stage_index]
            x, prompts, tapped = self._run_block(stage_index, block_index, stream, run)
            stream = stream._replace(x=x, prompts=prompts, tapped=stream.tapped + tuple(tapped))
            if block_index < len(stage.blocks) - 1:
                continue
            tap = None
            if stage_index in self.out_indices:
                for adapter in self._tapping_adapters():
                    tap = adapter.tap(stage_index, x, stream.tapped, tasks) or tap
            hw = stream.hw
            taps, sizes = stream.taps + (x if tap is None else tap,), stream.sizes + (hw,)
            if stage.downsample is not None:
                x, hw = self._merge_patches(stage_index, x, hw, run)
                if prompts is not None:
                    # A prompt is its own four neighbours.
                    fours = prompts.flatten(0, 1).unsqueeze(1).expand(-1, 4, -1)
                    merged, _ = self._merge_patches(stage_index, fours, (2, 2), run)
                    prompts = merged.view(*prompts.shape[:2], -1)
            stream = _Stream(x, tuple(hw), prompts, (), taps, sizes)
        return stream

    def _run_block(
        self, stage: int, block: int, stream: _Stream, run: _Pass
    ) -> tuple[Tensor, Tensor | None, Sequence[Tensor]]:
        """Outputs of a block: the stream, the prompts that are carried on, and what goes to the stage's tap."""
        name, module = f'stages.{stage}.blocks.{block}', self.stages[stage].blocks[block]
        substitutes = [substituted.get(name) for substituted in run.substitutes]
        if len(run.tasks) > 1 and any(substitutes):
            # Every task has its own frozen layers here: they cannot share one batch.
            count = len(run.tasks)
            carried = [None] * count if stream.prompts is None else stream.prompts.chunk(count)
            streams = [stream._replace(x=x, prompts=p) for x, p in zip(stream.x.chunk(count), carried)]
            parts = [self._run_block(stage, block, part, run.of(index)) for index, part in enumerate(streams)]
            x, prompts, _ = zip(*parts)
            return torch.cat(x), None if prompts[0] is None else torch.cat(prompts), ()

        fills = self._fills(stage, block, run)
        prompts = _Prompts(*fills['tokens'][0].tokens(stream.prompts)) if 'tokens' in fills else None
        arguments = (stream.x, stream.hw, fills, prompts)

        def forward(*args: Any) -> tuple[Tensor, Tensor | None, list[Tensor]]:
            # Inside of what is checkpointed, so that the recomputation sees the substitutes too.
            return functional_call(module, substitutes[0], args) if substitutes[0] else module(*args)

        if module.with_cp and torch.is_grad_enabled():
            return torch.utils.checkpoint.checkpoint(forward, *arguments, use_reentrant=False)
        return forward(*arguments)

    def _merge_patches(self, stage: int, x: Tensor, hw: tuple[int, int], run: _Pass) -> tuple[Tensor, tuple[int, int]]:
        """Patch merging behind a stage."""
        name, module = f'stages.{stage}.downsample', self.stages[stage].downsample
        substitutes = [substituted.get(name) for substituted in run.substitutes]
        if not any(substitutes):
            return module(x, hw)
        # One task's batch is not cut: in an exported graph its size is a symbol.
        parts = zip(x.chunk(len(substitutes)) if len(substitutes) > 1 else (x,), substitutes)
        merged = [functional_call(module, substituted, (part, hw)) for part, substituted in parts]
        return torch.cat([tokens for tokens, _ in merged]), merged[0][1]

    def _maps(self, stream: _Stream, task: str) -> tuple[Tensor, ...]:
        """Features of a task as maps ``(B, C, H, W)``: views of the tokens, in channels-last memory order."""
        maps = []
        for index in self.out_indices:
            tap = stream.taps[index]
            tokens = tap[task] if isinstance(tap, dict) else tap
            maps.append(tokens.unflatten(1, stream.sizes[index]).permute(0, 3, 1, 2))
        return tuple(maps)

    def _normed(self, maps: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """mmseg's output norms over the maps of the one unnamed task."""
        normed = []
        for index, feature in zip(self.out_indices, maps):
            feature = getattr(self, f'norm{index}')(feature.permute(0, 2, 3, 1))
            normed.append(feature.permute(0, 3, 1, 2).contiguous())
        return tuple(normed)

    def declared_parameters(self) -> list[nn.Parameter]:
        """What trains: all parameters without plugins, else what those declare, and the output norms."""
        if not self.plugins:
            return list(self.parameters())
        declared = [p for name, p in self.adapters.named_parameters() if name not in self._constants]
        for adapter in self.adapters:
            declared.extend(adapter.encoder_parameters(self))
        for index in self.out_indices:
            norm = getattr(self, f'norm{index}', None)
            declared.extend([] if norm is None else norm.parameters())
        return list({id(p): p for p in declared}.values())

    def adapter_parameters(self) -> list[nn.Parameter]:
        """The adapters' own parameters."""
        return [p for adapter in self.adapters for p in adapter.parameters()]
