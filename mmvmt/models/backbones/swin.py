"""mmsegmentation's Swin Transformer (Liu et al., ICCV 2021, arXiv 2103.14030) with named slots for adapters.

The parameters are mmseg's own modules under mmseg's names, so every checkpoint published for mmseg's Swin loads
unchanged. Only the way they are run is ours: scaled-dot-product attention, cached masks, and the slots.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from mmengine.model import ModuleList
from mmseg.models.backbones.swin import SwinTransformer
from torch import Tensor, nn

from mmvmt.adapters.base import SLOTS, Adapter, Site
from mmvmt.models.checkpoint import load_encoder_checkpoint
from mmvmt.registry import ADAPTERS, MODELS
from mmvmt.structures import check_tasks

Fills = dict[str, list[tuple[Adapter, Site]]]
"""What fills the slots of one block."""

UNNAMED_TASK = 'default'
"""The one task of an encoder that was built without tasks."""


def _fill(
    fills: Fills, slot: str, inputs: Tensor, outputs: Tensor, task: str | None, tapped: list[Tensor] | None = None
) -> Tensor:
    """Run the adapters of a slot over a branch's or a layer's outputs."""
    for adapter, site in fills.get(slot, ()):
        outputs, tap = adapter.adapt(site, inputs, outputs, task)
        if tap is not None and tapped is not None:
            tapped.append(tap)
    return outputs


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
        self._mask_cache: tuple[tuple, Tensor] | None = None

    def forward(self, x: Tensor, hw: tuple[int, int], fills: Fills, task: str | None) -> Tensor:
        """``(B, H*W, C)`` to ``(B, H*W, C)``."""
        w_msa, size, shift = self.w_msa, self.window_size, self.shift_size
        (batch, _, width), (height, width_2d) = x.shape, hw
        x = x.view(batch, height, width_2d, width)
        pad_bottom, pad_right = -height % size, -width_2d % size
        if pad_bottom or pad_right:
            x = F.pad(x, (0, 0, 0, pad_right, 0, pad_bottom))
        rows, columns = (height + pad_bottom) // size, (width_2d + pad_right) // size
        if shift:
            x = torch.roll(x, shifts=(-shift, -shift), dims=(1, 2))
        x = x.view(batch, rows, size, columns, size, width).transpose(2, 3).reshape(-1, size * size, width)

        qkv = _fill(fills, 'qkv', x, w_msa.qkv(x), task)
        q, k, v = qkv.view(*x.shape[:2], 3, w_msa.num_heads, -1).permute(2, 0, 3, 1, 4)
        mask = self.attention_mask(batch, rows, columns, q.dtype)
        dropout = w_msa.attn_drop.p if self.training else 0.0
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, scale=w_msa.scale)
        out = out.transpose(1, 2).reshape(x.shape)
        out = _fill(fills, 'proj', out, w_msa.proj(out), task)
        if w_msa.proj_drop.p:
            out = w_msa.proj_drop(out)

        out = out.view(batch, rows, columns, size, size, width).transpose(2, 3)
        out = out.reshape(batch, rows * size, columns * size, width)
        if shift:
            out = torch.roll(out, shifts=(shift, shift), dims=(1, 2))
        if pad_bottom or pad_right:
            out = out[:, :height, :width_2d]
        return out.reshape(batch, height * width_2d, width)

    def attention_mask(self, batch: int, rows: int, columns: int, dtype: torch.dtype) -> Tensor:
        """Relative position bias plus the mask of shifted windows.

        It is kept for the last size while nothing is trained through it. Loading the table renews it, and so does every
        change between training and evaluation, which covers averaged weights that are swapped in for an evaluation.

        Returns:
            ``(1, heads, N, N)`` without shift, else ``(batch * rows * columns, heads, N, N)``, with N = window area.
        """
        table = self.w_msa.relative_position_bias_table
        cacheable = not (
            (table.requires_grad and torch.is_grad_enabled())
            or torch.is_inference_mode_enabled()
            or table.is_inference()
            or torch.compiler.is_compiling()
        )
        key = (batch, rows, columns, dtype, table.device, table.data_ptr(), table._version) if cacheable else None
        if cacheable and self._mask_cache is not None and self._mask_cache[0] == key:
            return self._mask_cache[1]
        area = self.window_size**2
        mask = table[self.w_msa.relative_position_index.view(-1)].view(area, area, -1).permute(2, 0, 1).unsqueeze(0)
        if self.shift_size:
            shifted = self._shift_mask(rows, columns, table.device)
            mask = (mask + shifted.unsqueeze(1)).repeat(batch, 1, 1, 1)
        mask = mask.to(dtype).contiguous()
        if cacheable:
            self._mask_cache = (key, mask)
        return mask

    def train(self, mode: bool = True) -> ShiftedWindowAttention:
        """Set the mode and forget the mask."""
        self._mask_cache = None
        return super().train(mode)

    def _shift_mask(self, rows: int, columns: int, device: torch.device) -> Tensor:
        """``(rows * columns, N, N)``: -100 between tokens that were no neighbours before the cyclic shift, else 0."""
        size, shift = self.window_size, self.shift_size

        def regions(windows: int) -> Tensor:
            position = torch.arange(windows * size, device=device)
            return (position >= (windows - 1) * size).long() + (position >= windows * size - shift).long()

        region = regions(rows).unsqueeze(1) * 3 + regions(columns).unsqueeze(0)
        region = region.view(rows, size, columns, size).transpose(1, 2).reshape(-1, size * size)
        return torch.where(region.unsqueeze(1) == region.unsqueeze(2), 0.0, -100.0)


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

    def slot_channels(self, slot: str) -> tuple[int, int]:
        """Width of what enters a slot, and of what it puts out."""
        layers = {
            'qkv': self.attn.w_msa.qkv,
            'proj': self.attn.w_msa.proj,
            'fc1': self.ffn.layers[0][0],
            'fc2': self.ffn.layers[1],
        }
        if slot in layers:
            return layers[slot].in_features, layers[slot].out_features
        width = self.attn.w_msa.embed_dims
        return width, width

    def forward(self, x: Tensor, hw: tuple[int, int], fills: Fills, task: str | None) -> tuple[Tensor, list[Tensor]]:
        """``(B, H*W, C)`` to ``(B, H*W, C)``, and what the adapters hand to the stage's tap."""
        if self.with_cp and torch.is_grad_enabled():
            return torch.utils.checkpoint.checkpoint(self._forward, x, hw, fills, task, use_reentrant=False)
        return self._forward(x, hw, fills, task)

    def _forward(self, x: Tensor, hw: tuple[int, int], fills: Fills, task: str | None) -> tuple[Tensor, list[Tensor]]:
        tapped: list[Tensor] = []
        out = self._drop_path(self.attn(self.norm1(x), hw, fills, task))
        x = x + _fill(fills, 'attn', x, out, task, tapped)
        out = self._drop_path(self._mlp(self.norm2(x), fills, task))
        x = x + _fill(fills, 'ffn', x, out, task, tapped)
        return x, tapped

    def _mlp(self, x: Tensor, fills: Fills, task: str | None) -> Tensor:
        (fc1, act, drop1), fc2, drop2 = self.ffn.layers
        hidden = act(_fill(fills, 'fc1', x, fc1(x), task))
        if drop1.p:
            hidden = drop1(hidden)
        out = _fill(fills, 'fc2', hidden, fc2(hidden), task)
        return drop2(out) if drop2.p else out

    def _drop_path(self, x: Tensor) -> Tensor:
        return self.drop_path(x) if self.training and self.drop_path.drop_prob else x


class _Stream(NamedTuple):
    """State of the encoder between two blocks."""

    x: Tensor
    hw: tuple[int, int]
    tapped: tuple[Tensor, ...] = ()
    taps: tuple[dict[str, Tensor] | Tensor, ...] = ()
    sizes: tuple[tuple[int, int], ...] = ()


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
        **kwargs: Arguments of mmseg's ``SwinTransformer``.

    Raises:
        ValueError: A plugin matches no slot, two plugins want to tap the same stage, or ``frozen_stages`` is set too.
    """

    def __init__(self, *, tasks: Sequence[str] | None = None, plugins: Sequence[dict] | None = None, **kwargs) -> None:
        super().__init__(**kwargs)
        if plugins and self.frozen_stages >= 0:
            raise ValueError(
                f'frozen_stages={self.frozen_stages} cannot be combined with plugins: what trains is what they declare'
            )
        self.tasks = check_tasks(tasks) if tasks is not None else None
        for stage in self.stages:
            stage.blocks = ModuleList([SwinBlock(block) for block in stage.blocks])
        if self.tasks is not None:
            for index in self.out_indices:
                delattr(self, f'norm{index}')
        self.plugins = [dict(plugin) for plugin in plugins or ()]
        adapters = [self._build_plugin(plugin) for plugin in self.plugins]
        self.adapters = ModuleList(adapters)
        self._check_taps()
        if adapters:
            self._freeze()

    def _build_plugin(self, plugin: dict) -> Adapter:
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
        method = ADAPTERS.get(cfg['type'])
        if method is None:
            raise ValueError(f'unknown adapter {cfg["type"]!r}; known: {", ".join(sorted(ADAPTERS.module_dict))}')
        if position is None:
            position = method.positions[:1]
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

    def _tapping_adapters(self) -> list[Adapter]:
        """Adapters that make features of their own for the tasks."""
        return [adapter for adapter in self.adapters if type(adapter).tap is not Adapter.tap]

    def _freeze(self) -> None:
        """Leave only declared parameters trainable: by identity, never by name."""
        trainable = {id(p) for adapter in self.adapters for p in adapter.parameters()}
        for adapter in self.adapters:
            trainable.update(id(p) for p in adapter.encoder_parameters(self))
        for index in self.out_indices:
            norm = getattr(self, f'norm{index}', None)
            if norm is not None:
                trainable.update(id(p) for p in norm.parameters())
        for parameter in self.parameters():
            parameter.requires_grad = id(parameter) in trainable

    @property
    def per_task(self) -> bool:
        """Whether the encoder runs once per task."""
        return any(adapter.per_task for adapter in self.adapters)

    def fills(self, stage: int, block: int) -> Fills:
        """What fills the slots of a block."""
        fills: Fills = {}
        for adapter in self.adapters:
            for site in adapter.sites:
                if (site.stage, site.block) == (stage, block):
                    fills.setdefault(site.slot, []).append((adapter, site))
        return fills

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
            super().init_weights()
        else:
            load_encoder_checkpoint(self, self.init_cfg)
        for adapter in self.adapters:
            adapter.reset_parameters()

    def forward(self, x: Tensor) -> tuple[Tensor, ...] | dict[str, tuple[Tensor, ...]]:
        """Encode a batch of images.

        Args:
            x: ``(B, 3, H, W)``.

        Returns:
            Without tasks, mmseg's tuple of maps ``(B, C_i, H_i, W_i)``, normed; with tasks such a tuple for every
            task, not yet normed.
        """
        x, hw = self.patch_embed(x)
        if self.use_abs_pos_embed:
            x = x + self.absolute_pos_embed
        x = self.drop_after_pos(x)
        stream = _Stream(x, tuple(hw))
        blocks = [(stage, block) for stage, s in enumerate(self.stages) for block in range(len(s.blocks))]
        tasks = self.tasks or (UNNAMED_TASK,)
        if not self.per_task:
            stream = self._run(stream, blocks, None)
            streams = dict.fromkeys(tasks, stream)
        else:
            first = min(blocks.index((site.stage, site.block)) for a in self.adapters for site in a.sites)
            stream = self._run(stream, blocks[:first], None)
            streams = {task: self._run(stream, blocks[first:], task) for task in tasks}
        features = {task: self._maps(stream, task) for task, stream in streams.items()}
        return features if self.tasks is not None else self._normed(features[UNNAMED_TASK])

    def _run(self, stream: _Stream, blocks: Sequence[tuple[int, int]], task: str | None) -> _Stream:
        """Take the stream through some blocks; at a stage's end, tap and merge patches."""
        for stage_index, block_index in blocks:
            stage = self.stages[stage_index]
            x, tapped = stage.blocks[block_index](stream.x, stream.hw, self.fills(stage_index, block_index), task)
            stream = stream._replace(x=x, tapped=stream.tapped + tuple(tapped))
            if block_index < len(stage.blocks) - 1:
                continue
            tap = None
            if stage_index in self.out_indices:
                for adapter in self._tapping_adapters():
                    tap = adapter.tap(stage_index, x, stream.tapped) or tap
            hw = stream.hw
            taps, sizes = stream.taps + (x if tap is None else tap,), stream.sizes + (hw,)
            if stage.downsample is not None:
                x, hw = stage.downsample(x, hw)
            stream = _Stream(x, tuple(hw), (), taps, sizes)
        return stream

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

    def adapter_parameters(self) -> list[nn.Parameter]:
        """The adapters' own parameters."""
        return [p for adapter in self.adapters for p in adapter.parameters()]
